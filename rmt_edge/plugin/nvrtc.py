"""CUDA C++ to PTX by NVIDIA's run-time compiler, which is a PyPI wheel and asks for neither a GPU nor a CUDA toolkit.

The PTX is for SM 8.0, which later GPUs take as well: plugin/compile.py has it assembled for each. NVRTC 12.8 writes PTX
8.7, as Triton 3.7.1 does, so that a driver that takes the library's Triton kernels takes these.
"""

import ctypes
import re
from pathlib import Path

from rmt_edge import ops
from rmt_edge.errors import RmtEdgeError
from rmt_edge.ops.kernel_variant import CudaVariant
from rmt_edge.plugin.wheel import files_from_wheel

SOURCES = Path(ops.__file__).parent
SHARED_SOURCE = "device.cuh"  # what the kernels of all ops begin with
WHEEL = "nvidia-cuda-nvrtc-cu12==12.8.93"
FOLDER_IN_WHEEL = "nvidia/cuda_nvrtc/lib/"
LIBRARY = "libnvrtc.so.12"
OPTIONS = ("--gpu-architecture=compute_80", "--std=c++17")
OLDEST_SM = 80


def source_of(variant: CudaVariant) -> str:
    """The text that is compiled. One file, since NVRTC has no folders to look into."""
    return (SOURCES / SHARED_SOURCE).read_text() + (SOURCES / variant.source).read_text()


def find_nvrtc(cache: Path) -> Path:
    """The compiler's library, from the wheel in the cache; its other files lie beside it."""
    folder = cache / "nvrtc" / WHEEL.replace("==", "-")
    if not (folder / LIBRARY).exists():
        advice = (
            f"the kernels in CUDA C++ are compiled by the package {WHEEL}.",
            f"Unpack its {FOLDER_IN_WHEEL} into {folder}.",
        )
        files_from_wheel(WHEEL, folder, _is_library, LIBRARY, "NVRTC", advice)
    return folder / LIBRARY


def _is_library(name: str) -> bool:
    return name.startswith(FOLDER_IN_WHEEL) and ".so" in name and ".alt." not in name


def ptx_of(variant: CudaVariant, nvrtc: Path) -> str:
    """The PTX of one variant for SM 8.0; its block size stands as a requirement (.reqntid), as in Triton's."""
    library = ctypes.CDLL(str(nvrtc))
    program = ctypes.c_void_p()
    library.nvrtcCreateProgram(ctypes.byref(program), source_of(variant).encode(), variant.name.encode(), 0, None, None)
    options = [*OPTIONS, *(f"-D{name}={value}" for name, value in variant.defines)]
    given = (ctypes.c_char_p * len(options))(*(x.encode() for x in options))
    failed = library.nvrtcCompileProgram(program, len(options), given)
    message = _text(library, "ProgramLog", program).strip()
    if failed or message:  # a warning is an error, as in the C++ of the plugins
        raise RmtEdgeError(f"Compiling {variant.name} failed:\n{message}")
    ptx = _text(library, "PTX", program)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return re.sub(r"^\.maxntid (\d+).*$", r".reqntid \1", ptx, flags=re.M)


def _text(library: ctypes.CDLL, what: str, program: ctypes.c_void_p) -> str:
    size = ctypes.c_size_t()
    getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    getattr(library, f"nvrtcGet{what}")(program, text)
    return text.value.decode()
