"""Predict: the classes, boxes, masks or label maps of pictures, by a checkpoint, an ONNX file or an engine.

Each picture becomes `<name>.json` and `<name>.png`, the picture with what was found drawn on it; of a segmenter also
`<name>.labels.png`, a class number a pixel.
"""

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rmt_edge.data.dataset import read_images
from rmt_edge.data.decoding import IMAGE_SUFFIXES, read_image
from rmt_edge.errors import RmtEdgeError
from rmt_edge.pictures.draw import with_labels, with_lines, with_objects
from rmt_edge.pictures.models import Model, open_model
from rmt_edge.progress import progress_bar
from rmt_edge.tasks import detection
from rmt_edge.tasks.label_maps import original_labels
from rmt_edge.tasks.masks import runs_of, string_of
from rmt_edge.tasks.task import Frame, Outputs
from rmt_edge.tasks.tasks import CLASSIFICATION, DETECTION, SEGMENTATION, TASKS
from rmt_edge.writing import output_folder, write_json, written_whole

OUTPUT = Path("predicted")
SCORE = 0.3  # boxes of less are neither drawn nor written
NAMED = 5  # classes of a classifier
logger = logging.getLogger(__name__)

# What was found in a picture, for its JSON file, and the pictures by their names' endings.
Found = tuple[dict[str, Any], dict[str, Image.Image]]


def predict(
    model: Path,
    images: Sequence[Path],
    output: Path = OUTPUT,
    score: float | None = None,
    libraries: Path | None = None,
    device: str | None = None,
) -> list[Path]:
    """Write what the model finds in each picture; returns the JSON files. images: files, or folders of them.

    score: of the boxes to show (SCORE). libraries: see open_engine. device: where PyTorch runs a checkpoint.
    """
    score = SCORE if score is None else score
    if not 0 <= score <= 1:
        raise RmtEdgeError(f"--score is {score:g}.", "it is a probability, 0 to 1.")
    files = image_files(images)
    written = []
    with open_model(model, libraries, device) as opened:
        folder = output_folder(output)
        for file in progress_bar(files, f"predict with {model.name}", unit="image", leave=False):
            content, pictures = found_in(opened, file, score)
            for ending, picture in pictures.items():
                with written_whole(folder / f"{file.stem}{ending}") as temporary:
                    picture.save(temporary, format="PNG")
            written.append(folder / f"{file.stem}.json")
            write_json(written[-1], content)
    logger.info("predict: %d pictures in %s", len(written), folder)
    return written


def image_files(images: Sequence[Path]) -> list[Path]:
    """The files, those of folders included, each under a name of its own."""
    files: list[Path] = []
    for path in images:
        if path.is_dir():
            files += sorted(x for x in path.iterdir() if x.suffix.lower() in IMAGE_SUFFIXES)
        else:
            files.append(path)
    if missing := [x for x in files if not x.is_file()]:
        raise RmtEdgeError(f"There is no picture {missing[0]}.")
    if not files:
        raise RmtEdgeError(f"There are no pictures in {', '.join(str(x) for x in images)}.")
    stems = [x.stem for x in files]
    if twice := [x for x in files if stems.count(x.stem) > 1]:
        raise RmtEdgeError(
            f"{twice[0]} and {twice[1]} would be written to one file.", "what is found has the picture's name.",
            "Name them in calls of their own, with another --output.",
        )  # fmt: skip
    return files


def found_in(model: Model, file: Path, score: float) -> Found:
    """What the model finds in one picture."""
    image = read_image(file)
    outputs = model.run(read_images([file], model.preprocessing))
    TASKS[model.spec.task].check_outputs(outputs, 1, model.spec, file.name)
    frame = Frame(image.height, image.width, image.height, image.width)
    if model.preprocessing.within is not None:
        frame = model.preprocessing.frame(image.height, image.width)
    content, pictures = _FOUND[model.spec.task](model, image, outputs, frame, score)
    about = {"image": file.name, "height": image.height, "width": image.width, "model": model.source}
    return about | {"task": model.spec.task} | content, pictures


def _classes(model: Model, image: Image.Image, outputs: Outputs, frame: Frame, score: float) -> Found:
    logits = outputs["logits"][0].astype(np.float64)
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    best = np.argsort(-shares, kind="stable")[:NAMED].tolist()
    found = [_named(model, x) | {"probability": round(float(shares[x]), 6)} for x in best]
    lines = [f"{x['name']} {100 * x['probability']:.1f} %" for x in found]
    return {"classes": found}, {".png": with_lines(image, lines)}


def _objects(model: Model, image: Image.Image, outputs: Outputs, frame: Frame, score: float) -> Found:
    (record,) = detection.rows_of(outputs, model.spec, [frame])
    row = {name: record[name] for name in record.dtype.names}
    shown = np.flatnonzero(row["scores"][: int(row["count"])] >= score)
    crops = detection.crops_of(row, image.height, image.width) if model.spec.has_masks else []
    labels = row["labels"][shown].tolist()
    found = []
    for i, label in zip(shown.tolist(), labels, strict=True):
        entry = _named(model, label) | {"score": round(float(row["scores"][i]), 6)}
        entry["box"] = [round(float(x), 3) for x in row["boxes"][i]]
        if crops:
            runs = runs_of(crops[i].whole(image.height, image.width))
            entry["mask"] = {"size": [image.height, image.width], "counts": string_of(runs)}
        found.append(entry)
    captions = [f"{x['name']} {x['score']:.2f}" for x in found]
    masks = [crops[i] for i in shown] if crops else []
    return {"objects": found}, {".png": with_objects(image, row["boxes"][shown], labels, captions, masks)}


def _labels(model: Model, image: Image.Image, outputs: Outputs, frame: Frame, score: float) -> Found:
    _, labels = original_labels({name: x[0] for name, x in outputs.items()}, model.spec, frame)
    pixels = np.bincount(labels.ravel().astype(np.int64))
    found = [
        _named(model, x) | {"pixels": int(pixels[x]), "percent": round(100 * float(pixels[x]) / labels.size, 3)}
        for x in np.argsort(-pixels, kind="stable").tolist()
        if pixels[x]
    ]
    map_of = Image.fromarray(labels.astype(np.uint8 if model.spec.classes <= 256 else np.uint16))
    return {"labels": found}, {".png": with_labels(image, labels), ".labels.png": map_of}


def _named(model: Model, label: int) -> dict[str, Any]:
    return {"class": label, "name": model.class_names[label] if model.class_names else str(label)}


_FOUND: dict[str, Callable[[Model, Image.Image, Outputs, Frame, float], Found]] = {
    CLASSIFICATION: _classes,
    DETECTION: _objects,
    SEGMENTATION: _labels,
}


def summary(path: Path) -> str:
    """What a JSON file of `predict` says, in a line."""
    content = json.loads(path.read_text())
    if "classes" in content:
        told = [f"{x['name']} {100 * x['probability']:.1f} %" for x in content["classes"][:3]]
    elif "objects" in content:
        told = [f"{x['name']} {x['score']:.2f}" for x in content["objects"][:5]]
        told += [f"and {more} more"] if (more := len(content["objects"]) - 5) > 0 else []
    else:
        told = [f"{x['name']} {x['percent']:.1f} %" for x in content["labels"][:5]]
    return f"{content['image']}: {', '.join(told) or 'nothing'}"
