"""Device profiles: engines/*.toml, one device each. What an engine is built for and what the device can do."""

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rmt_edge.device.backend import BACKENDS
from rmt_edge.device.machine import Gpu, Machine, this_machine
from rmt_edge.errors import RmtEdgeError
from rmt_edge.settings import check_choice, check_positive, known_settings, load_settings, settings_folder

HARDWARE_COMPATIBILITIES = ("none", "ampere_plus", "same_compute_capability")
FOLDER = "engines"
AUTO = "auto"
# Of a profile's memory, what its device shows at least: firmware and carve-outs take the rest (0.92 is left on an L4,
# less on the smallest Jetsons), and the next smaller device of the same name has three quarters or less.
MEMORY_SHOWN = 0.8
OLDEST_SM = 8.0  # of the GPUs that rmt-edge's kernels are compiled for unless asked otherwise (plugin/build.py)
GENERIC = "generic-sm"  # and the compute capability without its point, "generic-sm89": a card that no profile knows
# TensorRT's first version for a compute capability, where it is not 10.3: 10.8.0 Release Notes, "supports NVIDIA
# Blackwell GPUs"; Thor came with JetPack 7.0 and its 10.13.
FIRST_TENSORRT = {"10.0": "10.8", "12.0": "10.8", "11.0": "10.13"}


