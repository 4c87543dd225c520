"""The report's picture: what each precision costs in accuracy and in bytes."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from rmt_edge.artifact import ENGINE, ONNX

FILES = {"ONNX file": ONNX, "engine": ENGINE}


def plot_report(rows: list[dict[str, Any]], path: Path) -> None:
    """Write the SVG of a report's rows: drop of top-1 with its 95 % interval and the limit; sizes of the files."""
    names = [row["recipe_name"] for row in rows]
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    drop, size = figure.subplots(1, 2)

    validated = [(i, row["accuracy"]) for i, row in enumerate(rows) if row["accuracy"]]
    for i, accuracy in validated:
        low, high = accuracy["drop_interval_points"]
        centre = accuracy["drop_points"]
        drop.errorbar(i, centre, [[centre - low], [high - centre]], fmt="o", capsize=6, color="tab:blue")
        drop.annotate(f"{centre:+.2f}", (i, centre), (10, 6), textcoords="offset points")
    if validated:
        limit = validated[0][1]["max_drop_points"]
        drop.axhline(limit, color="tab:red", linestyle="--", label=f"allowed: {limit:g}")
        drop.legend(loc="center left")
    drop.axhline(0, color="grey", linewidth=0.8)
    drop.set_xticks(range(len(names)), names)
    drop.set_xlim(-0.5, len(names) - 0.5)
    drop.set_ylabel("points of top-1 lost")
    drop.set_title("Drop against float32 PyTorch, 95 % interval")

    width = 0.38
    for offset, (label, kind) in zip((-width / 2, width / 2), FILES.items(), strict=True):
        sizes = [max((x["size_bytes"] for x in row["files"] if x["kind"] == kind), default=0) / 1e6 for row in rows]
        bars = size.bar([i + offset for i in range(len(rows))], sizes, width, label=label)
        size.bar_label(bars, [f"{x:.1f}" if x else "–" for x in sizes])
    size.set_xticks(range(len(names)), names)
    size.set_ylabel("MB")
    size.set_title("Size")
    size.margins(y=0.3)
    size.legend(loc="upper center", ncols=2)
    figure.savefig(path, format="svg", metadata={"Date": None})
