"""Narrow detectors and segmenters with drawn weights, files that stand for what was made of them, and runners that see.

The weights are random. Where it matters what is found, a runner that knows its images takes the model's place.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from rmt_edge.artifact import ONNX, PLUGIN_ONNX, QUANTIZED, SOURCE, Artifact, identity_of, write_manifest
from rmt_edge.data.dataset import Dataset
from rmt_edge.data.preprocess import Preprocessing
from rmt_edge.model.checkpoint import load_checkpoint
from rmt_edge.model.heads import spec_of
from rmt_edge.model.widths import PUBLIC_WIDTHS, Widths
from rmt_edge.writing import written_whole
from tests.downstream import filled_head

SIZE = Preprocessing(96, 128, crop_ratio=1.0, within=(128, 96))
NAMES = ("cat", "dog", "owl")
# So that some boxes pass the threshold of 0.05.
OFFSETS = {"retina_cls.bias": -2.0, "fc_cls.bias": 1.0}


def write_checkpoint(head: str, folder: Path, classes: int = 3, seed: int = 5) -> Path:
    widths = Widths(**{name: 16 for name, value in vars(PUBLIC_WIDTHS[head]).items() if value})
    model = filled_head(head, "rmt_nano", classes, seed, OFFSETS, widths)
    path = folder / f"{head}.safetensors"
    metadata = {"preprocessing": json.dumps(SIZE.to_dict())}
    if classes == len(NAMES):
        metadata["classes"] = json.dumps(NAMES)
    save_file({name: x.numpy() for name, x in model.state_dict().items()}, path, metadata)
    return path


def onnx_of(checkpoint: Path, folder: Path, recipe: str = "int8") -> Artifact:
    """A file with the manifest of an exported model, and those beside it of its chain; nobody opens them."""
    folder.mkdir(exist_ok=True)
    model = load_checkpoint(checkpoint)
    spec, identity = spec_of(model, SIZE), identity_of(checkpoint)
    stem = f"{checkpoint.stem}.{recipe}"
    details = {"checkpoint": identity, "weights": None, "spec": spec.to_dict(), "preprocessing": SIZE.to_dict()}
    details |= {"num_classes": spec.classes, "variant": spec.variant, "parameters": 1_000_000, "nodes": 400}
    details |= {"relative_error": 1e-4, "plugin_form_relative_error": 1e-4}

    def write(name: str, kind: str, parent: dict[str, str]) -> Artifact:
        path = folder / name
        with written_whole(path) as temporary:
            save_file({kind: np.zeros(1, np.float32)}, temporary)
            return write_manifest(
                temporary, path, kind=kind, parents=[parent], recipe={"name": recipe, "precision": recipe},
                details=details, seconds=0,
            )  # fmt: skip

    quantized = write(f"{stem}.safetensors", QUANTIZED, {"role": SOURCE} | identity)
    onnx = write(f"{stem}.onnx", ONNX, quantized.as_parent())
    write(f"{stem}.plugin.onnx", PLUGIN_ONNX, onnx.as_parent())
    return onnx


class Seer:
    """A runner that knows its images and finds in them what it is told to.

    found: the rows that it finds, by image (detection), or label maps of the pictures; data: the images, in order.
    """

    def __init__(self, data: Dataset, found, has_masks: bool = False):
        inputs = np.concatenate(list(data.batches(SIZE, len(data))))
        self.numbers = {x.tobytes(): i for i, x in enumerate(inputs)}
        self.frames, self.found, self.has_masks = data.frames(SIZE, 0, len(data)), found, has_masks
        self.batches: list[int] = []

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        self.batches.append(len(images))
        which = [self.numbers[x.tobytes()] for x in images]
        return self.maps(which) if isinstance(self.found, list) else self.objects(which)

    def objects(self, which: list[int]) -> dict[str, np.ndarray]:
        scales = [[f.width / f.original_width, f.height / f.original_height] * 2 for f in self.frames]
        boxes = np.stack([self.found["boxes"][i] * np.array(scales[i]) for i in which]).astype(np.float32)
        outputs = {"boxes": boxes, "count": self.found["count"][which].astype(np.int32)}
        outputs |= {name: self.found[name][which] for name in ("scores", "labels")}
        return outputs | ({"masks": self.found["masks"][which].astype(np.float32) / 255} if self.has_masks else {})

    def maps(self, which: list[int]) -> dict[str, np.ndarray]:
        labels = np.zeros((len(which), SIZE.height, SIZE.width), np.uint8)
        for row, i in zip(labels, which, strict=True):
            frame, (h, w) = self.frames[i], self.found[i].shape
            rows, columns = np.arange(frame.height) * h // frame.height, np.arange(frame.width) * w // frame.width
            row[: frame.height, : frame.width] = self.found[i][rows][:, columns]
        return {"labels": labels}


def write_label_maps(
    folder: Path, images: int = 8, classes: int = 3, height: int = 60, width: int = 90
) -> tuple[Path, Path]:
    """Pictures and label maps, 255 where nobody knows; the two folders."""
    rng = np.random.default_rng(2)
    pictures, maps = folder / "images", folder / "labels"
    for x in (pictures, maps):
        x.mkdir(parents=True)
    for i in range(images):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(pictures / f"{i}.jpg")
        blocks = np.kron(rng.integers(0, classes, (height // 15, width // 15)), np.ones((15, 15))).astype(np.uint8)
        blocks[:5] = 255
        Image.fromarray(blocks).save(maps / f"{i}.png")
    return pictures, maps
