"""A GPU for the plugin library: the machine of this folder behind a stand-in for libcuda.so.1."""

import ctypes
import hashlib
import itertools
import json
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import triton

from tests.ptx import machine
from tests.ptx.memory import READ, AddressMemory, Memory
from tests.ptx.parse import GpuError, parse_kernel

NATIVE = Path(__file__).parent / "native"
DRIVER_NAME = b"libcuda.so.1"
# The copy of the library that is tested asks for a driver of such a name, as long as the real one and another for every
# device, so that no other test of the process finds it.
STANDIN_NAME = "libcuda{:02}.so"
CONTEXT = 16  # of the calling program, as cuCtxGetCurrent gives it
STREAM = 0x77
SYNCHRONISES = (b"cuStreamSynchronize", b"cuCtxSynchronize")
FEW_BLOCKS = 2
FAILED = 719  # CUDA_ERROR_LAUNCH_FAILED
ELF = b"\x7fELF"
_NUMBERS = itertools.count()


class _Hooks(ctypes.Structure):
    """struct Hooks of native/driver.c."""

    _fields_ = [
        ("allocate", ctypes.CFUNCTYPE(ctypes.c_ulonglong, ctypes.c_size_t)),
        ("release", ctypes.CFUNCTYPE(None, ctypes.c_ulonglong)),
        ("copy", ctypes.CFUNCTYPE(None, ctypes.c_ulonglong, ctypes.c_void_p, ctypes.c_size_t)),
        ("launch", ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.POINTER(ctypes.c_uint), ctypes.c_uint,
            ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p),
        )),
        ("event", ctypes.CFUNCTYPE(None, ctypes.c_char_p)),
    ]  # fmt: skip


@dataclass(frozen=True)
class Launch:
    """One launch as the driver saw it."""

    image: str  # sha256 of the PTX that ran
    grid: tuple[int, int, int]
    threads_per_block: int
    shared_bytes: int
    executed: int  # instructions a thread
    visits: tuple[int, ...] = ()  # how often a thread executed each instruction of the PTX


