"""Sections of the page about what was made: ranges, engine layers, recipes, files and hashes, definitions, versions."""

from typing import Any

from rmt_edge.report.blocks import Block, Hashes, Listing, Missing, Plot, Prose, Table, cell, plot
from rmt_edge.report.figures import ranges as draw_ranges
from rmt_edge.report.figures import stacked
from rmt_edge.report.markdown import definitions


def ranges(content: dict[str, Any]) -> list[Block]:
    """For each INT8 candidate the ranges of its inputs and weights, layer by layer."""
    rows = [row for row in content["rows"] if row["ranges"]]
    if not rows:
        return [
            Missing(
                "No candidate here has INT8 layers.", "rmt-edge quantize CHECKPOINT --recipe int8 --calibration IMAGES"
            )
        ]
    return [_ranges(f"ranges-{i}", row) for i, row in enumerate(rows)]


def _ranges(slug: str, row: dict[str, Any]) -> Plot:
    panels: dict[str, list[dict[str, Any]]] = {}
    for layer in row["ranges"]:
        # The layers outside stages are single ones: one panel for all of them.
        panels.setdefault("outside the stages" if layer["stage"] is None else layer["kind"], []).append(layer)
    data = [
        [x["layer"], cell(x["input_amax"]), *(f"{y:.3g}" for y in x["weight_amax"]), str(x["channels"])]
        for x in row["ranges"]
    ]
    return plot(
        slug,
        f"{row['recipe_name']}: ranges of its {len(row['ranges'])} INT8 layers",
        "Largest magnitude of each layer's input (one INT8 scale for all of it) and of its weights (one scale for each "
        "output channel: the bar spans all channels, the stroke is the median), on a log scale, in the order in which "
        "layers run; lines part the stages. An input far above its neighbours spends its 256 steps on outliers; a long "
        "bar is why weights have a scale for each channel.",
        draw_ranges(panels),
        Table(["layer", "input", "weights, min", "median", "max", "channels"], data),
    )


def engines(content: dict[str, Any]) -> list[Block]:
    """Layers by kind of each engine."""
    engines_ = [(row["recipe_name"], engine) for row in content["rows"] for engine in row["engines"]]
    if not engines_:
        return [Missing("There is no engine in this folder.", "rmt-edge build FILE.onnx --device DEVICE")]
    kinds = list(dict.fromkeys(kind for _, engine in engines_ for kind in engine["layers_by_kind"] or {}))
    kinds.sort(key=lambda kind: -sum((engine["layers_by_kind"] or {}).get(kind, 0) for _, engine in engines_))
    names = _engine_names(engines_)
    parts = {kind: [(engine["layers_by_kind"] or {}).get(kind, 0) for _, engine in engines_] for kind in kinds}
    facts = (
        "device",
        "backend",
        "kernels",
        "layers",
        "plugin_layers",
        "int8_gemms",
        "min_batch",
        "opt_batch",
        "max_batch",
    )
    rows = [
        [key.replace("_", " ").replace("int8", "INT8"), *(cell(engine.get(key)) for _, engine in engines_)]
        for key in facts
    ]
    table = Table(["", *names], rows, "Engines")
    if not kinds:  # no builder said what it made
        return [table]
    figure = plot(
        "layers",
        "Layers by kind",
        "As the builder names them: `gemm` matrix products, `correlation` convolutions, `kgen` fused kernels, "
        "`custom_layer` rmt-edge's plugins. Each is at least one kernel on the GPU; fewer is less to launch and less "
        "memory traffic, which is a hope for latency and no measurement of it.",
        stacked(names, parts, "layers"),
        Table(["kind", *names], [[kind, *map(str, counts)] for kind, counts in parts.items()]),
    )
    return [figure, table]


def _engine_names(engines_: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """A recipe's name, with its engine's profile and kernels where it has several engines."""
    recipes = [name for name, _ in engines_]
    return [
        name if recipes.count(name) == 1 else f"{name} {engine['name']} {engine['kernels']}"
        for name, engine in engines_
    ]


def recipes(content: dict[str, Any]) -> list[Block]:
    """The recipe of each candidate, setting by setting."""
    rows = content["rows"]
    keys = list(dict.fromkeys(key for row in rows for key in row["recipe"] if key != "name"))
    table = [[key.replace("_", " "), *(_setting(row["recipe"].get(key)) for row in rows)] for key in keys]
    text = "How each candidate was quantised; – where a precision has no such setting. Preprocessing: " + ", ".join(
        f"{key.replace('_', ' ')} {cell(value)}" for key, value in content["preprocessing"].items()
    )
    return [Table(["", *(row["recipe_name"] for row in rows)], table, is_text=True), Prose(text + ".")]


def _setting(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_setting(x) for x in value)
    return "; ".join(f"{k}: {_setting(x)}" for k, x in value.items()) if isinstance(value, dict) else cell(value)


def chain(content: dict[str, Any]) -> list[Block]:
    """Every file with its hash, and its parents' hashes held against the files that lie here."""
    files = {x["name"]: x for row in content["rows"] for x in row["files"]}
    here = {name: x["sha256"] for name, x in files.items()}
    here[content["checkpoint"]["name"]] = content["checkpoint"]["sha256"]
    listed = [
        {
            "name": x["name"],
            "kind": x["kind"],
            "size": f"{x['size_bytes'] / 1e6:.2f} MB",
            "sha256": x["sha256"],
            "parents": [parent | {"state": _state(parent, here)} for parent in x["parents"]],
        }
        for x in files.values()
    ]
    text = (
        "Each file was hashed when this page was made and is what its manifest says. A parent is held against the file "
        "of its name in this chain, so any number here can be walked back to the checkpoint. Open a hash to see all of "
        "it."
    )
    return [Prose(text), Hashes(listed)]


def _state(parent: dict[str, str], here: dict[str, str]) -> str:
    if parent["name"] not in here:
        return "not in this folder"
    return "the same as here" if here[parent["name"]] == parent["sha256"] else "ANOTHER than here"


def definition_list(content: dict[str, Any]) -> list[Block]:
    """Each metric in a sentence."""
    return [Listing(definitions(content))]


def versions(content: dict[str, Any]) -> list[Block]:
    """What made each candidate."""
    rows = content["rows"]
    names = list(dict.fromkeys(name for row in rows for name in row["versions"]))
    table = [[name, *(row["versions"].get(name, "–") for row in rows)] for name in names]
    return [Table(["", *(row["recipe_name"] for row in rows)], table, is_text=True)]
