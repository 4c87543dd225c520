"""Training of one head on composed scenes: the models, their losses on a batch, and a loop that can be interrupted.

Method: AdamW, one learning-rate cycle, mirrored scenes, bfloat16 products, a moving average of the weights.
The pool of scenes is made once and kept in memory. Every head begins from the reference classifier of Fashion-MNIST
(bench/reference), as published detectors begin from ImageNet's: all of its backbone but the last, wider stage.
"""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scenes.compose import CLASSES, SEED, SIDE, Scene
from scenes.losses import retinanet_loss, rpn_loss
from scenes.rois import box_head_loss, mask_loss, mask_targets, proposals_of, roi_features, sampled_rois
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from rmt_edge.data.preprocess import Preprocessing, normalise
from rmt_edge.model.boxes import RETINANET_ANCHORS, RPN_ANCHORS, AnchorShape, anchors_of, decoded, flat_predictions
from rmt_edge.model.heads import create_head
from rmt_edge.model.rcnn import BOX_BINS, MASK_BINS, RPN_STDS
from rmt_edge.model.spec import MASK_RCNN, RETINANET, SEMANTIC_FPN
from rmt_edge.model.widths import Widths

VARIANT = "rmt_pico"
# As the public pipelines: ImageNet's mean and deviation of RGB. A scene is of that size already, so nothing is resized.
PREPROCESSING = Preprocessing(SIDE, SIDE, crop_ratio=1.0, within=(SIDE, SIDE))
WIDTHS = {
    RETINANET: Widths(neck=48, head=48),
    MASK_RCNN: Widths(neck=48, head=48, fc=96, mask=48),
    SEMANTIC_FPN: Widths(neck=48, head=32),
}
STEPS = {SEMANTIC_FPN: 1500, RETINANET: 4000, MASK_RCNN: 1500}
SEMANTIC_CLASSES = len(CLASSES) + 1  # the background comes last
BATCH = 8
POOL = 6_000  # training scenes; each is seen several times, mirrored or not
PEAK_LEARNING_RATE = 7e-4
WEIGHT_DECAY = 0.05
EMA_DECAY = 0.998
RPN_SAMPLES = 64  # anchors an image that the RPN learns from
MAX_GRADIENT = 10.0
LOG_EVERY = 100
SAVE_EVERY_SECONDS = 60
PRIOR = 0.01  # of an item at an anchor, before training (focal loss paper, section 4.1)


@dataclass(frozen=True)
class Batch:
    """images: (b, 3, h, w); of each image boxes (k, 4), labels (k,), masks (k, h, w); semantic: (b, h, w)."""

    images: Tensor
    boxes: list[Tensor]
    labels: list[Tensor]
    masks: list[Tensor]
    semantic: Tensor


def new_model(head: str) -> nn.Module:
    """A detector or segmenter of few channels, freshly initialised."""
    torch.manual_seed(SEED)
    model = create_head(head, VARIANT, SEMANTIC_CLASSES if head == SEMANTIC_FPN else len(CLASSES), WIDTHS[head])
    if head == RETINANET:
        nn.init.constant_(model.bbox_head.retina_cls.bias, -float(np.log((1 - PRIOR) / PRIOR)))
    if head != SEMANTIC_FPN:
        initialise_detector(model, head)
    return model


def initialise_detector(model: nn.Module, head: str) -> None:
    """mmdet's initialisation of towers and last layers: normal, deviation 0.01; He's in a mask head."""
    part = model.bbox_head if head == RETINANET else nn.ModuleList([model.rpn_head, model.roi_head.bbox_head])
    for module in part.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.01)
    if head == MASK_RCNN:
        for module in model.roi_head.mask_head.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for linear in model.roi_head.bbox_head.shared_fcs:
            nn.init.xavier_uniform_(linear.weight)


