"""Section of the page about detectors and segmenters: pictures that change, and what becomes of each class."""

from typing import Any

from rmt_edge.report.blocks import Block, Missing, Pair, Pairs, Plot, Prose, Table, plot, table_of
from rmt_edge.report.figures import bars, curves
from rmt_edge.tasks.detection_facts import SURE
from rmt_edge.tasks.tasks import DETECTION

SHOWN_CLASSES = 12  # of those that change most
CURVES = 6  # classes with a curve of their own


def found(content: dict[str, Any]) -> list[Block]:
    """What both models find in the images on which they differ most, then class by class."""
    rows = [row for row in content["rows"] if row["accuracy"]]
    if not rows:
        text = "No candidate is validated."
        return [Missing(text, "rmt-edge validate FILE.onnx --checkpoint C --data IMAGES --annotations PATH")]
    blocks: list[Block] = []
    for row in rows:
        name, accuracy = row["recipe_name"], row["accuracy"]
        if accuracy["agreement_percent"] == 100:
            blocks.append(Prose(f"{name} finds what the float32 model finds, in all {accuracy['images']:,} images."))
            continue
        if row["pictures"]:
            blocks.append(_pairs(row))
        blocks.append(table_of(accuracy["worst_images"], f"{name}, the images that change most"))
        if accuracy["task"] == DETECTION:
            blocks.append(_curves(row, f"curves-{len(blocks)}"))
        blocks.append(_classes(row, f"classes-{len(blocks)}"))
    return blocks


def _pairs(row: dict[str, Any]) -> Pairs:
    is_detection = row["accuracy"]["task"] == DETECTION
    what = f"boxes of a score of at least {SURE:g}" if is_detection else "the class of every pixel"
    name = row["recipe_name"]
    return Pairs(
        [Pair(x["name"], x["reference"], x["own"]) for x in row["pictures"]],
        f"{name}: where it differs most from the float32 model",
        "float32",
        name,
        f"Shown: {what}. Left the float32 model, right {name}.",
    )


def _curves(row: dict[str, Any], slug: str) -> Plot:
    """Precision against recall at IoU 0.5 of the classes whose AP changes most."""
    name, details = row["recipe_name"], row["accuracy"]["detection"]
    changed = {x["class"]: abs(x["drop_points"]) for x in row["accuracy"]["per_class"]}
    chosen = sorted(details["precision_at_recall"], key=lambda x: -changed.get(x["class"], 0.0))[:CURVES]
    recalls = details["recalls"]
    left_out = len(details["precision_at_recall"]) - len(chosen)
    more = f" Shown are the {CURVES} classes whose AP changes most; {left_out} more are left out." if left_out else ""
    return plot(
        slug,
        f"{name}: precision against recall",
        f"At an overlap of 0.5, class by class: dashed the float32 model, solid {name}. Precision is the share of "
        f"boxes that are right; recall the share of objects that are found, from the surest box on.{more}",
        curves(recalls, [(x["name"], x["reference"], x["own"]) for x in chosen], ("float32", name)),
        Table(
            ["class", "model", *(f"{x:g}" for x in recalls)],
            [
                [x["name"], model, *(f"{value:.3f}" for value in x[key])]
                for x in chosen
                for model, key in (("float32", "reference"), (name, "own"))
            ],
        ),
    )


def _classes(row: dict[str, Any], slug: str) -> Plot:
    """AP or IoU by class, of both models."""
    name, accuracy = row["recipe_name"], row["accuracy"]
    measure = "IoU" if accuracy["metric"] == "mIoU" else accuracy["metric"].replace("box AP", "AP of boxes")
    measure = measure.replace("mask AP", "AP of masks")
    classes = sorted(accuracy["per_class"], key=lambda x: -abs(x["drop_points"]))
    shown = classes[:SHOWN_CLASSES]
    more = f" Shown are the {len(shown)} of {len(classes)} that change most." if len(shown) < len(classes) else ""
    series = {"float32": [x["reference_percent"] for x in shown], name: [x["percent"] for x in shown]}
    return plot(
        slug,
        f"{name}: {measure} by class",
        f"Of both models on the same images.{more}",
        bars([x["name"] for x in shown], series, f"{measure}, %"),
        table_of(classes, ""),
    )
