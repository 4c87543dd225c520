"""Time an engine on this machine's GPU. numpy, TensorRT and pycuda; nothing of the workstation.

Latency here is GPU compute time alone: between two CUDA events around the engine's work on one stream, transfers left
out. Never run yet: no GPU has been at hand (README, "What has been seen to run where").
"""

import importlib
import statistics
from pathlib import Path
from types import ModuleType
from typing import Any

from rmt_edge.artifact import ENGINE, read_manifest
from rmt_edge.errors import RmtEdgeError
from rmt_edge.machine import has_gpu as has_gpu

WARM_UP, RUNS = 20, 100


def median_latency_ms(engine: Path, trt: ModuleType, batch: int) -> float:
    """Median GPU time of one inference, in milliseconds, over RUNS after WARM_UP.

    trt: the backend that built the engine, its plugins loaded. The engine's manifest vouches for the file.
    """
    read_manifest(engine, ENGINE)  # an engine is native code: nothing is loaded that is not what was built
    cuda = load_cuda()
    cuda.init()
    gpu = cuda.Device(0).retain_primary_context()
    gpu.push()
    try:
        return statistics.median(_times_ms(engine, trt, cuda, batch))
    finally:
        gpu.pop()


def load_cuda() -> Any:
    """pycuda's driver module, or an error that says what to install."""
    try:
        return importlib.import_module("pycuda.driver")
    except ImportError as error:
        raise RmtEdgeError(
            f"pycuda cannot be imported: {error}.",
            "engines run through it.",
            "pip install pycuda (it compiles; CUDA's headers must be there), or name --retention plugin or native.",
        ) from error


def _times_ms(engine_path: Path, trt: ModuleType, cuda: Any, batch: int) -> list[float]:
    engine = trt.Runtime(trt.Logger(trt.Logger.WARNING)).deserialize_cuda_engine(engine_path.read_bytes())
    if engine is None:
        raise RmtEdgeError(
            f"{engine_path.name} does not open on this GPU.",
            "engines are not portable between GPUs and TensorRT versions.",
            "Build it here: rmt-edge build.",
        )
    context = engine.create_execution_context()
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    for name in names:
        if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
            context.set_input_shape(name, (batch, *tuple(engine.get_tensor_shape(name))[1:]))
    buffers = []
    for name in names:
        count = 1
        for size in context.get_tensor_shape(name):
            count *= size
        buffer = cuda.mem_alloc(4 * count)  # images and logits are float32
        cuda.memset_d8(buffer, 0, 4 * count)
        context.set_tensor_address(name, int(buffer))
        buffers.append(buffer)
    stream, times = cuda.Stream(), []
    for _ in range(WARM_UP + RUNS):
        start, end = cuda.Event(), cuda.Event()
        start.record(stream)
        if not context.execute_async_v3(stream.handle):
            raise RmtEdgeError(f"{engine_path.name} failed to run.", do="Its messages on stderr say why.")
        end.record(stream)
        end.synchronize()
        times.append(end.time_since(start))
    return times[WARM_UP:]