@dataclass(frozen=True)
class DeviceProfile:
    """A device, the builder's limits on it, and its peaks.

    device: the name that people know. identified_by: words of which a Jetson's device tree or a GPU's name holds one;
    none: any GPU of these compute capabilities. backend: the TensorRT that serves it, tensorrt_versions from the first
    to the last, both included ("10.3", "11.4"; the first two numbers of a version count). compute_capabilities: of the
    GPUs that one engine is for, like "8.7"; more than one only with tensorrt_rtx.

    memory_gib: of the GPU, or on a Jetson of the whole board, which CPU and GPU share (is_memory_shared).
    workspace_mib: what the builder may take of it as workspace.

    min_batch, opt_batch, max_batch: the optimisation profile. batches: those that `rmt-edge bench` sweeps by default.

    bandwidth_gb_s: of the memory, 1e9 bytes/s. fp16_tflops, int8_tops: dense tensor-core peaks with FP32 and INT32
    accumulation, 1e12 operations/s, a multiply-add counted as two. None where a profile stands for several devices.
    sources: where these numbers are from, with the arithmetic where they are derived.

    power_modes: the names that `nvpmodel -q` prints, largest first. version_compatible: build an engine that later
    TensorRT versions open. hardware_compatibility: build one that other GPUs open (HardwareCompatibilityLevel).

    is_generic: made for a card that no profile knows, of what its driver says.
    """

    name: str
    device: str
    backend: str
    compute_capabilities: tuple[str, ...]
    tensorrt_versions: tuple[str, str]
    memory_gib: float
    workspace_mib: int
    identified_by: tuple[str, ...] = ()
    is_memory_shared: bool = False
    min_batch: int = 1
    opt_batch: int = 1
    max_batch: int = 32
    batches: tuple[int, ...] = (1, 8, 32)
    bandwidth_gb_s: float | None = None
    fp16_tflops: float | None = None
    int8_tops: float | None = None
    sources: tuple[str, ...] = ()
    power_modes: tuple[str, ...] = ()
    version_compatible: bool = False
    hardware_compatibility: str = "none"
    is_generic: bool = False

    def __post_init__(self) -> None:
        for field in (
            "compute_capabilities",
            "tensorrt_versions",
            "batches",
            "sources",
            "power_modes",
            "identified_by",
        ):
            value = getattr(self, field)
            if not isinstance(value, list | tuple):
                raise RmtEdgeError(f"{field} is {value!r}.", "it is a list.")
            object.__setattr__(self, field, tuple(value))
        check_choice("backend", self.backend, tuple(BACKENDS))
        check_choice("hardware_compatibility", self.hardware_compatibility, HARDWARE_COMPATIBILITIES)
        _check_compute_capabilities(self.compute_capabilities, self.backend)
        _check_versions(self.tensorrt_versions)
        check_positive(workspace_mib=self.workspace_mib)
        for field in ("memory_gib", "bandwidth_gb_s", "fp16_tflops", "int8_tops"):
            value = getattr(self, field)
            if field == "memory_gib" or value is not None:
                _check_above_zero(field, value)
        if self.workspace_mib > self.memory_gib * 1024:
            raise RmtEdgeError(
                f"workspace_mib is {self.workspace_mib}, memory_gib {self.memory_gib:g}.",
                "the builder's workspace is a part of the memory.",
            )
        check_positive(min_batch=self.min_batch, opt_batch=self.opt_batch, max_batch=self.max_batch)
        if not self.min_batch <= self.opt_batch <= self.max_batch:
            raise RmtEdgeError(
                f"The batches are {self.min_batch}, {self.opt_batch}, {self.max_batch}.", "min ≤ opt ≤ max must hold."
            )
        for batch in self.batches:
            check_positive(batches=batch)
            if not self.min_batch <= batch <= self.max_batch:
                raise RmtEdgeError(
                    f"batches holds {batch}.",
                    f"the engine takes {self.min_batch} to {self.max_batch} images at a time.",
                )

    def to_dict(self) -> dict[str, Any]:
        """As a manifest holds it: JSON has lists, no tuples."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def load_profile(name: str | Path) -> DeviceProfile:
    """A device profile by name or path, or the one of this machine by the name `auto`.

    The name of a generic profile stands for this machine's GPU of that compute capability.
    """
    if name == AUTO:
        return profile_for(this_machine())
    if isinstance(name, str) and re.fullmatch(rf"{GENERIC}\d+", name):
        machine = this_machine()
        made = (generic_profile(gpu, machine) for gpu in machine.gpus if is_supported(gpu))
        if found := next((profile for profile in made if profile.name == name), None):
            return found
        raise RmtEdgeError(f"No GPU of this machine is {name}'s.", "it is the profile of a card that no other knows.")
    return load_settings(name, FOLDER, DeviceProfile, "device profile")


def profile_names() -> list[str]:
    """The profiles that come with rmt-edge, sorted."""
    return known_settings(FOLDER)


def matching_profiles(machine: Machine) -> list[tuple[DeviceProfile, Gpu]]:
    """The profiles that fit a GPU of the machine, best first, each with that GPU.

    One whose backend is installed goes before one whose is not. Then best is one that names the board or GPU, then one
    for any GPU of its compute capabilities, last a generic one; of several such, the one with the most memory, since
    one with more than the device has does not fit. Generic ones are there only where no other fits any GPU with an
    installed backend: beside a card that a profile knows, one that none knows (a slice of it, a display) is not meant.
    """
    found = [
        (profile, gpu)
        for profile in map(load_profile, profile_names())
        for gpu in machine.gpus
        if not misfit(profile, gpu, machine)
    ]
    generic = [(generic_profile(gpu, machine), gpu) for gpu in machine.gpus if is_supported(gpu)]
    is_ready = any(profile.backend in machine.tensorrt for profile, _ in found)
    if not found or (not is_ready and any(profile.backend in machine.tensorrt for profile, _ in generic)):
        found += generic

    def rank(match: tuple[DeviceProfile, Gpu]) -> tuple[bool, bool, bool, float]:
        profile, _ = match
        is_installed = profile.backend in machine.tensorrt
        return is_installed, bool(profile.identified_by), not profile.is_generic, profile.memory_gib

    return sorted(found, key=rank, reverse=True)


def is_supported(gpu: Gpu) -> bool:
    """Whether rmt-edge's kernels are compiled for a GPU's generation."""
    return float(gpu.compute_capability) >= OLDEST_SM


def generic_profile(gpu: Gpu, machine: Machine) -> DeviceProfile:
    """A profile of what the driver says of a card, for the TensorRT that is installed: no peaks, so no estimate."""
    capability = gpu.compute_capability
    builders = [x for x, backend in BACKENDS.items() if capability in (backend.compute_capabilities or (capability,))]
    backend = next((x for x in builders if x in machine.tensorrt), "tensorrt")
    first, last = BACKENDS[backend].versions
    if backend == "tensorrt":
        first = FIRST_TENSORRT.get(capability, first)
    part = 8 if gpu.is_memory_shared else 4  # what CPU and GPU share, other programs need too
    return DeviceProfile(
        name=GENERIC + capability.replace(".", ""),
        device=f"{gpu.name}, a card that no profile for {backend} knows",
        backend=backend,
        compute_capabilities=(capability,),
        tensorrt_versions=(first, last),
        memory_gib=round(gpu.memory_mib / 1024, 1),
        workspace_mib=max(1, gpu.memory_mib // part),
        is_memory_shared=gpu.is_memory_shared,
        sources=(
            f"no profile for {backend} knows {gpu.name}; a generic one for SM {capability}, by its driver: "
            "no peaks, so no estimate",
        ),
        is_generic=True,
    )


def too_old(gpu: Gpu) -> tuple[str, str]:
    """What holds of a GPU that is not supported, and what to do about it."""
    capability = gpu.compute_capability
    what = f"{gpu.name} has SM {capability}; rmt-edge's kernels begin with {OLDEST_SM}."
    if capability != "7.5":  # Turing, for which TensorRT-RTX still builds
        return what, "Take a GPU from Ampere on (Jetson Orin, A10, RTX 30 or newer)."
    return what, (
        "Take a GPU from Ampere on (Jetson Orin, A10, RTX 30 or newer). Turing may run all the same, and nobody has "
        'tried: copy a profile to a .toml of your own with compute_capabilities = ["7.5"], and build with '
        "--kernels native."
    )


def misfit(profile: DeviceProfile, gpu: Gpu, machine: Machine) -> str:
    """Why a profile is not for a GPU of the machine; empty if it is."""
    if gpu.compute_capability not in profile.compute_capabilities:
        return f"SM {gpu.compute_capability}, not {' or '.join(profile.compute_capabilities)}"
    name = machine.board if machine.is_jetson and machine.board else gpu.name
    if profile.identified_by and not any(re.search(rf"\b{re.escape(x)}\b", name) for x in profile.identified_by):
        return f"{name}, not {' or '.join(profile.identified_by)}"
    if profile.identified_by and gpu.memory_mib < MEMORY_SHOWN * 1024 * profile.memory_gib:
        return f"{gpu.memory_mib / 1024:.0f} GiB, not {profile.memory_gib:g}"
    return ""


def profile_for(machine: Machine) -> DeviceProfile:
    """The one profile that fits the machine, or an error that says what was found."""
    matches = matching_profiles(machine)
    best: dict[str, DeviceProfile] = {}  # of each kind of GPU, by its name
    for profile, gpu in matches:
        best.setdefault(gpu.name, profile)
    chosen = {profile.name: profile for profile in best.values()}
    if len(chosen) == 1:
        return next(iter(chosen.values()))
    seen = ", ".join(f"{x.name} (SM {x.compute_capability}, {x.memory_mib} MiB)" for x in machine.gpus)
    seen = f"{machine.board}: {seen}" if machine.board and seen else seen
    known = f"known: {', '.join(profile_names())}."
    if chosen:
        raise RmtEdgeError(
            f"{len(chosen)} device profiles fit this machine's GPUs: {', '.join(sorted(chosen))}.",
            f"found: {seen}.",
            "Name one with --device, and its GPU with CUDA_VISIBLE_DEVICES.",
        )
    if machine.gpus:
        what, do = too_old(machine.gpus[0])
        raise RmtEdgeError(f"No device profile fits this machine: {what}", f"found: {seen}; {known}", do)
    raise RmtEdgeError(
        "There is no GPU here for --device auto to find.",
        f"found: no NVIDIA driver that sees one; {known}",
        f"Name one with --device, or copy one of {settings_folder(FOLDER)} to a .toml of your own and pass its path.",
    )


def version_numbers(version: str) -> tuple[int, int]:
    """The first two numbers of a version: "10.13.3.9" -> (10, 13)."""
    first, second = version.split(".")[:2]
    return int(first), int(second)


def _check_compute_capabilities(values: tuple[str, ...], backend: str) -> None:
    if not values or not all(isinstance(x, str) and re.fullmatch(r"\d+\.\d", x) for x in values):
        raise RmtEdgeError(f"compute_capabilities is {list(values)!r}.", 'it is a list like ["8.7"].')
    if len(values) > 1 and backend == "tensorrt":
        raise RmtEdgeError(
            f"compute_capabilities has {len(values)} entries.",
            "TensorRT builds for the GPU that it runs on; only tensorrt_rtx builds one engine for several.",
        )


def _check_versions(values: tuple[str, ...]) -> None:
    if len(values) != 2 or not all(isinstance(x, str) and re.fullmatch(r"\d+\.\d+", x) for x in values):
        raise RmtEdgeError(f"tensorrt_versions is {list(values)!r}.", 'it is the first and the last: ["10.3", "11.4"].')
    if version_numbers(values[0]) > version_numbers(values[1]):
        raise RmtEdgeError(f"tensorrt_versions is {list(values)!r}.", "the first comes before the last.")


def _check_above_zero(field: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise RmtEdgeError(f"{field} is {value!r}.", "it is a number above 0.")
