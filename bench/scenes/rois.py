"""The second half of Mask R-CNN in training: proposals, sampled RoIs, RoIAlign with gradients, box and mask losses.

Source: "Mask R-CNN", ICCV 2017, https://arxiv.org/abs/1703.06870; the settings of RMT's public configs, with fewer
proposals and RoIs an image, as the pictures are small and hold at most six items.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scenes.losses import assigned, encoded, pairwise_iou, sampled
from torch import Tensor

BOX_STDS = (0.1, 0.1, 0.2, 0.2)
FINEST_SCALE = 56  # √area of a RoI that the finest level takes is under twice this
PROPOSALS_BEFORE_NMS, PROPOSALS, PROPOSAL_IOU = 200, 64, 0.7
ROIS, POSITIVE_SHARE = 48, 0.25
MASK_SIDE = 28


def axis_weights(start: Tensor, stop: Tensor, bins: int, length: int) -> Tensor:
    """How RoIAlign averages one axis of a map, as a matrix a RoI: aligned, ceil(size / bins) samples a bin.

    Bilinear samples on a grid, averaged over a bin, are one matrix for the rows and one for the columns.
    start, stop: (n,) in cells of the map, already shifted by half a cell. Returns (n, bins, length).
    """
    size = stop - start
    samples = torch.ceil(size / bins).clamp(min=1)  # (n,)
    most = int(samples.max()) if len(samples) else 1
    number = torch.arange(most)
    within = (number + 0.5) / samples[:, None]  # (n, most)
    is_sample = number < samples[:, None]
    position = start[:, None, None] + (torch.arange(bins)[:, None] + within[:, None]) * (size / bins)[:, None, None]
    weight = (is_sample / samples[:, None])[:, None] * ((position >= -1) & (position <= length))  # (n, bins, most)
    position = position.clamp(0, length - 1)
    distance = (position[..., None] - torch.arange(length)).abs()  # (n, bins, most, length)
    return (weight[..., None] * (1 - distance).clamp(min=0)).sum(dim=2)


def roi_align(image: Tensor, rois: Tensor, bins: int, scale: float) -> Tensor:
    """RoIAlign of one image's map. image: (c, h, w); rois: (n, 4) in pixels. Returns (n, c, bins, bins)."""
    c, h, w = image.shape
    edges = rois * scale - 0.5
    rows = axis_weights(edges[:, 1], edges[:, 3], bins, h)  # (n, bins, h)
    columns = axis_weights(edges[:, 0], edges[:, 2], bins, w)  # (n, bins, w)
    across = (rows.flatten(0, 1) @ image.transpose(0, 1).flatten(1)).view(-1, bins, c, w)  # (n, bins, c, w)
    return (across @ columns.transpose(1, 2)[:, None]).transpose(1, 2)  # (n, bins, c, bins) -> (n, c, bins, bins)


def roi_features(levels: list[Tensor], rois: list[Tensor], bins: int, finest_stride: int = 4) -> Tensor:
    """RoIs of all images, in order, each from the level of its size. levels: P2 to P5, (b, c, h, w)."""
    features = levels[0].new_zeros(sum(len(x) for x in rois), levels[0].shape[1], bins, bins)
    first = 0
    for image, boxes in enumerate(rois):
        root = (boxes[:, 2:] - boxes[:, :2]).prod(-1).sqrt()
        level_of = torch.floor(torch.log2(root / FINEST_SCALE + 1e-6)).clamp(0, len(levels) - 1)
        for number, level in enumerate(levels):
            chosen = torch.nonzero(level_of == number)[:, 0]
            if len(chosen):
                found = roi_align(level[image], boxes[chosen], bins, 1 / (finest_stride * 2**number))
                features = features.index_copy(0, first + chosen, found)
        first += len(boxes)
    return features


