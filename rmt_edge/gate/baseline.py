"""Baseline: what a folder of results reached, in one JSON file to commit beside one's code.

It holds, for each recipe that was validated (and each engine that was), its accuracy with what each image contributes
to it (of a classifier one bit), so that later results are compared on the very same images, the sizes of its files, and
its latencies with the machine. gate/gate.py holds later results to it. Reads manifests, predictions and latency
records; numpy only.
"""

import datetime
import json
import logging
from pathlib import Path
from typing import Any

from rmt_edge import __version__
from rmt_edge.accuracy.predictions import rows_in
from rmt_edge.artifact import (
    DATA,
    ENGINE,
    ONNX,
    PLUGIN_ONNX,
    PREDICTIONS,
    SUBSET,
    Artifact,
    ArtifactFolder,
    Manifest,
    check_parent,
    plugin_form_path,
    read_manifest,
    write_json,
)
from rmt_edge.errors import RmtEdgeError
from rmt_edge.latency.record import check_fields, machine_identity, read_latency_record, record_path
from rmt_edge.tasks.comparison import Tally
from rmt_edge.tasks.tasks import CLASSIFICATION, accuracy_in, task_of

KIND = "baseline"
NAME = "baseline.json"
# What the gate reads of each subject, and of each of its latencies.
_SUBJECT = {
    "task": str, "metric": str, "percent": float, "data": dict[str, str], "images": int, "size_bytes": dict[str, int],
    "latency": list[dict[str, Any]],
}  # fmt: skip
_LATENCY = {
    "file": str, "machine": dict[str, Any], "runner": str, "batch": int, "transfers": bool, "cuda_graph": bool,
    "p50_ms": float,
}  # fmt: skip
_ACCURACY = ("metric", "percent", "reference_percent", "drop_points", "agreement_percent")
logger = logging.getLogger(__name__)


def write_baseline(folder: Path, output: Path | None = None) -> Path:
    """Write the baseline of a folder of results into it, or to `output`; returns its path."""
    path = output or folder / NAME
    created = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    content = {"kind": KIND, "rmt_edge": __version__, "created": created, "subjects": results_of(folder)}
    write_json(path, content)
    return path


