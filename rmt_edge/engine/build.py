"""Build: an ONNX file and a device profile to a TensorRT engine, by TensorRT-RTX (no GPU needed) or TensorRT.

Both share one Python API; the network is strongly typed, so precision is the ONNX file's alone and no builder flag's.
What the builder is told: engine/config.py; what it says: engine/log.py; the engine's layers: engine/layers.py.
"""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from rmt_edge.artifact import (
    ENGINE,
    ONNX,
    PLUGIN_ONNX,
    Artifact,
    check_parent,
    identity_of,
    manifest_path,
    plugin_form_path,
    read_artifact,
    write_manifest,
)
from rmt_edge.device.backend import load_backend
from rmt_edge.device.machine import Gpu, Machine, has_gpu, this_machine
from rmt_edge.device.preflight import check_build
from rmt_edge.device.profile import DeviceProfile
from rmt_edge.engine.config import (
    builder_config,
    load_timing_cache,
    network_flags,
    save_timing_cache,
    temporary_folder,
    timing_cache_path,
)
from rmt_edge.engine.layers import layer_counts, layers_by_inspector, layers_in_log, plugin_layers_of
from rmt_edge.engine.log import log_for, progress
from rmt_edge.errors import RmtEdgeError
from rmt_edge.latency.measure import median_latency_ms
from rmt_edge.plugin.load import LIBRARIES, load_plugins, take_last_error
from rmt_edge.plugin.trust import trusted_library
from rmt_edge.runtime.engine_runner import kernels_path
from rmt_edge.writing import json_text, output_folder, written_whole

KERNELS = ("plugin", "native", "auto")
DEFAULT_KERNELS = "plugin"
MAX_ERRORS = 10  # the last lines of the builder's errors in a message
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Built:
    """A built engine: its bytes, as TensorRT holds them, and what details say of its layers (layer_counts)."""

    plan: Any
    layers: list[dict[str, Any]] | None
    counts: dict[str, Any]


def build(
    onnx_file: Path | Artifact,
    profile: DeviceProfile,
    output: Path | None = None,
    kernels: str | None = None,
    libraries: Path | None = None,
    trust_libraries: bool = False,
) -> Artifact:
    """Write the engine of an ONNX file for a device beside it, or into `output`.

    Beside the engine: its manifest and `<engine>.layers.json`, the count and list of its layers by kind. kernels:
    `plugin` (the default) builds the ONNX file's plugin form, `native` the file itself, whose function bodies TensorRT
    turns into layers of its own; `auto` the faster of both (build_faster). libraries: the plugin libraries' folder.
    trust_libraries: load one that nobody vouches for (plugin/trust.py).
    """
    start = time.monotonic()
    kernels = choose_kernels(kernels)
    source = read_artifact(onnx_file, ONNX)
    if kernels == "auto":
        return build_faster(source, profile, output, libraries, trust_libraries)
    folder = output_folder(output or source.path.parent)
    path = folder / f"{source.path.stem}.{profile.name}.{kernels}.engine"
    machine = this_machine()
    check_build(profile, machine, folder)
    gpu = gpu_of(profile, machine)
    with temporary_folder(path) as scratch:
        if kernels == "plugin":
            source = plugin_form_of(source)
            built, library = plugin_engine(source, profile, libraries, gpu, scratch, trust_libraries)
        else:
            built, library = engine_from_onnx(source.path, profile, gpu, scratch), None
    seconds = time.monotonic() - start
    details = source.details | {
        "backend": {"name": profile.backend, "version": load_backend(profile.backend).__version__},
        "profile": profile.to_dict(),
        "compute_capabilities": _compute_capabilities(profile, gpu),
        "kernels": kernels,
        "plugin_library": library,
        "machine": machine.to_dict(),
        **built.counts,
    }
    layers = {"engine": path.name, "count": built.counts["layers"], "by_kind": built.counts["layers_by_kind"]}
    # All is written before anything gets its name, so that a full disk leaves the previous engine and its records.
    with written_whole(layers_path(path)) as temporary_layers, written_whole(path) as temporary:
        temporary.write_bytes(built.plan)
        temporary_layers.write_text(json_text(layers | {"layers": built.layers}))
        engine = write_manifest(
            temporary,
            path,
            kind=ENGINE,
            parents=[source.as_parent()],
            recipe=source.recipe,
            details=details,
            seconds=seconds,
        )
    logger.info("build: %s, %s layers, in %.1f s", path.name, built.counts["layers"] or "unlisted", seconds)
    return engine


