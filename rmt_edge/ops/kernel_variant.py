"""What one ahead-of-time compiled kernel is: the line between an op's Triton kernels and the plugin library's build."""

from dataclasses import dataclass


@dataclass(frozen=True)
class KernelVariant:
    """One kernel of the library: `name` is the key the C++ side asks for, unique over all ops.

    signature: parameter name to Triton type ("*fp16", "i32", "constexpr"); constexprs: the values of the latter; tile:
    up to three sizes that the C++ launcher divides the work by, and num_warps its block size over 32. divisible_by_16:
    integer parameters that the launcher guarantees it of; pointers always are.
    """

    name: str
    kernel: str  # "module:attribute" of the jitted function, so that a variant crosses process borders
    signature: tuple[tuple[str, str], ...]
    constexprs: tuple[tuple[str, int], ...]
    tile: tuple[int, ...]
    num_warps: int
    num_stages: int
    divisible_by_16: tuple[str, ...] = ()


@dataclass(frozen=True)
class CudaVariant:
    """The same of a kernel in CUDA C++, which plugin/nvrtc.py compiles.

    source: the file in ops/; symbol: its entry point; defines: its compile-time choices; parameters: how many it has;
    shared_bytes: of dynamic shared memory, at most; tile and num_warps as above.
    """

    name: str
    source: str
    symbol: str
    defines: tuple[tuple[str, int], ...]
    parameters: int
    shared_bytes: int
    tile: tuple[int, ...]
    num_warps: int
