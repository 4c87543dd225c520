"""Preflight: whether an engine can be built or opened on this machine, told before TensorRT fails at it.

TensorRT has no such check: an engine for another GPU, TensorRT version or plugin library fails when it is opened, or
ends the process. Here the engine's manifest is held against the machine. All that differs is named at once, each with
the command that mends it; nothing of TensorRT is loaded.
"""

import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rmt_edge.artifact import ENGINE, Manifest, read_manifest, sha256_of
from rmt_edge.device.backend import BACKENDS
from rmt_edge.device.machine import Gpu, Machine, this_machine
from rmt_edge.device.profile import DeviceProfile, version_numbers
from rmt_edge.errors import RmtEdgeError
from rmt_edge.plugin.load import BUNDLED_LIBRARIES, LIBRARIES

# The largest engine, RMT-L in FP32, is 4 x 95.46 M bytes; the previous one stays until the new one is whole, and
# TensorRT's temporary files lie beside it.
BUILD_DISK_MIB = 1024
AMPERE = 8
JETPACK_INSTALL = (
    "sudo apt install nvidia-jetpack (python3 -m venv --system-site-packages makes an environment that sees it)"
)
JETPACK_UPDATE = "Flash another JetPack with SDK Manager: 6.1 and 6.2 have TensorRT 10.3, 7.1 10.13, 7.2 10.16."
logger = logging.getLogger(__name__)

Difference = tuple[str, str]  # what differs, and what mends it


def check_engine(engine: Path, machine: Machine | None = None, library: Path | None = None) -> Manifest:
    """The manifest of an engine that this machine can open, or an error with all that is in the way.

    library: the plugin library, or its folder; without it, what lies beside the engine, in its bundle or in
    build/plugin.
    """
    manifest = read_manifest(engine, ENGINE)  # a file that is not its manifest's is refused before anything else
    machine = machine or this_machine()
    _refuse(f"{engine.name} does not run here", list(_engine_differences(engine, manifest, machine, library)))
    _warn_of_another_device(engine, manifest, machine)
    return manifest


def check_build(profile: DeviceProfile, machine: Machine, output: Path | None = None) -> None:
    """Refuse to build for a profile what this machine cannot, with all that is in the way. output: a folder."""
    _refuse(f"An engine for {profile.name} cannot be built here", list(_build_differences(profile, machine, output)))


def _refuse(what: str, differences: list[Difference]) -> None:
    if differences:
        listed = "\n  ".join(difference for difference, _ in differences)
        mended = "\n  ".join(dict.fromkeys(do for _, do in differences))
        raise RmtEdgeError(f"{what}:\n  {listed}", do=f"To mend it:\n  {mended}")


def _build_differences(profile: DeviceProfile, machine: Machine, output: Path | None) -> Iterator[Difference]:
    first, last = profile.tensorrt_versions
    installed = machine.tensorrt.get(profile.backend)
    wanted = first if first == last else f"{first} to {last}"
    if installed is None:
        yield f"{profile.backend} {wanted} is needed, none is installed.", _install(profile.backend, machine, wanted)
    elif not version_numbers(first) <= version_numbers(installed) <= version_numbers(last):
        do = _install(profile.backend, machine, wanted)
        yield f"{profile.backend} {installed} is installed, the profile is for {wanted}.", do
    if profile.backend == "tensorrt":
        yield from _gpu_differences(list(profile.compute_capabilities), machine, "The profile is")
    gpu = machine.gpus[0] if machine.gpus else None
    if gpu and gpu.free_memory_mib is not None and gpu.free_memory_mib < profile.workspace_mib:
        yield (
            f"{gpu.free_memory_mib} MiB of the {gpu.memory_mib} MiB of {gpu.name} are free, the builder may take "
            f"{profile.workspace_mib}.",
            "Close other programs (on a Jetson: sudo systemctl isolate multi-user.target), or lower workspace_mib in "
            "a copy of the profile.",
        )
    folder = output or Path()
    if free_disk_mib(folder) < BUILD_DISK_MIB:
        yield (
            f"{free_disk_mib(folder)} MiB are free on the disk of {folder.absolute()}, a build needs {BUILD_DISK_MIB}.",
            "Make room there, or pass another folder with --output.",
        )


def _engine_differences(
    engine: Path, manifest: Manifest, machine: Machine, library: Path | None
) -> Iterator[Difference]:
    details = manifest.details
    profile = details.get("profile", {})
    rebuild = f"Build it here: {_build_command(engine, manifest, profile.get('name', 'auto'))}"
    yield from _version_differences(details["backend"], bool(profile.get("version_compatible")), machine, rebuild)
    level = profile.get("hardware_compatibility", "none")
    yield from _gpu_differences(details["compute_capabilities"], machine, "It was built", level, engine, manifest)
    yield from _library_differences(engine, details.get("plugin_library"), library, rebuild)
    parent = manifest.parents[0] if manifest.parents else None
    if parent and (beside := engine.with_name(parent["name"])).is_file() and sha256_of(beside) != parent["sha256"]:
        yield f"It was built from another {beside.name} ({parent['sha256'][:16]}…) than lies beside it.", rebuild
    gpu, size_mib = machine.gpus[0] if machine.gpus else None, manifest.size_bytes >> 20
    if gpu and gpu.free_memory_mib is not None and gpu.free_memory_mib < size_mib:
        yield f"It is {size_mib} MiB, {gpu.free_memory_mib} MiB of {gpu.name} are free.", "Close other programs."


