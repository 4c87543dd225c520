"""Greedy NMS of batches of sorted boxes, as plain PyTorch."""

import torch
from torch import Tensor


def nms(boxes: Tensor, groups: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """Which boxes stay. A box goes when one before it that stays, of the same group, has an IoU above the threshold.

    boxes: (b, n, 4), by score; groups: (b, n), of classes or levels; valid: (b, n) bool. Returns (b, n) bool.
    """
    x1, y1, x2, y2 = (x[..., 0] for x in boxes.split(1, dim=-1))
    area = (x2 - x1) * (y2 - y1)  # (b, n)
    width = torch.minimum(x2[:, :, None], x2[:, None]) - torch.maximum(x1[:, :, None], x1[:, None])
    height = torch.minimum(y2[:, :, None], y2[:, None]) - torch.maximum(y1[:, :, None], y1[:, None])
    shared = width.clamp(min=0) * height.clamp(min=0)  # (b, n, n)
    over = shared / (area[:, :, None] + area[:, None] - shared) > threshold  # of boxes without area 0/0, so not over
    over = (over & (groups[:, :, None] == groups[:, None])).triu(diagonal=1).float()  # [i, j]: i takes j out
    keep = valid
    while True:
        following = valid & ~((keep.float()[:, None] @ over)[:, 0] > 0)
        if torch.equal(following, keep):
            return keep
        keep = following
