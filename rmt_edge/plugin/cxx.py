"""The C++ half of the plugin library's build: embed the compiled kernels, compile with g++, link with nothing.

The generated files: one blob of all kernel images, an assembler file that includes it, and the table that
cpp/common/embeddedKernels.h declares. TensorRT's headers are needed for that, its libraries are not.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rmt_edge.errors import RmtEdgeError
from rmt_edge.plugin.wheel import files_from_wheel
from rmt_edge.writing import written_whole

SOURCES = Path(__file__).parent / "cpp"
ARCHITECTURES = ("x86_64", "aarch64")
# NVIDIA's Apache-2.0 headers of TensorRT 10.14.1 as a wheel: unpacked, never installed.
HEADER_WHEEL = "kernel-lens==2.0.1"
HEADER_FOLDER_IN_WHEEL = "kernel_lens/include/tensorrt/"
OLDEST_HEADERS = (10, 3)  # IPluginV3 keeps one binary layout from there on
COMPILE_FLAGS = ("-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror")
# libstdc++ stays shared: linked in, it asks for a newer glibc (arc4random, 2.36) than JetPack 6 has (2.35).
LINK_FLAGS = ("-shared", "-Wl,--no-undefined", "-Wl,--as-needed", "-Wl,-z,now", "-Wl,--gc-sections")
EXPORTS = "{ global: getCreators; setLoggerFinder; rmt_*; local: *; };"
IMAGE_ALIGNMENT = 64
MAX_WORKERS = 16  # a process that compiles kernels holds torch and triton, 0.45 GB each (largest resident set)


@dataclass(frozen=True)
class KernelImage:
    """One compiled kernel: a cubin for one SM, or PTX for every SM from that one on."""

    name: str
    symbol: str
    sm: int
    is_ptx: bool
    is_exact: bool  # sm_90a and its kind: on that SM only
    shared_bytes: int
    threads_per_block: int
    tile: tuple[int, ...]
    data: bytes


def find_compiler(architecture: str) -> str:
    """The g++ that builds for that processor."""
    if architecture not in ARCHITECTURES:
        raise RmtEdgeError(f"Unknown architecture {architecture}.", f"known: {', '.join(ARCHITECTURES)}.")
    name = "g++" if architecture == platform.machine() else f"{architecture}-linux-gnu-g++"
    if shutil.which(name) is None:
        package = "g++" if name == "g++" else f"g++-{architecture.replace('_', '-')}-linux-gnu"
        raise RmtEdgeError(
            f"{name} was not found.", f"it builds the plugin library for {architecture}.", f"apt-get install {package}"
        )
    return name


def workers() -> int:
    """How many kernels, or C++ files, are compiled at once: one for each core that this process may use."""
    return min(len(os.sched_getaffinity(0)), MAX_WORKERS)


def source_folders() -> list[Path]:
    """The folders of C++ sources: what all plugins share, and one folder an op."""
    return sorted(x for x in SOURCES.iterdir() if x.is_dir())


def headers_version(folder: Path) -> tuple[int, int, int]:
    """TensorRT's version as its headers state it."""
    text = (folder / "NvInferVersion.h").read_text()
    numbers = []
    for part in ("MAJOR", "MINOR", "PATCH"):
        found = re.search(rf"#define (?:NV_TENSORRT|TRT)_{part}(?:_ENTERPRISE)? (\d+)", text)
        if found is None:
            raise RmtEdgeError(
                f"No TensorRT version in {folder}/NvInferVersion.h.", "expected NV_TENSORRT_MAJOR and so on."
            )
        numbers.append(int(found[1]))
    return numbers[0], numbers[1], numbers[2]


def find_headers(cache: Path, given: Path | None) -> Path:
    """The folder of NvInfer.h: the given one, this machine's TensorRT, or the header wheel in the cache."""
    installed = Path(f"/usr/include/{platform.machine()}-linux-gnu")
    folder = given or installed
    if given is None and not (installed / "NvInfer.h").exists():
        folder = cache / "headers" / HEADER_WHEEL.replace("==", "-")
        if not (folder / "NvInfer.h").exists():
            _download_headers(folder)
    if not (folder / "NvInfer.h").exists():
        raise RmtEdgeError(f"No NvInfer.h in {folder}.", "expected the folder of TensorRT's C++ headers.")
    version = headers_version(folder)
    if version[:2] < OLDEST_HEADERS:
        raise RmtEdgeError(
            f"The TensorRT headers in {folder} are of version {'.'.join(map(str, version))}.",
            "the plugin needs IPluginV3 as of 10.3.",
            "Name newer headers with --headers; they need not be of the TensorRT that loads the library.",
        )
    return folder


