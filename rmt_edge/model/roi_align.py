"""Multi-level RoIAlign with adaptive sampling, as plain PyTorch."""

import torch
from torch import Tensor


def _weights(low: Tensor, high: Tensor, bins: int, length: int) -> Tensor:
    """Of each RoI and bin, how much each pixel of one axis counts. low, high: (r,). Returns (r, bins, length)."""
    size = high - low
    samples = torch.ceil(size / bins)  # (r,), 0 of a RoI of no size, whose features are 0
    most = max(1, int(samples.max()))
    number = torch.arange(most, device=low.device)
    inside = (number[None] < samples[:, None]).to(low.dtype)  # (r, s)
    offset = (number[None] + 0.5) / samples[:, None].clamp(min=1)  # (r, s)
    position = low[:, None, None] + size[:, None, None] / bins * (
        torch.arange(bins, device=low.device)[None, :, None] + offset[:, None]
    )  # (r, bins, s)
    share = inside[:, None] / samples[:, None, None].clamp(min=1) * ((position >= -1) & (position <= length))
    position = position.clamp(0, length - 1)
    pixel = torch.arange(length, device=low.device, dtype=low.dtype)
    near = (1 - (position[..., None] - pixel).abs()).clamp(min=0)  # (r, bins, s, length)
    return (near * share[..., None]).sum(dim=2)


def multi_level_roi_align(levels: list[Tensor], rois: Tensor, strides: tuple[int, ...], bins: int) -> Tensor:
    """levels: (b, c, h, w) each; rois: (b, n, 4). Returns (b, n, c, bins, bins)."""
    b, n, _ = rois.shape
    area = (rois[..., 2] - rois[..., 0]) * (rois[..., 3] - rois[..., 1])
    level_of = torch.floor(torch.log2(area.sqrt() / 56 + 1e-6)).clamp(0, len(levels) - 1)
    out = rois.new_zeros(b, n, levels[0].shape[1], bins, bins)
    for level, (features, stride) in enumerate(zip(levels, strides, strict=True)):
        for image in range(b):
            rows = (level_of[image] == level).nonzero()[:, 0]
            for chunk in rows.split(64) if len(rows) else ():
                x1, y1, x2, y2 = (rois[image, chunk] / stride - 0.5).unbind(-1)
                across = _weights(x1, x2, bins, features.shape[3])
                down = _weights(y1, y2, bins, features.shape[2])
                out[image, chunk] = torch.einsum("rih,chw,rjw->rcij", down, features[image], across)
    return out
