"""Doctor: what this machine can do with rmt-edge, and what is missing with the command that mends it.

Nothing heavy is imported. What a command needs is read from the sources: the modules that its function imports,
followed through rmt_edge's own files; a module is there if Python finds it (importlib.util.find_spec). What no import
shows (a GPU, a compiler, TensorRT, which is imported by name) stands in NEEDS.
"""

import ast
import importlib.util
import inspect
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rmt_edge.device.backend import BACKENDS
from rmt_edge.device.machine import Machine, run_command
from rmt_edge.device.preflight import JETPACK_INSTALL, JETPACK_UPDATE, free_disk_mib
from rmt_edge.device.profile import (
    is_supported,
    load_profile,
    matching_profiles,
    misfit,
    profile_names,
    too_old,
    version_numbers,
)
from rmt_edge.plugin.load import LIBRARIES, library_name
from rmt_edge.settings import PACKAGE

# What no import shows, by command. "engine": a TensorRT with a GPU to run on; "backend": one that builds.
NEEDS = {
    "build": ("backend", "library"),
    "deploy": ("backend", "library"),
    "bench engine": ("engine",),
    "validate engine": ("engine",),
    "validate engine --data": ("engine",),
    "predict engine": ("engine",),
    "plugin": ("compiler",),
}
# Commands with several ways, and what each imports beside what the command does.
WAYS: dict[str, dict[str, tuple[str, ...]]] = {
    "bench": {"engine": ("rmt_edge.runtime.engine_runner",), "onnx": ("rmt_edge.runtime.onnx_runner",)},
    "predict": {
        "engine": ("rmt_edge.runtime.engine_runner",),
        "onnx": ("rmt_edge.runtime.onnx_runner",),
        "checkpoint": ("rmt_edge.accuracy.reference",),
    },
    "validate": {
        "engine": ("rmt_edge.bundle.validate",),
        "engine --data": ("rmt_edge.accuracy.validate",),
        "onnx": ("rmt_edge.accuracy.reference", "rmt_edge.runtime.onnx_runner"),
    },
}
OWN_STAND_INS = {"tomli"}  # of tomllib, on Python 3.10: rmt-edge does not start without it
DISTRIBUTIONS = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "modelopt": "nvidia-modelopt",
}  # where it is not the module's name
WORKSTATION = {"torch", "modelopt", "triton", "onnx", "onnxruntime", "safetensors", "PIL", "matplotlib"}
OLDEST_PYTHON, OLDEST_TENSORRT = (3, 10), (10, 3)
DISK_MIB = 4096  # engines of RMT-L in three precisions, their ONNX files and a bundle: 2 x (382 + 191 + 96) MB and more
# An Orin Nano of 4 GiB has less. The builder alone took 1.3 GiB for RMT-S in FP32 (TensorRT-RTX 1.7.1, on a CPU); CUDA,
# the tactics' workspace and the desktop come on top.
MEMORY_MIB = 6 * 1024
PYCUDA = "pip install --force-reinstall --no-cache-dir --no-binary pycuda pycuda"


@dataclass(frozen=True)
class Tools:
    """What is asked beside the machine; tests replace it. folder: where rmt-edge is called."""

    has_module: Callable[[str], bool] = lambda name: importlib.util.find_spec(name) is not None
    which: Callable[[str], str | None] = shutil.which
    run: Callable[[list[str]], str | None] = run_command
    free_disk_mib: Callable[[Path], int] = free_disk_mib
    folder: Path = field(default_factory=Path.cwd)


@dataclass(frozen=True)
class Lack:
    """What is missing or wrong, and the command or step that mends it."""

    what: str
    do: str


@dataclass(frozen=True)
class Diagnosis:
    """What this machine is and can do. profiles: name to why it does not fit, empty if it does, best first. generic:
    what a person must know of those among them that are generic."""

    machine: Machine
    lacks: tuple[Lack, ...]
    profiles: dict[str, str]
    generic: tuple[str, ...]
    commands: dict[str, tuple[Lack, ...]]

    def to_dict(self) -> dict[str, Any]:
        """As `rmt-edge doctor --json` prints it."""
        return {
            "machine": self.machine.to_dict(),
            "lacks": [asdict(lack) for lack in self.lacks],
            "profiles": [{"name": name, "fits": not why, "why_not": why} for name, why in self.profiles.items()],
            "generic": list(self.generic),
            "commands": {
                name: {"is_ready": not lacks, "lacks": [asdict(lack) for lack in lacks]}
                for name, lacks in self.commands.items()
            },
        }


def diagnose(machine: Machine, commands: dict[str, Callable], tools: Tools | None = None) -> Diagnosis:
    """Examine a machine. commands: by name, the function that runs each; of WAYS every way becomes one of its own."""
    tools = tools or Tools()
    return Diagnosis(
        machine=machine,
        lacks=tuple(machine_lacks(machine, tools)),
        profiles=profile_fits(machine),
        generic=tuple(x for profile, _ in matching_profiles(machine) if profile.is_generic for x in profile.sources),
        commands={
            name: tuple(_command_lacks(name, sources, machine, tools)) for name, sources in _ways(commands).items()
        },
    )