def _download_headers(folder: Path) -> None:
    advice = (
        f"without an installed TensorRT they come from the package {HEADER_WHEEL}.",
        "Name a folder that holds NvInfer.h with --headers.",
    )
    files_from_wheel(
        HEADER_WHEEL,
        folder,
        lambda name: name.startswith(HEADER_FOLDER_IN_WHEEL) and name.endswith(".h"),
        "NvInfer.h",
        "TensorRT's headers",
        advice,
    )


def short_ptx(ptx: str) -> str:
    """The same PTX in four fifths of the bytes: without comments, indents, and blanks after commas.

    A line with a quote stays as it is but for its indent: `//` and `, ` may be text there.
    """
    lines = (x.strip() if '"' in x else x.partition("//")[0].strip().replace(", ", ",") for x in ptx.splitlines())
    return "\n".join(x for x in lines if x) + "\n"


def _deflated(data: bytes) -> bytes:
    """Raw deflate, RFC 1951, which cpp/common/inflate.cpp unpacks. Cubins become a third, PTX a fifth."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def write_generated(folder: Path, images: list[KernelImage], info: dict, build_hash: str) -> None:
    """kernels.bin, kernels.S and kernelTable.cpp: what cpp/common/embeddedKernels.h declares."""
    folder.mkdir(parents=True, exist_ok=True)
    blob, rows = bytearray(), []
    for image in images:
        # The driver reads PTX up to a zero byte.
        data = short_ptx(image.data.decode()).encode() + b"\0" if image.is_ptx else image.data
        packed = _deflated(data)
        numbers = [
            len(blob),
            len(packed),
            len(data),
            image.sm,
            int(image.is_ptx),
            int(image.is_exact),
            image.shared_bytes,
        ]
        numbers += [image.threads_per_block]
        tile = ", ".join(map(str, image.tile))
        rows.append(f'    {{"{image.name}", "{image.symbol}", {", ".join(map(str, numbers))}, {{{tile}}}}},')
        blob += packed
    (folder / "kernels.bin").write_bytes(blob)
    assembler = [
        "    .section .rodata", "    .globl rmt_edge_kernel_blob", "    .hidden rmt_edge_kernel_blob",
        f"    .balign {IMAGE_ALIGNMENT}", "rmt_edge_kernel_blob:", f'    .incbin "{folder / "kernels.bin"}"',
        '    .section .note.GNU-stack,"",%progbits', "",
    ]  # fmt: skip
    (folder / "kernels.S").write_text("\n".join(assembler))
    table = [
        "// Written by rmt_edge/plugin/cxx.py.", '#include "embeddedKernels.h"', "", "namespace rmt_edge", "{",
        "EmbeddedKernel const kEMBEDDED_KERNELS[] = {", *rows, "};",
        f"int32_t const kNB_EMBEDDED_KERNELS = {len(images)};",
        f"char const* const kLIBRARY_INFO = {json.dumps(json.dumps(info))};",
        f'char const* const kBUILD_HASH = "{build_hash}";', "} // namespace rmt_edge", "",
    ]  # fmt: skip
    (folder / "kernelTable.cpp").write_text("\n".join(table))


def compile_library(architecture: str, generated: Path, include: list[Path], output: Path) -> None:
    """g++ over cpp/ and the generated files, into one shared library that needs libc alone."""
    compiler = find_compiler(architecture)
    objects = generated / architecture
    objects.mkdir(exist_ok=True)
    # -isystem: warnings are errors in our files, not in NVIDIA's.
    flags = [*COMPILE_FLAGS, *(f"-I{x}" for x in source_folders()), *(f"-isystem{x}" for x in include)]
    sources = [*sorted(SOURCES.glob("*/*.cpp")), generated / "kernelTable.cpp", generated / "kernels.S"]

    def compile_source(source: Path) -> Path:
        target = objects / f"{source.name}.o"
        _run([compiler, *flags, "-c", str(source), "-o", str(target)], source.name)
        return target

    with ThreadPoolExecutor(workers()) as pool:
        compiled = list(pool.map(compile_source, sources))
    exports = generated / "exports.map"
    exports.write_text(EXPORTS + "\n")
    link = [compiler, *LINK_FLAGS, f"-Wl,--version-script={exports}", f"-Wl,-soname,{output.name}"]
    with written_whole(output) as unfinished:
        _run([*link, *map(str, compiled), "-ldl", "-lpthread", "-o", str(unfinished)], output.name)


def _run(command: list[str], what: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RmtEdgeError(f"Building {what} failed:\n{result.stderr.strip()}", "the command was " + " ".join(command))
