"""Verdict: FP16 or a smaller format for a device, from measured latency and measured accuracy, never from estimates.

Any precision but FP16 and FP32 is a reduced one. For a batch size it is taken where all of these hold, FP16 otherwise:
- its p50 is at least MIN_SPEEDUP times as fast as FP16's, by the same runner with the same settings;
- the lower end of the ratio's 95 % bootstrap interval (percentiles.ratio_interval) is at least 1, so that it is not
  the noise that is faster;
- it loses no more accuracy than its validation allowed.

What is compared, and whose accuracy counts, is in candidates.py. Records of several machines make a verdict for each.
"""

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmt_edge.artifact import ENGINE, versions, write_json
from rmt_edge.errors import RmtEdgeError
from rmt_edge.latency.candidates import FP16, Candidate, candidates_of, files_to_measure, manifests_of, reduced_names
from rmt_edge.latency.percentiles import ratio_interval
from rmt_edge.latency.record import (
    SETTINGS,
    machine_identity,
    machine_labels,
    machine_slug,
    read_json_record,
    read_latency_records,
)

KIND = "verdict"
SUFFIX = ".verdict.json"
MIN_SPEEDUP = 1.02  # below it the loss of accuracy buys nothing; the project's rule (README)
MIN_INTERVAL_LOW = 1.0


@dataclass(frozen=True)
class Verdict:
    """What was decided for one machine, and the file that says so."""

    path: Path
    content: dict[str, Any]


