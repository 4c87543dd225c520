"""What must hold of a board before anything is copied to it, and of its doctor's diagnosis before the bundle is."""

from typing import Any

from rmt_edge.device.backend import BACKENDS
from rmt_edge.device.preflight import BUILD_DISK_MIB, JETPACK_INSTALL
from rmt_edge.device.profile import AUTO, GENERIC, MEMORY_SHOWN, load_profile
from rmt_edge.errors import RmtEdgeError
from rmt_edge.fleet.boards import ENGINES, Board
from rmt_edge.fleet.plan import Cargo, Options, steps_of
from rmt_edge.plugin.load import LIBRARIES, library_name

# Records are dated by the board; a Jetson without a battery for its clock starts in the past until it has a network.
CLOCK_SECONDS = 120
WHEEL_MIB = 32  # the wheel and its environment take 3
NATIVE = "native"
NEEDED = ("numpy", "tqdm")
TENSORRT = tuple(module for backend in BACKENDS.values() for module in backend.modules)
MODULES = (*NEEDED, *TENSORRT, "onnxruntime")  # that a board is asked for


def check_probe(board: Board, options: Options, cargo: Cargo, probe: dict[str, Any], clock_ahead_s: float) -> None:
    """Refuse a board that cannot serve, by what it said of itself. clock_ahead_s: of its clock before this one."""
    _check_clock(board, clock_ahead_s)
    missing = [x for x in NEEDED if x not in probe["modules"]]
    if missing:
        raise RmtEdgeError(
            f"{board.python} on {board.name} has no {' and no '.join(missing)}.",
            "rmt-edge needs both there; nothing is fetched from a network.",
            f"On the board: sudo apt install {' '.join(f'python3-{x}' for x in missing)}",
        )
    _check_runtime(board, options, probe)
    if not probe["has_venv"]:
        raise RmtEdgeError(f"{board.name} has no module venv.", do="On the board: sudo apt install python3-venv")
    if not probe["is_writable"]:
        raise RmtEdgeError(
            f"{probe['work']} on {board.name} cannot be written.", do="Name another folder in boards.toml: folder = …"
        )
    _check_disk(board, options, cargo, probe)
    _check_memory(board, probe)
    modes = probe["power_modes"]
    for mode in filter(None, options.modes_of(board)):
        if mode not in modes:
            raise RmtEdgeError(
                f"{board.name} has no power mode {mode}.",
                f"it has {', '.join(modes)}." if modes else "it has no nvpmodel: power modes are a Jetson's.",
            )


def _check_clock(board: Board, ahead_s: float) -> None:
    if abs(ahead_s) > CLOCK_SECONDS:
        size = f"{abs(ahead_s) / 3600:.1f} h" if abs(ahead_s) > 5400 else f"{abs(ahead_s):.0f} s"
        raise RmtEdgeError(
            f"The clock of {board.name} is {size} {'ahead of' if ahead_s > 0 else 'behind'} this machine's.",
            "its records would be dated wrong.",
            f"On the board: sudo timedatectl set-ntp true; without one: ssh {board.ssh} sudo date -u -s @$(date +%s)",
        )


def _check_runtime(board: Board, options: Options, probe: dict[str, Any]) -> None:
    """What runs the model, or builds it."""
    has_tensorrt = set(TENSORRT) & set(probe["modules"])
    if "build" in steps_of(board, options) and not has_tensorrt:
        raise RmtEdgeError(f"{board.name} has no TensorRT that {board.python} finds.", "", JETPACK_INSTALL)
    if board.runs != ENGINES and "onnxruntime" not in probe["modules"]:
        raise RmtEdgeError(f"{board.name} has no ONNX Runtime.", 'runs = "onnx" needs it.', "pip install onnxruntime")


def _check_disk(board: Board, options: Options, cargo: Cargo, probe: dict[str, Any]) -> None:
    """Room for the wheel, for the bundle packed and unpacked, and for what a build writes."""
    bundle_mib = 0 if probe["has_bundle"] else 2 * cargo.bundle.stat().st_size / 2**20
    needed = WHEEL_MIB + bundle_mib + (BUILD_DISK_MIB if "build" in steps_of(board, options) else 0)
    if probe["free_mib"] < needed:
        raise RmtEdgeError(
            f"{probe['free_mib']} MiB are free on the disk of {probe['work']} on {board.name}.",
            f"the wheel, the bundle and the engines take up to {needed:.0f} MiB.",
            "Make room, or name a folder on another disk in boards.toml: folder = …",
        )


def _check_memory(board: Board, probe: dict[str, Any]) -> None:
    """A board with less memory than its profile is another board than boards.toml says."""
    is_named = board.device != AUTO and not board.device.startswith(GENERIC)
    profile = load_profile(board.device) if is_named else None
    if profile is None or not profile.is_memory_shared or probe["memory_mib"] is None:
        return
    if probe["memory_mib"] < MEMORY_SHOWN * profile.memory_gib * 1024:
        raise RmtEdgeError(
            f"{board.name} has {probe['memory_mib']} MiB of memory; {profile.device} has {profile.memory_gib:g} GiB.",
            f"boards.toml says that it is a {profile.name}.",
            "Name its profile (rmt-edge devices), or leave device out: auto takes the one that fits.",
        )


def check_doctor(board: Board, options: Options, cargo: Cargo, diagnosis: dict[str, Any]) -> None:
    """Refuse a board whose doctor says that a step is not ready there, or that it is another device."""
    steps, kind = steps_of(board, options), "engine" if board.runs == ENGINES else "onnx"
    needed = [x if x == "build" else f"{x} {kind}" for x in ("build", "validate", "bench") if x in steps]
    processor = diagnosis["machine"]["processor"]
    # The plugin library comes in the bundle, which is not there yet.
    passed_over = f"{LIBRARIES / library_name(processor)} is not there."
    lacks = [x for name in needed for x in diagnosis["commands"][name]["lacks"] if x["what"] != passed_over]
    if lacks:
        raise RmtEdgeError(
            f"{board.name} is not ready: {' '.join(dict.fromkeys(x['what'] for x in lacks))}",
            "by `rmt-edge doctor` on the board.",
            "\n".join(dict.fromkeys(x["do"] for x in lacks)),
        )
    if "build" in steps and options.kernels != NATIVE and processor not in cargo.index.libraries:
        raise RmtEdgeError(
            f"The bundle has no plugin library for {board.name}, which is {processor}.",
            f"it has {', '.join(cargo.index.libraries) or 'none'}.",
            f"rmt-edge pack --arch {processor}, or run with --kernels native.",
        )
    _check_device(board, diagnosis)


def _check_device(board: Board, diagnosis: dict[str, Any]) -> None:
    if board.runs != ENGINES or board.device.endswith(".toml"):
        return
    fits = {x["name"]: x["why_not"] for x in diagnosis["profiles"]}
    if board.device == AUTO and "" not in fits.values():
        raise RmtEdgeError(f"No device profile fits {board.name}.", "rmt-edge doctor on the board says why.")
    if fits.get(board.device):
        best = [name for name, why in fits.items() if not why]
        raise RmtEdgeError(
            f"{board.name} is no {board.device}: {fits[board.device]}.",
            f"what fits: {', '.join(best) or 'no profile'}.",
            "Mend device in boards.toml.",
        )
