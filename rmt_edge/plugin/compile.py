"""Compile the library's kernels, Triton's and those in CUDA C++, for every GPU that was asked for, into a cache.

Needs torch and triton, no GPU. Source of the compile call: triton 3.7.1, triton/compiler and
triton/backends/nvidia/compiler.py. NVRTC gives the PTX of kernels in CUDA C++ (plugin/nvrtc.py).
"""

import hashlib
import importlib
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource
from triton.knobs import NvidiaTool

from rmt_edge.artifact import sha256_of
from rmt_edge.ops.kernel_variant import CudaVariant, KernelVariant
from rmt_edge.plugin import cxx, nvrtc
from rmt_edge.plugin.cxx import KernelImage
from rmt_edge.progress import progress_bar
from rmt_edge.writing import output_folder, write_json, written_whole

Variant = KernelVariant | CudaVariant
FIRST_EXACT_SM = 90  # from there on Triton compiles for sm_90a and its kind, which no other SM runs
CUDA_13_SMS = (110,)  # Thor has this number since CUDA 13.0; older assemblers know it as 101 or not at all
CUDA_13_PTX = "9.0"  # the first version of PTX that has these as a target
# A cubin runs on later minor versions of its SM too, but for Orin's: CUDA C++ kernels come once for these.
ONE_CUBIN_SMS = (80, 86, 89)
# For these Triton writes the same PTX but for the line .target: it is made once and assembled for each (half the time).
ONE_PTX_SMS = (80, 86, 87, 89)
HIDDEN_PARAMETERS = 2  # Triton's global and profile scratch pointers
ALIGNMENT = 16  # of pointers and of what a variant names; the launchers in cpp/ check it


def find_cuda_13_assembler() -> NvidiaTool | None:
    """A ptxas of CUDA 13 or later: triton's own, else one on the path, under /usr/local or of nvidia-cuda-nvcc."""
    paths = ["ptxas", "/usr/local/cuda/bin/ptxas", *sorted(map(str, Path("/usr/local").glob("cuda-1[3-9]*/bin/ptxas")))]
    paths += [str(x) for folder in sys.path for x in Path(folder).glob("nvidia/cu1[3-9]/bin/ptxas")]
    tools = [_triton_assembler(CUDA_13_SMS[0]), *map(NvidiaTool.from_path, paths)]
    return next((x for x in tools if x is not None and int(x.version.split(".")[0]) >= 13), None)


def _triton_assembler(sm: int) -> NvidiaTool | None:
    """The ptxas that triton itself takes for that SM; TRITON_PTXAS_BLACKWELL_PATH, if set, names another."""
    try:
        return get_ptxas(sm)
    except RuntimeError:  # triton's wheel without it
        return None


def _kernel_function(variant: KernelVariant) -> triton.runtime.JITFunction:
    module, name = variant.kernel.split(":")
    return getattr(importlib.import_module(module), name)


def image_key(variant: Variant, sm: int, assembler: NvidiaTool | None) -> str:
    """What the compiled kernel depends on: its source and that of what it calls, its parameters, the compiler."""
    if isinstance(variant, CudaVariant):
        source = "\n".join([nvrtc.source_of(variant), nvrtc.WHEEL, *nvrtc.OPTIONS])
    else:
        source = _kernel_function(variant).cache_key
    parts = [source, json.dumps(asdict(variant), sort_keys=True), str(sm)]
    parts += [triton.__version__, assembler.version if assembler and sm in CUDA_13_SMS else ""]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _check_parameters(variant: KernelVariant, ptx: str, symbol: str) -> None:
    """The C++ side passes the declared parameters and two null pointers; PTX must agree."""
    declared = sum(1 for _, kind in variant.signature if kind != "constexpr")
    entry = ptx[ptx.index(f".entry {symbol}(") :]
    found = entry[: entry.index(")")].count(".param ")
    assert found == declared + HIDDEN_PARAMETERS, (variant.name, found, declared)


