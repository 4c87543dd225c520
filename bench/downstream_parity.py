"""Hold detectors and segmenters to the outputs of the public code: every .npz of a folder, a line a file.

    python bench/downstream_parity.py tests/golden/downstream [--onnx]

The folder holds the files, weights_downstream.py and state_dict/<config>.json (tests/golden/downstream/README.md). Each
model is made from its config's names and shapes and filled with the file's own deterministic weights. Bars, float32:
backbone 1e-4, logits and prediction maps 1e-3, boxes 0.02 pixels, scores 1e-4, mask probabilities 1e-3, mask pixels
0.1 %, no wrong label but where the best two logits differ by less than 1e-3; the same boxes. Proposals are compared as
a set. --onnx: the exported graph through ONNX Runtime, held to PyTorch by the same bars.

The last line is one JSON object, {file: {"ok": bool, "worst": {what: difference}}}. Exit status 1 if a file fails.
"""

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import torch

from rmt_edge.graph.model import CLASS_MAP, onnx_from_model, with_predictions
from rmt_edge.model.boxes import picture_sizes
from rmt_edge.model.downstream import Downstream
from rmt_edge.model.fit import model_fitting
from rmt_edge.model.folded import folded_from_model
from rmt_edge.model.rcnn import MaskRCNN, proposals
from rmt_edge.model.segmenters import Segmenter, resized
from rmt_edge.runtime.onnx_runner import OnnxRunner
from rmt_edge.tasks.masks import pasted

BARS = {
    "level": 1e-4, "logits": 1e-3, "cls_logits": 1e-3, "rpn_logits": 1e-3, "deltas": 1e-3, "rpn_deltas": 1e-3,
    "proposals": 0.02, "count": 0, "boxes": 0.02, "scores": 1e-4, "wrong_labels": 0, "mask_probabilities": 1e-3,
    "mask_pixels_percent": 0.1, "resized": 0, "normalised_corner": 1e-5,
}  # fmt: skip
UNSURE = 1e-3  # logits; closer pairs may fall to either side


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--onnx", action="store_true", help="ONNX Runtime against PyTorch")
    args = parser.parse_args()
    weights = load_weights(args.folder / "weights_downstream.py")
    found = {}
    for path in sorted(args.folder.glob("*.npz")):
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        case = json.loads(str(arrays.pop("case")))
        if "config" not in case:
            worst = {} if args.onnx else preprocessing_worst(case, arrays, weights)
        else:
            worst = model_worst(case, arrays, weights, args.folder, args.onnx)
        is_ok = all(value <= BARS[name] for name, value in worst.items())
        found[path.name] = {"ok": is_ok, "worst": worst}
        numbers = ", ".join(f"{name} {value:.2g}" for name, value in worst.items()) or "nothing to run"
        print(f"{path.name}: {'ok' if is_ok else 'FAILS'}: {numbers}", flush=True)
    print(json.dumps(found))
    return 0 if found and all(x["ok"] for x in found.values()) else 1


