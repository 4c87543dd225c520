"""The records that come back from a board: each is held to the bundle and to the board before it lies in the folder.

What a board's files say of themselves is not believed. An engine must be built from an ONNX file of the bundle,
 predictions and latencies must be of such an engine or of such a file, and all must be of the machine that
`doctor` saw there, in the power mode that was asked for.
"""

import json
import re
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

from rmt_edge.artifact import CHECKPOINT, ENGINE, ONNX, PREDICTIONS, SOURCE, SUBSET, Manifest, read_manifest
from rmt_edge.bundle.bundle import Index
from rmt_edge.bundle.subset import IMAGES
from rmt_edge.errors import RmtEdgeError
from rmt_edge.fleet.plan import DEFAULT
from rmt_edge.latency.candidates import check_accuracy
from rmt_edge.latency.record import SUFFIX as LATENCY
from rmt_edge.latency.record import identity_differences, machine_identity, read_latency_record
from rmt_edge.latency.verdict import SUFFIX as VERDICT
from rmt_edge.report.records import read_latencies, read_verdicts

VALIDATE = "validate"
MAX_BYTES = 64 << 20  # of one record; 64 MiB are two million samples
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,200}\.json")
# Of a machine, what neither the power mode nor the run's own kind of measuring changes; `bench` alone names the CPU.
_FACTS = ("processor", "board", "jetpack", "gpu", "compute_capability", "driver_version", "tensorrt")


def check_name(board: str, name: str) -> str:
    """A record's path, `<power mode>/<file>.json`; an error for any other."""
    parts = PurePosixPath(name).parts
    if len(parts) != 2 or not all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", x) for x in parts):
        raise RmtEdgeError(f"{board} has a record {name!r}.", "rmt-edge writes none of such a name.")
    if not _NAME.fullmatch(parts[1]):
        raise RmtEdgeError(f"{board} has a record {name!r}.", "rmt-edge writes none of such a name.")
    return name


def take_in(folder: Path, board: str, contents: dict[str, bytes], index: Index, machine: dict[str, Any]) -> None:
    """Check the records of a run, all of them together, and put them into the board's folder, `<mode>/<file>.json`.

    contents: by their paths on the board. Records of an earlier run that are not among them are removed.
    """
    incoming = folder / ".incoming"
    shutil.rmtree(incoming, ignore_errors=True)
    try:
        for name, content in contents.items():
            path = incoming / check_name(board, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        check_records(incoming, board, index, machine)
        for place in [x for x in folder.iterdir() if x.is_dir() and not x.name.startswith(".") and x.name != "logs"]:
            for path in place.glob("*.json"):
                if not (incoming / place.name / path.name).exists():
                    path.unlink()
        for path in sorted(incoming.glob("*/*.json")):
            target = folder / path.relative_to(incoming)
            target.parent.mkdir(exist_ok=True)
            path.replace(target)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)


def check_records(folder: Path, board: str, index: Index, machine: dict[str, Any]) -> None:
    """Refuse the records of a folder unless all belong to the bundle and the machine."""
    models = {x.sha256 for x in index.members if x.name.endswith(".onnx")}
    subjects = set(models)
    paths = sorted(folder.glob("*/*.json"))
    for path in [x for x in paths if x.name.endswith(".engine.json")]:
        engine = _manifest(path, ENGINE)
        if engine.source["sha256"] not in models:
            _refuse(board, path, f"its engine was built from another {engine.source['name']}")
        subjects.add(engine.sha256)
    for path in paths:
        if path.name.endswith(".onnx.json"):
            if _manifest(path, ONNX).sha256 not in models:
                _refuse(board, path, "its file is not in the bundle")
        elif path.name.endswith(".predictions.npz.json"):
            _check_predictions(path, board, index, subjects, machine)
        elif path.name.endswith(LATENCY):
            record = read_latency_record(path)
            if record.subject["sha256"] not in subjects:
                _refuse(board, path, f"{record.subject['name']} is neither in the bundle nor built from it")
            _check_machine(board, path, record.machine, machine)
            mode = path.parent.name
            if mode != DEFAULT and record.machine.get("power_mode") != mode:
                _refuse(board, path, f"it was measured in the power mode {record.machine.get('power_mode')}")
        elif not path.name.endswith((VERDICT, ".engine.json")):
            _refuse(board, path, "it is of no kind that a run makes")
    for place in {x.parent for x in paths}:
        read_verdicts(place, read_latencies(place, {}))  # a verdict on other latencies is refused


def _check_predictions(path: Path, board: str, index: Index, subjects: set[str], machine: dict[str, Any]) -> None:
    manifest = _manifest(path, PREDICTIONS)
    wanted = {CHECKPOINT: {index.checkpoint["sha256"]}, SUBSET: {str(index.sha256_of(IMAGES))}, SOURCE: subjects}
    for role, allowed in wanted.items():
        found = manifest.find_parent(role) or {}
        if found.get("sha256") not in allowed:
            _refuse(board, path, f"it names another {role}, {found.get('name')}")
    check_accuracy(manifest.name, manifest.details)
    if "machine" in manifest.details:
        _check_machine(board, path, manifest.details["machine"], machine)


def _check_machine(board: str, path: Path, there: dict[str, Any], machine: dict[str, Any]) -> None:
    ours, theirs = machine_identity(machine), machine_identity(there)
    for key, (expected, found) in identity_differences(ours, theirs).items():
        if key in _FACTS:
            _refuse(board, path, f"it is of a machine with {key} {found}; the board's is {expected}")


def _manifest(path: Path, kind: str) -> Manifest:
    manifest = read_manifest(path.with_suffix(""))
    if manifest.kind != kind:
        raise RmtEdgeError(f"{path.name} is of kind {manifest.kind!r}, not {kind!r}.")
    return manifest


def _refuse(board: str, path: Path, why: str) -> None:
    raise RmtEdgeError(
        f"{path.parent.name}/{path.name} of {board} is refused: {why}.",
        "it does not belong to this bundle on this board.",
        "Measure again: rmt-edge fleet BOARDS.toml run BUNDLE --again.",
    )


def records_of(folder: Path) -> dict[str, Any]:
    """What a board's folder holds, for the page: latencies and verdicts by power mode, and accuracies."""
    modes = {}
    for place in sorted(x for x in folder.iterdir() if x.is_dir() and x.name not in ("logs", VALIDATE)):
        latencies = read_latencies(place, {})
        modes[place.name] = {"latency": latencies, "verdicts": read_verdicts(place, latencies)}
    accuracy = {}
    for path in sorted((folder / VALIDATE).glob("*.predictions.npz.json")):
        manifest = json.loads(path.read_text(encoding="utf-8"))
        source = next(x for x in manifest["parents"] if x["role"] == SOURCE)
        accuracy[source["sha256"]] = {"name": source["name"], "recipe": manifest["recipe"]} | manifest["details"]
    return {"modes": modes, "accuracy": accuracy}
