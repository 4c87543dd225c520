"""Sections of the page about time and devices: accuracy against latency, latency run by run, records from devices."""

from typing import Any

import numpy as np

from rmt_edge.report.blocks import Block, Listing, Missing, Plot, Table, cell, plot
from rmt_edge.report.decision import how_it_ran, is_peer
from rmt_edge.report.figures import Point, ecdf, front
from rmt_edge.report.figures import pareto as draw_pareto
from rmt_edge.report.markdown import DEVICE_HEADER, LATENCY_HEADER, device_rows, latency_rows

BENCH = "rmt-edge bench FILE.engine FILE.engine --peers torch torch-compile --checkpoint CHECKPOINT, on the device"
# Keys of a run's telemetry, and what they are called.
TELEMETRY = {
    "clock_mhz": "clock, MHz", "power_w": "power, W", "energy_per_image_j": "J/image", "temperature_c": "°C",
    "throttled_share": "throttled", "other_cpu_load": "other CPU load", "readings": "readings",
}  # fmt: skip
CURVES = 8  # of one figure

# The points and the peers (name, latency) of a device at a batch size.
Group = tuple[list[Point], list[tuple[str, float]]]


def pareto(content: dict[str, Any]) -> list[Block]:
    """A plot for each device and batch size, measured or estimated."""
    groups = groups_of(content)
    blocks: list[Block] = []
    if not content["latency"]:
        blocks.append(Missing("Nothing is measured here: latency needs the device.", BENCH))
    if not any(points for points, _ in groups.values()):
        text = "Nothing is estimated either: an estimate needs only a device profile."
        blocks.append(Missing(text, "rmt-edge estimate FILE.onnx --device DEVICE"))
    for i, ((device, batch), (points, peers)) in enumerate(groups.items()):
        if points:
            blocks.append(_pareto(f"pareto-{i}", f"{device}, batch {batch}", points, peers))
    return blocks


def groups_of(content: dict[str, Any]) -> dict[tuple[str, int], Group]:
    """What is known of each device and batch size: measured, then estimated."""
    groups: dict[tuple[str, int], Group] = {}
    rows = {row["recipe_name"]: row for row in content["rows"]}
    on_device = {x["subject"].get("sha256"): x["details"] for x in content["device_accuracy"]}
    for record in content["latency"]:
        row = rows.get(record["recipe"].get("name"))
        # The engine's own accuracy where it was measured; else that of the ONNX file with its weights.
        accuracy = on_device.get(record["subject"]["sha256"]) or (row["accuracy"] if row else None)
        for run in _fastest(record["runs"]):
            points, peers = groups.setdefault((record["on"], run["batch"]), ([], []))
            how = how_it_ran(run, record.get("kernels"))
            if is_peer(run):
                if (how, run["p50_ms"]) not in peers:  # it stands in the record of every file measured beside it
                    peers.append((how, run["p50_ms"]))
            elif accuracy:
                points.append(_point(f"{record['recipe']['name']}, {how}", run["p50_ms"], accuracy, is_estimate=False))
    for record in content["estimate"]:
        row = rows.get(record["recipe"].get("name"))
        if row is None or row["accuracy"] is None:
            continue
        for x in record["estimates"]:
            points, _ = groups.setdefault((record["device"]["name"], x["batch"]), ([], []))
            points.append(_point(record["recipe"]["name"], x["latency_ms"], row["accuracy"], is_estimate=True))
    for record in content["search"]:
        points, _ = groups.setdefault((record["device"], record["batch"]), ([], []))
        points += _candidates(record)
    return groups