def plugin_form_of(onnx_file: Artifact) -> Artifact:
    """The plugin form beside an ONNX file, if it is of this export."""
    form = onnx_file.sibling(PLUGIN_ONNX) or read_artifact(plugin_form_path(onnx_file.path), PLUGIN_ONNX)
    check_parent(form.manifest, onnx_file.manifest)
    return form


def gpu_of(profile: DeviceProfile, machine: Machine) -> Gpu | None:
    """The GPU that builds: the machine's first, TensorRT's default, or None.

    TensorRT builds for it and for no other, so a profile of another is refused; TensorRT-RTX needs none.
    """
    gpu = machine.gpus[0] if machine.gpus else None
    if profile.backend == "tensorrt_rtx":
        return gpu
    if gpu is None:
        raise RmtEdgeError(
            f"The profile {profile.name} is built by TensorRT, and there is no GPU here.",
            "TensorRT builds on the GPU that the engine is for; tensorrt_rtx builds without one, for RTX GPUs.",
            "Build on the device, or with --device rtx-portable.",
        )
    if gpu.compute_capability not in profile.compute_capabilities:
        raise RmtEdgeError(
            f"The profile {profile.name} is for compute capability {', '.join(profile.compute_capabilities)}; this "
            f"machine's GPU is {gpu.name}, {gpu.compute_capability}.",
            "TensorRT builds for the GPU that it runs on.",
            "Choose this GPU's profile with --device, or build on the device.",
        )
    return gpu


def _compute_capabilities(profile: DeviceProfile, gpu: Gpu | None) -> list[str]:
    """What the engine was built for."""
    if profile.backend == "tensorrt" and gpu is not None:
        return [gpu.compute_capability]
    return list(profile.compute_capabilities)


def choose_kernels(kernels: str | None) -> str:
    """`plugin` (the default), `native` or, where a GPU can time both, `auto`; without one `auto` means plugin."""
    kernels = kernels or DEFAULT_KERNELS
    if kernels not in KERNELS:
        raise RmtEdgeError(f"--kernels is {kernels!r}.", f"allowed: {', '.join(KERNELS)}.")
    if kernels == "auto" and not has_gpu():
        logger.info("--kernels auto: there is no GPU here to time both on; taking plugin, unmeasured.")
        return "plugin"
    return kernels


def build_faster(
    onnx_file: Artifact,
    profile: DeviceProfile,
    output: Path | None,
    libraries: Path | None,
    trust_libraries: bool = False,
) -> Artifact:
    """Build with plugin and with native kernels, time both at the profile's opt_batch, keep the faster one's files."""
    trt = load_backend(profile.backend)
    engines = [
        build(onnx_file, profile, output, kernels, libraries, trust_libraries) for kernels in ("native", "plugin")
    ]
    times_ms = {x.path: median_latency_ms(x, trt, profile.opt_batch) for x in engines}
    faster = min(times_ms, key=lambda path: times_ms[path])
    for path, latency_ms in times_ms.items():
        kept = "kept" if path == faster else "removed"
        logger.info("--kernels auto: %s, %.3f ms at batch %d, %s", path.name, latency_ms, profile.opt_batch, kept)
        if path != faster:
            compiled = kernels_path(path)  # what TensorRT-RTX compiled while it was timed
            for file in (path, manifest_path(path), layers_path(path), compiled, manifest_path(compiled)):
                file.unlink(missing_ok=True)
    return next(x for x in engines if x.path == faster)


