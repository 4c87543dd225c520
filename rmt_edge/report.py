"""Report: one page, Markdown and JSON, of everything that a folder holds about a checkpoint.

Reads manifests alone; checks each file against its hash and each parent against the file that is there, so that all
numbers of a row come from one chain: checkpoint, quantised checkpoint, ONNX, engine, predictions.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rmt_edge import __version__
from rmt_edge.artifact import (
    ENGINE,
    ONNX,
    PLUGIN_ONNX,
    PREDICTIONS,
    QUANTIZED,
    Manifest,
    check_parent,
    plugin_form_path,
    read_manifest,
    write_json,
    written_whole,
)
from rmt_edge.errors import RmtEdgeError
from rmt_edge.plot import plot_report
from rmt_edge.recipe import PRECISIONS

NAME = "report.md"


def report(folder: Path) -> Path:
    """Write report.md, report.json and report.svg into the folder; returns the path of report.md."""
    start = time.monotonic()
    if not folder.is_dir():
        raise RmtEdgeError(f"There is no folder {folder}.", do="Pass the folder that `rmt-edge deploy` wrote to.")
    rows = sorted(_rows(folder), key=lambda row: (PRECISIONS.index(row["precision"]), row["recipe_name"]))
    if not rows:
        raise RmtEdgeError(f"{folder} holds no ONNX file of rmt-edge.", do="Run `rmt-edge deploy` or `export` first.")
    sources = {row["checkpoint"]["sha256"] for row in rows}
    if len(sources) > 1:
        raise RmtEdgeError(
            f"{folder} holds models of {len(sources)} checkpoints.", do="Use one --output folder for each checkpoint."
        )
    page = folder / NAME
    content = {
        "rmt_edge": __version__,
        "checkpoint": rows[0]["checkpoint"],
        "variant": rows[0]["variant"],
        "parameters": rows[0]["parameters"],
        "num_classes": rows[0]["num_classes"],
        "preprocessing": rows[0]["preprocessing"],
        "latency": None,
        "rows": rows,
        "report_seconds": round(time.monotonic() - start, 2),
    }
    write_json(folder / "report.json", content)
    with written_whole(page.with_suffix(".svg")) as temporary:
        plot_report(rows, temporary)
    with written_whole(page) as temporary:
        temporary.write_text(markdown(content), encoding="utf-8")
    return page


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    """One row per ONNX file: what its chain of manifests says."""
    for onnx_path in sorted(set(folder.glob("*.onnx")) - set(folder.glob("*.plugin.onnx"))):
        onnx = read_manifest(onnx_path, ONNX)
        quantized = read_manifest(folder / onnx.parents[0]["name"], QUANTIZED)
        check_parent(onnx, quantized)
        plugin_path = plugin_form_path(onnx_path)
        plugin_form = _child(plugin_path, PLUGIN_ONNX, onnx)
        engines = [read_manifest(path, ENGINE) for path in sorted(folder.glob(f"{onnx_path.stem}.*.engine"))]
        for engine in engines:
            check_parent(engine, plugin_form if engine.details["retention"] == "plugin" else onnx)
        predictions_path = folder / f"{onnx_path.stem}.predictions.npz"
        predictions = _child(predictions_path, PREDICTIONS, onnx) if predictions_path.exists() else None
        yield {
            "recipe_name": onnx.recipe["name"],
            "precision": onnx.recipe["precision"],
            "recipe": onnx.recipe,
            "checkpoint": onnx.details["checkpoint"],
            **{name: onnx.details[name] for name in ("variant", "parameters", "num_classes", "preprocessing")},
            "quantized_layers": onnx.details.get("quantized_layers", 0),
            "nodes": onnx.details["nodes"],
            "relative_error": onnx.details["relative_error"],
            "accuracy": predictions.details if predictions else None,
            "seconds": {
                "quantize": quantized.seconds,
                "export": onnx.seconds,
                "build": sum(x.seconds for x in engines),
                "validate": predictions.seconds if predictions else None,
            },
            "engines": [x.details["profile"] | {k: x.details[k] for k in _ENGINE_DETAILS} for x in engines],
            "files": [_file(x) for x in (quantized, onnx, plugin_form, *engines, predictions) if x],
            "versions": onnx.versions,
        }


_ENGINE_DETAILS = ("retention", "layers", "layers_by_kind", "plugin_layers", "int8_gemms")


def _child(path: Path, kind: str, parent: Manifest) -> Manifest:
    manifest = read_manifest(path, kind)
    check_parent(manifest, parent)
    return manifest


def _file(manifest: Manifest) -> dict[str, Any]:
    return {key: asdict(manifest)[key] for key in ("name", "kind", "sha256", "size_bytes", "parents", "created")}


def markdown(content: dict[str, Any]) -> str:
    """The page of a report."""
    rows = content["rows"]
    size = content["preprocessing"]
    lines = [
        f"# {content['variant']} from {content['checkpoint']['name']}",
        "",
        f"{content['parameters']:,} parameters, {content['num_classes']} classes, input "
        f"{size['height']}x{size['width']}. Checkpoint sha256 `{content['checkpoint']['sha256']}`.",
        "",
        "## Which one",
        "",
        *_decision(rows),
        "",
        "![Drop of top-1 and file sizes by precision](report.svg)",
        "",
        "## Side by side",
        "",
        *_table(["", *(row["recipe_name"] for row in rows)], _comparison(rows)),
        "",
        *_definitions(rows),
        "",
        "## Engine layers by kind",
        "",
        "As the builder names them: `gemm` matrix products, `correlation` convolutions, `kgen` fused "
        "kernels, `custom_layer` rmt-edge's plugins.",
        "",
        *_table(["", *(row["recipe_name"] for row in rows)], _kinds(rows)),
        "",
        "## Recipes",
        "",
        *(f"- **{row['recipe_name']}**: `{row['recipe']}`" for row in rows),
        "",
        "## Files and their chain",
        "",
        *_table(["file", "made from", "size", "sha256"], _files(rows)),
        "",
        f"Made by rmt-edge {content['rmt_edge']}; versions: "
        + ", ".join(f"{name} {version}" for name, version in rows[-1]["versions"].items())
        + ".",
    ]
    return "\n".join(lines) + "\n"


def _decision(rows: list[dict[str, Any]]) -> list[str]:
    """What the accuracy says, and what it cannot say."""
    lines = []
    for row in rows:
        accuracy = row["accuracy"]
        if accuracy is None:
            lines.append(f"- **{row['recipe_name']}**: not validated. Run `rmt-edge validate` on it.")
            continue
        low, high = accuracy["drop_interval_points"]
        verdict = "within" if accuracy["within_max_drop"] else "**outside**"
        lines.append(
            f"- **{row['recipe_name']}**: top-1 {accuracy['top1_percent']:.2f} %, {verdict} the allowed drop of "
            f"{accuracy['max_drop_points']:g} points ({accuracy['drop_points']:+.2f}, 95 % interval {low:+.2f} to "
            f"{high:+.2f})."
        )
    lines.append(
        "- **Latency is not measured**: it needs the device. INT8 is often slower than FP16 at batch 1 on large GPUs; "
        "prefer FP16 until a measurement on yours shows INT8 at least 1.02 times as fast."
    )
    return lines


def _comparison(rows: list[dict[str, Any]]) -> list[list[str]]:
    """The rows of the main table: a label and a cell per recipe."""

    def accuracy(key: str, form: str) -> list[str]:
        return [form.format(row["accuracy"][key]) if row["accuracy"] else "–" for row in rows]

    def size(kind: str) -> list[str]:
        found = [[x["size_bytes"] for x in row["files"] if x["kind"] == kind] for row in rows]
        return [" / ".join(f"{x / 1e6:.2f} MB" for x in sizes) or "–" for sizes in found]

    def engine(key: str) -> list[str]:
        return [" / ".join("–" if x[key] is None else str(x[key]) for x in row["engines"]) or "–" for row in rows]

    def seconds(step: str) -> list[str]:
        return [f"{row['seconds'][step]:.1f} s" if row["seconds"][step] is not None else "–" for row in rows]

    intervals = [row["accuracy"]["drop_interval_points"] if row["accuracy"] else None for row in rows]
    return [
        ["top-1", *accuracy("top1_percent", "{:.2f} %")],
        ["top-5", *accuracy("top5_percent", "{:.2f} %")],
        ["top-1 drop, points", *accuracy("drop_points", "{:+.2f}")],
        ["95 % interval of the drop", *(f"{x[0]:+.2f} to {x[1]:+.2f}" if x else "–" for x in intervals)],
        ["agreement with float32", *accuracy("agreement_percent", "{:.2f} %")],
        ["ONNX file", *size(ONNX)],
        ["engine file", *size(ENGINE)],
        ["ONNX nodes", *(str(row["nodes"]) for row in rows)],
        ["engine layers", *engine("layers")],
        ["of them plugins", *engine("plugin_layers")],
        ["of them INT8 matrix products", *engine("int8_gemms")],
        ["retention", *engine("retention")],
        ["engine for", *engine("device")],
        ["ONNX against PyTorch, relative error", *(f"{row['relative_error']:.1e}" for row in rows)],
        *(["time to " + step, *seconds(step)] for step in ("quantize", "export", "build", "validate")),
    ]


def _definitions(rows: list[dict[str, Any]]) -> list[str]:
    """Each metric in a sentence."""
    validated = next((row["accuracy"] for row in rows if row["accuracy"]), None)
    lines = []
    if validated:
        lines += [
            f"- Accuracy: of the ONNX file that the engine was built from, on {validated['images']:,} images through "
            f"{validated['runtime']}; not of the engine, which needs its GPU.",
            "- Drop: top-1 of the float32 PyTorch model minus top-1 of this file on the same images; its interval is "
            "paired per image. Agreement: images on which both name the same class first.",
            "- The first time to validate includes the float32 PyTorch model's run over the images.",
        ]
    return [
        *lines,
        "- ONNX against PyTorch: ‖difference‖/‖PyTorch‖ of the logits on noise, both with the same INT8 rounding.",
        "- A Retention counts as one ONNX node. Engine layers: what the builder lists, each at least one kernel.",
    ]


def _kinds(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Layers by kind of each of a recipe's engines; none of an engine whose layers could not be listed."""
    counts = [[x["layers_by_kind"] or {} for x in row["engines"]] for row in rows]
    kinds = dict.fromkeys(kind for engines in counts for engine in engines for kind in engine)
    return [[kind, *(" / ".join(str(x.get(kind, 0)) for x in engines) or "–" for engines in counts)] for kind in kinds]


def _files(rows: list[dict[str, Any]]) -> list[list[str]]:
    return [
        [
            x["name"],
            ", ".join(parent["name"] for parent in x["parents"]),
            f"{x['size_bytes'] / 1e6:.2f} MB",
            f"`{x['sha256'][:16]}…`",
        ]
        for row in rows
        for x in row["files"]
    ]


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table; the first column left, the others right."""
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]