def compile_cuda_variant(
    variant: CudaVariant, keys: dict[int, str], folder: Path, compiler: Path, assembler: NvidiaTool | None
) -> None:
    """As compile_variant, by NVRTC, the library at `compiler`: one PTX for all SMs."""
    ptx = nvrtc.ptx_of(variant, compiler)
    entry = ptx[ptx.index(f".entry {variant.symbol}(") :]
    found = entry[: entry.index(")")].count(".param ")
    assert found == variant.parameters, (variant.name, found)
    facts = {
        "symbol": variant.symbol,
        "shared_bytes": variant.shared_bytes,
        "threads_per_block": 32 * variant.num_warps,
    }
    for sm, key in keys.items():
        text = ptx.replace(f".target sm_{nvrtc.OLDEST_SM}\n", f".target sm_{sm}\n")
        if sm in CUDA_13_SMS:
            text = re.sub(r"^\.version .*$", f".version {CUDA_13_PTX}", text, count=1, flags=re.M)
        _keep(folder, key, facts, _assemble(text, sm, assembler), text)


def _assemble(ptx: str, sm: int, assembler: NvidiaTool | None) -> bytes:
    """The cubin of PTX, with the options that triton 3.7.1 gives ptxas (backends/nvidia/compiler.py, make_cubin)."""
    with tempfile.TemporaryDirectory() as folder:
        source, cubin = Path(folder) / "kernel.ptx", Path(folder) / "kernel.cubin"
        source.write_text(ptx)
        options = ["-lineinfo", "-suppress-debug-info", "-v", f"--gpu-name=sm_{sm}", "-o", str(cubin)]
        tool = assembler if assembler is not None and sm in CUDA_13_SMS else get_ptxas(sm)
        subprocess.run([tool.path, *options, str(source)], check=True, capture_output=True)
        return cubin.read_bytes()


