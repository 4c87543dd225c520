"""Run an engine on this machine's GPU: (b, 3, h, w) float32 images in, its outputs by name out.

numpy, pycuda and the TensorRT that built the engine; nothing of the workstation. Each batch size has an execution
context, pinned host buffers and device buffers of its own, which its CUDA graph may then hold.

TensorRT-RTX compiles kernels when it first runs a shape. They are kept beside the engine as `<engine>.kernels`, and are
asked for at once (EAGER): by default it runs a slower fallback until its own thread has compiled them, which a
measurement, or a captured graph, would take for the engine. Its CUDA graphs are its own too (IRuntimeConfig, version
1.2 and later; docs.nvidia.com/deeplearning/tensorrt-rtx, "Working with RTX CUDA Graphs"); other TensorRTs' are
captured here (cuda_graph.py).

Never run on a GPU yet: tests hold it to stand-ins for pycuda, TensorRT and the CUDA driver.
"""

import contextlib
import importlib
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from rmt_edge.artifact import Artifact, read_artifact, write_manifest, written_whole
from rmt_edge.data.preprocess import Preprocessing
from rmt_edge.errors import RmtEdgeError
from rmt_edge.plugin.load import load_plugins
from rmt_edge.runtime.cuda_graph import CudaGraph, load_driver
from rmt_edge.runtime.runner import Timing, check_batch, check_images, noise_images
from rmt_edge.tasks.task import Outputs

KERNELS = "kernels of an engine"
# Of an engine's tensors, by TensorRT's names; the images are FLOAT.
DTYPES: dict[str, Any] = {
    "FLOAT": np.float32, "HALF": np.float16, "INT64": np.int64, "INT32": np.int32, "INT8": np.int8, "UINT8": np.uint8,
}  # fmt: skip
logger = logging.getLogger(__name__)


def load_cuda() -> Any:
    """pycuda's driver module, or an error that says what to install."""
    try:
        return importlib.import_module("pycuda.driver")
    except ImportError as error:
        raise RmtEdgeError(
            f"pycuda cannot be imported: {error}.",
            "engines run through it.",
            "pip install pycuda (it compiles; CUDA's headers must be there), or name --kernels plugin or native.",
        ) from error


def kernels_path(engine: Path) -> Path:
    """Where the kernels lie that TensorRT-RTX compiled when the engine first ran."""
    return engine.with_name(f"{engine.name}.kernels")


@dataclass
class _Plan:
    """All of one batch size: context, buffers in host and device memory, and what puts an inference on the stream."""

    context: Any
    host: dict[str, np.ndarray]
    device: dict[str, Any]
    graph: CudaGraph | None = None


