"""Build the plugin library: kernels compiled ahead of time for every GPU, in one C++ library per processor.

Needs torch, triton and onnx, no GPU; the library needs none of them. plugin/compile.py compiles the kernels. A further
op is one line of OPS, its C++ files in cpp/ and its creators in cpp/common/creators.cpp.

    rmt-edge plugin build                              everything, into build/plugin
    rmt-edge plugin build --sm 87 --arch aarch64       for an Orin alone
"""

import hashlib
import json
import logging
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import triton

from rmt_edge.artifact import sha256_of
from rmt_edge.errors import RmtEdgeError
from rmt_edge.ops.depthwise import aot as depthwise_aot
from rmt_edge.ops.depthwise import cuda_variants as depthwise_cuda
from rmt_edge.ops.depthwise.onnx_function import OP_TYPES as DEPTHWISE_OP_TYPES
from rmt_edge.ops.kernel_variant import CudaVariant, KernelVariant
from rmt_edge.ops.nms import kernels as nms_kernels
from rmt_edge.ops.retention import cuda_variants as retention_cuda
from rmt_edge.ops.retention import kernels as retention_kernels
from rmt_edge.ops.roi_align import kernels as roi_align_kernels
from rmt_edge.plugin import cxx
from rmt_edge.plugin.compile import CUDA_13_SMS, Variant, compile_kernels, find_cuda_13_assembler
from rmt_edge.plugin.load import PLUGIN_NAMESPACE, PLUGIN_VERSION, library_name
from rmt_edge.plugin.trust import is_vouched_for, vouch_for
from rmt_edge.writing import output_folder, scratch_folder, write_json

LOG = logging.getLogger(__name__)

# Op types -> their kernels. The names are those of the ONNX node and of the plugin.
OPS: dict[tuple[str, ...], Callable[[], Sequence[KernelVariant | CudaVariant]]] = {
    ("Retention",): lambda: [*retention_kernels.aot_variants(), *retention_cuda.aot_variants()],
    tuple(DEPTHWISE_OP_TYPES): lambda: [*depthwise_aot.aot_variants(), *depthwise_cuda.aot_variants()],
    ("Nms",): nms_kernels.aot_variants,
    ("MultiLevelRoiAlign",): roi_align_kernels.aot_variants,
}

# A100, A10 and RTX 30, Orin, L4 and RTX 40, H100, B200, Thor, RTX 50. The kernels in CUDA C++ need SM 8.0 for their
# matrix products (mma.m16n8k16) and for conversions of pairs to float16.
KNOWN_SMS = (80, 86, 87, 89, 90, 100, 110, 120)


def _sms_to_build(asked: list[int] | None) -> tuple[list[int], dict[str, str]]:
    """The SMs, and those left out with the reason. One that was asked for is built or refused, never left out."""
    for sm in asked or []:
        if sm not in KNOWN_SMS:
            known = ", ".join(map(str, KNOWN_SMS))
            raise RmtEdgeError(f"SM {sm} is not known.", f"known: {known} (87 for SM 8.7); the kernels need 8.0.")
    sms, left_out = list(dict.fromkeys(asked or KNOWN_SMS)), {}
    needing = [sm for sm in sms if sm in CUDA_13_SMS]
    if needing and find_cuda_13_assembler() is None:
        reason = "no ptxas of CUDA 13 on this machine; PTX covers it where SM 8.9 or older is built"
        if asked:
            raise RmtEdgeError(
                f"SM {needing[0]} cannot be built: no ptxas of CUDA 13.",
                "looked in triton's wheel, on the path and under /usr/local.",
                "pip install nvidia-cuda-nvcc, or install the CUDA 13 toolkit.",
            )  # fmt: skip
        for sm in needing:
            LOG.warning("SM %d is left out: %s.", sm, reason)
            left_out[str(sm)] = reason
    return [sm for sm in sms if str(sm) not in left_out], left_out


def _cxx_hash(kernel_hash: str, compiler: str, headers: Path) -> str:
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout.splitlines()[0]
    parts = [kernel_hash, version, str(cxx.headers_version(headers)), *cxx.COMPILE_FLAGS, *cxx.LINK_FLAGS]
    sources = [Path(cxx.__file__), *sorted(x for x in cxx.SOURCES.rglob("*") if x.is_file())]
    content = b"\0".join(x.name.encode() + b"\0" + x.read_bytes() for x in sources)
    return hashlib.sha256("\n".join(parts).encode() + content).hexdigest()


def _is_up_to_date(library: Path, sidecar: Path, build_hash: str) -> bool:
    """Whether a library of this build is there, and this user built it: what someone else put there is made again."""
    try:
        info = json.loads(sidecar.read_text())
        is_of_this_build = info["hash"] == build_hash and info["sha256"] == sha256_of(library)
    except (OSError, ValueError, LookupError, TypeError):
        return False
    return is_of_this_build and is_vouched_for(library)


def build_libraries(
    output: Path,
    sms: list[int] | None = None,
    architectures: list[str] | None = None,
    headers: Path | None = None,
    cache: Path = Path("build/plugin-cache"),
) -> list[Path]:
    """Build librmt_edge_plugin_<architecture>.so into `output`, each with a .json beside it; what is up to date stays.

    sms: as 87 for SM 8.7. headers: a folder with NvInfer.h. cache: compiled kernels and headers, kept between builds.
    """
    if triton.knobs.runtime.interpret:
        raise RmtEdgeError("TRITON_INTERPRET is set.", "kernels are interpreted then, not compiled.", "Unset it.")
    built_sms, left_out = _sms_to_build(sms)
    output, cache = output.absolute(), cache.absolute()
    output_folder(output)
    start = time.monotonic()
    variants: list[Variant] = [variant for make in OPS.values() for variant in make()]
    images, kernel_hash = compile_kernels(variants, built_sms, cache)
    kernels_s = time.monotonic() - start
    header_folder = cxx.find_headers(cache, headers)
    include = [header_folder, Path(triton.__file__).parent / "backends/nvidia/include"]  # cuda.h comes with triton
    libraries = []
    for architecture in architectures or list(cxx.ARCHITECTURES):
        start = time.monotonic()
        library = output / library_name(architecture)
        sidecar = Path(f"{library}.json")
        build_hash = _cxx_hash(kernel_hash, cxx.find_compiler(architecture), header_folder)
        libraries.append(library)
        if _is_up_to_date(library, sidecar, build_hash):
            LOG.info("%s is up to date.", library)
            continue
        info: dict[str, object] = {
            "ops": [op for op_types in OPS for op in op_types],
            "namespace": PLUGIN_NAMESPACE, "plugin_version": PLUGIN_VERSION,
            "architecture": architecture, "cubin_sms": built_sms, "left_out_sms": left_out,
            "ptx_sms": sorted({x.sm for x in images if x.is_ptx}), "kernels": len(variants),
            "triton": triton.__version__, "tensorrt_headers": cxx.headers_version(header_folder), "hash": build_hash,
        }  # fmt: skip
        with scratch_folder(cache / "generated") as generated:
            cxx.write_generated(generated, images, info, build_hash[:16])
            cxx.compile_library(architecture, generated, include, library)
        info |= {"bytes": library.stat().st_size, "sha256": hashlib.sha256(library.read_bytes()).hexdigest()}
        info |= {"kernels_s": round(kernels_s, 1), "library_s": round(time.monotonic() - start, 1)}
        write_json(sidecar, info)
        vouch_for(library)
        LOG.info("%s: %.1f MB, SM %s.", library, library.stat().st_size / 1e6, ", ".join(map(str, built_sms)))
    return libraries
