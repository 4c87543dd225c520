"""Build: an ONNX file and a device profile to a TensorRT engine, by TensorRT-RTX (no GPU needed) or TensorRT.

Both share one Python API; the network is strongly typed, so precision is the ONNX file's alone and no builder flag's.
The engine's kernels are counted from the builder's own list of layers, which it logs with detailed profiling.
"""

import importlib
import logging
import time
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

from rmt_edge.artifact import (
    ENGINE,
    ONNX,
    PLUGIN_ONNX,
    check_parent,
    manifest_path,
    output_folder,
    parent_of,
    plugin_form_path,
    read_manifest,
    write_json,
    write_manifest,
    written_whole,
)
from rmt_edge.builder_log import layers_in, log_for, progress
from rmt_edge.engine_runner import kernels_path
from rmt_edge.errors import RmtEdgeError
from rmt_edge.latency import has_gpu, median_latency_ms
from rmt_edge.plugin.load import library_path, load_plugins, take_last_error
from rmt_edge.profile import DeviceProfile

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
RETENTIONS = ("plugin", "native", "auto")
DEFAULT_RETENTION = "plugin"
LIBRARIES = Path("build/plugin")
# LayerType of a plugin in the builder's list: TensorRT-RTX 1.7 (seen), TensorRT (by its documentation of layer types).
PLUGIN_KINDS = ("custom_layer", "PluginV3", "PLUGIN_V3")
MAX_ERRORS = 10  # lines of the builder's errors in a message
logger = logging.getLogger(__name__)


def build(
    onnx_path: Path,
    profile: DeviceProfile,
    output: Path | None = None,
    retention: str | None = None,
    libraries: Path | None = None,
) -> Path:
    """Write the engine of an ONNX file for a device beside it, or into `output`; returns its path.

    Beside the engine: its manifest and `<engine>.layers.json`, the count and list of its layers by kind. retention:
    `plugin` (the default) builds the ONNX file's plugin form, `native` the file itself, whose function bodies TensorRT
    turns into layers of its own; `auto` the faster of both (build_faster). libraries: the plugin libraries' folder.
    """
    start = time.monotonic()
    retention = choose_retention(retention)
    if retention == "auto":
        return build_faster(onnx_path, profile, output, libraries)
    manifest = read_manifest(onnx_path, ONNX)
    folder = output_folder(output or onnx_path.parent)
    path = folder / f"{onnx_path.stem}.{profile.name}.{retention}.engine"
    if retention == "plugin":
        source = plugin_form_path(onnx_path)
        plugin_manifest = read_manifest(source, PLUGIN_ONNX)
        check_parent(plugin_manifest, manifest)
        manifest = plugin_manifest
        plan, layers, library = plugin_engine(source, profile, manifest.details["plugin_nodes"], libraries)
    else:
        source, library = onnx_path, None
        plan, layers = engine_from_onnx(source, profile)
    counts = dict(Counter(layer["kind"] for layer in layers).most_common())
    seconds = time.monotonic() - start
    with written_whole(path) as temporary:
        temporary.write_bytes(plan)
        write_json(layers_path(path), {"engine": path.name, "count": len(layers), "by_kind": counts, "layers": layers})
        details = manifest.details | {
            "profile": profile.to_dict(),
            "retention": retention,
            "plugin_library": library,
            "layers": len(layers),
            "layers_by_kind": counts,
            "plugin_layers": sum(counts.get(kind, 0) for kind in PLUGIN_KINDS),
            "int8_gemms": sum(layer["kind"] == "gemm" and "Int8" in layer["reads"] for layer in layers),
        }
        parents = [parent_of(source, manifest)]
        write_manifest(
            temporary, path, kind=ENGINE, parents=parents, recipe=manifest.recipe, details=details, seconds=seconds
        )
    logger.info("build: %s, %d layers, in %.1f s", path.name, len(layers), seconds)
    return path


def choose_retention(retention: str | None) -> str:
    """`plugin` (the default), `native` or, where a GPU can time both, `auto`; without one `auto` means plugin."""
    retention = retention or DEFAULT_RETENTION
    if retention not in RETENTIONS:
        raise RmtEdgeError(f"--retention is {retention!r}.", f"allowed: {', '.join(RETENTIONS)}.")
    if retention == "auto" and not has_gpu():
        logger.info("--retention auto: there is no GPU here to time both on; taking plugin, unmeasured.")
        return "plugin"
    return retention


