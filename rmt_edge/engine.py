"""Build: an ONNX file and a device profile to a TensorRT engine, by TensorRT-RTX (no GPU needed) or TensorRT.

Both share one Python API; the network is strongly typed, so precision is the ONNX file's alone and no builder flag's.
The engine's kernels are counted from the builder's own list of layers, which it logs with detailed profiling.
"""

import importlib
import logging
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from tqdm import tqdm

from rmt_edge.artifact import (
    ENGINE,
    ONNX,
    manifest_path,
    output_folder,
    parent_of,
    read_manifest,
    write_json,
    write_manifest,
    written_whole,
)
from rmt_edge.errors import RmtEdgeError
from rmt_edge.recipe import DeviceProfile

# Modules that hold the API of a backend, the first that imports is taken, and what to install without any.
BACKENDS = {
    "tensorrt_rtx": (
        ("tensorrt_rtx", "tensorrt_rtx_bindings"),
        "Install it: pip install tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings (x86-64 Linux).",
    ),
    "tensorrt": (
        ("tensorrt",),
        "On a Jetson it comes with JetPack (apt install tensorrt); elsewhere: pip install tensorrt.",
    ),
}
MAX_ERRORS = 10  # lines of the builder's errors in a message
logger = logging.getLogger(__name__)


def build(onnx_path: Path, profile: DeviceProfile, output: Path | None = None) -> Path:
    """Write the engine of an ONNX file for a device beside it, or into `output`; returns its path.

    Beside the engine: its manifest and `<engine>.layers.json`, the count and list of its layers by kind.
    """
    start = time.monotonic()
    manifest = read_manifest(onnx_path, ONNX)
    folder = output_folder(output or onnx_path.parent)
    path = folder / f"{onnx_path.stem}.{profile.name}.engine"
    plan, layers = engine_from_onnx(onnx_path, profile)
    counts = dict(Counter(layer["kind"] for layer in layers).most_common())
    seconds = time.monotonic() - start
    layers_path = path.with_name(f"{path.name}.layers.json")
    with written_whole(path) as temporary:
        temporary.write_bytes(plan)
        write_json(layers_path, {"engine": path.name, "count": len(layers), "by_kind": counts, "layers": layers})
        details = manifest.details | {
            "profile": profile.to_dict(),
            "retention": "native",
            "layers": len(layers),
            "layers_by_kind": counts,
            "int8_gemms": sum(layer["kind"] == "gemm" and "Int8" in layer["reads"] for layer in layers),
        }
        parents = [parent_of(onnx_path, manifest)]
        write_manifest(
            temporary, path, kind=ENGINE, parents=parents, recipe=manifest.recipe, details=details, seconds=seconds
        )
    logger.info("build: %s, %d layers, in %.1f s; %s", path.name, len(layers), seconds, manifest_path(path).name)
    return path


def load_backend(name: str) -> ModuleType:
    """The Python module of a TensorRT backend, or an error that says what to install."""
    modules, install = BACKENDS[name]
    reasons = []
    for module in modules:
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module:
                reasons.append(str(error))
        except (ImportError, OSError) as error:
            reasons.append(str(error))
    reason = f": {reasons[0]}" if reasons else ""
    raise RmtEdgeError(f"The TensorRT backend {name} is not installed here{reason}.", do=install)


def engine_from_onnx(onnx_path: Path, profile: DeviceProfile) -> tuple[bytes, list[dict[str, Any]]]:
    """The serialised engine and its layers (see layers_in)."""
    trt = load_backend(profile.backend)
    log = _log_for(trt)
    builder = trt.Builder(log)
    network = builder.create_network(_strongly_typed(trt))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(onnx_path.read_bytes()):
        found = [parser.get_error(i) for i in range(min(parser.num_errors, MAX_ERRORS))]
        errors = [f"{x.node_operator()} {x.node_name()}: {x.desc()}" for x in found]
        raise RmtEdgeError(
            f"{profile.backend} {trt.__version__} cannot parse {onnx_path}:\n  " + "\n  ".join(errors),
            "rmt-edge writes opset 20 with one model-local function.",
            "TensorRT 10.3 or later is needed; on older JetPacks update first.",
        )
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # only then is the list of layers logged
    batches = builder.create_optimization_profile()
    image = network.get_input(0)
    sizes = tuple(image.shape)[1:]
    batches.set_shape(image.name, *((n, *sizes) for n in (profile.min_batch, profile.opt_batch, profile.max_batch)))
    config.add_optimization_profile(batches)
    _set_compute_capability(trt, config, profile)
    with _progress(trt, config, onnx_path.name) as interrupted:
        plan = builder.build_serialized_network(network, config)
    if interrupted.is_set():
        raise KeyboardInterrupt
    if plan is None:
        errors = log.messages_from(trt.ILogger.ERROR)[-MAX_ERRORS:]
        raise RmtEdgeError(
            f"{profile.backend} could not build {onnx_path.name} for {profile.device}:\n  " + "\n  ".join(errors)
        )
    return bytes(plan), layers_in(log.messages)


