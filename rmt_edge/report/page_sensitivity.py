"""Section of the page about sensitivity: what each group of layers loses when it alone is in INT8."""

from typing import Any

from rmt_edge.model.layers import KINDS, Layer, layers_of
from rmt_edge.report.blocks import Block, Missing, Plot, Table, plot
from rmt_edge.report.figures import bars, drops, heat_map


def sensitivity(content: dict[str, Any]) -> list[Block]:
    """For each record: heat maps over blocks and over stages and kinds, and bars by kind and stage."""
    records = content["sensitivity"]
    if not records:
        text = "No layer was quantised alone, so nothing says which of them the loss comes from."
        return [Missing(text, "rmt-edge sensitivity CHECKPOINT --calibration IMAGES --data IMAGES")]
    layers = {layer.name: layer for layer in layers_of(content["variant"])}
    blocks: list[Block] = []
    for i, record in enumerate(records):
        images = f"{record['images']:,} images" if isinstance(record.get("images"), int) else "its images"
        about = f"Each group alone in INT8, everything else unquantised; {images}, `{record['file']}`."
        for by in dict.fromkeys(x["by"] for x in record["groups"]):
            groups = [x for x in record["groups"] if x["by"] == by]
            slug = f"sensitivity-{i}-{by}"
            blocks.append(
                _bars(slug, by, about, groups)
                if by in ("kind", "stage")
                else _heat_map(slug, by, about, groups, layers)
            )
    return blocks


def _bars(slug: str, by: str, about: str, groups: list[dict[str, Any]]) -> Plot:
    """Drops with intervals; the agreement lost where there were no labels to know a drop."""
    title = f"Loss by {'kind of layer' if by == 'kind' else by}"
    if all(x["drop_points"] is not None for x in groups):
        intervals = [tuple(x["drop_interval_points"]) if x.get("drop_interval_points") else None for x in groups]
        entries = [(x["group"], x["drop_points"], y) for x, y in zip(groups, intervals, strict=True)]
        caption = f"{about} Bars are 95 % intervals; what spans zero may be no loss at all."
        return plot(slug, title, caption, drops(entries, None, "points of accuracy lost"), _sensitivity_table(groups))
    changed = [100.0 - x["agreement_percent"] for x in groups]
    figure = bars([x["group"] for x in groups], {"changed": changed}, "images that change class, %", "{:.2f}")
    return plot(slug, title, f"{about} There were no labels.", figure, _sensitivity_table(groups))


def _heat_map(
    slug: str, by: str, about: str, groups: list[dict[str, Any]], layers: dict[str, Layer]
) -> Plot:  # fmt: skip
    """Rows are stages, or blocks where groups tell blocks and kinds apart; columns are kinds, or else blocks."""
    has_kl = all(isinstance(x.get("kl_nats"), int | float) for x in groups)
    places = [_place(x, layers) for x in groups]
    if by == "cell":  # a stage of one block is still a stage
        places = [(stage, None, kind) for stage, _, kind in places]
    if {kind for _, _, kind in places} == {"all"}:
        rows = ["outside" if stage is None else f"stage {stage}" for stage, _, _ in places]
        columns = ["–" if block is None else str(block) for _, block, _ in places]
        axes = ("block of the stage", "")
    else:
        rows = [_where(stage, block) for stage, block, _ in places]
        columns = [kind for _, _, kind in places]
        axes = ("", "" if all(block is None for _, block, _ in places) else "stage.block")
    row_names = list(dict.fromkeys(rows))
    column_names = sorted(set(columns), key=lambda x: (not x.isdigit(), int(x) if x.isdigit() else _kind_order(x)))
    is_numbered = len(column_names) <= 7 and all(x["drop_points"] is not None for x in groups)
    cells: dict[tuple[int, int], tuple[float, str]] = {}
    for group, row, column in zip(groups, rows, columns, strict=True):
        value = group["kl_nats"] if has_kl else group["drop_points"] or 0.0
        text = f"{group['drop_points']:+.2f}" if is_numbered else ""
        cells[row_names.index(row), column_names.index(column)] = (value, text)
    shade = (
        "the KL divergence from the float32 model, which moves before the accuracy does"
        if has_kl
        else "the points lost"
    )
    numbers = " The numbers are points of accuracy lost." if is_numbered else ""
    return plot(
        slug,
        "Loss by block" if by == "block" else "Loss by stage and kind" if by == "cell" else f"Loss by {by}",
        f"{about} The shade is {shade}, from none to the largest.{numbers}",
        heat_map(row_names, column_names, cells, *axes),
        _sensitivity_table(groups),
    )


def _place(group: dict[str, Any], layers: dict[str, Layer]) -> tuple[int | None, int | None, str]:
    """Stage, block and kind that a group's layers share: None, None and "all" where they share none."""
    found = [layers[name] for name in group["layers"] if name in layers]
    stages, blocks, kinds = ({getattr(x, key) for x in found} for key in ("stage", "block", "kind"))
    return _only(stages), _only(blocks), _only(kinds) or "all"


def _only(values: set[Any]) -> Any:
    return next(iter(values)) if len(values) == 1 else None


def _where(stage: int | None, block: int | None) -> str:
    if stage is None:
        return "outside"
    return f"stage {stage}" if block is None else f"{stage}.{block}"


def _kind_order(kind: str) -> int:
    return KINDS.index(kind) if kind in KINDS else len(KINDS)


def _sensitivity_table(groups: list[dict[str, Any]]) -> Table:
    columns = {
        "percent": ("accuracy, %", "{:.2f}"),
        "drop_points": ("drop, points", "{:+.2f}"),
        "drop_interval_points": ("95 % interval", ""),
        "agreement_percent": ("agreement, %", "{:.2f}"),
        "kl_nats": ("KL, nats", "{:.2e}"),
        "sqnr_db": ("SQNR, dB", "{:.1f}"),
    }
    shown = {key: x for key, x in columns.items() if any(group.get(key) is not None for group in groups)}

    def cell(value: Any, form: str) -> str:
        if value is None:
            return "–"
        return f"{value[0]:+.2f} to {value[1]:+.2f}" if isinstance(value, list) else form.format(value)

    rows = [
        [x["group"], str(len(x["layers"])), *(cell(x.get(k), form) for k, (_, form) in shown.items())] for x in groups
    ]
    return Table(["group", "layers", *(title for title, _ in shown.values())], rows)