def compile_variant(variant: KernelVariant, keys: dict[int, str], folder: Path, assembler: NvidiaTool | None) -> None:
    """Compile one kernel for SMs that share their PTX, into folder/key.{cubin,ptx,json}. keys: by SM."""
    first = next(iter(keys))
    if first in CUDA_13_SMS and assembler is not None:
        os.environ["TRITON_PTXAS_BLACKWELL_PATH"] = assembler.path
    else:
        os.environ.pop("TRITON_PTXAS_BLACKWELL_PATH", None)
    triton.knobs.compilation.disable_line_info = True
    names = [name for name, _ in variant.signature]
    divisible = [name for name, kind in variant.signature if kind.startswith("*")] + list(variant.divisible_by_16)
    attributes = {(names.index(name),): [["tt.divisibility", ALIGNMENT]] for name in divisible}
    constants = {(names.index(name),): value for name, value in variant.constexprs}
    source = ASTSource(_kernel_function(variant), dict(variant.signature), constants, attributes)
    options = {"num_warps": variant.num_warps, "num_stages": variant.num_stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", first, 32), options=options)
    metadata = compiled.metadata
    assert metadata.global_scratch_size == 0 and metadata.profile_scratch_size == 0, variant.name
    _check_parameters(variant, compiled.asm["ptx"], metadata.name)
    facts = {"symbol": metadata.name, "shared_bytes": metadata.shared, "threads_per_block": 32 * metadata.num_warps}
    for sm, key in keys.items():
        ptx = compiled.asm["ptx"].replace(f".target sm_{first}\n", f".target sm_{sm}\n")
        cubin = compiled.asm["cubin"] if sm == first else _assemble(ptx, sm, assembler)
        _keep(folder, key, facts, cubin, ptx)


def _keep(folder: Path, key: str, facts: dict[str, Any], cubin: bytes, ptx: str) -> None:
    """Put a compiled kernel into the cache, the record of its hashes last: `_cached_facts` goes by it."""
    hashes = {}
    for ending, content in (("cubin", cubin), ("ptx", ptx.encode())):
        hashes[f"{ending}_sha256"] = hashlib.sha256(content).hexdigest()
        with written_whole(folder / f"{key}.{ending}") as temporary:
            temporary.write_bytes(content)
    write_json(folder / f"{key}.json", {"facts": facts, **hashes})


def _cached_facts(folder: Path, key: str) -> dict[str, Any] | None:
    """What is known of a compiled kernel of the cache; None where it is not there, or not whole."""
    try:
        record = json.loads((folder / f"{key}.json").read_text())
        whole = all(sha256_of(folder / f"{key}.{x}") == record[f"{x}_sha256"] for x in ("cubin", "ptx"))
        return record["facts"] if whole else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def compile_kernels(variants: list[Variant], sms: list[int], cache: Path) -> tuple[list[KernelImage], str]:
    """Cubins of all variants for all SMs, PTX for GPUs newer than those; and the hash of what they were made from."""
    assembler = find_cuda_13_assembler()
    folder = cache / "kernels"
    output_folder(folder)
    keys = {
        (variant, sm): image_key(variant, sm, assembler)
        for sm in sms
        for variant in variants
        if not isinstance(variant, CudaVariant) or sm in cuda_sms(sms)
    }
    missing: dict[tuple[Variant, int], dict[int, str]] = {}  # by variant and, of the SMs that share PTX, the first
    for (variant, sm), key in keys.items():
        if _cached_facts(folder, key) is None:
            is_shared = isinstance(variant, CudaVariant) or sm in ONE_PTX_SMS
            missing.setdefault((variant, ONE_PTX_SMS[0] if is_shared else sm), {})[sm] = key
    compiler = nvrtc.find_nvrtc(cache) if any(isinstance(x, CudaVariant) for x, _ in missing) else cache
    with tempfile.TemporaryDirectory() as triton_cache:
        # Spawned, so that each worker reads its own environment; Triton keeps its own cache files in a folder of ours.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(cxx.workers(), context, _start_worker, (triton_cache,)) as pool:
            jobs = [
                pool.submit(compile_cuda_variant, variant, of_sms, folder, compiler, assembler)
                if isinstance(variant, CudaVariant)
                else pool.submit(compile_variant, variant, of_sms, folder, assembler)
                for (variant, _), of_sms in missing.items()
            ]
            for job in progress_bar(
                as_completed(jobs), total=len(jobs), desc="kernels", unit="kernel", disable=not jobs
            ):
                job.result()
    ptx_sm = ptx_sm_of(sms)
    images = []
    for (variant, sm), key in keys.items():
        facts = _cached_facts(folder, key)
        assert facts is not None, f"{key} of {folder} changed while it was read"
        common = dict(name=variant.name, sm=sm, tile=variant.tile, **facts)
        cubin = (folder / f"{key}.cubin").read_bytes()
        images.append(KernelImage(is_ptx=False, is_exact=sm >= FIRST_EXACT_SM, data=cubin, **common))
        if sm == ptx_sm:
            ptx = (folder / f"{key}.ptx").read_bytes()
            images.append(KernelImage(is_ptx=True, is_exact=False, data=ptx, **common))
    made_from = "\n".join([*keys.values(), f"PTX of {ptx_sm}"])
    return images, hashlib.sha256(made_from.encode()).hexdigest()


def cuda_sms(sms: list[int]) -> list[int]:
    """Of these SMs, those that get a cubin of the kernels in CUDA C++; the others take that of an older one."""
    shared = [sm for sm in sms if sm in ONE_CUBIN_SMS]
    return [sm for sm in sms if sm not in shared or sm == min(shared)]


def ptx_sm_of(sms: list[int]) -> int | None:
    """The SM whose PTX goes into a library for these SMs, None if none has PTX that a later GPU takes.

    The oldest of those that share their PTX: it runs on most GPUs and is no worse for it. It is also what a GPU takes
    whose driver refuses its cubin, and an Orin (8.7) where the library has no cubin for it.
    """
    shared = [sm for sm in sms if sm in ONE_PTX_SMS]
    return min(shared) if shared else max((sm for sm in sms if sm < FIRST_EXACT_SM), default=None)


def _start_worker(triton_cache: str) -> None:
    os.environ["TRITON_CACHE_DIR"] = triton_cache