def build_faster(onnx_path: Path, profile: DeviceProfile, output: Path | None, libraries: Path | None) -> Path:
    """Build both retentions, time both at the profile's opt_batch, keep the faster one's files; returns its path."""
    trt = load_backend(profile.backend)
    times_ms = {}
    for retention in ("native", "plugin"):
        path = build(onnx_path, profile, output, retention, libraries)
        times_ms[path] = median_latency_ms(path, trt, profile.opt_batch)
    faster = min(times_ms, key=lambda path: times_ms[path])
    for path, latency_ms in times_ms.items():
        kept = "kept" if path == faster else "removed"
        logger.info("--retention auto: %s, %.3f ms at batch %d, %s", path.name, latency_ms, profile.opt_batch, kept)
        if path != faster:
            kernels = kernels_path(path)  # what TensorRT-RTX compiled while it was timed
            for file in (path, manifest_path(path), layers_path(path), kernels, manifest_path(kernels)):
                file.unlink(missing_ok=True)
    return faster


def layers_path(engine: Path) -> Path:
    """Where the list of an engine's layers lies."""
    return engine.with_name(f"{engine.name}.layers.json")


def check_plugin_library(retention: str | None, libraries: Path | None) -> Path | None:
    """The plugin library that a build would take, or an error that says how to get one; None for native retention."""
    return None if choose_retention(retention) == "native" else library_path(libraries or LIBRARIES)


def plugin_engine(
    source: Path, profile: DeviceProfile, nodes: int, libraries: Path | None
) -> tuple[bytes, list[dict[str, Any]], dict[str, str]]:
    """The engine of a plugin form, its layers, and the plugin library as a parent: name and sha256.

    nodes: the plugin layers that it must hold.
    """
    path = library_path(libraries or LIBRARIES)
    trt = load_backend(profile.backend)
    load_plugins(trt, path)
    take_last_error(path)  # an error of an earlier build is not this one's
    try:
        plan, layers = engine_from_onnx(source, profile)
    except RmtEdgeError as error:
        if reason := take_last_error(path):
            raise RmtEdgeError(f"{error}\nThe plugin library says: {reason}") from error
        raise
    found = sum(layer["kind"] in PLUGIN_KINDS for layer in layers)
    if found != nodes:
        raise RmtEdgeError(
            f"{source.name} has {nodes} nodes for plugins, but its engine has {found} plugin layers.",
            "TensorRT took something else for the rest.",
            "Build with --retention native, and report this.",
        )
    return plan, layers, parent_of(path)


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
    log = log_for(trt)
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
    _set_compute_capabilities(trt, config, profile)
    with progress(trt, config, onnx_path.name) as interrupted:
        plan = builder.build_serialized_network(network, config)
    if interrupted.is_set():
        raise KeyboardInterrupt
    if plan is None:
        errors = log.messages_from(trt.ILogger.ERROR)[-MAX_ERRORS:]
        raise RmtEdgeError(
            f"{profile.backend} could not build {onnx_path.name} for {profile.device}:\n  " + "\n  ".join(errors)
        )
    return bytes(plan), layers_in(log.messages)


def _strongly_typed(trt: ModuleType) -> int:
    """Flags of a strongly typed network; TensorRT 11 knows no other kind and has no flag for it."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _set_compute_capabilities(trt: ModuleType, config: Any, profile: DeviceProfile) -> None:
    """Build for the profile's GPUs. TensorRT builds for the GPU it runs on and takes no other."""
    if not hasattr(config, "set_compute_capability"):
        return
    chosen = []
    for value in profile.compute_capabilities:
        capability = getattr(trt.ComputeCapability, "SM" + value.replace(".", ""), None)
        if capability is None:
            known = [f"{x[2:-1]}.{x[-1]}" for x in dir(trt.ComputeCapability) if x.startswith("SM")]
            raise RmtEdgeError(
                f"{profile.backend} {trt.__version__} does not build for compute capability {value}.",
                f"it builds for {', '.join(sorted(known, key=float))}.",
            )
        chosen.append(capability)
    config.num_compute_capabilities = len(chosen)
    for index, capability in enumerate(chosen):
        config.set_compute_capability(capability, index)
