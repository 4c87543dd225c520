"""Sections of the page about accuracy: the decision, and all candidates side by side."""

from typing import Any

from rmt_edge.artifact import ENGINE, ONNX
from rmt_edge.report.blocks import Block, Listing, Missing, Plot, Prose, Table, plot
from rmt_edge.report.figures import bars, drops
from rmt_edge.report.markdown import comparison


def decision(content: dict[str, Any]) -> list[Block]:
    """What to deploy in a sentence, why, and what each candidate's accuracy says."""
    found = content["decision"]
    blocks: list[Block] = [Prose(found["headline"], is_headline=True), Listing(found["reasons"])]
    blocks += [_verdict(x) for x in content["verdicts"]]
    blocks.append(Listing([f"{x['name']}: {x['text']}" for x in found["candidates"]], "Each candidate"))
    return blocks


def _verdict(verdict: dict[str, Any]) -> Table:
    """Every row of a verdict, other runners than engines included."""
    header = ["runner", "batch", "verdict", "FP16, p50", "against", "its p50", "FP16 over it", "95 % interval", "why"]
    rows = []
    for x in verdict["rows"]:
        fp16, against = x.get("fp16"), x.get("reduced")
        times = [f"{fp16['p50_ms']:.3f} ms" if fp16 else "–", against["precision"] if against else "–"]
        times.append(f"{against['p50_ms']:.3f} ms" if against else "–")
        low, high = x.get("speedup_interval", (None, None))
        ratio = ["–", "–"] if low is None else [f"{x['speedup']:.3f}", f"{low:.3f} to {high:.3f}"]
        rows.append([x["runner"], str(x["batch"]), x["verdict"], *times, *ratio, x["reason"]])
    return Table(header, rows, f"The verdict on what was measured on {verdict['name']}")


def side_by_side(content: dict[str, Any]) -> list[Block]:
    """Drops with intervals, sizes, and the table of all that is known of each candidate."""
    rows = content["rows"]
    validated = [row for row in rows if row["accuracy"]]
    blocks: list[Block] = []
    if len(validated) < len(rows):
        names = ", ".join(row["recipe_name"] for row in rows if not row["accuracy"])
        blocks.append(
            Missing(f"Not validated: {names}.", "rmt-edge validate FILE.onnx --checkpoint CHECKPOINT --data IMAGES")
        )
    if validated:
        blocks.append(_drops(validated))
    blocks.append(_sizes(rows))
    return [*blocks, Table(["", *(row["recipe_name"] for row in rows)], comparison(rows), "All candidates")]


def _drops(validated: list[dict[str, Any]]) -> Plot:
    entries = [
        (row["recipe_name"], row["accuracy"]["drop_points"], tuple(row["accuracy"]["drop_interval_points"]))
        for row in validated
    ]
    accuracy = validated[0]["accuracy"]
    limit, metric = accuracy["max_drop_points"], accuracy["metric"]
    no_width = "" if all(low < high for _, _, (low, high) in entries) else (
        " An interval without width means that not one of these images turned right or wrong; by the rule of three up "
        f"to {300 / accuracy['images']:.2g} % of all images may still."
    )  # fmt: skip
    return plot(
        "drop",
        "What each candidate loses",
        f"{_capital(metric)} of the float32 PyTorch model, {accuracy['reference_percent']:.2f} % on "
        f"{accuracy['images']:,} images, minus that of the candidate on the same images. "
        "Bars are 95 % intervals, paired per image: where one "
        f"spans zero, no loss is proven; where one reaches {limit:g}, the limit is not proven to hold.{no_width}",
        drops(entries, limit, f"points of {metric} lost"),
        Table(
            ["candidate", metric, "drop, points", "from", "to"],
            [
                [name, f"{row['accuracy']['percent']:.2f} %", f"{drop:+.2f}", f"{low:+.3f}", f"{high:+.3f}"]
                for row, (name, drop, (low, high)) in zip(validated, entries, strict=True)
            ],
        ),
    )  # fmt: skip


def _capital(words: str) -> str:
    return words[0].upper() + words[1:]


def _sizes(rows: list[dict[str, Any]]) -> Plot:
    sizes = {
        label: [max((x["size_bytes"] for x in row["files"] if x["kind"] == kind), default=0) / 1e6 for row in rows]
        for label, kind in (("ONNX file", ONNX), ("engine", ENGINE))
    }
    shown = {label: values for label, values in sizes.items() if any(values)}
    names = [row["recipe_name"] for row in rows]
    return plot(
        "sizes",
        "What each candidate weighs",
        "Files in MB (10⁶ bytes). An engine holds kernels and tables too; of several the largest is shown.",
        bars(names, shown, "MB"),
        Table(
            ["candidate", *shown], [[name, *(f"{x[i]:.3f}" for x in shown.values())] for i, name in enumerate(names)]
        ),
    )
