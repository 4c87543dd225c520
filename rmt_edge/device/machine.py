"""What this machine is: its GPUs, the board they are on, memory, TensorRT, CUDA, JetPack, the power mode.

Every fact comes from a source that may be missing (a driver, a file, a command); then it is None or left out, never
an error. The CUDA driver is asked through ctypes and NVML through nvidia-ml-py if that is installed, so that a device
needs nothing for it. Sources gathers where the facts come from, so that tests feed a machine on paper.
"""

import ctypes
import importlib
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from rmt_edge.device.backend import BACKENDS

PACKAGES = (
    "numpy", "tqdm", "pycuda", "nvidia-ml-py", "jetson-stats", "torch", "nvidia-modelopt", "triton", "onnx",
    "onnxruntime", "safetensors", "pillow", "matplotlib",
)  # fmt: skip
# Jetson Linux to JetPack, from developer.nvidia.com/embedded/jetpack-archive: for boards flashed with Jetson Linux
# alone, on which the package nvidia-jetpack, that knows better, is not installed.
JETPACK = {
    "35.1": "5.0.2", "35.2.1": "5.1", "35.3.1": "5.1.1", "35.4.1": "5.1.2", "35.5": "5.1.3", "35.6": "5.1.4",
    "36.3": "6.0", "36.4": "6.1", "36.4.3": "6.2", "36.4.4": "6.2.1", "36.5": "6.2.2", "36.5.2": "6.2.3",
    "38.2": "7.0", "38.2.1": "7.0", "38.4": "7.1", "39.2": "7.2", "39.2.1": "7.2.1",
}  # fmt: skip
COMMAND_SECONDS = 20
# CUdevice_attribute of cuda.h.
INTEGRATED, MAJOR, MINOR = 18, 75, 76


@dataclass(frozen=True)
class Gpu:
    """One GPU as the CUDA driver sees it.

    compute_capability: "8.7". memory_mib: all of it, on a Jetson what CPU and GPU share (is_memory_shared).
    free_memory_mib: now, None without NVML. driver_version: "570.86.15"; cuda_version: the newest that the driver
    runs, "12.8".
    """

    name: str
    compute_capability: str
    memory_mib: int
    free_memory_mib: int | None = None
    driver_version: str | None = None
    cuda_version: str | None = None
    is_memory_shared: bool = False


@dataclass(frozen=True)
class Machine:
    """A machine. None: its source is not here.

    platform: "Linux 5.15.148-tegra"; processor: "aarch64". board, l4t, jetpack, power_mode: of a Jetson: the device
    tree's model, "36.4.3", "6.2", and the name that `nvpmodel -q` prints. tensorrt: backend to version; packages:
    distribution to version. cuda_toolkit: what is installed under /usr/local/cuda.
    """

    platform: str
    processor: str
    board: str | None
    jetpack: str | None
    power_mode: str | None
    gpus: tuple[Gpu, ...]
    memory_mib: int | None
    free_memory_mib: int | None
    python: str
    tensorrt: dict[str, str] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)
    l4t: str | None = None
    cuda_toolkit: str | None = None

    @property
    def is_jetson(self) -> bool:
        """Whether it is one of NVIDIA's boards, by its device tree or its Jetson Linux."""
        return self.l4t is not None or "Jetson" in (self.board or "")

    def to_dict(self) -> dict[str, Any]:
        """As a record holds it: JSON has lists, no tuples."""
        return asdict(self) | {"gpus": [asdict(gpu) for gpu in self.gpus]}


def run_command(command: list[str]) -> str | None:
    """What a command prints on stdout; None if it is not here, fails or takes over COMMAND_SECONDS."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=COMMAND_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None


def cuda_driver() -> Any:
    """libcuda through ctypes, initialised; None without a driver that works."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    return driver if driver.cuInit(0) == 0 else None


def nvml_library() -> Any:
    """The module of nvidia-ml-py, initialised; None without it or without a driver."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    return nvml


def package_version(name: str) -> str | None:
    """The version of an installed distribution."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


@dataclass(frozen=True)
class Sources:
    """Where the facts of a machine come from. root: of its file system; the rest as the functions above."""

    root: Path = Path("/")
    run: Callable[[list[str]], str | None] = run_command
    cuda: Callable[[], Any] = cuda_driver
    nvml: Callable[[], Any] = nvml_library
    package_version: Callable[[str], str | None] = package_version
    processor: str = field(default_factory=platform.machine)
    python: str = field(default_factory=platform.python_version)
    platform: str = field(default_factory=lambda: f"{platform.system()} {platform.release()}")

    def read(self, path: str) -> str:
        """A file's text, without the NUL that ends one of the device tree; empty if it is not here."""
        try:
            return (self.root / path).read_text(errors="replace").strip("\0\n ")
        except OSError:
            return ""

    def find(self, pattern: str, path: str) -> str | None:
        """The first group of the pattern's first match in a file."""
        return _first(pattern, self.read(path))


def has_gpu(cuda: Callable[[], Any] = cuda_driver) -> bool:
    """Whether an NVIDIA driver is here and sees a GPU, asked of the driver itself: cuInit, cuDeviceGetCount."""
    driver = cuda()
    return driver is not None and _gpu_count(driver) > 0


