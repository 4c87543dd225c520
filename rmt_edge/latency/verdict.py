"""Verdict: FP16 or INT8 for this device, from measured latency and measured accuracy. Estimates are never used.

INT8 is taken for a batch size where all of these hold, FP16 otherwise:
- its p50 is at least MIN_SPEEDUP times as fast as FP16's, by the same runner with the same settings;
- the lower end of the ratio's 95 % bootstrap interval (percentiles.ratio_interval) is at least 1, so that it is not
  the noise that is faster;
- it loses no more top-1 than its validation allowed.

Numbers come from latency records and from manifests of predictions, tied to each other by the files' sha256: an
engine's accuracy is its own or that of the ONNX file it was built from. Records of different machines are refused.
"""

import datetime
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmt_edge.artifact import PREDICTIONS, SOURCE, Manifest, manifest_path, read_artifact, versions, write_json
from rmt_edge.errors import RmtEdgeError
from rmt_edge.latency.percentiles import ratio_interval

NAME = "verdict.json"
MIN_SPEEDUP = 1.02  # below it INT8's loss of accuracy buys nothing; the project's rule (README)
MIN_INTERVAL_LOW = 1.0
PRECISIONS = ("fp16", "int8")
# (transfers, cuda_graph): the first that both precisions were measured with is compared.
SETTINGS = ((False, True), (False, False), (True, True), (True, False))
# What makes two records those of one machine, of machine.Machine and bench.py; free memory and the like change.
IDENTITY = ("processor", "cpu", "cpus", "board", "jetpack", "power_mode", "tensorrt")
GPU_IDENTITY = ("name", "compute_capability", "driver_version")


@dataclass(frozen=True)
class Candidate:
    """One measured file of a precision: a run of its latency record, and its accuracy if it was validated."""

    file: str
    precision: str
    run: dict[str, Any]
    accuracy: dict[str, Any] | None


def verdict(folder: Path) -> dict[str, Any]:
    """Decide for each runner and batch size; writes verdict.json into the folder and returns its content."""
    if not folder.is_dir():
        raise RmtEdgeError(f"There is no folder {folder}.", do="Pass the folder that `rmt-edge deploy` wrote to.")
    records = [_read_record(path) for path in sorted(folder.glob("*.latency.json"))]
    if not records:
        raise RmtEdgeError(
            f"{folder} holds no latency record.",
            "a verdict needs measured latencies; estimates do not do.",
            f"Run on the device: rmt-edge bench {_files_to_measure(folder)}",
        )
    _check_machines(records)
    manifests = _manifests(folder)
    candidates = [x for record in records for x in _candidates(folder, record, manifests)]
    keys = sorted({(x.run["runner"], x.run["batch"]) for x in candidates})
    content = {
        "kind": "verdict",
        "rule": {"min_speedup": MIN_SPEEDUP, "min_interval_low": MIN_INTERVAL_LOW},
        "machine": records[0]["machine"],
        "rows": [_row(folder, runner, batch, candidates) for runner, batch in keys],
        "versions": versions(),
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    write_json(folder / NAME, content)
    return content


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text())
        if record["kind"] != "latency":
            raise ValueError(f"its kind is {record['kind']!r}")
        for key in ("subject", "precision", "machine", "runs"):
            record[key]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RmtEdgeError(f"{path} is not a latency record: {error}.", do="Measure again: rmt-edge bench.") from error
    return record | {"path": path}


def _check_machines(records: list[dict[str, Any]]) -> None:
    """Refuse records that are not of one machine in one state."""
    first = records[0]
    for record in records[1:]:
        ours, theirs = machine_identity(first["machine"]), machine_identity(record["machine"])
        differing = [key for key in ours if ours[key] != theirs[key]]
        if differing:
            facts = "; ".join(f"{key}: {ours[key]} and {theirs[key]}" for key in differing)
            raise RmtEdgeError(
                f"{first['path'].name} and {record['path'].name} are of different machines ({facts}).",
                "only latencies of one machine, in one power mode and with one TensorRT, can be compared.",
                "Measure all files again on the device, in one command: rmt-edge bench FILE FILE.",
            )


