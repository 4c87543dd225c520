"""From a matplotlib figure to an SVG inline in a page: themed by CSS, text kept as text, the same every time.

Figures are drawn 360 points wide, a phone's column; one point becomes one CSS pixel there, so a font size is in pixels.
Colours are tokens: each stands in the figure as a colour of its own and becomes `var(--name)` in a page, whose style
sheet has a value for light and one for dark, or the light value in a file of its own.
"""

import contextlib
import io
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path

import matplotlib.style
from matplotlib.figure import Figure

WIDTH = 360

# Token: (its stand-in within matplotlib, its value on light ground). page.css has both values again, as variables.
COLOURS = {
    "ink": ("#010101", "#1b2129"),
    "muted": ("#020202", "#616b78"),
    "line": ("#030303", "#d5dae1"),
    "surface": ("#040404", "#ffffff"),
    "bad": ("#050505", "#b3261e"),
    "series-1": ("#060606", "#2962b8"),
    "series-2": ("#070707", "#b45309"),
    "series-3": ("#080808", "#0f766e"),
    "series-4": ("#090909", "#7c3aed"),
    "series-5": ("#0a0a0a", "#be185d"),
    "series-6": ("#0b0b0b", "#4d7c0f"),
}
INK, MUTED, LINE, SURFACE, BAD, *SERIES = (stand_in for stand_in, _ in COLOURS.values())

_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rmt-edge",
    "text.parse_math": False,  # a class may be called "$x$"
    "font.size": 11.5,
    "axes.titlesize": 12,
    "axes.labelsize": 11.5,
    "xtick.labelsize": 11.5,
    "ytick.labelsize": 11.5,
    "legend.fontsize": 11.5,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "figure.facecolor": "none",
    "lines.linewidth": 1.6,
    "lines.markersize": 6,
}


@contextlib.contextmanager
def plot_style() -> Iterator[None]:
    """Within it figures look alike, whatever matplotlibrc a machine has."""
    with matplotlib.style.context(["default", _STYLE]):
        yield


def canvas(height: float) -> Figure:
    """An empty figure of the common width and a height in points."""
    return Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")


def inline_svg(figure: Figure, name: str, label: str) -> str:
    """The <svg> element of a figure. name: prefix of its ids, its own in a page; label: for those who listen."""
    text = _svg(figure)
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<defs>\s*<style[^>]*>.*?</style>\s*</defs>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"\s*font-family: [^;\"]*;?", "", text)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    head = re.search(r'viewBox="([^"]*)"', text)
    assert head, text[:200]
    text = re.sub(
        r"<svg[^>]*>", lambda _: f'<svg viewBox="{head[1]}" role="img" aria-label="{escape(label)}">', text, count=1
    )
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda x: f' id="{name}-{x[1]}"' if x[1] in used else "", text)
    text = re.sub(r'xlink:href="#|(?<=url\()#', lambda x: f'href="#{name}-' if "href" in x[0] else f"#{name}-", text)
    for token, (stand_in, _) in COLOURS.items():
        text = text.replace(stand_in, f"var(--{token})")
    return text.strip()


def write_svg(figure: Figure, path: Path) -> None:
    """The figure as a file of its own, on white ground."""
    figure.set_facecolor(SURFACE)
    text = _svg(figure)
    for stand_in, value in COLOURS.values():
        text = text.replace(stand_in, value)
    path.write_text(text, encoding="utf-8")


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
