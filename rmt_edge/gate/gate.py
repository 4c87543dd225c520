"""Gate: results held to a baseline, within stated limits of accuracy, latency and size.

For the command `rmt-edge gate` and for a test suite of one's own (pytest_plugin.py). Accuracy is compared image by
image, latency only between records of one machine.
"""

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmt_edge.accuracy.limits import MAX_DROP_POINTS, checked_confidence, checked_max_drop, held_to
from rmt_edge.errors import RmtEdgeError
from rmt_edge.gate.baseline import read_baseline, results_of, tallies_of
from rmt_edge.latency.record import identity_differences
from rmt_edge.tasks.comparison import Tally


class NotComparedWarning(UserWarning):
    """Something in the baseline has no counterpart that it could be compared with."""


@dataclass(frozen=True)
class Limits:
    """What results may be worse by than the baseline.

    max_drop: points of each metric on the same images; with a confidence, the upper end of its one-sided interval.
    max_latency_ratio, max_size_ratio: now over then; of medians, 1.1 because two measurements of one engine on one
    machine differ by some per cent.
    """

    max_drop: float = MAX_DROP_POINTS
    max_latency_ratio: float = 1.1
    max_size_ratio: float = 1.05
    confidence: float | None = None

    def __post_init__(self) -> None:
        checked_max_drop(self.max_drop)
        checked_confidence(self.confidence)
        for name in ("max_latency_ratio", "max_size_ratio"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise RmtEdgeError(f"{name} is {value!r}.", "it is a ratio, now over baseline, such as 1.1.")


@dataclass(frozen=True)
class Row:
    """One comparison. is_worse: beyond its limit; a note says why nothing was compared."""

    subject: str
    what: str
    baseline: str
    now: str = "–"
    change: str = "–"
    limit: str = "–"
    is_worse: bool = False
    note: str = ""


@dataclass(frozen=True)
class Baseline:
    """A baseline and the limits that results are held to."""

    path: Path
    limits: Limits

    def check(self, results: str | Path) -> list[Row]:
        """Compare a folder of results, or one predictions file; AssertionError with a table if any of it is worse.

        Returns the comparisons. What could not be compared is a NotComparedWarning.
        """
        __tracebackhide__ = True
        rows = compare(self.path, Path(results), self.limits)
        for row in rows:
            if row.note and not row.is_worse:
                warnings.warn(f"{row.subject}, {row.what}: {row.note}", NotComparedWarning, stacklevel=2)
        if any(row.is_worse for row in rows):
            raise AssertionError(f"{results} is worse than the baseline {self.path}:\n\n{table(rows)}")
        return rows


def compare(baseline: Path, results: Path, limits: Limits) -> list[Row]:
    """Every comparison of results (a folder, or one predictions file) with a baseline file."""
    before, now = read_baseline(baseline), results_of(results)
    if not results.is_dir():
        (name,) = now
        if name not in before:
            raise RmtEdgeError(
                f"{results} is of {name}, which {baseline} does not hold.", f"it holds: {', '.join(before)}."
            )
        before = {name: before[name]}
    rows = []
    for name, subject in before.items():
        if name in now:
            rows += _rows(name, subject, now[name], limits)
        else:
            found = ", ".join(now)
            was, note = f"{subject['percent']:.2f} %", f"no results; found: {found}"
            rows.append(Row(name, subject["metric"], was, is_worse=True, note=note))
    return rows


def _rows(name: str, before: dict[str, Any], now: dict[str, Any], limits: Limits) -> list[Row]:
    if before["data"]["sha256"] != now["data"]["sha256"] or before["images"] != now["images"]:
        raise RmtEdgeError(
            f"{name} was validated on other images than its baseline: {now['images']} of {now['data']['name']} "
            f"({now['data']['sha256'][:16]}…), baseline {before['images']} of {before['data']['name']} "
            f"({before['data']['sha256'][:16]}…).",
            "accuracy is compared image by image.",
            "Validate on the baseline's data set, or write a new baseline: rmt-edge baseline FOLDER --output FILE",
        )
    if list(before["tallies"]) != list(now["tallies"]):
        known, found = (", ".join(x["tallies"]) for x in (before, now))
        raise RmtEdgeError(f"{name} was validated by {found}, its baseline by {known}.", "they are of different tasks.")
    tallies = tallies_of(now)
    return [
        *(_accuracy_row(name, metric, x, tallies[metric], limits) for metric, x in before["tallies"].items()),
        *(_size_row(name, label, size, now["size_bytes"], limits) for label, size in before["size_bytes"].items()),
        *(_latency_row(name, run, now["latency"], limits) for run in before["latency"]),
    ]


def _accuracy_row(name: str, metric: str, before: Tally, now: Tally, limits: Limits) -> Row:
    drop = before.drop_to(now)
    low, high = drop.interval_points()
    change = f"{0 - drop.points:+.2f} points (95 % interval {-high:+.2f} to {-low:+.2f})"
    limit = f"-{limits.max_drop:g} points"
    upper, is_within = held_to(limits.max_drop, drop, limits.confidence)
    if upper is not None:
        change += f", with {limits.confidence:.1%} confidence no lower than {-upper:+.2f}"
    was, is_now = f"{before.percent():.2f} %", f"{now.percent():.2f} %"
    return Row(name, metric, was, is_now, change, limit, is_worse=not is_within)


def _size_row(name: str, label: str, before: int, now: dict[str, int], limits: Limits) -> Row:
    what, was = f"size of {label}", f"{before / 1e6:.3f} MB"
    if label not in now:
        return Row(name, what, was, note="there is none now; not compared")
    ratio, limit = now[label] / before, limits.max_size_ratio
    is_now = f"{now[label] / 1e6:.3f} MB"
    return Row(name, what, was, is_now, f"x {ratio:.3f}", f"x {limit:g}", is_worse=ratio > limit)


def _latency_row(name: str, before: dict[str, Any], now: list[dict[str, Any]], limits: Limits) -> Row:
    keys = ("file", "runner", "batch", "transfers", "cuda_graph")
    settings = [word for word in ("transfers", "cuda_graph") if before[word]]
    what = ", ".join([f"p50 of {before['file']}", before["runner"], f"batch {before['batch']}", *settings])
    was = f"{before['p50_ms']:.3f} ms"
    alike = [run for run in now if all(run[key] == before[key] for key in keys)]
    same = [run for run in alike if not identity_differences(before["machine"], run["machine"])]
    if not same:
        other = f"measured on another machine ({_differing(before, alike[0])})" if alike else "not measured now"
        return Row(name, what, was, note=f"{other}; latency is not compared")
    ratio, limit = same[0]["p50_ms"] / before["p50_ms"], limits.max_latency_ratio
    is_now = f"{same[0]['p50_ms']:.3f} ms"
    return Row(name, what, was, is_now, f"x {ratio:.3f}", f"x {limit:g}", is_worse=ratio > limit)


def _differing(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The facts in which two machines differ; TensorRT and the driver choose and run the kernels, and so are among
    them."""
    facts = identity_differences(before["machine"], now["machine"])
    return "; ".join(f"{key} {there}, baseline {here}" for key, (here, there) in facts.items())


def table(rows: list[Row]) -> str:
    """The comparisons as text, columns aligned, the worse ones marked and first."""
    header = ("", "subject", "what", "baseline", "now", "change", "limit")
    lines = [header]
    for row in sorted(rows, key=lambda row: not row.is_worse):
        mark = "WORSE" if row.is_worse else "skipped" if row.note else "ok"
        lines.append((mark, row.subject, row.what, row.baseline, row.now, row.note or row.change, row.limit))
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(x, widths, strict=True)).rstrip() for x in lines
    )