def batch_of(scenes: list[Scene], flips: np.ndarray) -> Batch:
    """Scenes as tensors, some of them mirrored left to right. flips: (b,) bool."""
    images = np.stack([x.image[:, ::-1] if flip else x.image for x, flip in zip(scenes, flips, strict=True)])
    masks = [
        torch.from_numpy(np.ascontiguousarray(x.masks[:, :, ::-1] if flip else x.masks))
        for x, flip in zip(scenes, flips, strict=True)
    ]
    boxes = []
    for scene, flip in zip(scenes, flips, strict=True):
        box = scene.boxes.copy()
        if flip:
            box[:, [0, 2]] = scene.image.shape[1] - box[:, [2, 0]]
        boxes.append(torch.from_numpy(box))
    semantic = np.stack([x.semantic[:, ::-1] if flip else x.semantic for x, flip in zip(scenes, flips, strict=True)])
    labels = [torch.from_numpy(x.labels) for x in scenes]
    frames = [PREPROCESSING.frame(*x.shape[:2]) for x in images]
    pixels = torch.from_numpy(normalise(images, PREPROCESSING, frames))
    return Batch(pixels, boxes, labels, masks, torch.from_numpy(semantic).long())


def anchors_and_rows(shape: AnchorShape, maps: tuple[list[Tensor], list[Tensor]], columns: int) -> tuple[Tensor, ...]:
    """All levels' anchors (n, 4), logits (b, n, columns) and deltas (b, n, 4)."""
    anchors = [anchors_of(shape, level, *x.shape[2:]) for level, x in enumerate(maps[0])]
    rows = [torch.cat([flat_predictions(x, c) for x in part], 1) for part, c in zip(maps, (columns, 4), strict=True)]
    return torch.cat(anchors), *rows


