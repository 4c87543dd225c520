"""Records of a folder: JSON files beside the pipeline's files, written by bench, sensitivity, search and estimate.

They are read as they are; what one says of a file that lies here must be of that very file. A record may come from
another machine: then its files need not lie here.
"""

import json
from pathlib import Path
from typing import Any

from rmt_edge.artifact import PREDICTIONS, SOURCE
from rmt_edge.errors import RmtEdgeError

LATENCY, SENSITIVITY, SEARCH, ESTIMATE = "latency", "sensitivity", "search", "estimate"
VERDICT = "verdict.json"
# Keys without which a record says nothing; a group, candidate or run without one of its own is refused with it.
_NEEDED = {
    LATENCY: ({"subject", "recipe", "machine", "runs"}, "runs", {"runner", "batch", "p50_ms"}),
    SENSITIVITY: ({"checkpoint", "groups"}, "groups", {"group", "by", "layers", "drop_points"}),
    SEARCH: ({"checkpoint", "device", "batch", "candidates"}, "candidates", {"name", "estimated_latency_ms"}),
    ESTIMATE: ({"subject", "recipe", "device", "estimates"}, "estimates", {"batch", "latency_ms"}),
}


def read_records(folder: Path, kind: str, known: dict[str, str]) -> list[dict[str, Any]]:
    """The records of a kind, by file name, each with its "file". known: name and sha256 of the files that lie here."""
    found = []
    for path in sorted(folder.glob(f"*.{kind}.json")):
        record = read_json(path)
        if record.get("kind") != kind:
            raise RmtEdgeError(
                f"{path} is of kind {record.get('kind')!r}.", f"by its name it is {kind!r}.", "Remove it."
            )
        needed, items, of_item = _NEEDED[kind]
        missing = needed - set(record)
        for item in record.get(items, []):
            missing |= {f"{items}.{key}" for key in of_item - set(item)}
        if missing:
            raise RmtEdgeError(
                f"{path} lacks {', '.join(sorted(missing))}.", do="Make it again with this version of rmt-edge."
            )
        for about in (record.get("subject"), record.get("checkpoint")):
            _check_subject(path, about, known)
        found.append({"file": path.name} | record)
    return found


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RmtEdgeError(f"{path} is not JSON: {error}.", do="Remove it or make it again.") from error
    if not isinstance(value, dict):
        raise RmtEdgeError(f"{path} holds a {type(value).__name__}.", "a record is an object.", "Remove it.")
    return value


def read_device_accuracy(folder: Path, used: set[str], known: dict[str, str]) -> list[dict[str, Any]]:
    """Manifests of predictions of engines, which name the machine that ran them, brought back from their devices.

    The predictions themselves need not lie here. used: the names of the predictions that are in the report already.
    """
    found = []
    for path in sorted(folder.glob("*.predictions.npz.json")):
        manifest = read_json(path)
        if manifest.get("name") in used or manifest.get("kind") != PREDICTIONS:
            continue
        details = manifest.get("details", {})
        if "top1_percent" not in details or "machine" not in details:
            continue
        subject: dict[str, str] = next((x for x in manifest.get("parents", []) if x.get("role") == SOURCE), {})
        _check_subject(path, subject, known)
        found.append(
            {
                "file": path.name,
                "subject": subject,
                "recipe": manifest.get("recipe", {}),
                "details": details,
                "machine": details.get("machine"),
                "versions": manifest.get("versions", {}),
                "created": manifest.get("created", ""),
            }
        )
    return found


def read_verdict(folder: Path, latency: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The verdict on the latencies of this folder; None where there is none. One on other measurements is refused."""
    path = folder / VERDICT
    if not path.is_file():
        return None
    verdict = read_json(path)
    if verdict.get("kind") != "verdict" or not isinstance(verdict.get("rows"), list):
        raise RmtEdgeError(f"{path} is no verdict.", do="Make it again: rmt-edge verdict.")
    known = {(x["subject"]["name"], run["batch"], run["p50_ms"]) for x in latency for run in x["runs"]}
    for row in verdict["rows"]:
        for compared in (row[key] for key in ("fp16", "int8") if key in row):
            if (compared["file"], row["batch"], compared["p50_ms"]) not in known:
                raise RmtEdgeError(
                    f"{path} compares {compared['file']} at {compared['p50_ms']:g} ms, batch {row['batch']}, which no "
                    "latency record here holds.",
                    "it is of other measurements.",
                    "Make it again: rmt-edge verdict.",
                )
    return verdict


def machine_name(machine: dict[str, Any] | None) -> str:
    """What people call a machine: its board, else its first GPU, else its processor."""
    if not machine:
        return "machine not recorded"
    gpus = machine.get("gpus") or []
    name = machine.get("board") or (gpus[0].get("name") if gpus else None) or machine.get("processor") or "unnamed"
    mode = machine.get("power_mode")
    return f"{name}, {mode}" if mode else str(name)


def _check_subject(path: Path, about: dict[str, Any] | None, known: dict[str, str]) -> None:
    """Refuse a record of an earlier version of a file that lies here."""
    if not about or about.get("name") not in known:
        return
    here, there = known[about["name"]], about.get("sha256", "")
    if here != there:
        raise RmtEdgeError(
            f"{path} is about another {about['name']} ({there[:16]}…) than lies there ({here[:16]}…).",
            do=f"Make {path.name} again, or remove it.",
        )
