"""DepthwiseResidual as one Triton kernel: all forms of ops/depthwise/op.py, NHWC, nothing between its parts in memory.

A program computes a tile of BLOCK_H rows by BLOCK_W columns of one image, for BLOCK_C channels. A thread holds
neighbouring channels of one position, so every load is 16 bytes wide; the k² shifted reads of a tile are for the L1
cache. A LayerNorm needs all channels of a position: with it BLOCK_C is the whole row, rounded up to a power of two.

Compiled ahead of time, aot.py says which forms: parameters in the order of the signature, types from
`kernel_signature`, the constexprs from the form and a Tile, num_warps from the Tile, the grid from `launch_grid`. The
pointer of an absent input or output is neither read nor written: pass 0.

State: right on a CPU under TRITON_INTERPRET=1 (tests/ops/depthwise/test_depthwise.py); compiled for SM 8.0 to 12.0 by
Triton 3.7.1. Never run on a GPU, nor timed: the tiles were chosen from the generated code (registers, spills, width of
loads).
"""

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from rmt_edge.errors import RmtEdgeError
from rmt_edge.ops.product import check_product


@dataclass(frozen=True)
class Tile:
    """What one program computes, and its warps: one tactic."""

    block_h: int
    block_w: int
    block_c: int
    num_warps: int


# Eight elements a thread (one 16-byte load in FP16), from few small programs to many large ones: 64 to 256 threads.
CHANNEL_TILES = (Tile(1, 8, 64, 2), Tile(2, 8, 64, 4), Tile(4, 8, 64, 8))
ROW_TILES = {
    64: (Tile(1, 8, 64, 2), Tile(2, 8, 64, 4), Tile(4, 8, 64, 8)),
    128: (Tile(1, 4, 128, 2), Tile(2, 4, 128, 4), Tile(4, 4, 128, 8)),
    256: (Tile(1, 2, 256, 2), Tile(2, 2, 256, 4), Tile(2, 4, 256, 8)),
    512: (Tile(1, 1, 512, 2), Tile(1, 2, 512, 4), Tile(2, 2, 512, 8)),
    1024: (Tile(1, 1, 1024, 4), Tile(1, 2, 1024, 8)),
}
DTYPES = {torch.float32: "fp32", torch.float16: "fp16"}
# Declared divisible by 16 when compiling, required by the launcher: without it no load is wider than one element.
DIVISIBLE_BY_16 = (
    "x_ptr", "weight_ptr", "bias_ptr", "residual_ptr", "norm_weight_ptr", "norm_bias_ptr",
    "x_scale_ptr", "x_bias_ptr", "out_ptr", "norm_ptr", "channels",
)  # fmt: skip
CHANNEL_ALIGNMENT = 16
MAX_GRID_Y = 65535  # CUDA C++ Programming Guide, technical specifications: y dimension of a grid
MAX_IMAGE_ELEMENTS = 2**30  # offsets within an image, overhanging tiles included, are int32

# Adding 1.5·2^23 to a float32 below 2^22 leaves no bit for the fraction: the addition rounds it, half to even.
_ROUNDER = tl.constexpr(12582912.0)
SQRT_HALF = tl.constexpr(0.7071067811865476)


@triton.jit
def _round_to_int8(x):
    """round(x), half to even, saturated to -128..127. Float32 in, int8 out."""
    saturated = tl.minimum(tl.maximum(x, -128.0), 127.0)
    return ((saturated + _ROUNDER) - _ROUNDER).to(tl.int8)


