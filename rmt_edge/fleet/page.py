"""The page of a fleet: all boards side by side, from the records that came back."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rmt_edge import __version__
from rmt_edge.fleet.fleet import DONE, Fleet
from rmt_edge.fleet.plan import DEFAULT
from rmt_edge.fleet.records import records_of
from rmt_edge.latency.record import SETTINGS, machine_name
from rmt_edge.report.blocks import Block, Listing, Missing, Prose, Section, Table, cell, plot, rendered
from rmt_edge.report.decision import how_it_ran, is_peer
from rmt_edge.report.figures import Point
from rmt_edge.report.figures import pareto as draw_pareto
from rmt_edge.report.plot import plot_style
from rmt_edge.writing import write_json, written_whole

NAME = "fleet.html"
MOST_POINTS = 12  # of one figure


def write_page(fleet: Fleet) -> Path:
    """Write fleet.html and fleet.json into the run's folder; returns the page's path."""
    content = collect(fleet)
    path = fleet.folder / NAME
    write_json(path.with_suffix(".json"), without_samples(content))
    with written_whole(path) as temporary, plot_style():
        temporary.write_text(page(content), encoding="utf-8")
    return path


def collect(fleet: Fleet) -> dict[str, Any]:
    """All that the page says, as plain values; also of boards that were not named this time."""
    boards = {}
    for path in sorted(fleet.folder.glob("*/board.json")):
        board = next((x for x in fleet.boards if x.name == path.parent.name), None)
        known = fleet.known_of(path)
        if board is not None or known.get("run") == fleet.run:
            boards[path.parent.name] = known | records_of(path.parent)
    index = fleet.cargo.index
    return {
        "kind": "fleet",
        "rmt_edge": __version__,
        "run": fleet.run,
        "bundle": {"name": fleet.cargo.bundle.name, "sha256": fleet.cargo.bundle_sha256},
        "wheel": {"name": fleet.cargo.wheel.name, "sha256": fleet.cargo.wheel_sha256},
        "checkpoint": index.checkpoint,
        "variant": index.variant,
        "images": index.validation["images"],
        "boards": boards,
    }


def without_samples(content: dict[str, Any]) -> dict[str, Any]:
    """The content without the samples, which lie in the records."""
    if isinstance(content, dict):
        return {key: without_samples(x) for key, x in content.items() if key != "samples_ms"}
    return [without_samples(x) for x in content] if isinstance(content, list) else content


def page(content: dict[str, Any]) -> str:
    """The HTML of a fleet's content."""
    done = sum(x.get("status") == DONE for x in content["boards"].values())
    facts = [
        f"{done} of {len(content['boards'])} boards done",
        f"Bundle sha256 `{content['bundle']['sha256']}`",
        f"Checkpoint sha256 `{content['checkpoint']['sha256']}`",
    ]
    sections = [
        Section("verdict", "What to deploy on each board", _verdict(content)),
        Section("problems", "What went wrong", _problems(content)),
        Section("boards", "The boards", _boards(content)),
        Section("results", "Latency, energy and accuracy side by side", _results(content)),
        Section("pareto", "Accuracy against latency", _pareto(content)),
        Section("doubts", "Warnings of the measurements", _doubts(content)),
        Section("records", "Records", _records(content)),
    ]
    title = f"{content['variant']} from {content['checkpoint']['name']} on {len(content['boards'])} boards"
    made_by = f"Made by rmt-edge {content['rmt_edge']} from the records that came back. This file loads nothing."
    return rendered(title, facts, [x for x in sections if x.blocks], made_by)


def _modes(content: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], str, dict[str, Any]]]:
    """Every board and power mode: name, the board, the mode as it was measured, its records."""
    for name, board in content["boards"].items():
        for mode, found in board["modes"].items():
            measured = {x["machine"].get("power_mode") for x in found["latency"]} - {None}
            yield name, board, next(iter(measured), "–") if mode == DEFAULT else mode, found