def profile_fits(machine: Machine) -> dict[str, str]:
    """Every profile with why it is not for this machine, empty if it is; those that fit first, as --device auto ranks
    them, a generic one among them where it is needed."""
    found = {profile.name: "" for profile, _ in matching_profiles(machine)}
    for name in profile_names():
        if name not in found:
            reasons = [misfit(load_profile(name), gpu, machine) for gpu in machine.gpus]
            found[name] = reasons[0] if reasons else "no GPU here"
    return found


def machine_lacks(machine: Machine, tools: Tools) -> Iterator[Lack]:
    """What is wrong with the machine, whatever command it is for."""
    if version_numbers(machine.python) < OLDEST_PYTHON:
        yield Lack(
            f"Python {machine.python} is too old.", "Install Python 3.10 or newer (JetPack 6 and later have it)."
        )
    version = machine.tensorrt.get("tensorrt")
    is_old = version is not None and version_numbers(version) < OLDEST_TENSORRT
    is_old_jetpack = machine.jetpack is not None and version_numbers(f"{machine.jetpack}.0") < (6, 1)
    if is_old or is_old_jetpack:
        what = f"JetPack {machine.jetpack}" if machine.jetpack else "This machine"
        do = JETPACK_UPDATE if machine.is_jetson else "pip install --upgrade 'tensorrt>=10.3'"
        yield Lack(f"{what} has TensorRT {version or 'before 10.3'}; rmt-edge needs 10.3 or later.", do)
    for gpu in machine.gpus:
        if not is_supported(gpu):
            yield Lack(*too_old(gpu))
    if machine.is_jetson and not machine.gpus:
        do = "In a container, start it with --runtime nvidia; outside, sudo apt install nvidia-jetpack and reboot."
        yield Lack("This is a Jetson, but its CUDA driver does not start.", do)
    if machine.memory_mib is not None and machine.memory_mib < MEMORY_MIB:
        what = f"This machine has {machine.memory_mib} MiB of memory: the builder may be killed for want of it."
        yield Lack(what, "Add swap (sudo fallocate -l 8G /swap && sudo mkswap /swap && sudo swapon /swap).")
    free = tools.free_disk_mib(tools.folder)
    if free < DISK_MIB:
        yield Lack(f"{free} MiB are free on the disk of {tools.folder}.", f"Make room for {DISK_MIB} MiB.")
    yield from _pycuda_lacks(machine, tools)


def _pycuda_lacks(machine: Machine, tools: Tools) -> Iterator[Lack]:
    """pycuda is compiled where it is installed; one of another Python, CUDA or numpy is there and does not work."""
    if "pycuda" not in machine.packages or not machine.gpus:
        return
    version = f"pycuda {machine.packages['pycuda']}"
    compiled = tools.run([sys.executable, "-c", "import pycuda.driver as d; print(*d.get_version())"])
    if compiled is None:
        yield Lack(
            f"{version} is installed but cannot be imported (python3 -c 'import pycuda.driver' says why).", PYCUDA
        )
        return
    built_for = ".".join(compiled.split()[:2])
    runs = machine.gpus[0].cuda_version
    if runs is not None and version_numbers(built_for)[0] > version_numbers(runs)[0]:
        what = f"{version} was compiled for CUDA {built_for}; the driver runs up to {runs}."
        yield Lack(what, f"With CUDA {runs}'s nvcc first on the path: {PYCUDA}")


def _ways(commands: dict[str, Callable]) -> dict[str, list[Callable | str]]:
    """By name, what is imported: the function of a command and the modules of its way, "validate engine"."""
    found: dict[str, list[Callable | str]] = {}
    for name, run in commands.items():
        for way, modules in WAYS.get(name, {"": ()}).items():
            found[f"{name} {way}".strip()] = [run, *modules]
    return found


def _command_lacks(name: str, sources: list[Callable | str], machine: Machine, tools: Tools) -> Iterator[Lack]:
    """What a command lacks here."""
    missing = sorted(module for module in imported_by(*sources) if not tools.has_module(module))
    if missing:
        yield Lack(f"{', '.join(missing)} not installed.", _install(missing, machine))
    for need in NEEDS.get(name, ()):
        yield from {"backend": _backend, "engine": _engine, "library": _library, "compiler": _compiler}[need](
            machine, tools
        )


def missing_packages(run: Callable, module: str, machine: Machine, tools: Tools | None = None) -> Lack | None:
    """What to install for the function of a command that stopped at a missing module; None if that module is not one of
    those that it needs from others: then the fault is ours."""
    tools = tools or Tools()
    missing = sorted(name for name in imported_by(run) if not tools.has_module(name))
    if module.partition(".")[0] not in missing:
        return None
    return Lack(f"This needs {', '.join(missing)}, not installed here.", _install(missing, machine))