@triton.jit
def depthwise_residual_kernel(
    # inputs: x, residual (b, h, w, c); weight (k, k, c); bias, norm_weight, norm_bias, x_scale, x_bias (c,)
    x_ptr, weight_ptr, bias_ptr, residual_ptr, norm_weight_ptr, norm_bias_ptr, x_scale_ptr, x_bias_ptr,
    # outputs (b, h, w, c)
    out_ptr, norm_ptr,
    # sizes, int32
    height, width, channels,
    # float32
    epsilon, output_scale, input_scale,
    # compile-time
    KERNEL_SIZE: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr, HAS_NORM: tl.constexpr, OUT_INT8: tl.constexpr,
    IS_SCALED: tl.constexpr, HAS_GELU: tl.constexpr,
):  # fmt: skip
    """y = GELU?(x) + residual;  out = y + bias + sum over taps of weight·shifted y;  norm = (out - mean) / std · g + e.

    IS_SCALED: x is input_scale?·x·x_scale + x_bias, the step if x is int8.
    mean and std over the channels of a position, the biased std, with epsilon in it. OUT_INT8 quantises norm if there
    is one, else out. All arithmetic is in float32 and rounded once on the way out: norm and the INT8 values come from
    the unrounded out. Grid: (tiles of channels and positions, channels fastest; b; 1).

    References: 1. ops/depthwise/op.py. 2. ONNX QuantizeLinear, https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html.
    """
    channel_blocks = tl.cdiv(channels, BLOCK_C)
    blocks_w = tl.cdiv(width, BLOCK_W)
    block = tl.program_id(0) // channel_blocks
    position = tl.arange(0, BLOCK_H * BLOCK_W)
    row = (block // blocks_w) * BLOCK_H + position // BLOCK_W
    column = (block % blocks_w) * BLOCK_W + position % BLOCK_W
    channel = (tl.program_id(0) % channel_blocks) * BLOCK_C + tl.arange(0, BLOCK_C)

    # Weights too are read as a tile, of equal rows: each thread gets its channels straight from the cache. One row
    # would be spread over all threads first, then exchanged through shared memory, with a barrier for every tap.
    channel_tile = tl.broadcast_to(channel[None, :], (BLOCK_H * BLOCK_W, BLOCK_C))
    is_channel = channel_tile < channels
    weight_tile = weight_ptr + channel_tile
    image = tl.program_id(1).to(tl.int64) * height * width * channels  # int32 within an image, int64 across the batch
    offset = (row * width + column)[:, None] * channels + channel_tile  # (positions, channels)
    x_tile = x_ptr + image + offset
    if HAS_RESIDUAL:
        residual_tile = residual_ptr + image + offset

    if IS_SCALED:
        scale = tl.load(x_scale_ptr + channel_tile, is_channel, other=0.0).to(tl.float32)
        if x_ptr.dtype.element_ty == tl.int8:
            scale *= tl.cast(tl.cast(input_scale, weight_ptr.dtype.element_ty), tl.float32)
        x_bias = tl.load(x_bias_ptr + channel_tile, is_channel, other=0.0).to(tl.float32)
    acc = tl.load(bias_ptr + channel_tile, is_channel, other=0.0).to(tl.float32)
    for tap in tl.static_range(KERNEL_SIZE * KERNEL_SIZE):
        dy = tap // KERNEL_SIZE - KERNEL_SIZE // 2
        dx = tap % KERNEL_SIZE - KERNEL_SIZE // 2
        is_tap = (row >= -dy) & (row < height - dy) & (column >= -dx) & (column < width - dx)
        mask = is_tap[:, None] & is_channel
        shift = (dy * width + dx) * channels
        y = tl.load(x_tile + shift, mask, other=0.0).to(tl.float32)
        if IS_SCALED:
            y = y * scale + x_bias
            if HAS_GELU:
                y = 0.5 * y * (1.0 + tl.erf(y * SQRT_HALF))
            y = tl.where(mask, y, 0.0)
        if HAS_RESIDUAL:
            y += tl.load(residual_tile + shift, mask, other=0.0).to(tl.float32)
        acc += y * tl.load(weight_tile + tap * channels, is_channel, other=0.0).to(tl.float32)
        if tap == KERNEL_SIZE * KERNEL_SIZE // 2:
            acc += y

    is_inside = ((row < height) & (column < width))[:, None] & is_channel
    if OUT_INT8:  # the scale as the graph holds it, in x's type
        inverse_scale = 1.0 / tl.cast(tl.cast(output_scale, weight_ptr.dtype.element_ty), tl.float32)
    if OUT_INT8 and not HAS_NORM:
        tl.store(out_ptr + image + offset, _round_to_int8(acc * inverse_scale), is_inside)
    else:
        tl.store(out_ptr + image + offset, acc, is_inside)
    if HAS_NORM:
        mean = tl.sum(acc, axis=1) / channels  # acc is 0 beyond the last channel
        centered = tl.where(is_channel, acc - mean[:, None], 0.0)
        variance = tl.sum(centered * centered, axis=1) / channels
        norm = centered * (1.0 / tl.sqrt(variance + epsilon))[:, None]
        norm *= tl.load(norm_weight_ptr + channel_tile, is_channel, other=0.0).to(tl.float32)
        norm += tl.load(norm_bias_ptr + channel_tile, is_channel, other=0.0).to(tl.float32)
        if OUT_INT8:
            tl.store(norm_ptr + image + offset, _round_to_int8(norm * inverse_scale), is_inside)
        else:
            tl.store(norm_ptr + image + offset, norm, is_inside)


def kernel_signature(dtype: str, has_norm: bool, out_int8: bool, x_int8: bool = False) -> dict[str, str]:
    """Types of the kernel's run-time parameters, in order, for `triton.compiler.ASTSource`. dtype: fp32 or fp16."""
    types = dict.fromkeys(DIVISIBLE_BY_16[:-1], f"*{dtype}")
    if out_int8:
        types["norm_ptr" if has_norm else "out_ptr"] = "*i8"
    if x_int8:
        types["x_ptr"] = "*i8"
    sizes = dict.fromkeys(("height", "width", "channels"), "i32")
    return types | sizes | dict.fromkeys(("epsilon", "output_scale", "input_scale"), "fp32")


def tiles_for(channels: int, has_norm: bool) -> tuple[Tile, ...]:
    """The tactics for that many channels."""
    if channels < 1 or channels % CHANNEL_ALIGNMENT:
        raise RmtEdgeError(f"{channels} channels are unsupported.", f"supported: multiples of {CHANNEL_ALIGNMENT}.")
    if not has_norm:
        return CHANNEL_TILES
    if channels > max(ROW_TILES):
        raise RmtEdgeError(f"{channels} channels are too many for a LayerNorm.", f"supported: up to {max(ROW_TILES)}.")
    return next(tiles for block_c, tiles in ROW_TILES.items() if block_c >= channels)


def launch_grid(b: int, h: int, w: int, c: int, tile: Tile) -> tuple[int, int, int]:
    """The CUDA grid: channel blocks times row blocks times column blocks, then images."""
    return (triton.cdiv(c, tile.block_c) * triton.cdiv(h, tile.block_h) * triton.cdiv(w, tile.block_w), b, 1)


def launch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    epsilon: float = 1e-6,
    output_scale: float = 0.0,
    tile: Tile | None = None,
    x_scale: Tensor | None = None,
    x_bias: Tensor | None = None,
    input_scale: float = 0.0,
    has_gelu: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """depthwise_residual of op.py, or with norm_weight and norm_bias depthwise_residual_norm, by the kernel.

    Shapes as there, all contiguous and of one type, float32 or float16, but for an x of int8.
    tile: one of tiles_for, else the first of them.
    Returns out and norm, None without one; the last of them INT8 if output_scale is not 0.
    """
    check_product(x, x_scale, x_bias, input_scale, "x")
    if has_gelu and x_scale is None:
        raise RmtEdgeError("A GELU of what is no raw product.", "the kernel takes one after scale and bias alone.")
    _check_arguments(x, weight, bias, residual, norm_weight, norm_bias, output_scale)
    b, h, w, c = x.shape
    has_norm, out_int8 = norm_weight is not None, output_scale > 0
    tile = tile or tiles_for(c, has_norm)[0]
    if tile not in tiles_for(c, has_norm):
        raise RmtEdgeError(f"{tile} does not fit {c} channels.", f"tiles: {tiles_for(c, has_norm)}.")
    if not x.is_cuda and not triton.knobs.runtime.interpret:
        raise RmtEdgeError(
            f"x is on {x.device}.", "the kernel runs on an NVIDIA GPU, or anywhere under TRITON_INTERPRET=1."
        )
    out = torch.empty_like(x, dtype=torch.int8 if out_int8 and not has_norm else weight.dtype)
    norm = torch.empty_like(x, dtype=torch.int8 if out_int8 else weight.dtype) if has_norm else None
    absent = weight
    depthwise_residual_kernel[launch_grid(b, h, w, c, tile)](
        x,
        weight,
        bias,
        absent if residual is None else residual,
        norm_weight if has_norm else absent,
        norm_bias if has_norm else absent,
        absent if x_scale is None else x_scale,
        absent if x_bias is None else x_bias,
        out,
        norm if has_norm else absent,
        h,
        w,
        c,
        float(epsilon),
        float(output_scale),
        float(input_scale),
        KERNEL_SIZE=weight.shape[0],
        BLOCK_H=tile.block_h,
        BLOCK_W=tile.block_w,
        BLOCK_C=tile.block_c,
        HAS_RESIDUAL=residual is not None,
        HAS_NORM=has_norm,
        OUT_INT8=out_int8,
        IS_SCALED=x_scale is not None,
        HAS_GELU=has_gelu,
        num_warps=tile.num_warps,
    )
    return out, norm


def _check_arguments(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    output_scale: float,
) -> None:
    """Refuse what the kernel cannot do."""
    element = weight.dtype if x.dtype == torch.int8 else x.dtype
    if element not in DTYPES:
        raise RmtEdgeError(f"x is {x.dtype}.", f"the kernel takes {' or '.join(map(str, DTYPES))}.")
    if x.dim() != 4 or x.numel() == 0:
        raise RmtEdgeError(f"x has the shape {tuple(x.shape)}.", "it is (b, h, w, c), none of them 0.")
    b, h, w, c = x.shape
    k = weight.shape[0]
    if k % 2 == 0:
        raise RmtEdgeError(f"The kernel size {k} is even.", "a convolution that keeps the grid has an odd one.")
    if (norm_weight is None) != (norm_bias is None):
        raise RmtEdgeError("Only one of norm_weight and norm_bias is given.", "a LayerNorm here has both.")
    tensors = {
        "x": (x, (b, h, w, c)),
        "weight": (weight, (k, k, c)),
        "bias": (bias, (c,)),
        "residual": (residual, (b, h, w, c)),
        "norm_weight": (norm_weight, (c,)),
        "norm_bias": (norm_bias, (c,)),
    }
    for name, (tensor, shape) in tensors.items():
        if tensor is None:
            continue
        if tuple(tensor.shape) != shape:
            raise RmtEdgeError(f"{name} has the shape {tuple(tensor.shape)}.", f"for x {(b, h, w, c)} it is {shape}.")
        if tensor.dtype != (x.dtype if tensor is x else element) or tensor.device != x.device:
            raise RmtEdgeError(
                f"{name} is {tensor.dtype} on {tensor.device}.", f"x is {x.dtype} on {x.device}; all are alike."
            )
        if not tensor.is_contiguous():
            raise RmtEdgeError(f"{name} has the strides {tensor.stride()}.", "the kernel reads contiguous tensors.")
    if b > MAX_GRID_Y or h * w * c > MAX_IMAGE_ELEMENTS:
        raise RmtEdgeError(
            f"x is {b} images of {h * w * c} elements.", f"the limits are {MAX_GRID_Y} and {MAX_IMAGE_ELEMENTS}."
        )
    if not (math.isfinite(output_scale) and output_scale >= 0):
        raise RmtEdgeError(f"output_scale is {output_scale}.", "0 means none, an INT8 scale is positive.")
    if output_scale > 0 and not 0 < torch.tensor(output_scale, dtype=element).item() < math.inf:
        raise RmtEdgeError(f"output_scale {output_scale} is 0 or infinite in {element}.", "the graph holds it so.")
