"""Report: everything that a folder holds about a checkpoint, side by side: a page, Markdown and JSON.

Reads manifests and records; checks each file against its hash and each parent against the file that is there, so that
all numbers of a row come from one chain: checkpoint, quantised checkpoint, ONNX, engine, predictions.
"""

import time
from collections.abc import Iterable, Iterator
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
    Artifact,
    ArtifactFolder,
    check_parent,
    plugin_form_path,
    write_json,
    written_whole,
)
from rmt_edge.errors import RmtEdgeError
from rmt_edge.quantization.recipe import PRECISIONS
from rmt_edge.report.decision import decide
from rmt_edge.report.figures import drops
from rmt_edge.report.flips import flips_between
from rmt_edge.report.markdown import markdown
from rmt_edge.report.page import page
from rmt_edge.report.plot import plot_style, write_svg
from rmt_edge.report.ranges import ranges_of
from rmt_edge.report.records import (
    ESTIMATE,
    LATENCY,
    SEARCH,
    SENSITIVITY,
    read_device_accuracy,
    read_latencies,
    read_records,
    read_verdicts,
)
from rmt_edge.tasks.tasks import accuracy_in

NAME = "report.md"


def write_report(folder: Path, known: Iterable[Artifact] = ()) -> Path:
    """Write report.html, report.md, report.json and report.svg into the folder; returns the path of report.md.

    known: files of the folder that were checked already; all others are hashed here.
    """
    content = collect(folder, known)
    target = folder / NAME
    write_json(folder / "report.json", _without_samples(content))
    validated = [(row["recipe_name"], row["accuracy"]) for row in content["rows"] if row["accuracy"]]
    if validated:
        with written_whole(target.with_suffix(".svg")) as temporary, plot_style():
            entries = [(name, x["drop_points"], tuple(x["drop_interval_points"])) for name, x in validated]
            write_svg(
                drops(entries, validated[0][1]["max_drop_points"], f"points of {validated[0][1]['metric']} lost"),
                temporary,
            )
    with written_whole(target) as temporary:
        temporary.write_text(markdown(content), encoding="utf-8")
    with written_whole(target.with_suffix(".html")) as temporary:
        temporary.write_text(page(content), encoding="utf-8")
    return target


def collect(folder: Path, known: Iterable[Artifact] = ()) -> dict[str, Any]:
    """All that the report says, as plain values: what report.json holds, and the samples of the latencies."""
    start = time.monotonic()
    if not folder.is_dir():
        raise RmtEdgeError(f"There is no folder {folder}.", do="Pass the folder that `rmt-edge deploy` wrote to.")
    rows = sorted(_rows(ArtifactFolder(folder, known)), key=lambda row: (_rank(row["precision"]), row["recipe_name"]))
    if not rows:
        raise RmtEdgeError(f"{folder} holds no ONNX file of rmt-edge.", do="Run `rmt-edge deploy` or `export` first.")
    sources = {row["checkpoint"]["sha256"] for row in rows}
    if len(sources) > 1:
        raise RmtEdgeError(
            f"{folder} holds models of {len(sources)} checkpoints.", do="Use one --output folder for each checkpoint."
        )
    hashes = {x["name"]: x["sha256"] for row in rows for x in (*row["files"], row["checkpoint"])}
    used = {x["name"] for row in rows for x in row["files"]}
    content: dict[str, Any] = {
        "rmt_edge": __version__,
        **{key: rows[0][key] for key in ("checkpoint", "variant", "parameters", "num_classes", "preprocessing")},
        "rows": rows,
        LATENCY: read_latencies(folder, hashes),
        **{kind: read_records(folder, kind, hashes) for kind in (SENSITIVITY, SEARCH, ESTIMATE)},
        "device_accuracy": read_device_accuracy(folder, used, hashes),
    }
    content["verdicts"] = read_verdicts(folder, content[LATENCY])
    content["decision"] = decide(content)
    content["report_seconds"] = round(time.monotonic() - start, 2)
    return content


def _rank(precision: str) -> int:
    """The place of a precision among the candidates; one that this version does not know comes last."""
    return PRECISIONS.index(precision) if precision in PRECISIONS else len(PRECISIONS)


def _without_samples(content: dict[str, Any]) -> dict[str, Any]:
    """The content without the samples of each run, which lie in the records' own files."""
    latency = [
        record | {"runs": [{k: v for k, v in run.items() if k != "samples_ms"} for run in record["runs"]]}
        for record in content[LATENCY]
    ]
    return content | {LATENCY: latency}


def _rows(folder: ArtifactFolder) -> Iterator[dict[str, Any]]:
    """One row per ONNX file: what its chain of manifests says."""
    for onnx_path in sorted(set(folder.path.glob("*.onnx")) - set(folder.path.glob("*.plugin.onnx"))):
        onnx = folder.read(onnx_path.name, ONNX)
        quantized = folder.read(onnx.manifest.source["name"], QUANTIZED)
        check_parent(onnx.manifest, quantized.manifest)
        plugin_form = _child(folder, plugin_form_path(onnx_path).name, PLUGIN_ONNX, onnx)
        engines = [folder.read(x.name, ENGINE) for x in sorted(folder.path.glob(f"{onnx_path.stem}.*.engine"))]
        for engine in engines:
            source = plugin_form if engine.details["kernels"] == "plugin" else onnx
            check_parent(engine.manifest, source.manifest)
        name = f"{onnx_path.stem}.predictions.npz"
        predictions = _child(folder, name, PREDICTIONS, onnx) if (folder.path / name).exists() else None
        reference = f"{Path(onnx.details['checkpoint']['name']).stem}.reference.predictions.npz"
        yield {
            "recipe_name": onnx.recipe["name"],
            "precision": onnx.recipe["precision"],
            "recipe": onnx.recipe,
            "checkpoint": onnx.details["checkpoint"],
            **{name: onnx.details[name] for name in ("variant", "parameters", "num_classes", "preprocessing")},
            "quantized_layers": onnx.details.get("quantized_layers", 0),
            "nodes": onnx.details["nodes"],
            **{name: onnx.details[name] for name in ("relative_error", "plugin_form_relative_error")},
            "accuracy": accuracy_in(predictions.details) if predictions else None,
            "flips": flips_between(folder, reference, predictions) if predictions else None,
            "ranges": ranges_of(quantized.path, onnx.details["variant"]),
            "seconds": {
                "quantize": quantized.manifest.seconds,
                "export": onnx.manifest.seconds,
                "build": sum(x.manifest.seconds for x in engines),
                "validate": predictions.manifest.seconds if predictions else None,
            },
            "engines": [x.details["profile"] | {k: x.details[k] for k in _ENGINE_DETAILS} for x in engines],
            "files": [_file(x) for x in (quantized, onnx, plugin_form, *engines, predictions) if x],
            "versions": onnx.manifest.versions,
        }


_ENGINE_DETAILS = ("kernels", "layers", "layers_by_kind", "plugin_layers", "int8_gemms")


def _child(folder: ArtifactFolder, name: str, kind: str, source: Artifact) -> Artifact:
    found = folder.read(name, kind)
    check_parent(found.manifest, source.manifest)
    return found


def _file(file: Artifact) -> dict[str, Any]:
    return {key: asdict(file.manifest)[key] for key in ("name", "kind", "sha256", "size_bytes", "parents", "created")}