def _verdict(content: dict[str, Any]) -> list[Block]:
    rows = []
    for name, _, mode, found in _modes(content):
        for verdict in found["verdicts"]:
            for x in verdict["rows"]:
                speedup = f"{x['speedup']:.3f}" if "speedup" in x else "–"
                low, high = x.get("speedup_interval", (None, None))
                interval = f"{low:.3f} to {high:.3f}" if low is not None else "–"
                rows.append(
                    [name, mode, x["runner"], str(x["batch"]), x["verdict"].upper(), speedup, interval, x["reason"]]
                )
    header = ["board", "power mode", "runner", "batch", "verdict", "times as fast", "95 % interval", "why"]
    if not rows:
        return [Missing("No verdict has come back.", "rmt-edge fleet BOARDS.toml run BUNDLE")]
    text = "A smaller format is taken where it is at least 1.02 times as fast as FP16 and inside the accuracy budget."
    return [Prose(text), Table(*_known(header, rows))]


def _problems(content: dict[str, Any]) -> list[Block]:
    lines = [f"{name}: {x['error']}" for name, x in content["boards"].items() if x.get("error")]
    lines += [
        f"{name}: a limit of accuracy was not kept; logs/validate.log says which."
        for name, x in content["boards"].items()
        if x.get("is_within_limits") is False and x.get("status") == DONE
    ]
    return [Listing(lines, is_warning=True)] if lines else []


def _boards(content: dict[str, Any]) -> list[Block]:
    rows = []
    for name, x in content["boards"].items():
        measured = [record["machine"] for found in x["modes"].values() for record in found["latency"]]
        machine = (x.get("machine") or {}) | (measured[0] if measured else {})  # `bench` alone names the CPU
        modes = [mode for other, _, mode, _ in _modes(content) if other == name]
        gpus = [f"{gpu['name']}, SM {gpu['compute_capability']}" for gpu in machine.get("gpus") or []]
        tensorrt = ", ".join(f"{key} {value}" for key, value in (machine.get("tensorrt") or {}).items())
        seconds = sum(step.get("seconds", 0) for step in x.get("steps") or [])
        rows.append(
            [name, x.get("status", "–"), machine_name({**machine, "power_mode": None}) if machine else "–",
             ", ".join(gpus) or "none", cell(machine.get("jetpack")), tensorrt or "–", ", ".join(modes) or "–",
             cell(machine.get("memory_mib")), f"{seconds:.0f}" if seconds else "–"]
        )  # fmt: skip
    header = ["board", "status", "device", "GPU", "JetPack", "TensorRT", "power modes", "memory, MiB", "seconds"]
    return [Table(*_known(header, rows))]


