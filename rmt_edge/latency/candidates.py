"""Candidates: the measured files of a folder that a verdict compares, each with the accuracy that counts for it.

Latency records and manifests of predictions are tied to each other by the files' sha256. The accuracy of an engine is
what that very engine predicted on such a GPU, with plugins or without them: its kernels are chosen and compiled where
it is built, and nobody has run them elsewhere. The accuracy of its ONNX file is that of ONNX Runtime's runs alone.

Any precision but FP16 and FP32 is a reduced one.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmt_edge.artifact import ENGINE, ONNX, PREDICTIONS, SOURCE, Manifest, manifest_path, read_artifact
from rmt_edge.errors import RmtEdgeError
from rmt_edge.latency.record import (
    LatencyRecord,
    Run,
    check_fields,
    check_machine,
    identity_differences,
    machine_identity,
)
from rmt_edge.tasks.tasks import accuracy_in

FP16 = "fp16"
NOT_REDUCED = (FP16, "fp32")
# Facts of a machine on which an engine's accuracy may depend; its power mode changes no logit.
ACCURACY_FACTS = ("gpu", "compute_capability")
_MANIFEST = {
    "name": str, "kind": str, "sha256": str, "parents": list[dict[str, str]], "recipe": dict[str, Any],
    "details": dict[str, Any],
}  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """One run of a measured file, and the file's accuracy if it was validated."""

    file: str
    kind: str
    precision: str
    run: Run
    accuracy: dict[str, Any] | None


def manifests_of(folder: Path) -> dict[str, Manifest]:
    """All manifests of a folder by the sha256 of their files, which need not be there themselves."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            check_fields(value, _MANIFEST)
            manifest = Manifest(**value)
        except (ValueError, TypeError, RecursionError):
            continue  # another kind of JSON
        found[manifest.sha256] = manifest
    return found


def candidates_of(
    folder: Path, path: Path, record: LatencyRecord, manifests: dict[str, Manifest]
) -> Iterable[Candidate]:
    """A record's runs but for PyTorch's and FP32's; its file must be the one that lies in the folder."""
    name, sha256, kind = (record.subject[key] for key in ("name", "sha256", "kind"))
    file = folder / name
    if file.is_file():
        read_artifact(file, kind)
    if sha256 not in manifests:
        raise RmtEdgeError(
            f"{path.name} was measured on another {name} ({sha256[:16]}…) than {manifest_path(file).name} describes.",
            do=f"Measure again: rmt-edge bench {name}",
        )
    if record.precision == "fp32":
        return []
    accuracy = _accuracy(folder, record, manifests.values())
    return [Candidate(name, kind, record.precision, run, accuracy) for run in record.runs if not run.is_peer]


def _accuracy(folder: Path, record: LatencyRecord, manifests: Iterable[Manifest]) -> dict[str, Any] | None:
    """The details of the file's own predictions; of several those on most images. An engine's are of such a GPU."""
    found = []
    for manifest in manifests:
        source = manifest.find_parent(SOURCE)
        is_of_it = manifest.kind == PREDICTIONS and source and source["sha256"] == record.subject["sha256"]
        if not is_of_it or accuracy_in(manifest.details) is None:
            continue
        check_accuracy(manifest.name, manifest.details)
        if record.subject["kind"] == ENGINE and "machine" in manifest.details:
            there, here = (machine_identity(x) for x in (manifest.details["machine"], record.machine))
            if set(identity_differences(there, here)) & set(ACCURACY_FACTS):
                continue
        if (folder / manifest.name).is_file():
            read_artifact(folder / manifest.name, PREDICTIONS)
        found.append(accuracy_in(manifest.details) or {})
    return max(found, key=lambda x: x["images"], default=None)


def reduced_names(folder: Path) -> str:
    """The reduced precisions of the folder's models, for messages."""
    names = {str(x.recipe.get("precision")).upper() for x in manifests_of(folder).values() if _is_reduced(x)}
    return " or ".join(sorted(names)) or "An 8-bit format"


def _is_reduced(manifest: Manifest) -> bool:
    precision = manifest.recipe.get("precision")
    return manifest.kind in (ENGINE, ONNX) and precision is not None and precision not in NOT_REDUCED


def files_to_measure(folder: Path, runner: str = "") -> str:
    """The FP16 and reduced files of a folder, as the arguments of bench; engines unless ONNX Runtime is meant."""
    manifests = [x for x in manifests_of(folder).values() if x.recipe.get("precision") == FP16 or _is_reduced(x)]
    for kind in [ONNX] if runner == "onnxruntime" else [ENGINE, ONNX]:
        if names := [x.name for x in manifests if x.kind == kind]:
            return " ".join(str(folder / name) for name in sorted(names))
    return "FILE FILE"


def check_accuracy(name: str, details: dict[str, Any]) -> None:
    """Refuse predictions whose manifest does not say what their validation judged. name: of the predictions."""
    expected = {
        "drop_points": float, "drop_interval_points": list[float], "max_drop_points": float,
        "within_max_drop": bool, "images": int,
    }  # fmt: skip
    try:
        check_fields(details, expected, "details")
        if len(details["drop_interval_points"]) != 2:
            raise ValueError("details.drop_interval_points are not two")
        if "machine" in details:
            check_machine(details["machine"], "details.machine")
    except ValueError as error:
        what = f"{manifest_path(Path(name))} does not say how accurate they are: {error}."
        raise RmtEdgeError(what, do="Validate again: rmt-edge validate.") from error