def layers_in(messages: list[tuple[int, str]]) -> list[dict[str, Any]]:
    """The engine's layers out of the builder's log.

    Of each: name, kind (the builder's LayerType), the element types that it reads and writes, and the ONNX nodes in it.
    """
    lists = [text for _, text in messages if text.startswith("Layers:\n")]
    if len(lists) != 1:
        raise RuntimeError(f"expected one list of layers in the builder's log, found {len(lists)}")
    pattern = re.compile(
        r"^Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: (?P<inputs>.*?)"
        r", Outputs: (?P<outputs>.*?), TacticName: .*?(?:Metadata: (?P<nodes>.*))?$",
        re.MULTILINE,
    )
    layers = []
    for found in pattern.finditer(lists[0]):
        layers.append(
            {
                "name": found["name"],
                "kind": found["kind"],
                "reads": sorted(set(re.findall(r"Datatype: (\w+)", found["inputs"]))),
                "writes": sorted(set(re.findall(r"Datatype: (\w+)", found["outputs"]))),
                "onnx_nodes": re.findall(r"\[ONNX Layer: ([^\]]*)\]", found["nodes"] or ""),
            }
        )
    if not layers:
        raise RuntimeError("the builder's list of layers is empty or has another form than this parser knows")
    return layers


def _strongly_typed(trt: ModuleType) -> int:
    """Flags of a strongly typed network; TensorRT 11 knows no other kind and has no flag for it."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _set_compute_capability(trt: ModuleType, config: Any, profile: DeviceProfile) -> None:
    """Build for the profile's GPU. TensorRT builds for the GPU it runs on and takes no other."""
    if profile.compute_capability == "current":
        return
    if not hasattr(config, "set_compute_capability"):
        raise RmtEdgeError(
            f"{profile.backend} builds for the GPU of the machine it runs on, not for {profile.compute_capability}.",
            do='Set compute_capability = "current" in the device profile and build on the device.',
        )
    name = "SM" + profile.compute_capability.replace(".", "")
    capability = getattr(trt.ComputeCapability, name, None)
    if capability is None:
        known = [f"{x[2:-1]}.{x[-1]}" for x in dir(trt.ComputeCapability) if x.startswith("SM")]
        raise RmtEdgeError(
            f"{profile.backend} {trt.__version__} does not build for compute capability {profile.compute_capability}.",
            f"it builds for {', '.join(sorted(known, key=float))}.",
        )
    config.num_compute_capabilities = 1
    config.set_compute_capability(capability, 0)


def _log_for(trt: ModuleType) -> Any:
    """A logger that keeps everything: errors for messages, the list of layers for the record. Prints only warnings."""

    class Log(trt.ILogger):  # type: ignore[name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[tuple[int, str]] = []

        def log(self, severity: Any, message: str) -> None:
            self.messages.append((int(severity), message))
            if severity == trt.ILogger.WARNING:
                logger.debug("%s", message)

        def messages_from(self, severity: Any) -> list[str]:
            return [text for level, text in self.messages if level <= int(severity)]

    return Log()


@contextmanager
def _progress(trt: ModuleType, config: Any, title: str) -> Iterator[threading.Event]:
    """A progress bar over the builder's phases; the event is set where Ctrl-C stopped the build.

    The builder is C++: an exception in its callback would end the process, so Ctrl-C is taken as a flag here and the
    builder is told to stop at its next step.
    """
    interrupted = threading.Event()
    bar = tqdm(total=0, desc=f"build {title}", unit="step", leave=False)

    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.whole: str | None = None  # the phase that holds all others; its steps are the bar's

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            if parent is None:
                self.whole = phase
                bar.reset(steps)
            bar.set_postfix_str(phase)

        def step_complete(self, phase: str, step: int) -> bool:
            bar.update(phase == self.whole)
            return not interrupted.is_set()

        def phase_finish(self, phase: str) -> None:
            bar.refresh()

    def stop(signum: int, frame: FrameType | None) -> None:
        interrupted.set()

    config.progress_monitor = monitor = Monitor()
    in_main_thread = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGINT, stop) if in_main_thread else None
    try:
        yield interrupted
    finally:
        if in_main_thread:
            signal.signal(signal.SIGINT, previous)
        bar.close()
        del monitor
