"""What a TensorRT builder is told: batches, memory, compatibility, where temporary files go, what it timed before.

One configuration for TensorRT 10.3 to 11.4 and TensorRT-RTX. What a version lacks and a profile asks for is an error,
never left out in silence. The versions' differences are recorded from NVIDIA's Python bindings in tests/tensorrt_api.
The TensorRT module is passed in.
"""

import contextlib
import hashlib
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from rmt_edge.device.machine import Gpu, this_machine
from rmt_edge.device.profile import DeviceProfile
from rmt_edge.errors import RmtEdgeError
from rmt_edge.writing import scratch_folder, user_folder, written_whole

DIGEST_BYTES = 32  # of sha256, at the head of a timing cache's file
logger = logging.getLogger(__name__)


def network_flags(trt: ModuleType) -> int:
    """Flags of a strongly typed network; a TensorRT without the flag knows no other kind."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def builder_config(trt: ModuleType, builder: Any, network: Any, profile: DeviceProfile) -> Any:
    """The configuration that a profile asks for, with detailed profiling, without which no layers are listed."""
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    _limit_workspace(trt, config, profile)
    _add_batches(builder, network, config, profile)
    _set_compute_capabilities(trt, config, profile)
    _set_version_compatibility(trt, config, profile)
    _set_hardware_compatibility(trt, config, profile)
    return config


def _limit_workspace(trt: ModuleType, config: Any, profile: DeviceProfile) -> None:
    """Without a limit the builder tries tactics up to the whole memory, which on a Jetson is the system's too.

    The memory for timing tactics (TACTIC_DRAM) is left at TensorRT's default, 75 % of all on embedded devices.
    """
    wanted = profile.workspace_mib << 20
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, wanted)
    taken = config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE)
    if taken != wanted:
        logger.warning(
            "build: the builder's workspace is %d MiB, not the profile's %d.", taken >> 20, profile.workspace_mib
        )


def _add_batches(builder: Any, network: Any, config: Any, profile: DeviceProfile) -> None:
    """The optimisation profile: every batch from min_batch to max_batch, fastest at opt_batch."""
    batches = builder.create_optimization_profile()
    image = network.get_input(0)
    sizes = tuple(image.shape)[1:]
    low, best, high = ((n, *sizes) for n in (profile.min_batch, profile.opt_batch, profile.max_batch))
    batches.set_shape(image.name, low, best, high)
    config.add_optimization_profile(batches)


def _set_compute_capabilities(trt: ModuleType, config: Any, profile: DeviceProfile) -> None:
    """Build for the profile's GPUs. Only TensorRT-RTX takes a choice; TensorRT builds for the GPU it runs on."""
    if not hasattr(config, "set_compute_capability"):
        return
    chosen = []
    here = [gpu.compute_capability for gpu in this_machine().gpus]
    for value in profile.compute_capabilities:
        capability = getattr(trt.ComputeCapability, "SM" + value.replace(".", ""), None)
        if capability is None and list(profile.compute_capabilities) == here:
            capability = trt.ComputeCapability.CURRENT  # it may know the GPU under its nose that it has no name for
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


def _set_version_compatibility(trt: ModuleType, config: Any, profile: DeviceProfile) -> None:
    """An engine that later TensorRT versions open.

    The plugin library is not put into the engine (config.plugins_to_serialize stays empty): it would go into every
    engine with the kernels of all GPUs and run from there. It travels beside the engine, which names it and its sha256
    in its manifest, and is loaded into the registry of the runtime that opens the engine.
    """
    if not profile.version_compatible:
        return
    flag = getattr(trt.BuilderFlag, "VERSION_COMPATIBLE", None)
    # TensorRT-RTX 1.7.1 has the flag and fails with it: it looks for libnvinfer_lean.so.1, which no package has.
    if flag is None or profile.backend == "tensorrt_rtx":
        raise RmtEdgeError(
            f"{profile.backend} {trt.__version__} builds no version-compatible engines.",
            f"the profile {profile.name} asks for one.",
            "Set version_compatible = false there, and build on each TensorRT version.",
        )
    config.set_flag(flag)


def _set_hardware_compatibility(trt: ModuleType, config: Any, profile: DeviceProfile) -> None:
    """An engine that GPUs open on which it was not built; the level is read back, because TensorRT-RTX drops it."""
    name = profile.hardware_compatibility.upper()
    if name == "NONE":
        return
    levels = getattr(trt, "HardwareCompatibilityLevel", None)
    level = getattr(levels, name, None)
    if level is not None:
        config.hardware_compatibility_level = level
        if config.hardware_compatibility_level == level:
            return
        known = "none"
    else:
        known = ", ".join(x.lower() for x in dir(levels) if x.isupper()) or "none"
    raise RmtEdgeError(
        f"{profile.backend} {trt.__version__} has no hardware compatibility {profile.hardware_compatibility}.",
        f"the profile {profile.name} asks for it; this version has {known}.",
        "Set hardware_compatibility in the profile to one of these, and build on each kind of GPU.",
    )


@contextlib.contextmanager
def temporary_folder(output: Path) -> Iterator[Path]:
    """A folder beside the output for TensorRT's temporary files, removed afterwards.

    /tmp is memory on many boards and small on others. Builders have no setting for it, runtimes have
    (Runtime.temporary_directory); both take TMPDIR before /tmp.
    """
    previous = os.environ.get("TMPDIR")
    with scratch_folder(output) as folder:
        os.environ["TMPDIR"] = str(folder)
        try:
            yield folder
        finally:
            if previous is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = previous


def cache_folder() -> Path:
    """Where timing caches lie: `rmt-edge/timing` in the user's cache folder."""
    return user_folder("cache") / "timing"


def timing_cache_path(trt: ModuleType, profile: DeviceProfile, gpu: Gpu | None) -> Path | None:
    """The file of what this TensorRT timed on this GPU, or None where nothing is timed.

    That is without a GPU, and with TensorRT-RTX, which deprecated its timing cache in 1.2 and ignores it.
    """
    if gpu is None or profile.backend == "tensorrt_rtx":
        return None
    name = re.sub(r"[^a-z0-9]+", "-", gpu.name.lower()).strip("-")
    capability = gpu.compute_capability.replace(".", "")
    return cache_folder() / f"{profile.backend}-{trt.__version__}-sm{capability}-{name}.cache"


def load_timing_cache(config: Any, path: Path) -> None:
    """Give the builder a timing cache: the file's if it is whole and TensorRT accepts it, else an empty one."""
    if path.is_file():
        found = path.read_bytes()
        digest, content = found[:DIGEST_BYTES], found[DIGEST_BYTES:]
        if hashlib.sha256(content).digest() != digest:
            logger.info("build: the timing cache %s is damaged; starting another", path)
        elif _attach(config, content):
            return
        else:
            logger.info("build: TensorRT does not accept the timing cache %s; starting another", path)
    _attach(config, b"")


def _attach(config: Any, content: bytes) -> bool:
    cache = config.create_timing_cache(content)
    return cache is not None and config.set_timing_cache(cache, False)


def save_timing_cache(config: Any, path: Path) -> None:
    """Write what the builder timed, whole or not at all. A build does not fail for want of it."""
    cache = config.get_timing_cache()
    if cache is None:
        return
    content = bytes(cache.serialize())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as temporary:
            temporary.write_bytes(hashlib.sha256(content).digest() + content)
    except (OSError, RmtEdgeError) as error:
        logger.warning("build: the timing cache is not kept: %s", error)