def machine_identity(machine: dict[str, Any]) -> dict[str, Any]:
    """What must agree for two latencies to be comparable."""
    gpus = [[gpu.get(key) for key in GPU_IDENTITY] for gpu in machine.get("gpus", [])]
    return {key: machine.get(key) for key in IDENTITY} | {"gpus": gpus}


def _manifests(folder: Path) -> dict[str, Manifest]:
    """All manifests of a folder by the sha256 of their files, which need not be there themselves."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            manifest = Manifest(**json.loads(path.read_text()))
        except (ValueError, TypeError):
            continue  # another kind of JSON
        found[manifest.sha256] = manifest
    return found


def _candidates(folder: Path, record: dict[str, Any], manifests: dict[str, Manifest]) -> list[Candidate]:
    """A record's runs of FP16 or INT8, but for PyTorch's; its file must be the one that lies in the folder."""
    subject = record["subject"]
    path = folder / subject["name"]
    if path.is_file():
        read_artifact(path, subject["kind"])
    if subject["sha256"] not in manifests:
        raise RmtEdgeError(
            f"{record['path'].name} was measured on another {subject['name']} ({subject['sha256'][:16]}…) than "
            f"{manifest_path(path).name} describes.",
            do=f"Measure again: rmt-edge bench {subject['name']}",
        )
    if record["precision"] not in PRECISIONS:
        return []
    accuracy = _accuracy(folder, subject["sha256"], manifests)
    runs = [run for run in record["runs"] if not run["runner"].startswith("torch")]
    return [Candidate(subject["name"], record["precision"], run, accuracy) for run in runs]


def _accuracy(folder: Path, sha256: str, manifests: dict[str, Manifest]) -> dict[str, Any] | None:
    """The details of the predictions of a file or, one step after the other, of what it was made from."""
    while sha256 in manifests:
        for manifest in manifests.values():
            is_of_it = manifest.kind == PREDICTIONS and manifest.source["sha256"] == sha256
            if is_of_it and "within_max_drop" in manifest.details:
                if (folder / manifest.name).is_file():
                    read_artifact(folder / manifest.name, PREDICTIONS)
                return manifest.details
        source = manifests[sha256].find_parent(SOURCE)
        sha256 = source["sha256"] if source else ""
    return None


def _row(folder: Path, runner: str, batch: int, candidates: list[Candidate]) -> dict[str, Any]:
    """What is decided for one runner and batch size, and from what."""
    here = [x for x in candidates if (x.run["runner"], x.run["batch"]) == (runner, batch)]
    row: dict[str, Any] = {"runner": runner, "batch": batch}
    for setting in SETTINGS:
        alike = [x for x in here if (x.run["transfers"], x.run["cuda_graph"]) == setting]
        fp16, int8 = ([x for x in alike if x.precision == precision] for precision in PRECISIONS)
        if fp16 and int8:
            row |= {"transfers": setting[0], "cuda_graph": setting[1]}
            return row | _best([_compare(x, y) for x in _fastest_first(fp16)[:1] for y in _fastest_first(int8)])
    missing = [x for x in PRECISIONS if x not in {y.precision for y in here}]
    what = " and ".join(x.upper() for x in missing) or "the same settings for both"
    return row | {
        "verdict": "not measured",
        "reason": f"{what} is not measured at batch {batch} with {runner}." if missing else f"Not measured: {what}.",
        "do": f"rmt-edge bench --batch {batch} {_files_to_measure(folder, runner)}",
    }


def _fastest_first(candidates: list[Candidate]) -> list[Candidate]:
    return sorted(candidates, key=lambda x: x.run["p50_ms"])


def _best(comparisons: list[dict[str, Any]]) -> dict[str, Any]:
    """Of several INT8 files: the fastest that is taken, else what there is to say of the fastest."""
    return next((x for x in comparisons if x["verdict"] == "int8"), comparisons[0])


def _compare(fp16: Candidate, int8: Candidate) -> dict[str, Any]:
    """FP16 against one INT8 file, measured alike."""
    speedup = fp16.run["p50_ms"] / int8.run["p50_ms"]
    low, high = ratio_interval(fp16.run["samples_ms"], int8.run["samples_ms"])
    decided, reason, do = _decide(fp16, int8, speedup, low)
    return {
        "verdict": decided,
        "reason": reason,
        "do": do,
        "speedup": speedup,
        "speedup_interval": [low, high],
        **{x.precision: _facts(x) for x in (fp16, int8)},
        "warnings": len(fp16.run["warnings"]) + len(int8.run["warnings"]),
    }


def _facts(x: Candidate) -> dict[str, Any]:
    keys = (
        "drop_points", "drop_interval_points", "drop_upper_points", "confidence", "max_drop_points", "within_max_drop",
        "images",
    )  # fmt: skip
    accuracy = {key: x.accuracy.get(key) for key in keys} if x.accuracy else None
    energy = (x.run["telemetry"] or {}).get("energy_per_image_j")
    return {"file": x.file, "p50_ms": x.run["p50_ms"], "energy_per_image_j": energy, "accuracy": accuracy}


def _decide(fp16: Candidate, int8: Candidate, speedup: float, low: float) -> tuple[str, str, str]:
    """The verdict, why, and what to do."""
    for x in (fp16, int8):
        if x.accuracy is None:
            return "not validated", f"{x.file} has no accuracy.", f"rmt-edge validate {x.file} --checkpoint C --data D"
    assert fp16.accuracy is not None and int8.accuracy is not None
    drop = f"{int8.accuracy['drop_points']:+.2f} points of top-1 lost, {int8.accuracy['max_drop_points']:g} allowed"
    if int8.accuracy.get("drop_upper_points") is not None:  # validated with a confidence: the upper end was judged
        drop += f", at most {int8.accuracy['drop_upper_points']:+.2f} with {int8.accuracy['confidence']:g} confidence"
    if not int8.accuracy["within_max_drop"]:
        if fp16.accuracy["within_max_drop"]:
            return "fp16", f"INT8 loses too much: {drop}.", ""
        return "neither", f"FP16 and INT8 both lose too much; INT8: {drop}.", "Deploy FP32, or another recipe."
    if not fp16.accuracy["within_max_drop"]:
        return "int8", f"FP16 loses more than it may; INT8: {drop}.", ""
    if speedup < MIN_SPEEDUP:
        return "fp16", f"INT8 is {speedup:.3f} times as fast, which is below {MIN_SPEEDUP}.", ""
    if low < MIN_INTERVAL_LOW:
        return "fp16", f"INT8 seems {speedup:.3f} times as fast, but that may be noise.", "Measure longer: --duration."
    return "int8", f"INT8 is {speedup:.3f} times as fast; {drop}.", ""


def _files_to_measure(folder: Path, runner: str = "") -> str:
    """The FP16 and INT8 files of a folder, as the arguments of bench; engines unless ONNX Runtime is meant."""
    manifests = [x for x in _manifests(folder).values() if x.recipe.get("precision") in PRECISIONS]
    for suffix in [".onnx"] if runner == "onnxruntime" else [".engine", ".onnx"]:
        names = [x.name for x in manifests if x.name.endswith(suffix) and not x.name.endswith(".plugin.onnx")]
        if names:
            return " ".join(str(folder / name) for name in sorted(names))
    return "FILE FILE"


def text(content: dict[str, Any]) -> str:
    """A verdict for people."""
    lines = []
    for row in content["rows"]:
        setting = [row["runner"], f"batch {row['batch']}"]
        if "transfers" in row:
            setting.append("with transfers" if row["transfers"] else "without transfers")
        if row.get("cuda_graph"):
            setting.append("as a CUDA graph")
        lines.append(f"{', '.join(setting)}: {row['verdict'].upper()}. {row['reason']}")
        if "speedup" in row:
            (low, high), fp16, int8 = row["speedup_interval"], row["fp16"], row["int8"]
            lines.append(
                f"  {fp16['file']} {fp16['p50_ms']:.3f} ms, {int8['file']} {int8['p50_ms']:.3f} ms: "
                f"{row['speedup']:.3f} times as fast, 95 % interval {low:.3f} to {high:.3f}."
            )
        if row.get("warnings"):
            lines.append(f"  {row['warnings']} warnings in these measurements: read them in the records, mend, repeat.")
        if row["do"]:
            lines.append(f"  {row['do']}")
    return "\n".join(lines)
