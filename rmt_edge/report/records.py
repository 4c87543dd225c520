"""Records of a folder: JSON files beside the pipeline's files, written by bench, sensitivity, search and estimate.

They are read as they are; what one says of a file that lies here must be of that very file. A record may come from
another machine: then its files need not lie here.
"""

import json
from pathlib import Path
from typing import Any

from rmt_edge.artifact import PREDICTIONS, SOURCE
from rmt_edge.errors import RmtEdgeError
from rmt_edge.latency.candidates import check_accuracy
from rmt_edge.latency.record import (
    KIND,
    check_fields,
    check_machine,
    check_present,
    machine_labels,
    machine_name,
    read_json_record,
    read_latency_records,
)
from rmt_edge.latency.verdict import SUFFIX
from rmt_edge.tasks.tasks import accuracy_in

LATENCY, SENSITIVITY, SEARCH, ESTIMATE = KIND, "sensitivity", "search", "estimate"
_FILE = {"name": str, "sha256": str}
_ITEMS = list[dict[str, Any]]
# What a record must say, with its types: of itself, the name of its items, and what each of them must say.
_NEEDED: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    SENSITIVITY: (
        {"checkpoint": dict[str, str], "groups": _ITEMS},
        "groups",
        {"group": str, "by": str, "layers": list[str], "drop_points": float | None, "agreement_percent": float},
    ),
    SEARCH: (
        {"checkpoint": dict[str, str], "device": str, "batch": int, "candidates": _ITEMS},
        "candidates",
        {"name": str, "estimated_latency_ms": float},
    ),
    ESTIMATE: (
        {"subject": dict[str, str], "recipe": dict[str, Any], "device": dict[str, Any], "estimates": _ITEMS},
        "estimates",
        {"batch": int, "latency_ms": float},
    ),
}
_NAMED = {"name": str}
# What an item may say, where it does.
_OPTIONAL = {
    "drop_points": float | None, "drop_interval_points": list[float] | None, "predicted_drop_points": float | None,
    "measured_latency_ms": float | None, "kl_nats": float | None,
}  # fmt: skip


def read_latencies(folder: Path, known: dict[str, str]) -> list[dict[str, Any]]:
    """The latency records of a folder as report.json holds them, each with its "file" and its machine's name, by
    file name.

    known: name and sha256 of the files that lie here, of which a record must be if it names one of them.
    """
    found = []
    records = read_latency_records(folder)
    labels = machine_labels(x.machine for x in records.values())
    for (path, record), label in zip(records.items(), labels, strict=True):
        _check_subject(path, record.subject, known)
        found.append({"file": path.name, "on": label} | record.to_dict())
    return found


def read_records(folder: Path, kind: str, known: dict[str, str]) -> list[dict[str, Any]]:
    """The records of another kind, by file name, each with its "file". known: see read_latencies."""
    found = []
    for path in sorted(folder.glob(f"*.{kind}.json")):
        expected, items, of_item = _NEEDED[kind]
        try:
            record = read_json_record(path, kind)
            check_fields(record, expected)
            for i, item in enumerate(record[items]):
                check_fields(item, of_item, f"{items}[{i}]")
                check_present(item, _OPTIONAL, f"{items}[{i}]")
            for name in {"subject", "checkpoint"} & set(expected):
                check_fields(record[name], _FILE, name)
            for name in ("recipe", "device") if kind == ESTIMATE else ():
                check_fields(record[name], _NAMED, name)
        except ValueError as error:
            raise RmtEdgeError(
                f"{path} is not a record of kind {kind!r}: {error}.",
                do="Make it again with this version of rmt-edge, or remove it.",
            ) from error
        for about in (record.get("subject"), record.get("checkpoint")):
            _check_subject(path, about, known)
        found.append({"file": path.name} | record)
    return found


def read_device_accuracy(folder: Path, used: set[str], known: dict[str, str]) -> list[dict[str, Any]]:
    """Manifests of predictions of engines, which name the machine that ran them, brought back from their devices.

    The predictions themselves need not lie here. used: the names of the predictions that are in the report already.
    """
    found = []
    for path in sorted(folder.glob("*.predictions.npz.json")):
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            check_fields(manifest, {"name": str, "kind": str, "parents": list[dict[str, str]]})
            check_fields(manifest, {"details": dict[str, Any], "recipe": dict[str, Any]})
        except (ValueError, RecursionError) as error:
            what = f"{path} is not a manifest of predictions: {error}."
            raise RmtEdgeError(what, do="Remove it, or validate again: rmt-edge validate.") from error
        details = accuracy_in(manifest["details"])
        if manifest["name"] in used or manifest["kind"] != PREDICTIONS or details is None or "machine" not in details:
            continue
        check_accuracy(manifest["name"], details)
        subject: dict[str, str] = next((x for x in manifest["parents"] if x.get("role") == SOURCE), {})
        _check_subject(path, subject, known)
        found.append(
            {
                "file": path.name,
                "subject": subject,
                "recipe": manifest["recipe"],
                "details": details,
                "machine": details["machine"],
                "on": machine_name(details["machine"]),
                "versions": manifest.get("versions", {}),
                "created": manifest.get("created", ""),
            }
        )
    return found


def read_verdicts(folder: Path, latency: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The verdicts on the latencies of this folder, one a machine. One on other measurements is refused."""
    known = {(x["subject"]["name"], run["batch"], run["p50_ms"]) for x in latency for run in x["runs"]}
    found = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            verdict = _checked_verdict(path)
        except ValueError as error:
            raise RmtEdgeError(f"{path} is no verdict: {error}.", do="Make it again: rmt-edge verdict.") from error
        for row in verdict["rows"]:
            for compared in (row[key] for key in ("fp16", "reduced") if key in row):
                if (compared["file"], row["batch"], compared["p50_ms"]) not in known:
                    raise RmtEdgeError(
                        f"{path} compares {compared['file']} at {compared['p50_ms']:g} ms, batch {row['batch']}, which "
                        "no latency record here holds.",
                        "it is of other measurements.",
                        "Make it again: rmt-edge verdict.",
                    )
        found.append({"file": path.name} | verdict)
    return found


def _checked_verdict(path: Path) -> dict[str, Any]:
    verdict = read_json_record(path, "verdict")
    check_fields(verdict, {"name": str, "machine": dict[str, Any], "rows": list[dict[str, Any]]})
    check_machine(verdict["machine"])
    for i, row in enumerate(verdict["rows"]):
        where = f"rows[{i}]"
        check_fields(row, {"runner": str, "batch": int, "verdict": str, "reason": str, "do": str}, where)
        if "speedup" not in row:
            continue
        check_fields(row, {"speedup": float, "speedup_interval": list[float], "fp16": Any, "reduced": Any}, where)
        if len(row["speedup_interval"]) != 2:
            raise ValueError(f"{where}.speedup_interval has no two ends")
        for key in ("fp16", "reduced"):
            check_fields(row[key], {"file": str, "precision": str, "p50_ms": float}, f"{where}.{key}")
    return verdict


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
