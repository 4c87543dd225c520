"""Which forms of the CUDA kernels (kernels.cu) the plugin library carries; retentionLaunch.cpp asks for them by name.

They take lines of L tokens with L a multiple of R and at most 8·R. R is chosen for the grids of 224 px, 56, 28, 14 and
7, and takes others too: with R = 4 lines of 4, 8, …, 32. What no R takes is for the Triton kernels.
"""

from rmt_edge.ops.kernel_variant import CudaVariant

SOURCE, SYMBOL = "retention/kernels.cu", "retention_lines"
PARAMETERS = 16
PASSES = {"w": 0, "h": 1, "whole": 2, "grid": 3}
INPUTS = {"fp16": 0, "raw": 1, "raw8": 2}  # true values; the raw product of an INT8 layer in float16, in int8
# pass -> (head dim, R, warps a block, blocks that are to fit an SM). Warps divide the lines at 224 px; the blocks are
# as many as registers allow without a spill (bench/kernel_cost.py).
SHAPES = {
    "w": ((16, 7, 4, 2), (32, 4, 4, 4), (32, 2, 7, 3)),
    "h": ((16, 7, 4, 2), (32, 4, 4, 4), (32, 2, 7, 3)),
    "grid": ((32, 2, 7, 3),),
    "whole": ((32, 7, 4, 2),),
}
LANE_GROUPS = 8  # of a warp: each has R tokens of a line
TAPS, WARP, SLOT_BYTES = 25, 32, 16


def table_bytes(d: int, warps: int) -> int:
    """LePE's operands in shared memory, as TABLE_BYTES in kernels.cu."""
    slots, threads = TAPS * (d // 2 + 1), WARP * warps
    return SLOT_BYTES * threads * -(-slots // threads)


def token_bytes(d: int) -> int:
    """Of one token in shared memory, as TOKEN_BYTES in kernels.cu."""
    return 2 * d + 16


def aot_variants() -> list[CudaVariant]:
    """Every CUDA kernel of Retention in the library."""
    return [
        _variant(name, shape, given, is_int8)
        for name, shapes in SHAPES.items()
        for shape in shapes
        for given in INPUTS
        for is_int8 in ((False,) if name == "w" else (False, True))  # the W pass writes for the H pass
    ]


def _variant(name: str, shape: tuple[int, int, int, int], given: str, is_int8: bool) -> CudaVariant:
    d, r, warps, blocks = shape
    defines = {
        "PASS": PASSES[name],
        "D": d,
        "R": r,
        "INPUT": INPUTS[given],
        "OUT_INT8": int(is_int8),
        "WARPS": warps,
        "BLOCKS_A_SM": blocks,
    }
    tokens = 3 * (LANE_GROUPS * r) ** 2 if name == "grid" else 0  # of q, k and what the W pass gives
    shared = 0 if name == "w" else table_bytes(d, warps) + tokens * token_bytes(d)
    return CudaVariant(
        name=f"retention_{name}_d{d}_r{r}_{given}" + "_int8" * is_int8,
        source=SOURCE,
        symbol=SYMBOL,
        defines=tuple(defines.items()),
        parameters=PARAMETERS,
        shared_bytes=shared,
        tile=(r, warps, token_bytes(d)),
        num_warps=warps,
    )