def _version_differences(
    backend: dict[str, str], is_version_compatible: bool, machine: Machine, rebuild: str
) -> Iterator[Difference]:
    """TensorRT opens engines of its very own version, and version-compatible ones of its major version's earlier."""
    name, version = backend["name"], backend["version"]
    installed = machine.tensorrt.get(name)
    if installed is None:
        yield f"It was built by {name} {version}, none is installed.", _install(name, machine, version)
        return
    built, here = (tuple(int(x) for x in re.findall(r"\d+", text)) for text in (version, installed))
    is_equal = all(x == y for x, y in zip(built, here, strict=False))  # distributions name three numbers or four
    if is_equal or (is_version_compatible and built[0] == here[0] and built <= here):
        return
    how = (
        "as a version-compatible engine, which none older opens" if is_version_compatible else "for that version alone"
    )
    yield f"It was built by {name} {version}, {how}; {installed} is installed.", rebuild


def _gpu_differences(
    capabilities: list[str],
    machine: Machine,
    what: str,
    level: str = "none",
    engine: Path | None = None,
    manifest: Manifest | None = None,
) -> Iterator[Difference]:
    """Whether CUDA's first GPU, the one that is used, has one of the compute capabilities.

    level: the hardware compatibility of an engine. `ampere_plus` opens on every GPU from SM 8.0 but on Jetsons
    (docs.nvidia.com/deeplearning/tensorrt, "Hardware Compatibility"), `same_compute_capability` on equal ones.
    """
    if not machine.gpus:
        yield "There is no GPU here: no NVIDIA driver sees one.", "Do this on the device."
        return

    def fits(gpu: Gpu) -> bool:
        is_ampere = int(gpu.compute_capability.partition(".")[0]) >= AMPERE and not machine.is_jetson
        return gpu.compute_capability in capabilities or (level == "ampere_plus" and is_ampere)

    first = machine.gpus[0]
    if fits(first):
        return
    other = next((index for index, gpu in enumerate(machine.gpus) if fits(gpu)), None)
    if other is not None:
        do = f"Take GPU {other}, {machine.gpus[other].name}: CUDA_VISIBLE_DEVICES={other}."
    elif engine is not None and manifest is not None:
        do = f"Build it here: {_build_command(engine, manifest, 'auto')}"
    else:
        do = "Choose this machine's profile with --device auto, or build on the device."
    yield f"{what} for SM {', '.join(capabilities)}; here is {first.name}, SM {first.compute_capability}.", do


def _library_differences(
    engine: Path, wanted: dict[str, str] | None, library: Path | None, rebuild: str
) -> Iterator[Difference]:
    """wanted: name and sha256 of the plugin library that the engine was built with; None: it has no plugins."""
    if wanted is None:
        return
    places = (
        [engine.parent, engine.parent / BUNDLED_LIBRARIES, LIBRARIES]
        if library is None
        else [library if library.is_dir() else library.parent]
    )
    names = [wanted["name"]] if library is None or library.is_dir() else [library.name]
    found = [path for folder in places for name in names if (path := folder / name).is_file()]
    if not found:
        where = " and ".join(str(folder) for folder in places)
        yield (
            f"Its plugin library {wanted['name']} is not in {where}.",
            f"Copy it there from where the engine was built, or: rmt-edge plugin build, then {rebuild}",
        )
    elif not any(sha256_of(path) == wanted["sha256"] for path in found):
        yield f"It was built with another {wanted['name']} ({wanted['sha256'][:16]}…) than {found[0]}.", rebuild


def _warn_of_another_device(engine: Path, manifest: Manifest, machine: Machine) -> None:
    """Between GPUs of one compute capability an engine opens, but its tactics were timed on the other."""
    built_on = manifest.details.get("machine") or {}
    gpus: list[dict[str, Any]] = built_on.get("gpus") or []
    if manifest.details["backend"]["name"] != "tensorrt" or not gpus or not machine.gpus:
        return
    there, here = built_on.get("board") or gpus[0]["name"], machine.board or machine.gpus[0].name
    if there != here:
        logger.warning("%s was built on %s: on this %s it may be slower than one built here.", engine.name, there, here)


def _build_command(engine: Path, manifest: Manifest, device: str) -> str:
    parent = manifest.parents[0]["name"] if manifest.parents else "FILE.onnx"
    onnx = engine.with_name(re.sub(r"\.plugin\.onnx$", ".onnx", parent))
    retention = " --retention native" if manifest.details.get("retention") == "native" else ""
    return f"rmt-edge build {onnx} --device {device}{retention}"


def _install(backend: str, machine: Machine, versions: str) -> str:
    """What installs a backend: of one version, "10.9.0.34", or of "10.3 to 11.4", the first two numbers of each."""
    first, _, last = versions.partition(" to ")
    if backend == "tensorrt" and machine.is_jetson:
        return JETPACK_INSTALL if backend not in machine.tensorrt else JETPACK_UPDATE
    if not last and first.count(".") > 1:
        requirement = f"=={first}"
    else:
        major, minor = version_numbers(last or first)
        requirement = f">={first},<{major}.{minor + 1}"
    return "pip install " + " ".join(f"'{name}{requirement}'" for name in BACKENDS[backend].packages)


def free_disk_mib(folder: Path) -> int:
    """What is free on the disk that a folder is on, or will be on once it is made."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free >> 20
