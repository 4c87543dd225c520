"""Which forms and tiles of the Triton kernel the plugin library carries: float32, which is for checking.

The kernel's name begins with the op type, so plugin/cpp/depthwise/depthwiseResidualLaunch.cpp asks for the form of its
node. A tactic is the number, from 1, of a tile in kernels.tiles_for. float16 is cuda_variants.py's.
"""

from rmt_edge.ops.depthwise.kernels import CHANNEL_TILES, DIVISIBLE_BY_16, ROW_TILES, Tile, kernel_signature
from rmt_edge.ops.depthwise.onnx_function import OP_TYPES, Form
from rmt_edge.ops.kernel_variant import KernelVariant

KERNEL_SIZE = 3  # of every convolution of RMT that this op stands for

WIDE = 1024  # channels, for the last stage of RMT-L alone: 49 positions at 224 px, so one small tile
# One tactic, and few row sizes; a LayerNorm takes the smallest that holds its channels.
TACTIC, WIDE_TACTIC = 2, 1
ROWS = (256, WIDE)


def aot_variants() -> list[KernelVariant]:
    """Every Triton kernel of DepthwiseResidual in the library; the names are those that the C++ side asks for."""
    variants = []
    for op_type, form in OP_TYPES.items():
        if form.is_scaled:  # in float16 alone
            continue
        if not form.has_norm:
            variants.append(_aot_variant(op_type, form, 0, TACTIC, CHANNEL_TILES[TACTIC - 1]))
            continue
        for block_c in ROWS:
            tactic = WIDE_TACTIC if block_c == WIDE else TACTIC
            variants.append(_aot_variant(op_type, form, block_c, tactic, ROW_TILES[block_c][tactic - 1]))
    return variants


def _aot_variant(op_type: str, form: Form, block_c: int, tactic: int, tile: Tile) -> KernelVariant:
    """block_c: the channels a LayerNorm's program holds, which choose the kernel; 0 without a LayerNorm."""
    constexprs = {
        "KERNEL_SIZE": KERNEL_SIZE,
        "BLOCK_H": tile.block_h,
        "BLOCK_W": tile.block_w,
        "BLOCK_C": tile.block_c,
        "HAS_RESIDUAL": form.has_residual,
        "HAS_NORM": form.has_norm,
        "OUT_INT8": form.is_int8,
        "IS_SCALED": form.is_scaled,
        "HAS_GELU": form.has_gelu,
    }
    types = kernel_signature("fp32", form.has_norm, form.is_int8)
    return KernelVariant(
        name=f"{op_type}_fp32" + (f"_c{block_c}" if form.has_norm else "") + f"_t{tactic}",
        kernel="rmt_edge.ops.depthwise.kernels:depthwise_residual_kernel",
        signature=(*types.items(), *((name, "constexpr") for name in constexprs)),
        constexprs=tuple(constexprs.items()),
        tile=(tile.block_h, tile.block_w, tile.block_c),
        num_warps=tile.num_warps,
        num_stages=1,
        divisible_by_16=tuple(x for x in DIVISIBLE_BY_16 if not types[x].startswith("*")),
    )
