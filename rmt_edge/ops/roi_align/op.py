"""MultiLevelRoiAlign as plain PyTorch: the reference for everything else.

Source: what RMT's public detection code runs, mmdet 2.11's `single_level_roi_extractor.py` on mmcv 1.7's RoIAlign with
aligned = True, sampling_ratio = 0 and average pooling ("Mask R-CNN", https://arxiv.org/abs/1703.06870, section 3).
Every region is read from one of four levels, chosen by its area; each of its s·s bins is the mean over a grid of
samples, as many on an axis as a bin has pixels there, rounded up; every sample is bilinear. Three things differ from
the source:

- features are NHWC. In an engine convolutions run so anyway, and a kernel reads many channels of a sample at once;
- a mean over a grid of bilinear samples is separable: (s, h) weights of the rows times the pixels times (w, s) weights
  of the columns. The sums are the source's in another order;
- floor(log2(x)) is x ≥ 2, x ≥ 4, x ≥ 8, which no rounding of a logarithm disturbs.

The ONNX function body, the Triton kernel and the TensorRT plugin are held to this file. It is also registered with
PyTorch as `torch.ops.rmt_edge.multi_level_roi_align`, so that an exporter sees one op. It has a gradient for features.
"""

import math

import torch
from torch import Tensor

from rmt_edge.errors import RmtEdgeError

STRIDES = (4, 8, 16, 32)  # of P2 to P5
FINEST_SCALE = 56  # pixels: mmdet's SingleRoIExtractor; a region of twice that side leaves the finest level
LEVEL_EPSILON = 1e-6  # as there


def levels_of(rois: Tensor) -> Tensor:
    """floor(log2(√area / 56 + 1e-6)) of each region, from 0 to 3; 0 where the area is negative. (n, 4) -> (n,)."""
    area = (rois[:, 2] - rois[:, 0]) * (rois[:, 3] - rois[:, 1])
    scale = area.sqrt() / FINEST_SCALE + LEVEL_EPSILON
    bounds = torch.tensor([2.0**level for level in range(1, len(STRIDES))], device=rois.device)
    return (scale[:, None] >= bounds).sum(1)


def bin_weights(start: Tensor, end: Tensor, bins: int, size: int) -> tuple[int, Tensor]:
    """What each pixel of one axis counts in each bin of a region.

    start, end: of the region in pixels of that level, pixel 0 having its middle at 0, as float32 tensors without axes;
    bins: s; size: of the map on that axis. Returns the first pixel that counts and (s, pixels) weights from there on.
    """
    bin_size = (end - start) / bins
    samples = math.ceil(float(bin_size))
    if samples <= 0:  # of no extent: there is nothing to sample, and the mean is taken as 0
        return 0, start.new_zeros(bins, 1)
    index = torch.arange(bins * samples, device=start.device).view(bins, samples)
    inside = (index % samples + 0.5) * bin_size / samples
    position = start + (index // samples) * bin_size + inside  # (s, samples)
    is_sampled = (position >= -1) & (position <= size)
    position = position.clamp(0, size - 1)
    first, last = int(position.min()), min(int(position.max()) + 1, size - 1)
    pixels = torch.arange(first, last + 1, device=start.device)
    tent = (1 - (position[..., None] - pixels).abs()).clamp(min=0)  # bilinear on one axis: (s, samples, pixels)
    return first, (tent * is_sampled[..., None]).sum(1) / samples


def multi_level_roi_align(p2: Tensor, p3: Tensor, p4: Tensor, p5: Tensor, rois: Tensor, output_size: int) -> Tensor:
    """The features of every region, s·s bins of it, from the level that fits its size.

    p2 to p5: (b, h_i, w_i, c), NHWC, of strides 4 to 32; rois: (b, n, 4) as x1, y1, x2, y2 in pixels of the picture,
    float32; image i's regions are read from image i. output_size: s. Returns (b·n, s, s, c), NHWC, in the features'
    type; computed in float32 at least. A region without extent gives zeros, and so do the padding rows of Nms.
    """
    features = (p2, p3, p4, p5)
    check_shapes(features, rois, output_size)
    n = rois.shape[1]
    wide = torch.promote_types(p2.dtype, torch.float32)
    levels = levels_of(rois.reshape(-1, 4)).tolist()
    pooled = []
    for region, (level, roi) in enumerate(zip(levels, rois.reshape(-1, 4), strict=True)):
        image = features[level][region // n]  # (h, w, c)
        h, w, _ = image.shape
        x1, y1, x2, y2 = roi * (1 / STRIDES[level]) - 0.5
        (top, rows), (left, columns) = bin_weights(y1, y2, output_size, h), bin_weights(x1, x2, output_size, w)
        window = image[top : top + rows.shape[1], left : left + columns.shape[1]].to(wide)  # (rows, columns, c)
        by_row = torch.tensordot(rows.to(wide), window, dims=1)  # (s, columns, c)
        pooled.append(columns.to(wide) @ by_row)  # (s, s, c)
    return torch.stack(pooled).to(p2.dtype)


def check_shapes(features: tuple[Tensor, ...], rois: Tensor, output_size: int) -> None:
    """Refuse what the op does not take."""
    b, _, _, c = features[0].shape
    for name, x in zip(("p2", "p3", "p4", "p5"), features, strict=True):
        if x.dim() != 4 or (len(x), x.shape[3], x.dtype) != (b, c, features[0].dtype) or x.numel() == 0:
            raise RmtEdgeError(
                f"{name} has the shape {tuple(x.shape)} and the type {x.dtype}.",
                f"it is (b, h, w, c) with p2's b = {b}, c = {c} and type {features[0].dtype}.",
            )
    if rois.dim() != 3 or len(rois) != b or rois.shape[2] != 4 or rois.shape[1] == 0:
        raise RmtEdgeError(f"rois have the shape {tuple(rois.shape)}.", f"they are (b, n, 4) with b = {b}.")
    if output_size < 1:
        raise RmtEdgeError(f"output_size is {output_size}.", "it is 1 or more.")


# Composite, so that autograd goes through the plain ops above.
_LIBRARY = torch.library.Library("rmt_edge", "FRAGMENT")
_LIBRARY.define(
    "multi_level_roi_align(Tensor p2, Tensor p3, Tensor p4, Tensor p5, Tensor rois, int output_size) -> Tensor"
)
_LIBRARY.impl("multi_level_roi_align", multi_level_roi_align, "CompositeImplicitAutograd")
