"""The page of a report: its sections in the order in which somebody decides, then checks."""

from collections.abc import Callable
from typing import Any

from rmt_edge.report import page_accuracy, page_files, page_flips, page_found, page_latency, page_sensitivity
from rmt_edge.report.blocks import Block, Section, rendered
from rmt_edge.report.plot import plot_style
from rmt_edge.tasks.tasks import CLASSIFICATION


def _changes(content: dict[str, Any]) -> list[Block]:
    """Images that change their class, or in which something else is found."""
    tasks = {row["accuracy"].get("task", CLASSIFICATION) for row in content["rows"] if row["accuracy"]}
    return page_flips.flips(content) if tasks <= {CLASSIFICATION} else page_found.found(content)


# Name, title and maker of each section. A section without data says which command makes them.
SECTIONS: tuple[tuple[str, str, Callable[[dict[str, Any]], list[Block]]], ...] = (
    ("decision", "What to deploy, and why", page_accuracy.decision),
    ("accuracy", "Side by side", page_accuracy.side_by_side),
    ("pareto", "Accuracy against latency", page_latency.pareto),
    ("sensitivity", "Which layers INT8 hurts", page_sensitivity.sensitivity),
    ("flips", "Which images change", _changes),
    ("latency", "Latency, run by run", page_latency.latency),
    ("devices", "Accuracy on devices", page_latency.devices),
    ("ranges", "Ranges that calibration found", page_files.ranges),
    ("engines", "Layers of the engines", page_files.engines),
    ("recipes", "Recipes", page_files.recipes),
    ("files", "Files and their chain", page_files.chain),
    ("definitions", "What each number means", page_files.definition_list),
    ("versions", "Versions", page_files.versions),
)


def page(content: dict[str, Any]) -> str:
    """The HTML of a report's content (report.collect)."""
    size = content["preprocessing"]
    facts = [
        f"{content['parameters']:,} parameters, {content['num_classes']} classes, input "
        f"{size['height']}×{size['width']}",
        f"Checkpoint sha256 `{content['checkpoint']['sha256']}`",
    ]
    with plot_style():
        sections = [Section(name, title, make(content)) for name, title, make in SECTIONS]
    title = f"{content['variant']} from {content['checkpoint']['name']}"
    return rendered(title, facts, sections, f"Made by rmt-edge {content['rmt_edge']} from the manifests and records "
                    "of one folder. This file loads nothing from anywhere.")  # fmt: skip
