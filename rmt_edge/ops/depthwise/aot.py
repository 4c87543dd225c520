"""Which forms and tiles of the DepthwiseResidual kernel the plugin library carries.

The kernel's name begins with the op type, so plugin/cpp/depthwise/depthwiseResidualLaunch.cpp asks for the form of its
node. A tactic is the number, from 1, of a tile in kernels.tiles_for. All numbers below are choices, not measurements.
"""

from rmt_edge.ops.depthwise.kernels import CHANNEL_TILES, DIVISIBLE_BY_16, ROW_TILES, Tile, kernel_signature
from rmt_edge.ops.depthwise.onnx_function import OP_TYPES
from rmt_edge.ops.kernel_variant import KernelVariant

KERNEL_SIZE = 3  # of every convolution of RMT that this op stands for

# (has_residual, has_norm) -> tactics in FP16. A thread does the same work in all; they differ in threads per block.
# What runs in every block of the model has the smallest and the largest; the others occur once a stage, or never.
FP16_TACTICS = {
    (False, False): (1, 3),  # feed-forward
    (True, False): (2,),
    (False, True): (2,),  # position encoding in the first block of a stage
    (True, True): (1, 3),  # position encoding
}
WIDE = 1024  # channels, for the last stage of RMT-L alone: 49 positions at 224 px, so one small tile
WIDE_TACTICS = (1,)
# FP32 is for checking: one tactic, and few row sizes; a LayerNorm takes the smallest that holds its channels.
FP32_TACTICS = (2,)
FP32_ROWS = (256, WIDE)


def aot_variants() -> list[KernelVariant]:
    """Every DepthwiseResidual kernel of the library; the names are those that depthwiseResidualLaunch.cpp asks for."""
    variants = []
    for op_type, (has_residual, has_norm, _, is_scaled, _) in OP_TYPES.items():
        if is_scaled:  # these have no kernel yet
            continue
        if not has_norm:
            for dtype, tactics in {"fp16": FP16_TACTICS[has_residual, False], "fp32": FP32_TACTICS}.items():
                variants += [_aot_variant(op_type, dtype, 0, tactic, CHANNEL_TILES[tactic - 1]) for tactic in tactics]
            continue
        for dtype, rows, tactics in (
            ("fp16", tuple(ROW_TILES), FP16_TACTICS[has_residual, True]),
            ("fp32", FP32_ROWS, FP32_TACTICS),
        ):
            for block_c in rows:
                chosen = WIDE_TACTICS if block_c == WIDE else tactics
                tiles = ROW_TILES[block_c]
                variants += [_aot_variant(op_type, dtype, block_c, tactic, tiles[tactic - 1]) for tactic in chosen]
    return variants


def _aot_variant(op_type: str, dtype: str, block_c: int, tactic: int, tile: Tile) -> KernelVariant:
    """block_c: the channels a LayerNorm's program holds, which choose the kernel; 0 without a LayerNorm."""
    has_residual, has_norm, is_int8, *_ = OP_TYPES[op_type]
    constexprs = {
        "KERNEL_SIZE": KERNEL_SIZE,
        "BLOCK_H": tile.block_h,
        "BLOCK_W": tile.block_w,
        "BLOCK_C": tile.block_c,
        "HAS_RESIDUAL": has_residual,
        "HAS_NORM": has_norm,
        "OUT_INT8": is_int8,
    }
    types = kernel_signature(dtype, has_norm, is_int8)
    return KernelVariant(
        name=f"{op_type}_{dtype}" + (f"_c{block_c}" if has_norm else "") + f"_t{tactic}",
        kernel="rmt_edge.ops.depthwise.kernels:depthwise_residual_kernel",
        signature=(*types.items(), *((name, "constexpr") for name in constexprs)),
        constexprs=tuple(constexprs.items()),
        tile=(tile.block_h, tile.block_w, tile.block_c),
        num_warps=tile.num_warps,
        num_stages=1,
        divisible_by_16=tuple(x for x in DIVISIBLE_BY_16 if not types[x].startswith("*")),
    )