def kept_by_nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Greedy NMS: numbers of the boxes that stay, best first. boxes: (n, 4); scores: (n,)."""
    order = torch.argsort(scores, descending=True)
    suppresses = (pairwise_iou(boxes[order], boxes[order]) > threshold).numpy()
    gone = np.zeros(len(order), bool)
    for number in range(len(order)):
        if not gone[number]:
            gone[number + 1 :] |= suppresses[number, number + 1 :]
    return order[torch.from_numpy(~gone)]


def proposals_of(logits: Tensor, boxes: Tensor) -> Tensor:
    """The best proposals of one image. logits: (n,); boxes: (n, 4), decoded and clipped."""
    best = logits.topk(min(PROPOSALS_BEFORE_NMS, len(logits)))
    is_some = (boxes[best.indices, 2:] - boxes[best.indices, :2]).min(dim=1).values > 1
    candidates, scores = boxes[best.indices][is_some], best.values[is_some]
    return candidates[kept_by_nms(candidates, scores, PROPOSAL_IOU)[:PROPOSALS]]


@dataclass(frozen=True)
class SampledRois:
    """rois: of each image, positives first; labels: (n,) of all, background = classes; boxes: (n, 4), what a positive
    answers for; positives: how many in each image; owners: the item that each positive answers for."""

    rois: list[Tensor]
    labels: Tensor
    boxes: Tensor
    positives: list[int]
    owners: list[Tensor]

    @property
    def is_positive(self) -> Tensor:
        """(n,) bool."""
        return torch.cat([torch.arange(len(x)) < count for x, count in zip(self.rois, self.positives, strict=True)])


def sampled_rois(
    proposals: list[Tensor], boxes: list[Tensor], labels: list[Tensor], classes: int, generator: torch.Generator
) -> SampledRois:
    """RoIs to train on: of the proposals and the true boxes, at most POSITIVE_SHARE on an item (IoU 0.5 or more)."""
    rois, targets, wanted, positives, owners = [], [], [], [], []
    for proposed, box, label in zip(proposals, boxes, labels, strict=True):
        candidates = torch.cat([box, proposed])
        owner = assigned(candidates, box, positive=0.5, negative=0.5, lowest=2.0)
        positive, negative = sampled(owner, ROIS, POSITIVE_SHARE, generator)
        rois.append(candidates[torch.cat([positive, negative])])
        owners.append(owner[positive])
        positives.append(len(positive))
        targets.append(torch.cat([label[owner[positive]], torch.full((len(negative),), classes)]))
        wanted.append(torch.cat([box[owner[positive]], candidates[negative]]))
    return SampledRois(rois, torch.cat(targets), torch.cat(wanted), positives, owners)


def box_head_loss(logits: Tensor, deltas: Tensor, sample: SampledRois) -> dict[str, Tensor]:
    """Cross-entropy over the classes and the background; L1 of the own class's deltas, by the number of RoIs.

    logits: (n, classes + 1); deltas: (n, classes·4).
    """
    rows = torch.nonzero(sample.is_positive)[:, 0]
    own = deltas.view(len(deltas), -1, 4)[rows, sample.labels[rows]]
    wanted = encoded(torch.cat(sample.rois)[rows], sample.boxes[rows], BOX_STDS)
    return {
        "roi_classes": F.cross_entropy(logits, sample.labels),
        "roi_boxes": (own - wanted).abs().sum() / max(1, len(logits)),
    }


def mask_targets(masks: list[Tensor], sample: SampledRois) -> Tensor:
    """What can be seen of its item within each positive RoI. masks: of each image (k, h, w). (n, 28, 28), 0 or 1."""
    found = []
    for mask, rois, count, owner in zip(masks, sample.rois, sample.positives, sample.owners, strict=True):
        for roi, number in zip(rois[:count], owner, strict=True):
            found.append(roi_align(mask[number][None].float(), roi[None], MASK_SIDE, 1.0)[0, 0] >= 0.5)
    return torch.stack(found).float()


def mask_loss(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of the own class's mask. logits: (n, classes, 28, 28); labels: (n,); targets: (n, 28, 28)."""
    return F.binary_cross_entropy_with_logits(logits[torch.arange(len(labels)), labels], targets)