def losses(model: nn.Module, head: str, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
    """The losses of a batch by name; their sum is minimised."""
    with torch.autocast("cpu", torch.bfloat16):
        maps = model.backbone(batch.images)
        levels = model.neck(maps)
        if head == SEMANTIC_FPN:
            logits = model.decode_head(levels)
        elif head == RETINANET:
            outputs = model.bbox_head(levels)
        else:
            outputs = model.rpn_head(levels)
    if head == SEMANTIC_FPN:
        logits = F.interpolate(logits.float(), batch.images.shape[2:], mode="bilinear", align_corners=False)
        return {"pixels": F.cross_entropy(logits, batch.semantic)}
    if head == RETINANET:
        anchors, logits, deltas = anchors_and_rows(RETINANET_ANCHORS, outputs, len(CLASSES))
        return retinanet_loss(logits, deltas, anchors, batch.boxes, batch.labels)
    return mask_rcnn_losses(model, batch, levels, outputs, generator)


def mask_rcnn_losses(
    model: nn.Module, batch: Batch, levels: list[Tensor], outputs: tuple, generator: torch.Generator
) -> dict[str, Tensor]:
    """The losses of the RPN, and of the box and mask heads on RoIs sampled from its proposals."""
    anchors, logits, deltas = anchors_and_rows(RPN_ANCHORS, outputs, 1)
    found = rpn_loss(logits, deltas, anchors, batch.boxes, RPN_SAMPLES, generator)
    sizes = torch.tensor([batch.images.shape[2:]] * len(logits))
    with torch.no_grad():
        boxes = decoded(anchors.expand(len(deltas), -1, -1), deltas, RPN_STDS, sizes.float())
        proposals = [proposals_of(x, box) for x, box in zip(logits[..., 0], boxes, strict=True)]
    sample = sampled_rois(proposals, batch.boxes, batch.labels, len(CLASSES), generator)
    pyramid = [x.float() for x in levels[:4]]
    with torch.autocast("cpu", torch.bfloat16):
        classified, located = model.roi_head.bbox_head(roi_features(pyramid, sample.rois, BOX_BINS))
    found |= box_head_loss(classified.float(), located.float(), sample)
    positives = [rois[:count] for rois, count in zip(sample.rois, sample.positives, strict=True)]
    if sum(sample.positives):
        with torch.autocast("cpu", torch.bfloat16):
            drawn = model.roi_head.mask_head(roi_features(pyramid, positives, MASK_BINS))
        labels = sample.labels[sample.is_positive]
        found["masks"] = mask_loss(drawn.float(), labels, mask_targets(batch.masks, sample))
    return found


def moving_average(averaged: Tensor, current: Tensor, updates: Tensor) -> Tensor:
    """EMA whose decay grows to EMA_DECAY, so that the initial weights do not linger in it."""
    decay = min(EMA_DECAY, (1 + int(updates)) / (10 + int(updates)))
    return torch.lerp(current, averaged, decay) if averaged.is_floating_point() else current


def parts_of(model: nn.Module, steps: int) -> dict:
    """What training changes: the model, its average, the optimizer, the learning rate."""
    decayed = [x for x in model.parameters() if x.ndim > 1]
    plain = [x for x in model.parameters() if x.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_LEARNING_RATE, total_steps=steps, pct_start=0.1, cycle_momentum=False
    )
    average = AveragedModel(model, avg_fn=moving_average, use_buffers=True)
    return {"model": model, "average": average, "optimizer": optimizer, "scheduler": scheduler}


def begin_from(model: nn.Module, classifier: nn.Module) -> list[str]:
    """Take over what of a classifier's backbone has the same shape; the names of what it had to leave."""
    own, given = model.backbone.state_dict(), classifier.state_dict()
    fitting = {name: x for name, x in given.items() if name in own and own[name].shape == x.shape}
    model.backbone.load_state_dict(own | fitting)
    return sorted(set(own) - set(fitting))


def train(head: str, scenes: list[Scene], steps: int, state_path: Path, classifier: nn.Module | None) -> dict:
    """Train one head; goes on from state_path if it is there. Returns the averaged model, the log and the seconds.

    classifier: a trained one to begin from.
    """
    model = new_model(head)
    if classifier is not None:
        begin_from(model, classifier)
    parts = parts_of(model, steps)
    log, seconds, first = [], 0.0, 0
    if state_path.is_file():
        state = torch.load(state_path, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        log, seconds, first = state["log"], state["seconds"], state["step"]
    model.train()
    started, saved, sums = time.process_time(), time.monotonic(), {}
    for step in tqdm(range(first, steps), head, file=sys.stderr, mininterval=30):
        found = _step(parts, head, scenes, step)
        sums = {name: sums.get(name, 0.0) + x for name, x in found.items()}
        if (step + 1) % LOG_EVERY and step + 1 < steps:
            continue
        taken = seconds + time.process_time() - started
        since = (step % LOG_EVERY) + 1
        log.append(
            {"step": step + 1, "cpu_seconds": round(taken, 1)} | {x: round(y / since, 4) for x, y in sums.items()}
        )
        tqdm.write(json.dumps(log[-1]), file=sys.stderr)
        sums = {}
        if time.monotonic() - saved > SAVE_EVERY_SECONDS or step + 1 == steps:
            saved = time.monotonic()
            _save(state_path, parts, {"log": log, "seconds": taken, "step": step + 1})
    return {"model": parts["average"].module.eval(), "log": log, "cpu_seconds": log[-1]["cpu_seconds"]}


def is_finished(state_path: Path, steps: int) -> bool:
    """Whether a head's training has come to its last step."""
    return state_path.is_file() and torch.load(state_path, weights_only=True)["step"] == steps


def _step(parts: dict, head: str, scenes: list[Scene], step: int) -> dict[str, float]:
    """One step of training; the losses. Its scenes depend on its number alone, so an interruption changes nothing."""
    rng, generator = np.random.default_rng([SEED, step]), torch.Generator().manual_seed(step)
    chosen = [scenes[index] for index in rng.integers(len(scenes), size=BATCH)]
    found = losses(parts["model"], head, batch_of(chosen, rng.random(BATCH) < 0.5), generator)
    parts["optimizer"].zero_grad()
    sum(found.values()).backward()
    torch.nn.utils.clip_grad_norm_(parts["model"].parameters(), MAX_GRADIENT)
    parts["optimizer"].step()
    parts["scheduler"].step()
    parts["average"].update_parameters(parts["model"])
    return {name: x.item() for name, x in found.items()}


def _save(path: Path, parts: dict, rest: dict) -> None:
    """The state of training, put in place whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save({name: part.state_dict() for name, part in parts.items()} | rest, partial)
    partial.replace(path)
