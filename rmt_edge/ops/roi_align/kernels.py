"""MultiLevelRoiAlign as one Triton kernel: any region, any number of samples, nothing but the output in memory.

A program computes BLOCK_BINS bins of one region for BLOCK_C channels. A thread holds neighbouring channels of one bin,
so every load is 16 bytes wide. The number of samples is a region's own: all bins of a region have the same, so that the
loops over them are uniform.

Compiled ahead of time, `aot_variants` says how. State: right on a CPU, under TRITON_INTERPRET=1 and as PTX executed by
tests/ptx; compiled for SM 8.0 to 12.0 by Triton 3.7.1. Never run on a GPU, nor timed: the tile is a choice.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from rmt_edge.errors import RmtEdgeError
from rmt_edge.ops.kernel_variant import KernelVariant
from rmt_edge.ops.roi_align.op import FINEST_SCALE, LEVEL_EPSILON, check_shapes

BLOCK_BINS, BLOCK_C = 8, 64
WARPS = {"fp16": 2, "fp32": 4}  # 16 bytes a thread
DTYPES = {torch.float16: "fp16", torch.float32: "fp32"}
CHANNEL_ALIGNMENT = 16
MAX_IMAGE_ELEMENTS = 2**31 - 1  # of one image of a level: offsets within it are int32
# Samples of a bin on an axis. No region within a picture comes near; it keeps a kernel from running for ever on the
# garbage that a network with an infinity in it may give for regions.
MAX_SAMPLES = 1024
_MAX_SAMPLES = tl.constexpr(float(MAX_SAMPLES))
_FINEST_SCALE, _LEVEL_EPSILON = tl.constexpr(float(FINEST_SCALE)), tl.constexpr(LEVEL_EPSILON)


@triton.jit
def _samples_in(bin_size):
    """ceil(bin_size), 0 to MAX_SAMPLES; 0 for a NaN."""
    samples = tl.ceil(bin_size)
    samples = tl.where(samples > 0.0, samples, 0.0)  # first, because the minimum of a NaN and a number is the number
    return tl.minimum(samples, _MAX_SAMPLES)


@triton.jit
def multi_level_roi_align_kernel(
    # inputs: (b, h_i, w_i, c) of four levels, (b, n, 4) float32
    p2_ptr, p3_ptr, p4_ptr, p5_ptr, rois_ptr,
    # output: (b, n, s, s, c)
    out_ptr,
    # sizes, int32
    p2_h, p2_w, p3_h, p3_w, p4_h, p4_w, p5_h, p5_w, regions, bins, channels,
    # compile-time
    BLOCK_BINS: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """out = mean over samples of (1 - dy)(1 - dx)·top left + (1 - dy)dx·top right + dy(1 - dx)·… + dy·dx·….

    level = floor(log2(√area / 56 + 1e-6)), clamped to 0..3; ceil(extent / s) samples a bin on each axis. Accumulated in
    float32, rounded once. Grid: (blocks of channels, then of bins, then regions of all images; 1; 1).

    References: 1. ops/roi_align/op.py.
    """
    channel_blocks = tl.cdiv(channels, BLOCK_C)
    bin_blocks = tl.cdiv(bins * bins, BLOCK_BINS)
    block = tl.program_id(0) // channel_blocks
    region = (block // bin_blocks).to(tl.int64)
    bin_index = (block % bin_blocks) * BLOCK_BINS + tl.arange(0, BLOCK_BINS)
    channel = (tl.program_id(0) % channel_blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
    is_inside = (bin_index < bins * bins)[:, None] & (channel < channels)[None, :]

    x1, y1 = tl.load(rois_ptr + region * 4), tl.load(rois_ptr + region * 4 + 1)
    x2, y2 = tl.load(rois_ptr + region * 4 + 2), tl.load(rois_ptr + region * 4 + 3)
    level_scale = tl.div_rn(tl.sqrt_rn((x2 - x1) * (y2 - y1)), _FINEST_SCALE) + _LEVEL_EPSILON
    is_p3, is_p4, is_p5 = level_scale >= 2.0, level_scale >= 4.0, level_scale >= 8.0
    features = tl.where(is_p5, p5_ptr, tl.where(is_p4, p4_ptr, tl.where(is_p3, p3_ptr, p2_ptr)))
    h = tl.where(is_p5, p5_h, tl.where(is_p4, p4_h, tl.where(is_p3, p3_h, p2_h)))
    w = tl.where(is_p5, p5_w, tl.where(is_p4, p4_w, tl.where(is_p3, p3_w, p2_w)))
    scale = tl.where(is_p5, 0.03125, tl.where(is_p4, 0.0625, tl.where(is_p3, 0.125, 0.25)))
    features += (region // regions) * h * w * channels

    start_x, start_y = x1 * scale - 0.5, y1 * scale - 0.5
    bin_w = tl.div_rn(x2 * scale - 0.5 - start_x, bins.to(tl.float32))
    bin_h = tl.div_rn(y2 * scale - 0.5 - start_y, bins.to(tl.float32))
    samples_x, samples_y = _samples_in(bin_w), _samples_in(bin_h)
    bin_x = start_x + (bin_index % bins).to(tl.float32) * bin_w
    bin_y = start_y + (bin_index // bins).to(tl.float32) * bin_h
    last_x, last_y = (w - 1).to(tl.float32), (h - 1).to(tl.float32)
    acc = tl.zeros([BLOCK_BINS, BLOCK_C], tl.float32)
    for j in range(0, samples_y.to(tl.int32)):
        y = bin_y + tl.div_rn((j + 0.5) * bin_h, samples_y)
        is_row = (y >= -1.0) & (y <= h.to(tl.float32))
        y = tl.minimum(tl.maximum(y, 0.0), last_y)
        top = y.to(tl.int32)
        bottom = tl.minimum(top + 1, h - 1)
        dy = y - top.to(tl.float32)
        for i in range(0, samples_x.to(tl.int32)):
            x = bin_x + tl.div_rn((i + 0.5) * bin_w, samples_x)
            is_sample = is_row & (x >= -1.0) & (x <= w.to(tl.float32))
            x = tl.minimum(tl.maximum(x, 0.0), last_x)
            left = x.to(tl.int32)
            right = tl.minimum(left + 1, w - 1)
            dx = x - left.to(tl.float32)
            mask = is_inside & is_sample[:, None]
            top_row, bottom_row = (top * w)[:, None], (bottom * w)[:, None]
            top_left = tl.load(features + (top_row + left[:, None]) * channels + channel[None, :], mask, other=0.0)
            top_right = tl.load(features + (top_row + right[:, None]) * channels + channel[None, :], mask, other=0.0)
            low_left = tl.load(features + (bottom_row + left[:, None]) * channels + channel[None, :], mask, other=0.0)
            low_right = tl.load(features + (bottom_row + right[:, None]) * channels + channel[None, :], mask, other=0.0)
            acc += ((1.0 - dy) * (1.0 - dx))[:, None] * top_left.to(tl.float32)
            acc += ((1.0 - dy) * dx)[:, None] * top_right.to(tl.float32)
            acc += (dy * (1.0 - dx))[:, None] * low_left.to(tl.float32)
            acc += (dy * dx)[:, None] * low_right.to(tl.float32)
    pooled = acc / tl.maximum(samples_y * samples_x, 1.0)
    out = out_ptr + region * bins * bins * channels + bin_index[:, None] * channels + channel[None, :]
    tl.store(out, pooled, is_inside)


_FEATURES = ("p2_ptr", "p3_ptr", "p4_ptr", "p5_ptr")
_SIZES = ("p2_h", "p2_w", "p3_h", "p3_w", "p4_h", "p4_w", "p5_h", "p5_w", "regions", "bins", "channels")


def aot_variants() -> list[KernelVariant]:
    """The kernel for each element type; plugin/cpp/roiAlign/roiAlignLaunch.cpp asks for them by these names."""
    constants = {"BLOCK_BINS": BLOCK_BINS, "BLOCK_C": BLOCK_C}
    variants = []
    for dtype, warps in WARPS.items():
        types = dict.fromkeys(_FEATURES, f"*{dtype}") | {"rois_ptr": "*fp32", "out_ptr": f"*{dtype}"}
        types |= dict.fromkeys(_SIZES, "i32")
        variants.append(
            KernelVariant(
                name=f"MultiLevelRoiAlign_{dtype}",
                kernel="rmt_edge.ops.roi_align.kernels:multi_level_roi_align_kernel",
                signature=(*types.items(), *((name, "constexpr") for name in constants)),
                constexprs=tuple(constants.items()),
                tile=(BLOCK_BINS, BLOCK_C),
                num_warps=warps,
                num_stages=1,
                divisible_by_16=("channels",),
            )
        )
    return variants


def launch(p2: Tensor, p3: Tensor, p4: Tensor, p5: Tensor, rois: Tensor, output_size: int) -> Tensor:
    """multi_level_roi_align of op.py by the kernel; no gradient."""
    features = tuple(x.contiguous() for x in (p2, p3, p4, p5))
    check_shapes(features, rois, output_size)
    _check_limits(features, rois)
    (b, n, _), c = rois.shape, p2.shape[3]
    out = p2.new_empty(b, n, output_size, output_size, c)
    blocks = triton.cdiv(c, BLOCK_C) * triton.cdiv(output_size**2, BLOCK_BINS) * b * n
    sizes = [size for x in features for size in x.shape[1:3]]
    multi_level_roi_align_kernel[(blocks, 1, 1)](
        *features, rois.contiguous(), out, *sizes, n, output_size, c,
        BLOCK_BINS=BLOCK_BINS, BLOCK_C=BLOCK_C, num_warps=WARPS[DTYPES[p2.dtype]],
    )  # fmt: skip
    return out


def _check_limits(features: tuple[Tensor, ...], rois: Tensor) -> None:
    """Refuse what the kernel cannot do."""
    x = features[0]
    if x.dtype not in DTYPES or rois.dtype != torch.float32:
        raise RmtEdgeError(
            f"features are {x.dtype}, rois {rois.dtype}.",
            f"the kernel takes {' or '.join(map(str, DTYPES))}, and rois of torch.float32.",
        )
    if x.shape[3] % CHANNEL_ALIGNMENT:
        raise RmtEdgeError(f"{x.shape[3]} channels are unsupported.", f"supported: multiples of {CHANNEL_ALIGNMENT}.")
    if max(level[0].numel() for level in features) > MAX_IMAGE_ELEMENTS:
        raise RmtEdgeError("A level of one image is too large.", f"the limit is {MAX_IMAGE_ELEMENTS} elements.")
    if not x.is_cuda and not triton.knobs.runtime.interpret:
        raise RmtEdgeError(
            f"features are on {x.device}.", "the kernel runs on an NVIDIA GPU, or anywhere under TRITON_INTERPRET=1."
        )