def _best_runs(found: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Of each record and batch size the run of the setting that verdicts prefer (record.SETTINGS)."""
    for record in found["latency"]:
        runs = [x for x in record["runs"] if not is_peer(x)]
        for batch in sorted({x["batch"] for x in runs}):
            alike = {(x["transfers"], x["cuda_graph"]): x for x in runs if x["batch"] == batch}
            yield record, next(alike[x] for x in SETTINGS if x in alike)


def _accuracy(board: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    """The accuracy of the very file that was measured, by the keys of a classifier or of any task."""
    found = board["accuracy"].get(record["subject"]["sha256"], {})
    return found | {
        "percent": found.get("percent", found.get("top1_percent")),
        "metric": found.get("metric", "top-1"),
    }


def _results(content: dict[str, Any]) -> list[Block]:
    rows = []
    for name, board, mode, found in _modes(content):
        for record, run in _best_runs(found):
            accuracy, seen = _accuracy(board, record), run["telemetry"] or {}
            interval = accuracy.get("drop_interval_points")
            spread = f" ({interval[0]:+.2f} to {interval[1]:+.2f})" if interval else ""
            rows.append(
                [name, mode, record["recipe"]["name"], how_it_ran(run, record.get("kernels")), str(run["batch"]),
                 f"{run['p50_ms']:.3f}", f"{run['p99_ms']:.3f}", f"{run['images_per_s']:.0f}",
                 cell(seen.get("energy_per_image_j")), cell(seen.get("power_w")),
                 cell((seen.get("temperature_c") or {}).get("max")),
                 "–" if accuracy["percent"] is None else f"{accuracy['percent']:.2f} ({accuracy['metric']})",
                 "–" if "drop_points" not in accuracy else f"{accuracy['drop_points']:+.2f}{spread}"]
            )  # fmt: skip
    header = [
        "board", "power mode", "recipe", "how", "batch", "p50, ms", "p99, ms", "images/s", "J/image", "W", "highest °C",
        "accuracy, %", "drop, points (95 %)",
    ]  # fmt: skip
    note = (
        f"Accuracy is of the very file that was measured, on the {content['images']} images of the bundle. J/image is "
        "the board's power while it ran over its images a second, where the board has a sensor."
    )
    without = ", ".join(x for i, x in enumerate(header) if all(row[i] == "–" for row in rows))
    note += f" Nowhere known: {without}." if without else ""
    return [Table(*_known(header, rows)), Prose(note)] if rows else []


def _known(header: list[str], rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """A table without the columns in which nothing is known."""
    kept = [i for i in range(len(header)) if i == 0 or any(row[i] != "–" for row in rows)]
    return [header[i] for i in kept], [[row[i] for i in kept] for row in rows]


def _pareto(content: dict[str, Any]) -> list[Block]:
    """A figure for each batch size: boards and recipes in one plane."""
    groups: dict[int, list[Point]] = {}
    for name, board, mode, found in _modes(content):
        for record, run in _best_runs(found):
            accuracy = _accuracy(board, record)
            if "drop_points" in accuracy:
                label = ", ".join(x for x in (name, mode, record["recipe"]["name"]) if x != "–")
                interval = accuracy.get("drop_interval_points")
                point = Point(
                    label, run["p50_ms"], accuracy["drop_points"], tuple(interval) if interval else None, False
                )
                groups.setdefault(run["batch"], []).append(point)
    blocks: list[Block] = []
    for batch, points in sorted(groups.items()):
        shown = sorted(points, key=lambda x: x.latency_ms)[:MOST_POINTS]
        left_out = f" The fastest {MOST_POINTS} of {len(points)} are drawn." if len(points) > MOST_POINTS else ""
        data = [[x.name, f"{x.latency_ms:.4g}", f"{x.drop_points:+.2f}"] for x in points]
        caption = "Left is faster, down is more accurate; bars are 95 % intervals of the drop." + left_out
        table = Table(["board and recipe", "p50, ms", "drop, points"], data)
        blocks.append(plot(f"pareto-{batch}", f"Batch {batch}, measured", caption, draw_pareto(shown, []), table))
    return blocks


def _doubts(content: dict[str, Any]) -> list[Block]:
    lines = [
        f"{name}, {record['recipe']['name']}{_in(mode)}, batch {run['batch']}: {warning}"
        for name, _, mode, found in _modes(content)
        for record, run in _best_runs(found)
        for warning in run.get("warnings") or []
    ]
    return [Listing(lines, is_warning=True)] if lines else []


def _in(mode: str) -> str:
    return "" if mode == "–" else f" in {mode}"


def _records(content: dict[str, Any]) -> list[Block]:
    rows = [
        [f"{name}/{mode}/{record['file']}", record["subject"]["name"], record["subject"]["sha256"][:16] + "…",
         record["created"]]
        for name, board in content["boards"].items()
        for mode, found in board["modes"].items()
        for record in found["latency"]
    ]  # fmt: skip
    return [Table(["record", "measured", "sha256", "when"], rows, is_text=True)] if rows else []