def _fastest(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each runner, precision and batch size the run of the lowest median: with a CUDA graph or without."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for run in sorted(runs, key=lambda x: x["p50_ms"]):
        found.setdefault((run["runner"], run.get("precision"), run["batch"], run.get("transfers", False)), run)
    return list(found.values())


def _point(name: str, latency_ms: float, accuracy: dict[str, Any], is_estimate: bool) -> Point:
    interval = accuracy.get("drop_interval_points")
    return Point(name, latency_ms, accuracy["drop_points"], tuple(interval) if interval else None, is_estimate)


def _candidates(record: dict[str, Any]) -> list[Point]:
    """Points of a search, its choice and its recipe named; those whose drop is only predicted keep that."""
    found = []
    own = record.get("recipe_candidate")
    for x in [*([own] if own else []), *record["candidates"]]:
        is_predicted = x.get("drop_points") is None
        drop = x.get("predicted_drop_points") if is_predicted else x["drop_points"]
        if drop is None:
            continue
        measured = x.get("measured_latency_ms")
        is_chosen = x["name"] == record.get("chosen")
        found.append(
            Point(
                f"search's choice: {x['name']}" if is_chosen else x["name"],
                x["estimated_latency_ms"] if measured is None else measured,
                drop,
                tuple(x["drop_interval_points"]) if x.get("drop_interval_points") else None,
                is_estimate=measured is None,
                is_drop_predicted=is_predicted,
                is_named=is_chosen or x is own,
            )
        )
    return found


def _pareto(slug: str, where: str, points: list[Point], peers: list[tuple[str, float]]) -> Plot:
    estimates = sum(x.is_estimate for x in points)
    if estimates == len(points):
        basis = "ESTIMATED latency, from the device's peak rates: not measured on any device"
    elif estimates:
        basis = "Filled marks: measured p50; hollow marks: estimates, not measurements"
    else:
        basis = "Measured p50 latency"
    title = f"{'Estimated' if estimates == len(points) else 'Measured'}: {where}"
    caption = f"{basis}. Left is faster, down is more accurate; bars are 95 % intervals of the drop. "
    best = front(points)
    caption += (
        f"{best[0].name} beats all others in both."
        if len(best) == 1
        else "The line joins the front: candidates that no other beats in both."
    )
    if peers:
        caption += " Vertical lines are peers in PyTorch on the same machine, of which only latency was measured."
    if any(x.is_drop_predicted for x in points):
        caption += " A predicted drop is a sum of sensitivities, not an accuracy that was measured."
    data = [
        [
            x.name,
            f"{x.latency_ms:.4g}",
            "estimate" if x.is_estimate else "measured",
            f"{x.drop_points:+.2f}" + (" (predicted)" if x.is_drop_predicted else ""),
            f"{x.interval[0]:+.2f} to {x.interval[1]:+.2f}" if x.interval else "–",
            "yes" if x in best else "no",
        ]
        for x in points
    ] + [[name, f"{latency:.4g}", "measured", "–", "–", "peer"] for name, latency in peers]
    header = ["candidate", "latency, ms", "how", "drop, points", "95 % interval", "on the front"]
    return plot(slug, title, caption, draw_pareto(points, peers), Table(header, data))


def latency(content: dict[str, Any]) -> list[Block]:
    """For each record: the table of its runs, their distributions, warnings word for word, and the telemetry."""
    if not content["latency"]:
        return [Missing("No latency was measured.", BENCH)]
    blocks: list[Block] = [Table(list(LATENCY_HEADER), latency_rows(content["latency"]), "Every run")]
    warnings = [
        f"{_what(record, run)}: {warning}"
        for record in content["latency"]
        for run in record["runs"]
        for warning in run.get("warnings") or []
    ]
    if warnings:
        blocks.append(Listing(warnings, "Warnings of the measurement", is_warning=True))
    sampled: dict[tuple[str, int], list[tuple[str, dict[str, Any]]]] = {}
    for record in content["latency"]:
        for run in record["runs"]:
            if run.get("samples_ms"):
                key = (record["on"], run["batch"])
                sampled.setdefault(key, []).append((_what(record, run).rpartition(", ")[0], run))
    for (machine, batch), runs in sampled.items():
        for start in range(0, len(runs), CURVES):
            name = f"ecdf-{len(blocks)}"
            blocks.append(_distribution(name, f"{machine}, batch {batch}", runs[start : start + CURVES]))
    blocks += _telemetry(content["latency"])
    how = [
        [record["subject"]["name"], record["subject"]["sha256"][:16] + "…", *_settings(record)]
        for record in content["latency"]
    ]
    return [*blocks, Table(["file", "sha256", "settings", "when"], how, "What was measured, and how", is_text=True)]


def _settings(record: dict[str, Any]) -> list[str]:
    settings = "; ".join(f"{key.replace('_', ' ')} {cell(value)}" for key, value in record.get("settings", {}).items())
    return [settings or "–", str(record.get("created", "–"))]


def _distribution(slug: str, where: str, runs: list[tuple[str, dict[str, Any]]]) -> Plot:
    shares = (0, 10, 25, 50, 75, 90, 95, 99, 100)
    data = [
        [name, str(len(run["samples_ms"])), *(f"{x:.4g}" for x in np.percentile(run["samples_ms"], shares))]
        for name, run in runs
    ]
    return plot(
        slug,
        f"How latency spreads: {where}",
        "For each runner the share of its runs that took at most so long; dots mark p50, p90 and p99. A steep line is "
        "a steady one; steps and long tails are clocks that change or other work on the device.",
        ecdf([(name, run["samples_ms"], {k: run.get(f"{k}_ms") for k in ("p50", "p90", "p99")}) for name, run in runs]),
        Table(["runner", "runs", *(f"{share} %, ms" for share in shares)], data),
    )


def _telemetry(records: list[dict[str, Any]]) -> list[Block]:
    """Power, clocks, temperature and load during each run, a run a row; nothing where no sensor was read."""
    rows = [
        [_what(record, run), *(_reading(run["telemetry"].get(key)) for key in TELEMETRY)]
        for record in records
        for run in record["runs"]
        if run.get("telemetry")
    ]
    if not rows:
        return []
    title = "What the device did meanwhile: lowest – mean – highest, or the mean alone"
    return [Table(["run", *TELEMETRY.values()], rows, title)]


def _what(record: dict[str, Any], run: dict[str, Any]) -> str:
    """A run of a record in words."""
    name = "" if is_peer(run) else f"{record['recipe'].get('name')}, "
    return f"{name}{how_it_ran(run, record.get('kernels'))}, batch {run['batch']}"


def _reading(value: Any) -> str:
    """{"min", "mean", "max"} as "min – mean – max"; throttling as its reasons and their share of the readings."""
    if not isinstance(value, dict):
        return cell(value)
    if set(value) == {"min", "mean", "max"}:
        return " – ".join(f"{value[key]:.4g}" for key in ("min", "mean", "max"))
    return ", ".join(f"{key} {100 * share:.0f} %" for key, share in value.items()) or "no"


def devices(content: dict[str, Any]) -> list[Block]:
    """Accuracy of engines, measured where they run, and the machines of all records."""
    machines: dict[str, dict[str, Any]] = {}
    for x in (*content["latency"], *content["device_accuracy"]):
        machines.setdefault(x["on"], x["machine"])
    blocks: list[Block] = []
    if content["device_accuracy"]:
        blocks.append(Table(list(DEVICE_HEADER), device_rows(content), "Accuracy of the engine itself"))
    else:
        text = (
            "No engine's own accuracy was brought back: the accuracies here are those of the ONNX files, through ONNX "
            "Runtime. Copy the records of a device into this folder and make the report again."
        )
        blocks.append(Missing(text, "rmt-edge validate ENGINE, on the device"))
    if machines:
        blocks.append(Table(["", *machines], _machine_rows(list(machines.values())), "Machines", is_text=True))
    return blocks


def _machine_rows(machines: list[dict[str, Any]]) -> list[list[str]]:
    keys = list(dict.fromkeys(key for machine in machines for key in machine))
    return [[key.replace("_", " "), *(_fact(machine.get(key)) for machine in machines)] for key in keys]


def _fact(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {cell(x)}" for key, x in value.items() if x is not None) or "–"
    if isinstance(value, list | tuple):
        return "; ".join(_fact(x) for x in value) or "–"
    return cell(value)