def read_baseline(path: Path) -> dict[str, dict[str, Any]]:
    """The subjects of a baseline, by name, with the tallies of their metrics (tasks/) under "tallies".

    A baseline of the first version, which knew classifiers alone, is read as well.
    """
    if not path.is_file():
        raise RmtEdgeError(
            f"There is no baseline {path}.", do=f"Write it from good results: rmt-edge baseline FOLDER --output {path}"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["kind"] != KIND:
            raise RmtEdgeError(f"{path} is of kind {content['kind']!r}.", f"this step takes {KIND!r}.")
        for name, subject in content["subjects"].items():
            if "top1_percent" in subject:
                subject |= _neutral(subject)
            check_fields(subject, _SUBJECT, name)
            subject["tallies"] = tallies_of(subject)
            for run in subject["latency"]:
                check_fields(run, _LATENCY, f"{name}.latency")
        return content["subjects"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RmtEdgeError(
            f"{path} is not a baseline: {type(error).__name__} {error}.",
            do=f"Write it again: rmt-edge baseline FOLDER --output {path}",
        ) from error


def results_of(path: Path) -> dict[str, dict[str, Any]]:
    """The subjects of a folder of results, or the one of a predictions file, as a baseline holds them, by name.

    A recipe's name stands for its ONNX file, with "subset" for its run on a bundle's validation subset; the recipe,
    device profile and kernels for an engine.
    """
    if path.is_file():
        found = [path]
    elif path.is_dir():
        found = [x for x in sorted(path.glob("*.predictions.npz")) if _has_accuracy(read_manifest(x))]
    else:
        raise RmtEdgeError(f"There is no folder or predictions file {path}.")
    folder = ArtifactFolder(found[0].parent if found else path)
    if not found:
        raise RmtEdgeError(f"{path} holds no predictions.", do="Run `rmt-edge validate` or `deploy` first.")
    subjects: dict[str, dict[str, Any]] = {}
    for predictions in found:
        name, subject = _subject(folder, predictions.name)
        if name in subjects:
            raise RmtEdgeError(
                f"{path} holds predictions of two models named {name}.", do="Use one folder for each checkpoint."
            )
        subjects[name] = subject
    return dict(sorted(subjects.items()))


def _has_accuracy(manifest: Manifest) -> bool:
    """Whether predictions have an accuracy; those of the float32 reference are what others are compared with."""
    return accuracy_in(manifest.details) is not None


def _subject(folder: ArtifactFolder, name_of_file: str) -> tuple[str, dict[str, Any]]:
    """The name of what predicted, and what is known about it."""
    predictions = folder.read(name_of_file, PREDICTIONS)
    manifest = predictions.manifest
    if not _has_accuracy(manifest):
        what = f"{predictions.path} holds the float32 reference's predictions."
        raise RmtEdgeError(what, "a subject is an ONNX file or engine.")
    kind = ENGINE if manifest.source["name"].endswith(".engine") else ONNX
    model = folder.read(manifest.source["name"], kind)
    check_parent(manifest, model.manifest)
    files = {_label(model): model}
    name = predictions.recipe["name"]
    images = manifest.find_parent(SUBSET)
    if kind == ENGINE:
        name = f"{name} {_label(model)}"
    else:
        name += ", subset" if images else ""
        files |= {_label(engine): engine for engine in _engines_of(folder, model)}
    details, task = accuracy_in(predictions.details), task_of(predictions.details)
    assert details is not None
    return name, {
        "task": details.get("task", CLASSIFICATION),
        "recipe": predictions.recipe,
        "checkpoint": model.details["checkpoint"],
        "model": model.identity | {"kind": kind},
        "data": {key: (images or manifest.parent(DATA))[key] for key in ("name", "sha256")},
        "images": details["images"],
        "runtime": details["runtime"],
        **{key: details[key] for key in _ACCURACY},
        "tallies": {metric: x.to_dict() for metric, x in task.tallies_in(rows_in(predictions)).items()},
        "size_bytes": {label: file.manifest.size_bytes for label, file in files.items()},
        "latency": [x for label, file in files.items() for x in _latencies(label, file)],
    }


def tallies_of(subject: dict[str, Any]) -> dict[str, Tally]:
    """What each image contributes to each metric of a subject of `results_of`."""
    task = task_of(subject)
    return {name: task.tally_from_dict(name, x, subject["images"]) for name, x in subject["tallies"].items()}


def _neutral(subject: dict[str, Any]) -> dict[str, Any]:
    """A subject of a baseline of the first version by today's keys."""
    found = accuracy_in(subject) or {}
    return found | {"task": CLASSIFICATION, "tallies": {found["metric"]: {"hits": subject["hits"]}}}


def _label(file: Artifact) -> str:
    """The name under which a file is compared with its like: it says what the file is, and not what it is called."""
    if file.manifest.kind == ONNX:
        return ONNX
    return f"{ENGINE} {file.details['profile']['name']} {file.details['kernels']}"


def _engines_of(folder: ArtifactFolder, onnx: Artifact) -> list[Artifact]:
    """The engines beside an ONNX file that were made from it or from its plugin form."""
    found = []
    for path in sorted(folder.path.glob("*.engine")):
        engine = folder.read(path.name, ENGINE)
        source = engine.manifest.source
        if source["name"] == plugin_form_path(onnx.path).name:
            plugin_form = folder.read(source["name"], PLUGIN_ONNX)
            check_parent(plugin_form.manifest, onnx.manifest)
            check_parent(engine.manifest, plugin_form.manifest)
            found.append(engine)
        elif source["sha256"] == onnx.sha256:
            found.append(engine)
    return found


def _latencies(label: str, file: Artifact) -> list[dict[str, Any]]:
    """The medians in the latency record of a file, each with its machine; none without a record of this very file."""
    path = record_path(file.path)
    if not path.is_file():
        return []
    record = read_latency_record(path)
    if record.subject["sha256"] != file.sha256:
        logger.warning("%s is of another %s than lies there: left out.", path.name, file.path.name)
        return []
    machine = machine_identity(record.machine)
    return [
        {"file": label, "machine": machine}
        | {key: getattr(run, key) for key in ("runner", "batch", "transfers", "cuda_graph", "p50_ms")}
        for run in record.runs
        if not run.is_peer  # PyTorch beside it is not the file's
    ]