class Device:
    """The library under test and the GPU that it finds.

    sm: the GPU's, as 86. cache: where the build keeps the PTX of each cubin (build/plugin-cache/kernels).
    """

    def __init__(self, library: Path, sm: int, folder: Path, headers: Path, cache: Path, memory_bytes: int = 1 << 28):
        self.memory: Memory | AddressMemory = Memory(memory_bytes)
        self.launches: list[Launch] = []
        self.events: Counter[str] = Counter()  # calls of the driver
        self.error: Exception | None = None  # of a callback: ctypes would swallow it
        self.check_races = True
        self.in_lockstep = True  # False for kernels whose blocks branch on what they read, each on its own
        self.rewrite: Callable[[str], str] = str  # changes a kernel's PTX before it runs, for tests that plant a fault
        self._cache, self._ptx_of_cubin = cache, {}
        self._texts: dict[int, str] = {}  # by address of the image
        self._copies: list[tuple[int, np.ndarray]] = []  # to the GPU, on their way
        name = STANDIN_NAME.format(next(_NUMBERS))
        self.driver = ctypes.CDLL(str(build_native("driver.c", folder / name, headers, f"-Wl,-soname,{name}")))
        callbacks = (self._allocate, lambda _: None, self._copy, self._launch, self._event)
        self._hooks = _Hooks(*(kind(f) for (_, kind), f in zip(_Hooks._fields_, callbacks, strict=True)))
        self.driver.standin_set_hooks(ctypes.byref(self._hooks))
        self.driver.standin_set_context.argtypes = [ctypes.c_size_t]
        self.driver.standin_set_sm(sm)
        self.driver.standin_set_context(CONTEXT)
        self.library = ctypes.CDLL(str(_redirected(library, folder, name)))
        self.library.rmt_edge_last_error.restype = ctypes.c_char_p
        self.library.rmt_edge_library_info.restype = ctypes.c_char_p
        self.host = ctypes.CDLL(str(build_native("host.cpp", folder / "host.so", headers)))
        for name, kind in (("host_make", ctypes.c_void_p), ("host_problem", ctypes.c_char_p),
                           ("host_workspace_bytes", ctypes.c_size_t)):  # fmt: skip
            getattr(self.host, name).restype = kind

    def info(self) -> dict:
        """What the library says that it holds."""
        return json.loads(self.library.rmt_edge_library_info())

    def last_error(self) -> str:
        return self.library.rmt_edge_last_error().decode()

    def raise_error(self) -> None:
        """Raise what went wrong in a callback since the last call."""
        error, self.error = self.error, None
        if error is not None:
            raise error

    def _event(self, what: bytes) -> None:
        self.events[what.decode()] += 1
        if what in SYNCHRONISES:
            self._finish_copies()

    def _finish_copies(self) -> None:
        copies, self._copies = self._copies, []
        try:
            for pointer, data in copies:
                self.memory.copy_in(pointer, data)
        except GpuError as error:
            self.error = error

    def _allocate(self, size: int) -> int:
        return self.memory.allocate(size, READ)  # kernels only read what the host copies there

    def _copy(self, to: int, source: int, size: int) -> None:
        """Of pageable memory: the data arrives when the host waits for it, and not before."""
        self._copies.append((to, np.frombuffer(ctypes.string_at(source, size), np.uint8)))

    def _launch(self, image: int, symbol: bytes, sizes, shared_bytes: int, stream: int, parameters) -> int:
        try:
            if stream != STREAM:
                raise GpuError(f"a launch on stream {stream}; enqueue was given {STREAM}")
            text = self.rewrite(self._ptx(image))
            kernel = parse_kernel(text)
            if kernel.name != symbol.decode():
                raise GpuError(f"{symbol.decode()} is not in the image, which holds {kernel.name}")
            given = [parameters[i] for i in range(len(kernel.parameters))]
            if None in given:
                raise GpuError(f"parameter {given.index(None)} of {kernel.name} is a null pointer")
            arguments = [ctypes.string_at(x, n) for x, (_, n) in zip(given, kernel.parameters, strict=True)]
            grid, threads = tuple(sizes[:3]), sizes[3] * sizes[4] * sizes[5]
            visits: list[int] = []
            for blocks in self._chosen_blocks(grid):
                executed = machine.launch(
                    kernel, self.memory, arguments, grid, threads, shared_bytes, self.check_races, blocks, visits
                )
            image_hash = hashlib.sha256(text.encode()).hexdigest()
            self.launches.append(Launch(image_hash, grid, threads, shared_bytes, executed, tuple(visits)))
            return 0
        except Exception as error:
            self.error = error
            return FAILED

    def _chosen_blocks(self, grid: tuple[int, ...]) -> list[range]:
        """All blocks; where only addresses count, the first, the middle and the last ones."""
        total = grid[0] * grid[1] * grid[2]
        if isinstance(self.memory, Memory):
            return [range(total)] if self.in_lockstep else [range(i, i + 1) for i in range(total)]
        starts = (0, max(0, total // 2 - 1), max(0, total - FEW_BLOCKS))
        return [range(first, min(first + FEW_BLOCKS, total)) for first in starts]

    @property
    def texts(self) -> list[str]:
        """The PTX of every image that was launched so far."""
        return list(self._texts.values())

    def _ptx(self, image: int) -> str:
        """The PTX of an image. Of a cubin, the very text that it was assembled from: the build keeps both."""
        if image not in self._texts:
            if ctypes.string_at(image, len(ELF)) == ELF:
                self._texts[image] = self._ptx_from_cubin(image)
            else:
                self._texts[image] = ctypes.string_at(image).decode()
        return self._texts[image]

    def _ptx_from_cubin(self, image: int) -> str:
        if not self._ptx_of_cubin:
            for cubin in self._cache.glob("*.cubin"):
                self._ptx_of_cubin[hashlib.sha256(cubin.read_bytes()).digest()] = cubin.with_suffix(".ptx")
        head = ctypes.string_at(image, 64)  # ELF64: table offsets at 32 and 40, entry sizes and counts from 54 on
        number = lambda start, stop: int.from_bytes(head[start:stop], "little")  # noqa: E731
        size = max(number(40, 48) + number(58, 60) * number(60, 62), number(32, 40) + number(54, 56) * number(56, 58))
        found = self._ptx_of_cubin.get(hashlib.sha256(ctypes.string_at(image, size)).digest())
        if found is None:
            raise GpuError(f"a cubin was launched whose PTX is not in {self._cache}")
        return found.read_text()


def build_native(source: str, output: Path, headers: Path, *flags: str) -> Path:
    """One file of native/ as a shared library. headers: the folder of NvInferRuntime.h."""
    if not output.exists():
        include = [f"-isystem{x}" for x in (headers, Path(triton.__file__).parent / "backends/nvidia/include")]
        language = ["gcc"] if source.endswith(".c") else ["g++", "-std=c++17", "-Wall", "-Werror"]
        command = [
            *language,
            "-O1",
            "-shared",
            "-fPIC",
            *include,
            *flags,
            str(NATIVE / source),
            "-o",
            str(output),
            "-ldl",
        ]
        subprocess.run(command, check=True)
    return output


def _redirected(library: Path, folder: Path, driver_name: str) -> Path:
    """A copy of the library that looks for the stand-in driver; nothing else in it differs."""
    data = library.read_bytes()
    assert len(DRIVER_NAME) == len(driver_name) and data.count(DRIVER_NAME) > 0, library
    copy = folder / f"{hashlib.sha256(data).hexdigest()[:8]}_{library.name}"
    copy.write_bytes(data.replace(DRIVER_NAME, driver_name.encode()))
    return copy