def layers_path(engine: Path) -> Path:
    """Where the list of an engine's layers lies."""
    return engine.with_name(f"{engine.name}.layers.json")


def check_plugin_library(kernels: str | None, libraries: Path | None, trust: bool = False) -> Path | None:
    """The plugin library that a build would take, or an error that says how to get one; None for native kernels."""
    return None if choose_kernels(kernels) == "native" else trusted_library(libraries or LIBRARIES, trust)


def plugin_engine(
    source: Artifact,
    profile: DeviceProfile,
    libraries: Path | None,
    gpu: Gpu | None,
    scratch: Path,
    trust_libraries: bool = False,
) -> tuple[Built, dict[str, str]]:
    """The engine of a plugin form, and the plugin library by name and sha256. gpu, scratch: see engine_from_onnx."""
    path = trusted_library(libraries or LIBRARIES, trust_libraries)
    trt = load_backend(profile.backend)
    load_plugins(trt, path)
    take_last_error(path)  # an error of an earlier build is not this one's
    try:
        built = engine_from_onnx(source.path, profile, gpu, scratch)
    except RmtEdgeError as error:
        if reason := take_last_error(path):
            raise RmtEdgeError(f"{error}\nThe plugin library says: {reason}") from error
        raise
    found, nodes = built.counts["plugin_layers"], source.details["plugin_nodes"]
    if found != nodes:
        raise RmtEdgeError(
            f"{source.path.name} has {nodes} nodes for plugins, but its engine has {found} plugin layers.",
            "TensorRT took something else for the rest.",
            "Build with --kernels native, and report this.",
        )
    return built, identity_of(path)


def engine_from_onnx(onnx_path: Path, profile: DeviceProfile, gpu: Gpu | None, scratch: Path) -> Built:
    """Parse and build. gpu: that TensorRT builds for, None without one. scratch: a folder for temporary files."""
    trt = load_backend(profile.backend)
    log = log_for(trt)
    builder = trt.Builder(log)
    network = builder.create_network(network_flags(trt))
    parse(trt, log, network, onnx_path)
    config = builder_config(trt, builder, network, profile)
    cache = timing_cache_path(trt, profile, gpu)
    if cache is not None:
        load_timing_cache(config, cache)
    with progress(trt, config, onnx_path.name) as interrupted:
        plan = builder.build_serialized_network(network, config)
    if interrupted.is_set():
        raise KeyboardInterrupt
    if plan is None:
        errors = log.messages_from(trt.ILogger.ERROR)[-MAX_ERRORS:]
        raise RmtEdgeError(
            f"{profile.backend} could not build {onnx_path.name} for {profile.device}:\n  " + "\n  ".join(errors)
        )
    if cache is not None:
        save_timing_cache(config, cache)
    layers = layers_in_log(log.messages)
    if layers is None and gpu is not None:
        layers = layers_by_inspector(trt, log, plan, profile.version_compatible, scratch)
    return Built(plan, layers, layer_counts(layers, plugin_layers_of(trt, network)))


def parse(trt: ModuleType, log: Any, network: Any, onnx_path: Path) -> None:
    """Fill the network from an ONNX file; an error names every node that the parser cannot take."""
    parser = trt.OnnxParser(network, log)
    if parser.parse(onnx_path.read_bytes()):
        return
    found = [parser.get_error(index) for index in range(parser.num_errors)]
    raise RmtEdgeError(
        f"{trt.__name__} {trt.__version__} cannot parse {onnx_path}:\n  "
        + "\n  ".join(f"{error.node_operator()} {error.node_name()}: {error.desc()}" for error in found),
        "rmt-edge writes opset 20 with model-local functions.",
        "TensorRT 10.3 or later is needed; on older JetPacks update first.",
    )
