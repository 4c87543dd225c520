"""Section of the page about flips: the images on which a candidate names another class than the float32 model."""

from typing import Any

from rmt_edge.report.blocks import Block, Missing, Plot, Prose, Table, plot, table_of
from rmt_edge.report.figures import diverging, heat_map

SHOWN_CLASSES = 12  # of the classes with the most flips


def flips(content: dict[str, Any]) -> list[Block]:
    """How many images change, between which classes, and which classes and images fare worst."""
    rows = [row for row in content["rows"] if row["flips"]]
    if not rows:
        text = "No predictions of a candidate lie beside those of the float32 reference."
        return [Missing(text, "rmt-edge validate FILE.onnx --checkpoint CHECKPOINT --data IMAGES")]
    blocks: list[Block] = []
    told = [row for row in rows if "right_to_wrong" in row["flips"]]
    if told:
        blocks.append(_outcomes(told))
    unchanged = [row["recipe_name"] for row in rows if not row["flips"]["changed"]]
    if unchanged:
        images = rows[0]["flips"]["images"]
        blocks.append(Prose(f"Not one of the {images:,} images changes its class with {' or '.join(unchanged)}."))
    for row in rows:
        if row["flips"]["changed"]:
            blocks.append(_confusion(f"confusion-{len(blocks)}", row))
            blocks += _worst(row)
    return blocks


def _worst(row: dict[str, Any]) -> list[Block]:
    """The classes that changed most and the images that suffered most, where the predictions' manifest has them."""
    name, blocks = row["recipe_name"], list[Block]()
    classes = sorted(row["accuracy"].get("per_class") or [], key=lambda x: -abs(x.get("drop_points") or 0))
    if classes:
        shown = (
            f"the {SHOWN_CLASSES} of {len(classes)} classes that change most" if len(classes) > SHOWN_CLASSES else ""
        )
        blocks.append(table_of(classes[:SHOWN_CLASSES], f"{name}, class by class{shown and ': ' + shown}"))
    images = row["accuracy"].get("worst_images") or []
    if images:
        title = f"{name}, the images that suffer most: the margin is the label's logit minus the largest other"
        blocks.append(table_of(images, title))
    return blocks


def _outcomes(rows: list[dict[str, Any]]) -> Plot:
    names = [row["recipe_name"] for row in rows]
    found = [row["flips"] for row in rows]
    lost, won = [x["right_to_wrong"] for x in found], [x["wrong_to_right"] for x in found]
    data = [
        [name, f"{x['images']:,}", str(x["changed"]), str(a), str(b), str(x["changed"] - a - b)]
        for name, a, b, x in zip(names, lost, won, found, strict=True)
    ]
    return plot(
        "outcomes",
        "Images lost and won",
        "Of the images whose class changes, those that were right and are wrong now, and those that were wrong and are "
        "right now. Rounding moves images that lie between two classes either way: the drop is the difference alone.",
        diverging(names, lost, won),
        Table(["candidate", "images", "changed", "right → wrong", "wrong → right", "wrong → another wrong"], data),
    )


def _confusion(slug: str, row: dict[str, Any]) -> Plot:
    """Which class becomes which, for the classes with the most changes."""
    name, found = row["recipe_name"], row["flips"]
    called = {x["class"]: str(x.get("name", x["class"])) for x in row["accuracy"].get("per_class") or []}
    counts: dict[int, int] = {}
    for pair in found["pairs"]:
        for end in ("from", "to"):
            counts[pair[end]] = counts.get(pair[end], 0) + pair["images"]
    classes = sorted(sorted(counts, key=lambda x: -counts[x])[:SHOWN_CLASSES])
    cells = {
        (classes.index(x["from"]), classes.index(x["to"])): (float(x["images"]), str(x["images"]))
        for x in found["pairs"]
        if x["from"] in classes and x["to"] in classes
    }
    shown = sum(int(value) for value, _ in cells.values())
    left_out = f" Shown are the {len(classes)} classes that change most, with {shown} of these images."
    labels = [called.get(x, str(x)) for x in classes]
    data = [[*(called.get(x[end], str(x[end])) for end in ("from", "to")), str(x["images"])] for x in found["pairs"]]
    share = f"{100 * found['changed'] / found['images']:.2f} %"
    return plot(
        slug,
        f"{name}: from which class to which",
        f"{found['changed']:,} of {found['images']:,} images change class ({share}): "
        f"rows are the classes that the float32 model names, columns those that {name} names instead."
        f"{left_out if shown < found['changed'] else ''}",
        heat_map(labels, labels, cells, f"class by {name}", "class by float32"),
        Table(["from class", "to class", "images"], data),
    )