def _install(modules: list[str], machine: Machine) -> str:
    if machine.is_jetson and set(modules) & WORKSTATION:
        return "Do this on a workstation: a device needs neither torch nor modelopt."
    constraints = PACKAGE / "constraints.txt"
    return f"pip install --constraint {constraints} {' '.join(DISTRIBUTIONS.get(x, x) for x in modules)}"


def _backend(machine: Machine, tools: Tools) -> Iterator[Lack]:
    """A TensorRT that can build: TensorRT-RTX anywhere, TensorRT where there is a GPU."""
    if "tensorrt_rtx" in machine.tensorrt:
        return
    if "tensorrt" not in machine.tensorrt:
        pip = f"pip install {' '.join(BACKENDS['tensorrt_rtx'].packages)} (x86-64; without a GPU too)"
        yield Lack("No TensorRT is installed.", JETPACK_INSTALL if machine.is_jetson else pip)
    elif not machine.gpus:
        yield Lack("TensorRT builds on the GPU that the engine is for; none is here.", "Build on the device.")


def _engine(machine: Machine, tools: Tools) -> Iterator[Lack]:
    """What runs an engine."""
    if not machine.gpus:
        yield Lack("There is no GPU here: no NVIDIA driver sees one.", "Do this on the device.")
    if not machine.tensorrt:
        yield from _backend(machine, tools)
    if not tools.has_module("pycuda"):
        do = "CPATH=/usr/local/cuda/include PATH=/usr/local/cuda/bin:$PATH pip install pycuda (it compiles)"
        yield Lack("pycuda is not installed.", do)


def _library(machine: Machine, tools: Tools) -> Iterator[Lack]:
    """The plugin library of this processor, and what TensorRT-RTX needs to take plugins at all."""
    name = library_name(machine.processor)
    if not (tools.folder / LIBRARIES / name).is_file():
        do = "rmt-edge plugin build on a workstation, then copy it here, or unpack a bundle"
        do = do if machine.is_jetson else "rmt-edge plugin build (minutes)"
        yield Lack(f"{LIBRARIES / name} is not there.", f"{do}; or build with --kernels native.")
    if "tensorrt_rtx" in machine.tensorrt and not any(tools.which(x) for x in ("gcc", "g++", "cc")):
        yield Lack("No C compiler: TensorRT-RTX takes plugins only with a stub library made here.", "apt install gcc")


def _compiler(machine: Machine, tools: Tools) -> Iterator[Lack]:
    """The C++ compilers of both processors; one is enough with --arch."""
    compilers = {"x86_64": "x86_64-linux-gnu-g++", "aarch64": "aarch64-linux-gnu-g++"} | {machine.processor: "g++"}
    for processor, compiler in compilers.items():
        if tools.which(compiler) is None:
            package = "g++" if compiler == "g++" else f"g++-{processor.replace('_', '-')}-linux-gnu"
            other = "" if processor == machine.processor else f", or rmt-edge plugin build --arch {machine.processor}"
            yield Lack(f"No {compiler} for the {processor} library.", f"sudo apt install {package}{other}")


def imported_by(*sources: Callable | str) -> set[str]:
    """The packages outside Python and rmt_edge that functions and modules of ours import, also by way of others."""
    found: set[str] = set()
    seen: set[Path] = set()
    for source in sources:
        text = f"import {source}" if isinstance(source, str) else textwrap.dedent(inspect.getsource(source))
        _follow(ast.parse(text), found, seen)
    return found - set(sys.stdlib_module_names) - OWN_STAND_INS - {PACKAGE.name}


def _follow(tree: ast.AST, found: set[str], seen: set[Path]) -> None:
    """Collect what a tree imports into `found`, and follow what is ours. Only what is imported at once counts.

    A module of ours that is not there is a mistake in our own lists: passed over, its needs would go unsaid.
    """
    for name, is_module in _imports(tree):
        package, *inner = name.split(".")
        found.add(package)
        if package != PACKAGE.name:
            continue
        path = PACKAGE.joinpath(*inner)
        files = [file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()]
        assert files or not is_module, f"{name} is no module of {PACKAGE.name}"
        for file in files:
            if file not in seen:
                seen.add(file)
                _follow(ast.parse(file.read_text(encoding="utf-8")), found, seen)


def _run_at_once(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a tree but for what only type checkers read."""
    yield tree
    if not (isinstance(tree, ast.If) and isinstance(tree.test, ast.Name) and tree.test.id == "TYPE_CHECKING"):
        for node in ast.iter_child_nodes(tree):
            yield from _run_at_once(node)


def _imports(tree: ast.AST) -> Iterator[tuple[str, bool]]:
    """What is imported, and whether it must be a module: of `from x import y` x is one, x.y may be one too."""
    for node in _run_at_once(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, True) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, True
            if node.module.partition(".")[0] == PACKAGE.name:
                yield from ((f"{node.module}.{alias.name}", False) for alias in node.names)