def verdict(folder: Path | str) -> list[Verdict]:
    """Decide for each machine, runner and batch size; writes `<machine>.verdict.json` for each machine."""
    folder = Path(folder)
    if not folder.is_dir():
        raise RmtEdgeError(f"There is no folder {folder}.", do="Pass the folder that `rmt-edge deploy` wrote to.")
    records = read_latency_records(folder)
    if not records:
        raise RmtEdgeError(
            f"{folder} holds no latency record.",
            "a verdict needs measured latencies; estimates do not do.",
            f"Run on the device: rmt-edge bench {files_to_measure(folder)}",
        )
    manifests = manifests_of(folder)
    groups: dict[str, list[Candidate]] = {}
    machines: dict[str, dict[str, Any]] = {}
    for (path, record), label in zip(records.items(), machine_labels(x.machine for x in records.values()), strict=True):
        machines.setdefault(label, record.machine)
        groups.setdefault(label, []).extend(candidates_of(folder, path, record, manifests))
    found = []
    for label, candidates in groups.items():
        keys = sorted({(x.run.runner, x.run.batch) for x in candidates})
        content = {
            "kind": KIND,
            "rule": {"min_speedup": MIN_SPEEDUP, "min_interval_low": MIN_INTERVAL_LOW},
            "name": label,
            "machine": machines[label],
            "rows": [_row(folder, runner, batch, candidates) for runner, batch in keys],
            "versions": versions(),
            "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        }
        found.append(Verdict(folder / f"{machine_slug(label)}{SUFFIX}", content))
    for x in found:
        write_json(x.path, x.content)
    _remove_earlier(folder, found)
    return found


def _remove_earlier(folder: Path, found: list[Verdict]) -> None:
    """Remove verdicts on these machines under other names: a name says more where another machine is alike."""
    decided = [machine_identity(x.content["machine"]) for x in found]
    for path in set(folder.glob(f"*{SUFFIX}")) - {x.path for x in found}:
        try:
            earlier = machine_identity(read_json_record(path, KIND).get("machine") or {})
        except (ValueError, AttributeError, IndexError, KeyError):
            continue  # whatever it is, it is not ours to remove
        if earlier in decided:
            path.unlink()


def _row(folder: Path, runner: str, batch: int, candidates: list[Candidate]) -> dict[str, Any]:
    """What is decided for one runner and batch size, and from what."""
    here = [x for x in candidates if (x.run.runner, x.run.batch) == (runner, batch)]
    row: dict[str, Any] = {"runner": runner, "batch": batch}
    for setting in SETTINGS:
        alike = sorted((x for x in here if x.run.setting == setting), key=lambda x: x.run.p50_ms)
        fp16, reduced = ([x for x in alike if (x.precision == FP16) == is_fp16] for is_fp16 in (True, False))
        if fp16 and reduced:
            row |= {"transfers": setting[0], "cuda_graph": setting[1]}
            return row | _best([_compare(fp16[0], x) for x in reduced])
    missing = [] if any(x.precision == FP16 for x in here) else ["FP16"]
    if all(x.precision == FP16 for x in here):
        missing.append(reduced_names(folder))
    what = " and ".join(missing) or "the same settings for both"
    return row | {
        "verdict": "not measured",
        "reason": f"{what} is not measured at batch {batch} with {runner}." if missing else f"Not measured: {what}.",
        "do": f"rmt-edge bench --batch {batch} {files_to_measure(folder, runner)}",
    }


def _best(comparisons: list[dict[str, Any]]) -> dict[str, Any]:
    """Of several reduced files, fastest first: the first that is taken, else what there is to say of the fastest."""
    taken = (x for x in comparisons if x["verdict"] == x["reduced"]["precision"])
    return next(taken, comparisons[0])


def _compare(fp16: Candidate, reduced: Candidate) -> dict[str, Any]:
    """FP16 against one reduced file, measured alike."""
    speedup = fp16.run.p50_ms / reduced.run.p50_ms
    low, high = ratio_interval(fp16.run.samples_ms, reduced.run.samples_ms)
    decided, reason, do = _decide(fp16, reduced, speedup, low)
    return {
        "verdict": decided,
        "reason": reason,
        "do": do,
        "speedup": speedup,
        "speedup_interval": [low, high],
        "fp16": _facts(fp16),
        "reduced": _facts(reduced),
        "warnings": len(fp16.run.warnings) + len(reduced.run.warnings),
    }


def _facts(x: Candidate) -> dict[str, Any]:
    keys = (
        "drop_points", "drop_interval_points", "drop_upper_points", "confidence", "max_drop_points", "within_max_drop",
        "images", "runtime", "metric",
    )  # fmt: skip
    return {
        "file": x.file,
        "precision": x.precision,
        "p50_ms": x.run.p50_ms,
        "energy_per_image_j": (x.run.telemetry or {}).get("energy_per_image_j"),
        "accuracy": {key: x.accuracy.get(key) for key in keys} if x.accuracy else None,
    }


def _decide(fp16: Candidate, reduced: Candidate, speedup: float, low: float) -> tuple[str, str, str]:
    """The verdict, why, and what to do."""
    if fp16.accuracy is None or reduced.accuracy is None:
        return _not_validated([x for x in (fp16, reduced) if x.accuracy is None])
    name = reduced.precision.upper()
    lost = f"{reduced.accuracy['drop_points']:+.2f} points of {reduced.accuracy['metric']} lost"
    drop = f"{lost}, {reduced.accuracy['max_drop_points']:g} allowed"
    if reduced.accuracy.get("drop_upper_points") is not None:  # validated with a confidence: the upper end was judged
        upper, confidence = (reduced.accuracy[key] for key in ("drop_upper_points", "confidence"))
        drop += f", at most {upper:+.2f} with {confidence:g} confidence"
    if not reduced.accuracy["within_max_drop"]:
        if fp16.accuracy["within_max_drop"]:
            return FP16, f"{name} loses too much: {drop}.", ""
        return "neither", f"FP16 and {name} both lose too much; {name}: {drop}.", "Deploy FP32, or another recipe."
    if not fp16.accuracy["within_max_drop"]:
        return reduced.precision, f"FP16 loses more than it may; {name}: {drop}.", ""
    if speedup < MIN_SPEEDUP:
        return FP16, f"{name} is {speedup:.3f} times as fast, which is below {MIN_SPEEDUP}.", ""
    if low < MIN_INTERVAL_LOW:
        return FP16, f"{name} seems {speedup:.3f} times as fast, but that may be noise.", "Measure longer: --duration."
    return reduced.precision, f"{name} is {speedup:.3f} times as fast; {drop}.", ""


def _not_validated(candidates: list[Candidate]) -> tuple[str, str, str]:
    """A verdict on files without an accuracy of their own, with the command that finds it."""
    names = " ".join(x.file for x in candidates)
    files = " and ".join(x.file for x in candidates)
    verb = "was" if len(candidates) == 1 else "were"
    if candidates[0].kind == ENGINE:
        reason = f"{files} {verb} not validated on the device; the accuracy of an ONNX file says nothing of its engine."
        return "not validated", reason, f"On the device: rmt-edge validate {names}"
    reason = f"{files} {verb} not validated."
    return "not validated", reason, f"rmt-edge validate {names} --checkpoint CHECKPOINT --data IMAGES"


def text(content: dict[str, Any]) -> str:
    """A verdict for people."""
    lines = [content["name"]]
    for row in content["rows"]:
        setting = [row["runner"], f"batch {row['batch']}"]
        if "transfers" in row:
            setting.append("with transfers" if row["transfers"] else "without transfers")
        if row.get("cuda_graph"):
            setting.append("as a CUDA graph")
        lines.append(f"{', '.join(setting)}: {row['verdict'].upper()}. {row['reason']}")
        if "speedup" in row:
            (low, high), fp16, reduced = row["speedup_interval"], row["fp16"], row["reduced"]
            lines.append(
                f"  {fp16['file']} {fp16['p50_ms']:.3f} ms, {reduced['file']} {reduced['p50_ms']:.3f} ms: "
                f"{row['speedup']:.3f} times as fast, 95 % interval {low:.3f} to {high:.3f}."
            )
        if row.get("warnings"):
            lines.append(f"  {row['warnings']} warnings in these measurements: read them in the records, mend, repeat.")
        if row["do"]:
            lines.append(f"  {row['do']}")
    return "\n".join(lines)