def load_weights(path: Path) -> ModuleType:
    """The folder's own weights_downstream.py."""
    spec = importlib.util.spec_from_file_location("weights_downstream", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def preprocessing_worst(case: dict[str, Any], arrays: dict, weights: ModuleType) -> dict[str, float]:
    """The public pipeline's resize and what follows it."""
    h, w = case["img_shape"][:2]
    found = cv2.resize(weights.picture(*case["picture"]), (w, h), interpolation=cv2.INTER_LINEAR)
    corner = weights.prepare(found, case["pad_divisor"])[0, :, -40:, -40:]
    return {
        "resized": float(np.abs(found.astype(int) - arrays["resized"]).max()),
        "normalised_corner": float(np.abs(corner - arrays["normalised_corner"]).max()),
    }


def model_worst(
    case: dict[str, Any], arrays: dict, weights: ModuleType, folder: Path, is_onnx: bool
) -> dict[str, float]:
    """The worst difference of each kind of one file."""
    path = folder / "state_dict" / f"{case['config']}.json"
    shapes = weights.load_shapes(path)
    model = model_fitting(shapes, path)
    drawn = weights.fill(shapes, case["seed"], case["offsets"])
    model.load_state_dict(model.state_dict() | {name: torch.from_numpy(x) for name, x in drawn.items()}, strict=True)
    model.eval()
    divisor = case.get("divisor", 1 if isinstance(model, Segmenter) else 32)
    images = torch.from_numpy(weights.prepare(weights.picture(*case["picture"]), divisor))
    assert list(images.shape) == case["input"], (images.shape, case["input"])
    with torch.no_grad():
        if is_onnx:
            return onnx_worst(model, images)
        if "levels" in case:
            return backbone_worst(model, images, arrays)
        if isinstance(model, Segmenter):
            return segmenter_worst(model, images, case, arrays)
        return detector_worst(model, images, case, arrays, weights)


def backbone_worst(model: Downstream, images: torch.Tensor, arrays: dict) -> dict[str, float]:
    maps = model.backbone(images)
    worst = 0.0
    for level, x in enumerate(maps):
        worst = max(worst, difference(x[0, ::4], arrays[f"level_{level}"]))
    return {"level": worst}


def segmenter_worst(model: Segmenter, images: torch.Tensor, case: dict, arrays: dict) -> dict[str, float]:
    logits = model.logits(images)
    step = next(x for x in range(1, 1 + logits.shape[1]) if len(logits[0, ::x]) == len(arrays["logits"]))
    original = resized(resized(logits, images.shape[2:]), tuple(case["original"]))
    labels = original[0].argmax(dim=0).numpy()
    unsure = np.unpackbits(arrays["unsure_packed"])[: labels.size].reshape(labels.shape).astype(bool)
    return {
        "logits": difference(logits[0, ::step], arrays["logits"]),
        "wrong_labels": float(((labels != arrays["labels"]) & ~unsure).sum()),
    }


def detector_worst(
    model: Downstream, images: torch.Tensor, case: dict, arrays: dict, weights: ModuleType
) -> dict[str, float]:
    levels = model.neck(model.backbone(images))
    is_rcnn = isinstance(model, MaskRCNN)
    logits, deltas = (model.rpn_head if is_rcnn else model.bbox_head)(levels)
    worst = {}
    prefix, step = ("rpn_", 1) if is_rcnn else ("", 8)
    worst[f"{prefix}logits" if is_rcnn else "cls_logits"] = max(
        difference(x[0, ::step], arrays[f"{'rpn_logits' if is_rcnn else 'cls_logits'}_{i}"])
        for i, x in enumerate(logits)
    )
    worst[f"{prefix}deltas"] = max(
        difference(thinned(x[0], arrays[f"{prefix}deltas_{i}"]), arrays[f"{prefix}deltas_{i}"])
        for i, x in enumerate(deltas)
    )
    if is_rcnn:
        rois, scores = proposals(logits, deltas, picture_sizes(images))
        rois = rois[0][scores[0] > 0].numpy()
        worst["proposals"] = max(farthest(rois, arrays["proposals"][:, :4]), farthest(arrays["proposals"][:, :4], rois))
    out = {name: x[0].numpy() for name, x in model(images).items()}
    count = int(out["count"])
    worst["count"] = float(abs(count - len(arrays["boxes"])))
    if worst["count"] == 0:
        scale = weights.metas(case["picture"][:2], case["original"])["scale_factor"]
        boxes = out["boxes"][:count] / scale
        worst |= {
            "boxes": difference(boxes, arrays["boxes"]),
            "scores": difference(out["scores"][:count], arrays["scores"]),
            "wrong_labels": float((out["labels"][:count] != arrays["labels"]).sum()),
        }
        if "masks" in out:
            worst["mask_probabilities"] = difference(out["masks"][:count], arrays["mask_probabilities"])
            worst["mask_pixels_percent"] = mask_pixels_percent(out["masks"][:count], boxes, case, arrays)
    return worst


def thinned(x: torch.Tensor, like: np.ndarray) -> torch.Tensor:
    """Every row and column of a map, or every second, as the file has kept them."""
    return x if tuple(x.shape) == like.shape else x[:, ::2, ::2]


def mask_pixels_percent(masks: np.ndarray, boxes: np.ndarray, case: dict, arrays: dict) -> float:
    """The pixels that differ, of those that are set in the file, over all masks."""
    h, w = case["original"]
    expected = np.unpackbits(arrays["masks_packed"], axis=-1)[:, : h * w].reshape(-1, h, w).astype(bool)
    found = np.stack([pasted(mask, box, h, w).whole(h, w) for mask, box in zip(masks, boxes, strict=True)])
    return 100 * float((found != expected).sum()) / float(expected.sum())


def onnx_worst(model: Downstream, images: torch.Tensor) -> dict[str, float]:
    """The exported graph, float32, through ONNX Runtime against PyTorch."""
    graph = onnx_from_model(folded_from_model(model, *images.shape[2:]), np.dtype(np.float32), {}, {})
    if isinstance(model, Segmenter):
        graph = with_predictions(graph, [CLASS_MAP])
    found = OnnxRunner(Path(graph.graph.name), content=graph.SerializeToString())(images.numpy())
    if isinstance(model, Segmenter):
        logits = model.logits(images)
        best = resized(logits, images.shape[2:])[0].topk(2, dim=0)
        sure = (best.values[0] - best.values[1] >= UNSURE).numpy()
        wrong = (found["labels"][0] != best.indices[0].numpy()) & sure
        return {"logits": difference(found[CLASS_MAP], logits.numpy()), "wrong_labels": float(wrong.sum())}
    expected = {name: x.numpy() for name, x in model(images).items()}
    worst = {"count": float(np.abs(found["count"] - expected["count"]).max())}
    worst["wrong_labels"] = float((found["labels"] != expected["labels"]).sum())
    for name, bar in (("boxes", "boxes"), ("scores", "scores"), ("masks", "mask_probabilities")):
        if name in expected:
            worst[bar] = difference(found[name], expected[name])
    return worst


def farthest(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Of our boxes, the largest distance to the nearest of theirs: of coordinates, the largest difference."""
    return float(np.abs(ours[:, None] - theirs[None]).max(axis=2).min(axis=1).max())


def difference(found: torch.Tensor | np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(np.asarray(found) - expected).max())


if __name__ == "__main__":
    sys.exit(main())