def this_machine(sources: Sources | None = None) -> Machine:
    """Everything that can be known here without loading TensorRT or a CUDA context into this process."""
    sources = sources or Sources()
    memory_mib, free_memory_mib = (_mib_of_meminfo(sources, key) for key in ("MemTotal", "MemAvailable"))
    l4t = _l4t(sources)
    found = {name: sources.package_version(name) for name in PACKAGES}
    return Machine(
        platform=sources.platform,
        processor=sources.processor,
        board=sources.read("proc/device-tree/model") or None,
        jetpack=_jetpack(sources, l4t),
        power_mode=_first(r"NV Power Mode:[ \t]*(\S.*)", sources.run(["nvpmodel", "-q"])),
        gpus=_gpus(sources, free_memory_mib),
        memory_mib=memory_mib,
        free_memory_mib=free_memory_mib,
        python=sources.python,
        tensorrt=_tensorrt_versions(sources),
        packages={name: version for name, version in found.items() if version},
        l4t=l4t,
        cuda_toolkit=_cuda_toolkit(sources),
    )


def _first(pattern: str, text: str | None) -> str | None:
    match = re.search(pattern, text or "")
    return match[1].strip() if match else None


def _mib_of_meminfo(sources: Sources, key: str) -> int | None:
    kib = sources.find(rf"{key}:\s*(\d+) kB", "proc/meminfo")
    return int(kib) // 1024 if kib else None


def _l4t(sources: Sources) -> str | None:
    """Jetson Linux: "# R36 (release), REVISION: 4.3, …" -> "36.4.3"; else its package's version, "36.4.3-2025…"."""
    match = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", sources.read("etc/nv_tegra_release"))
    if match:
        return f"{match[1]}.{match[2]}"
    return _first(r"^([\d.]+)", sources.run(["dpkg-query", "-W", "-f", "${Version}", "nvidia-l4t-core"]))


def _jetpack(sources: Sources, l4t: str | None) -> str | None:
    """The package's version, "6.2.1+b38" -> "6.2.1"; else by JETPACK, where 36.4 and 36.4.0 are the same."""
    version = _first(r"^([\d.]+)", sources.run(["dpkg-query", "-W", "-f", "${Version}", "nvidia-jetpack"]))
    return version or JETPACK.get(re.sub(r"\.0$", "", l4t or ""))


def _cuda_toolkit(sources: Sources) -> str | None:
    version = sources.find(r'"cuda"\s*:\s*\{[^}]*"version"\s*:\s*"([\d.]+)"', "usr/local/cuda/version.json")
    return version or _first(r"release [\d.]+, V([\d.]+)", sources.run(["nvcc", "--version"]))


def _tensorrt_versions(sources: Sources) -> dict[str, str]:
    """By the installed distribution; on system packages without one, by the module in a process of its own."""
    versions = {}
    for name, backend in BACKENDS.items():
        version = next((found for x in backend.distributions if (found := sources.package_version(x))), None)
        for module in backend.modules:
            if version is None:
                print_it = f"import {module}; print({module}.__version__)"
                version = _first(r"^(\d[\w.]*)\s*$", sources.run([sys.executable, "-c", print_it]))
        if version is not None:
            versions[name] = version
    return versions


def _gpu_count(driver: Any) -> int:
    count = ctypes.c_int(0)
    return count.value if driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


def _gpus(sources: Sources, free_memory_mib: int | None) -> tuple[Gpu, ...]:
    """free_memory_mib: the machine's, which is a GPU's too where it shares the memory (a Jetson)."""
    driver = sources.cuda()
    if driver is None:
        return ()
    nvml = sources.nvml()
    driver_version = _driver_version(sources, nvml)
    number = ctypes.c_int(0)
    known = driver.cuDriverGetVersion(ctypes.byref(number)) == 0 and number.value > 0
    cuda_version = f"{number.value // 1000}.{number.value % 1000 // 10}" if known else None
    gpus = []
    for ordinal in range(_gpu_count(driver)):
        device, size, name = ctypes.c_int(0), ctypes.c_size_t(0), ctypes.create_string_buffer(128)
        driver.cuDeviceGet(ctypes.byref(device), ordinal)
        driver.cuDeviceTotalMem_v2(ctypes.byref(size), device)
        driver.cuDeviceGetName(name, len(name), device)
        major, minor, integrated = (_attribute(driver, device, x) for x in (MAJOR, MINOR, INTEGRATED))
        memory_mib = size.value >> 20
        gpus.append(
            Gpu(
                name=name.value.decode(errors="replace"),
                compute_capability=f"{major}.{minor}",
                memory_mib=memory_mib,
                free_memory_mib=free_memory_mib if integrated else _free_mib(driver, device, nvml, memory_mib),
                driver_version=driver_version,
                cuda_version=cuda_version,
                is_memory_shared=bool(integrated),
            )
        )
    if nvml is not None:
        nvml.nvmlShutdown()
    return tuple(gpus)


def _attribute(driver: Any, device: ctypes.c_int, attribute: int) -> int:
    value = ctypes.c_int(0)
    driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    return value.value


def _driver_version(sources: Sources, nvml: Any) -> str | None:
    """By NVML, else by the kernel module: "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.161.08  Sat …"."""
    if nvml is not None:
        try:
            version = nvml.nvmlSystemGetDriverVersion()
            return version.decode() if isinstance(version, bytes) else version
        except nvml.NVMLError:
            pass
    return sources.find(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s", "proc/driver/nvidia/version")


def _free_mib(driver: Any, device: ctypes.c_int, nvml: Any, memory_mib: int) -> int | None:
    """A GPU's free memory by NVML, which knows it by its PCI address: CUDA and NVML do not count GPUs alike.

    None where the two do not mean the same memory: a MIG slice is a CUDA device of its own on the whole GPU's address.
    """
    address = ctypes.create_string_buffer(32)
    if nvml is None or driver.cuDeviceGetPCIBusId(address, len(address), device) != 0:
        return None
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(nvml.nvmlDeviceGetHandleByPciBusId(address.value))
    except nvml.NVMLError:
        return None
    is_same = abs((memory.total >> 20) - memory_mib) <= memory_mib // 10
    return memory.free >> 20 if is_same else None
