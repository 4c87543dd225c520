"""The figures of the report. Each takes plain numbers and returns a matplotlib figure in the style of plot.py."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from rmt_edge.report.plot import BAD, INK, LINE, MUTED, SERIES, SURFACE, canvas

MARKERS = "os^DvP"
# Behind a number that a line runs through.
_PATCH = {"facecolor": SURFACE, "edgecolor": "none", "pad": 0.6}
FAR = 10  # times the largest loss: a limit beyond it would press all losses into one line


@dataclass(frozen=True)
class Point:
    """One candidate: its latency and the points of top-1 that it loses, with the interval where one is known."""

    name: str
    latency_ms: float
    drop_points: float
    interval: tuple[float, float] | None = None
    is_estimate: bool = False
    is_drop_predicted: bool = False
    is_named: bool = True


def drops(entries: Sequence[tuple[str, float, tuple[float, float] | None]], limit: float | None, unit: str) -> Figure:
    """Points lost with their 95 % intervals, one line each; the allowed drop as a dashed line, where it is near."""
    figure = canvas(64 + 30 * len(entries))
    axes = figure.subplots()
    for y, (_, drop, interval) in enumerate(entries):
        if interval:
            low, high = interval
            axes.plot([low, high], [y, y], color=SERIES[0], linewidth=2)
            axes.plot([low, high], [y, y], linestyle="", marker="|", markersize=9, color=SERIES[0])
        axes.plot([drop], [y], "o", color=SERIES[0])
        axes.annotate(f"{drop:+.2f}", (drop, y), (0, 7), textcoords="offset points", ha="center", bbox=_PATCH)
    axes.axvline(0, color=MUTED, linewidth=0.8)
    largest = max((abs(x) for _, drop, interval in entries for x in (drop, *(interval or ()))), default=0.0)
    if limit is not None and limit <= FAR * max(largest, 0.1):
        axes.axvline(limit, color=BAD, linestyle="--", linewidth=1.2)
        axes.annotate(f"allowed {limit:g}", (limit, -0.75), (-4, 0), textcoords="offset points", ha="right", color=BAD)
    _names(axes, [name for name, _, _ in entries])
    axes.set_ylim(len(entries) - 0.5, -1.0)
    axes.set_xlabel(unit)
    axes.margins(x=0.12)
    return figure


def bars(names: Sequence[str], series: Mapping[str, Sequence[float]], unit: str, form: str = "{:.1f}") -> Figure:
    """Horizontal bars: for each name one bar a series."""
    figure = canvas(58 + 24 * len(series) + (12 + 17 * len(series)) * len(names))
    axes = figure.subplots()
    height = 0.8 / len(series)
    for i, (label, values) in enumerate(series.items()):
        places = [y - 0.4 + height * (i + 0.5) for y in range(len(names))]
        drawn = axes.barh(places, values, height * 0.88, color=SERIES[i % len(SERIES)], label=label)
        axes.bar_label(drawn, [form.format(x) for x in values], padding=3)
    _names(axes, names)
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    axes.margins(x=0.18)
    if len(series) > 1:
        figure.legend(loc="outside upper left", ncols=1)
    return figure


def curves(
    places: Sequence[float], panels: Sequence[tuple[str, Sequence[float], Sequence[float]]], names: tuple[str, str]
) -> Figure:
    """Precision against recall of two models, a panel a class: the first one's dashed, the other's solid."""
    rows = -(-len(panels) // 2)
    figure = canvas(40 + 150 * rows)
    grid = figure.subplots(rows, 2, squeeze=False, sharex=True, sharey=True).ravel()
    for axes, (name, first, second) in zip(grid, panels, strict=False):
        axes.plot(places, first, color=MUTED, linestyle="--", linewidth=1.4, label=names[0])
        axes.plot(places, second, color=SERIES[0], linewidth=1.8, label=names[1])
        axes.set_title(_short(name))
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.03)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    figure.supxlabel("recall", fontsize=11.5)
    figure.supylabel("precision", fontsize=11.5)
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return figure


def stacked(names: Sequence[str], parts: Mapping[str, Sequence[float]], unit: str) -> Figure:
    """Horizontal bars of parts that add up."""
    columns = 2
    figure = canvas(70 + 17 * -(-len(parts) // columns) + 36 * len(names))
    axes = figure.subplots()
    left = np.zeros(len(names))
    for i, (label, values) in enumerate(parts.items()):
        # After the last colour the same ones come again, hatched.
        hatch = "////" if i >= len(SERIES) else None
        colour = SERIES[i % len(SERIES)]
        axes.barh(
            range(len(names)),
            values,
            0.62,
            left=left,
            label=_short(label),
            color=colour,
            edgecolor=SURFACE,
            hatch=hatch,
        )
        left += np.asarray(values, dtype=float)
    for y, total in enumerate(left):
        axes.annotate(f"{total:g}", (total, y), (4, 0), textcoords="offset points", va="center")
    _names(axes, names)
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    axes.margins(x=0.12)
    figure.legend(loc="outside upper left", ncols=columns)
    return figure


def diverging(names: Sequence[str], lost: Sequence[int], won: Sequence[int]) -> Figure:
    """Images lost to the left of zero, images won to the right."""
    figure = canvas(72 + 34 * len(names))
    axes = figure.subplots()
    for values, sign, colour, label in ((lost, -1, SERIES[1], "right → wrong"), (won, 1, SERIES[2], "wrong → right")):
        drawn = axes.barh(range(len(names)), [sign * x for x in values], 0.6, color=colour, label=label)
        axes.bar_label(drawn, [str(x) for x in values], padding=3)
    axes.axvline(0, color=MUTED, linewidth=0.8)
    _names(axes, names)
    axes.invert_yaxis()
    axes.set_xlabel("images")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{abs(x):g}"))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.margins(x=0.18)
    figure.legend(loc="outside upper left", ncols=2)
    return figure


def pareto(points: Sequence[Point], peers: Sequence[tuple[str, float]]) -> Figure:
    """Drop against latency. Filled: measured; hollow: estimated. The front joins what nothing else beats in both."""
    named = [x for x in points if x.is_named]
    others = [x for x in points if not x.is_named]
    figure = canvas(290 + 17 * (len(named) + len(peers)))
    axes = figure.subplots()
    is_mixed = len({x.is_estimate for x in points}) > 1
    for i, point in enumerate(named):
        how = (", estimate" if point.is_estimate else ", measured") if is_mixed else ""
        _mark(axes, point, SERIES[i % len(SERIES)], MARKERS[i % len(MARKERS)], 8, f"{point.name}{how}")
    for i, point in enumerate(others):
        _mark(axes, point, MUTED, "o", 5, "other candidates of the search" if i == 0 else None)
    best = front(points)
    if len(best) > 1:
        axes.plot(
            [x.latency_ms for x in best], [x.drop_points for x in best], drawstyle="steps-post", color=MUTED, zorder=1,
            linewidth=1, label="front",
        )  # fmt: skip
    for i, (name, latency) in enumerate(peers):
        axes.axvline(
            latency, color=INK, linestyle=(0, (1 + 2 * i, 1.5)), linewidth=1, label=f"{name}: {latency:.3g} ms"
        )
    _latency_axis(axes, [x.latency_ms for x in points] + [latency for _, latency in peers])
    axes.grid(visible=True)
    axes.margins(x=0.08, y=0.12)
    axes.set_ylabel("points of top-1 lost")
    figure.legend(loc="outside upper left", ncols=1)
    return figure


def _mark(axes: Axes, point: Point, colour: str, marker: str, size: float, label: str | None) -> None:
    if point.interval:
        axes.vlines(point.latency_ms, *point.interval, color=colour, linewidth=1.2, alpha=0.6)
    fill = "none" if point.is_estimate else colour
    axes.plot(
        [point.latency_ms], [point.drop_points], marker=marker, color=colour, markerfacecolor=fill, markersize=size,
        linestyle="", label=label,
    )  # fmt: skip


def _latency_axis(axes: Axes, values: Sequence[float]) -> None:
    """Milliseconds along x, on a log scale where the slowest is far from the fastest."""
    axes.set_xlabel("latency, ms")
    if max(values) > 6 * min(values) > 0:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())


def front(points: Sequence[Point]) -> list[Point]:
    """Those for which no other is both faster and more accurate, fastest first."""
    found: list[Point] = []
    for point in sorted(points, key=lambda x: (x.latency_ms, x.drop_points)):
        if not found or point.drop_points < found[-1].drop_points:
            found.append(point)
    return found


def heat_map(
    rows: Sequence[str], columns: Sequence[str], cells: dict[tuple[int, int], tuple[float, str]],
    x_label: str = "", y_label: str = "",
) -> Figure:  # fmt: skip
    """Cells {(row, column): (value, text)} shaded from 0 to the largest value; those without a value stay empty."""
    rows, columns = [_short(x) for x in rows], [_short(x) for x in columns]
    # A letter takes about 6.3 points; the columns share 300.
    longest = 6.3 * max(map(len, columns), default=0)
    is_upright = longest * len(columns) > 300
    figure = canvas(60 + (longest if is_upright else 0) + (22 if len(rows) < 16 else 18) * len(rows))
    axes = figure.subplots()
    top = max((value for value, _ in cells.values()), default=0)
    for (row, column), (value, text) in cells.items():
        share = max(value, 0) / top if top > 0 else 0
        box = Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=SERIES[0], alpha=0.7 * share, linewidth=0)
        axes.add_patch(box)
        if text:
            axes.annotate(text, (column, row), ha="center", va="center")
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
    axes.grid(visible=True, which="minor")
    axes.tick_params(which="both", length=0)
    if is_upright:
        axes.tick_params(axis="x", labelrotation=90)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    return figure


def ecdf(runs: Sequence[tuple[str, Sequence[float], Mapping[str, float | None]]]) -> Figure:
    """Share of runs that took at most so long, one line a runner; its percentiles marked. runs: (name, ms, marks)."""
    figure = canvas(230 + 17 * len(runs))
    axes = figure.subplots()
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
    for i, (name, samples, marks) in enumerate(runs):
        colour = SERIES[i % len(SERIES)]
        # 400 points are as many as 360 pixels show.
        share = np.linspace(0, 1, min(400, len(samples)))
        style = "-" if i < len(SERIES) else "--"
        axes.plot(np.quantile(samples, share), share, style, color=colour, label=name, drawstyle="steps-post")
        found = [(x, share_) for key, share_ in shares.items() if (x := marks.get(key)) is not None]
        axes.plot([x for x, _ in found], [y for _, y in found], linestyle="", marker="o", markersize=5, color=colour)
    _latency_axis(axes, [x for _, samples, _ in runs for x in (min(samples), max(samples))])
    axes.set_yticks([0, *shares.values()], ["0", *shares])
    axes.grid(visible=True)
    axes.set_ylabel("share of runs")
    figure.legend(loc="outside upper left", ncols=1)
    return figure


def ranges(panels: dict[str, list[dict[str, Any]]]) -> Figure:
    """One panel for each kind of layer, its layers in the order in which they run, on one log scale.

    Each layer: {"stage", "block", "input_amax", "weight_amax": (min, median, max)}; where stages change stands a line.
    """
    figure = canvas(60 + 105 * len(panels))
    axes_of = figure.subplots(len(panels), 1, sharey=True, squeeze=False)[:, 0]
    for axes, (kind, layers) in zip(axes_of, panels.items(), strict=True):
        places = range(len(layers))
        low, middle, high = np.array([x["weight_amax"] for x in layers]).T
        axes.vlines(places, low, high, color=SERIES[1], linewidth=3, alpha=0.45)
        axes.plot(places, middle, linestyle="", marker="_", markersize=7, color=SERIES[1], label="weights, by channel")
        axes.plot(
            places,
            [np.nan if x["input_amax"] is None else x["input_amax"] for x in layers],
            "o",
            markersize=5,
            color=SERIES[0],
            label="input",
        )
        axes.set_yscale("log")
        axes.set_title(kind, loc="left")
        starts = [i for i, x in enumerate(layers) if i == 0 or x["stage"] != layers[i - 1]["stage"]]
        for start in starts[1:]:
            axes.axvline(start - 0.5, color=LINE, linewidth=0.8)
        axes.set_xticks(starts, ["" if layers[i]["stage"] is None else str(layers[i]["stage"]) for i in starts])
        axes.set_xlim(-0.6, len(layers) - 0.4)
        axes.grid(visible=True, axis="y")
        axes.yaxis.set_major_locator(LogLocator(10, numticks=6))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes_of[-1].set_xlabel("stage, one mark for each of its layers")
    handles, labels = axes_of[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=2)
    return figure


def _names(axes: Axes, names: Sequence[str]) -> None:
    """Names along the y axis."""
    axes.set_yticks(range(len(names)), [_short(x) for x in names])
    axes.tick_params(axis="y", length=0)


def _short(name: str) -> str:
    """A name of at most 18 letters, longer ones shortened in the middle so that a plot keeps its place."""
    return name if len(name) <= 18 else f"{name[:8]}…{name[-9:]}"
