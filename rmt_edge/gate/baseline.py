"""Baseline: what a folder of results reached, in one JSON file to commit beside one's code.

It holds, for each recipe that was validated (and each engine that was), its accuracy with one bit per image, so that
later results are compared on the very same images, the sizes of its files, and its latencies with the machine.
gate/gate.py holds later results to it. Reads manifests, predictions and latency records; numpy only.
"""

import base64
import datetime
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from rmt_edge import __version__
from rmt_edge.artifact import (
    ENGINE,
    ONNX,
    PLUGIN_ONNX,
    PREDICTIONS,
    Manifest,
    check_parent,
    manifest_path,
    plugin_form_path,
    read_manifest,
    write_json,
)
from rmt_edge.errors import RmtEdgeError
from rmt_edge.metrics import hits

KIND = "baseline"
NAME = "baseline.json"
# Whose latency a record of a file states; what else it lists (PyTorch beside it) is not the file's.
_RUNNERS = {ONNX: ("onnxruntime",), ENGINE: ("tensorrt", "tensorrt_rtx")}
_PARENTS_ON_SUBSET = 4  # the file, the checkpoint, the data set, the images of its subset (bundle/validate.py)
logger = logging.getLogger(__name__)


def write_baseline(folder: Path, output: Path | None = None) -> Path:
    """Write the baseline of a folder of results into it, or to `output`; returns its path."""
    path = output or folder / NAME
    created = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    content = {"kind": KIND, "rmt_edge": __version__, "created": created, "subjects": results_of(folder)}
    write_json(path, content)
    return path