class EngineRunner:
    """An engine on the GPU, a runner (runner.py). Opened and closed as a context manager.

    trt: the backend that built the engine. library: the plugin library that it needs; without one, its plugins are
    loaded already or it has none. The engine has been held to its manifest: it is native code, and nothing is opened
    that is not what was built.
    """

    clock = "CUDA events"
    transfers: tuple[bool, ...] = (False, True)
    cuda_graphs: tuple[bool, ...] = (False, True)

    def __init__(self, engine: Artifact, trt: ModuleType, library: Path | None = None):
        self.artifact, self.trt, self.library = engine, trt, library
        self.path = engine.path
        size = engine.details.get("preprocessing")
        self.preprocessing = None if size is None else Preprocessing.from_dict(size)
        self.name = "tensorrt_rtx" if "rtx" in trt.__name__ else "tensorrt"
        self.precision = str(engine.recipe.get("precision", ""))
        self._plans: dict[tuple[int, bool], _Plan] = {}
        self._prepared: tuple[_Plan, bool] | None = None

    def __enter__(self) -> "EngineRunner":
        if self.library is not None:
            load_plugins(self.trt, self.library)
        with contextlib.ExitStack() as stack:
            self._cuda = load_cuda()
            self._cuda.init()
            device = self._cuda.Device(0)
            self.gpu_bus_id = device.pci_bus_id()
            context = device.retain_primary_context()
            context.push()
            stack.callback(context.pop)
            stack.callback(self._forget)
            self._open()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: Any) -> None:
        with self._stack:
            self._save_kernels()

    def _open(self) -> None:
        """Open the engine and learn what it takes."""
        trt = self.trt
        runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        if self.artifact.details.get("profile", {}).get("version_compatible"):
            runtime.engine_host_code_allowed = True  # such an engine brings its runtime along; the manifest vouches
        self._engine = runtime.deserialize_cuda_engine(self.path.read_bytes())
        if self._engine is None:
            raise RmtEdgeError(
                f"{self.path.name} does not open on this GPU.",
                "engines are not portable between GPUs and TensorRT versions.",
                "Build it here: rmt-edge build.",
            )
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        inputs = [x for x in names if self._engine.get_tensor_mode(x) == trt.TensorIOMode.INPUT]
        outputs = [x for x in names if x not in inputs]
        kinds = {x: str(self._engine.get_tensor_dtype(x)) for x in names}
        known = {
            str(getattr(trt.DataType, name)): dtype for name, dtype in DTYPES.items() if hasattr(trt.DataType, name)
        }
        is_image = len(inputs) == 1 and known.get(kinds[inputs[0]]) is np.float32
        if not is_image or not outputs or any(kinds[x] not in known for x in outputs):
            raise RmtEdgeError(
                f"{self.path.name} has inputs {inputs} and outputs {outputs} of "
                f"{', '.join(sorted(set(kinds.values())))}.",
                "rmt-edge runs engines of one float32 input, the images, and outputs of fixed size of "
                f"{', '.join(DTYPES)}.",
            )
        self._input, self._outputs = inputs[0], {x: known[kinds[x]] for x in outputs}
        smallest, _, largest = (tuple(x) for x in self._engine.get_tensor_profile_shape(self._input, 0))
        self.batches = range(smallest[0], largest[0] + 1)
        self.image_shape = (largest[1], largest[2], largest[3])
        self._stream = self._cuda.Stream()
        self._events = (self._cuda.Event(), self._cuda.Event())
        self._kernels = self._load_kernels()

    def __call__(self, images: np.ndarray) -> Outputs:
        """(b, 3, h, w) float32 -> {"logits": (b, classes)} float32, or what else the engine gives, there and back."""
        check_images(images, self.image_shape, self.batches, self.path.name)
        plan = self._plan(len(images), cuda_graph=False)
        plan.host[self._input][...] = images
        self._upload(plan)
        self._enqueue(plan)
        self._download(plan)
        self._stream.synchronize()
        return {name: plan.host[name].copy() for name in self._outputs}

    def prepare(self, batch: int, transfers: bool = False, cuda_graph: bool = False) -> None:
        """Buffers, images of noise on the GPU, a run that warms up and, if asked for, the CUDA graph of a batch size.

        transfers: `run` also copies the images there and the outputs back.
        """
        check_batch(batch, self.batches, self.path.name)
        plan = self._plan(batch, cuda_graph)
        plan.host[self._input][...] = noise_images(batch, self.image_shape)
        self._upload(plan)
        self._launch(plan)
        self._stream.synchronize()
        self._prepared = plan, transfers

    def run(self) -> Timing:
        """One inference of what was prepared, between two events on the stream."""
        assert self._prepared is not None
        plan, transfers = self._prepared
        start, end = self._events
        began = time.perf_counter()
        start.record(self._stream)
        if transfers:
            self._upload(plan)
        self._launch(plan)
        if transfers:
            self._download(plan)
        end.record(self._stream)
        enqueue_ms = (time.perf_counter() - began) * 1e3
        end.synchronize()
        return Timing(end.time_since(start), enqueue_ms)

    def _plan(self, batch: int, cuda_graph: bool) -> _Plan:
        """The plan of a batch size, made when it is first asked for."""
        key = batch, cuda_graph
        if key not in self._plans:
            plan = self._plans[key] = self._new_plan(batch, cuda_graph)
            if cuda_graph and not self._has_own_graphs():
                self._enqueue(plan)  # a capture may not allocate, and the first run of a shape does
                self._stream.synchronize()
                plan.graph = CudaGraph(load_driver(), self._stream.handle, lambda: self._enqueue(plan))
        return self._plans[key]

    def _new_plan(self, batch: int, cuda_graph: bool) -> _Plan:
        plan = _Plan(self._new_context(cuda_graph), {}, {})
        plan.context.set_input_shape(self._input, (batch, *self.image_shape))
        for name, dtype in {self._input: np.float32, **self._outputs}.items():
            shape = tuple(plan.context.get_tensor_shape(name))
            plan.host[name] = self._cuda.pagelocked_empty(shape, dtype)
            plan.device[name] = self._cuda.mem_alloc(plan.host[name].nbytes)
            plan.context.set_tensor_address(name, int(plan.device[name]))
        return plan

    def _new_context(self, cuda_graph: bool) -> Any:
        """An execution context; of TensorRT-RTX one that compiles at once and shares the kernels."""
        if not self._has_kernels():
            return self._engine.create_execution_context()
        config = self._engine.create_runtime_config()
        config.dynamic_shapes_kernel_specialization_strategy = self.trt.DynamicShapesKernelSpecializationStrategy.EAGER
        if self._has_own_graphs():
            strategy = self.trt.CudaGraphStrategy
            config.cuda_graph_strategy = strategy.WHOLE_GRAPH_CAPTURE if cuda_graph else strategy.DISABLED
        config.set_runtime_cache(self._kernels)
        return self._engine.create_execution_context(config)

    def _has_kernels(self) -> bool:
        return hasattr(self.trt, "IRuntimeCache")

    def _has_own_graphs(self) -> bool:
        return hasattr(self.trt, "CudaGraphStrategy")

    def _launch(self, plan: _Plan) -> None:
        if plan.graph is None:
            self._enqueue(plan)
        else:
            plan.graph.launch()

    def _enqueue(self, plan: _Plan) -> None:
        if not plan.context.execute_async_v3(self._stream.handle):
            raise RmtEdgeError(f"{self.path.name} failed to run.", do="Its messages on stderr say why.")

    def _upload(self, plan: _Plan) -> None:
        self._cuda.memcpy_htod_async(plan.device[self._input], plan.host[self._input], self._stream)

    def _download(self, plan: _Plan) -> None:
        for name in self._outputs:
            self._cuda.memcpy_dtoh_async(plan.host[name], plan.device[name], self._stream)

    def _load_kernels(self) -> Any:
        """TensorRT-RTX's runtime cache, with what an earlier run of this very engine compiled; None elsewhere."""
        if not self._has_kernels():
            return None
        kernels = self._engine.create_runtime_config().create_runtime_cache()
        path = kernels_path(self.path)
        self._saved_bytes = 0
        if path.is_file():
            try:
                is_of_this_engine = read_artifact(path, KERNELS).manifest.source["sha256"] == self.artifact.sha256
            except RmtEdgeError as error:
                logger.info("%s is not used and will be made again: %s", path.name, str(error).splitlines()[0])
            else:
                # It refuses those of another GPU, driver or version itself.
                if is_of_this_engine and kernels.deserialize(path.read_bytes()):
                    self._saved_bytes = path.stat().st_size
        return kernels

    def _save_kernels(self) -> None:
        """Keep what was compiled, if anything was. Where it cannot be written the engine merely compiles again."""
        if self._kernels is None:
            return
        content = bytes(self._kernels.serialize())
        if len(content) == self._saved_bytes:
            return
        path = kernels_path(self.path)
        try:
            with written_whole(path) as temporary:
                temporary.write_bytes(content)
                parents = [self.artifact.as_parent()]
                write_manifest(temporary, path, kind=KERNELS, parents=parents, recipe={}, details={}, seconds=0)
        except RmtEdgeError as error:
            logger.info("The compiled kernels are not kept: %s", error)

    def _forget(self) -> None:
        """Free what lives on the GPU, before its context goes."""
        for plan in self._plans.values():
            if plan.graph is not None:
                plan.graph.close()
            for buffer in plan.device.values():
                buffer.free()
        self._plans.clear()
        self._prepared = self._engine = self._kernels = None