def read_baseline(path: Path) -> dict[str, dict[str, Any]]:
    """The subjects of a baseline, by name, with the hits as booleans."""
    if not path.is_file():
        raise RmtEdgeError(
            f"There is no baseline {path}.", do=f"Write it from good results: rmt-edge baseline FOLDER --output {path}"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["kind"] != KIND:
            raise RmtEdgeError(f"{path} is of kind {content['kind']!r}.", f"this step takes {KIND!r}.")
        for subject in content["subjects"].values():
            subject["hits"] = unpacked(subject["hits"], subject["images"])
        return content["subjects"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RmtEdgeError(
            f"{path} is not a baseline: {type(error).__name__} {error}.",
            do=f"Write it again: rmt-edge baseline FOLDER --output {path}",
        ) from error


def results_of(path: Path) -> dict[str, dict[str, Any]]:
    """The subjects of a folder of results, or the one of a predictions file, as a baseline holds them, by name.

    A recipe's name stands for its ONNX file, with "subset" for its run on a bundle's validation subset; the recipe,
    device profile and retention for an engine.
    """
    if path.is_file():
        found = [path]
    elif path.is_dir():
        found = [x for x in sorted(path.glob("*.predictions.npz")) if _is_of_a_file(x)]
    else:
        raise RmtEdgeError(f"There is no folder or predictions file {path}.")
    if not found:
        raise RmtEdgeError(f"{path} holds no predictions.", do="Run `rmt-edge validate` or `deploy` first.")
    subjects: dict[str, dict[str, Any]] = {}
    for predictions in found:
        name, subject = _subject(predictions)
        if name in subjects:
            raise RmtEdgeError(
                f"{path} holds predictions of two models named {name}.", do="Use one folder for each checkpoint."
            )
        subjects[name] = subject
    return dict(sorted(subjects.items()))


def _is_of_a_file(path: Path) -> bool:
    """Whether predictions have an accuracy; those of the float32 reference are what others are compared with."""
    return "top1_percent" in read_manifest(path, PREDICTIONS).details


def _subject(path: Path) -> tuple[str, dict[str, Any]]:
    """The name of what predicted and what is known about it."""
    predictions = read_manifest(path, PREDICTIONS)
    if "top1_percent" not in predictions.details:
        raise RmtEdgeError(f"{path} holds the float32 reference's predictions.", "a subject is an ONNX file or engine.")
    model_path = path.parent / predictions.parents[0]["name"]
    kind = ENGINE if model_path.suffix == ".engine" else ONNX
    model = read_manifest(model_path, kind)
    check_parent(predictions, model)
    files = {_label(model): model_path}
    name = predictions.recipe["name"]
    if kind == ENGINE:
        name = f"{name} {_label(model)}"
    else:
        name += ", subset" if len(predictions.parents) == _PARENTS_ON_SUBSET else ""
        files |= {_label(engine): path for path, engine in _engines_of(model_path, model)}
    details = predictions.details
    return name, {
        "recipe": predictions.recipe,
        "checkpoint": model.details["checkpoint"],
        "model": {"name": model.name, "sha256": model.sha256, "kind": kind},
        "data": predictions.parents[-1],
        "images": details["images"],
        "runtime": details["runtime"],
        **{key: details[key] for key in ("top1_percent", "reference_top1_percent", "drop_points", "agreement_percent")},
        "hits": packed(_hits(path)),
        "size_bytes": {label: file.stat().st_size for label, file in files.items()},
        "latency": [x for label, file in files.items() for x in _latencies(label, file)],
    }


def _label(manifest: Manifest) -> str:
    """What a file is among those of its recipe, whatever its name."""
    if manifest.kind == ONNX:
        return ONNX
    return f"{ENGINE} {manifest.details['profile']['name']} {manifest.details['retention']}"


def _engines_of(onnx_path: Path, onnx: Manifest) -> list[tuple[Path, Manifest]]:
    """The engines beside an ONNX file that were made from it or from its plugin form."""
    found = []
    for path in sorted(onnx_path.parent.glob("*.engine")):
        engine = read_manifest(path, ENGINE)
        if engine.parents[0]["sha256"] == onnx.sha256:
            found.append((path, engine))
        elif engine.parents[0]["name"] == plugin_form_path(onnx_path).name:
            plugin_form = read_manifest(plugin_form_path(onnx_path), PLUGIN_ONNX)
            check_parent(plugin_form, onnx)
            check_parent(engine, plugin_form)
            found.append((path, engine))
    return found


def _hits(path: Path) -> np.ndarray:
    """Which images are right. (n,) bool."""
    with np.load(path) as arrays:
        if "labels" not in arrays:
            raise RmtEdgeError(
                f"{path} holds no labels.", "an earlier rmt-edge wrote it.", "Run `rmt-edge validate` again."
            )
        return hits(arrays["classes"][:, :1], arrays["labels"])


def _latencies(label: str, path: Path) -> list[dict[str, Any]]:
    """The medians in the latency record of a file, each with its machine; none without a record of this very file."""
    record_path = path.with_name(f"{path.stem}.latency.json")
    if not record_path.is_file():
        return []
    try:
        record = json.loads(record_path.read_text(encoding="utf-8"))
        manifest = json.loads(manifest_path(path).read_text(encoding="utf-8"))
        if record["subject"]["sha256"] != manifest["sha256"]:
            logger.warning("%s is of another %s than lies there: left out.", record_path.name, path.name)
            return []
        machine = machine_facts(record["machine"])
        return [
            {"file": label, "machine": machine}
            | {key: run[key] for key in ("runner", "batch", "transfers", "cuda_graph", "p50_ms")}
            for run in record["runs"]
            if run["runner"] in _RUNNERS[manifest["kind"]]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise RmtEdgeError(
            f"{record_path} is not a latency record: {type(error).__name__} {error}.",
            do="Measure again, or remove it.",
        ) from error


def machine_facts(machine: dict[str, Any]) -> dict[str, Any]:
    """What must be equal for two latencies to be compared: of a machine, all that does not change by itself."""
    facts = {key: machine.get(key) for key in ("processor", "cpu", "cpus", "board", "power_mode")}
    return facts | {"gpus": [gpu.get("name") for gpu in machine.get("gpus") or []]}


def packed(hits: np.ndarray) -> str:
    """Booleans as base64 of their bits, the first image in the highest bit of the first byte."""
    return base64.b64encode(np.packbits(hits).tobytes()).decode()


def unpacked(text: str, count: int) -> np.ndarray:
    """The booleans of `packed`. (count,) bool."""
    bits = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    if len(bits) != -(-count // 8):
        raise ValueError(f"{len(bits)} bytes of hits for {count} images")
    return np.unpackbits(bits, count=count).astype(bool)
