"""The report as a page: one HTML file that loads nothing, for a browser, a phone or paper.

The sections are built of a few kinds of blocks (prose, tables, plots, what is missing) and put into page.html.j2, with
page.css in its head. Everything that comes from a file or a record is escaped by the template.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from rmt_edge.report.plot import inline_svg

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Prose:
    """A paragraph; `code` stands in backticks. is_headline: the one sentence to take away."""

    text: str
    is_headline: bool = False
    kind = "prose"


@dataclass(frozen=True)
class Listing:
    """Sentences, one below the other. is_warning: said verbatim by a record, against its own numbers."""

    items: Sequence[str]
    title: str = ""
    is_warning: bool = False
    kind = "listing"


@dataclass(frozen=True)
class Table:
    """A table; its first column names the rows, the others are numbers unless is_text or all their cells are text."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    is_text: bool = False
    kind = "table"

    @property
    def text_columns(self) -> set[int]:
        """Columns to the left: those without a number."""
        numeric = {i for row in self.rows for i, x in enumerate(row) if re.match(r"[+−-]?\d", x)}
        return {i for i in range(len(self.header)) if i == 0 or self.is_text or i not in numeric}


@dataclass(frozen=True)
class Missing:
    """What is not there, and the command that makes it."""

    text: str
    command: str
    kind = "missing"


@dataclass(frozen=True)
class Hashes:
    """The chain of files, each {"name", "kind", "size", "sha256", "parents": [{"name", "sha256", "state"}]}."""

    files: Sequence[dict[str, Any]]
    kind = "hashes"


@dataclass(frozen=True)
class Plot:
    """A drawn figure with its title, its caption and the numbers behind it."""

    name: str
    title: str
    caption: str
    svg: Markup
    data: Table
    kind = "plot"


@dataclass(frozen=True)
class Pair:
    """A picture as two models see it. left, right: JPEGs in base64."""

    name: str
    left: str
    right: str


@dataclass(frozen=True)
class Pairs:
    """Pictures side by side, the models' names above them."""

    pairs: Sequence[Pair]
    title: str
    left: str
    right: str
    caption: str
    kind = "pairs"


Block = Prose | Listing | Table | Missing | Hashes | Plot | Pairs


@dataclass(frozen=True)
class Section:
    """One section of the page."""

    name: str
    title: str
    blocks: Sequence[Block] = field(default_factory=list)


def table_of(records: list[dict[str, Any]], title: str) -> Table:
    """Dicts as a table; its columns are their keys."""
    keys = list(dict.fromkeys(key for x in records for key in x))
    header = [key.replace("_percent", ", %").replace("_points", ", points").replace("_", " ") for key in keys]
    return Table(header, [[cell(x.get(key)) for key in keys] for x in records], title)


def cell(value: Any) -> str:
    """A value of a record in a cell."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(cell(x) for x in value) if isinstance(value, list) else str(value)


def plot(name: str, title: str, caption: str, figure: Figure, data: Table) -> Plot:
    """A figure of the page. name: one of its own, for the ids within."""
    return Plot(name, title, caption, Markup(inline_svg(figure, name, title)), data)


def rendered(title: str, facts: Sequence[str], sections: Sequence[Section], made_by: str) -> str:
    """The page of these sections."""
    names = [section.name for section in sections] + [
        block.name for section in sections for block in section.blocks if isinstance(block, Plot)
    ]
    assert len(names) == len(set(names)), names
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.filters["prose"] = prose
    environment.filters["breakable"] = breakable
    css = Markup((HERE / "page.css").read_text(encoding="utf-8"))
    return environment.get_template("page.html.j2").render(
        title=title, facts=facts, sections=sections, made_by=made_by, css=css
    )


def prose(text: str) -> Markup:
    """Text as HTML: escaped, what stands in backticks as code."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(breakable(text))))


def breakable(text: str) -> Markup:
    """Text as HTML: escaped, long words such as file names allowed to break behind their dots and underscores."""
    words = re.split(r"(\S{18,})", text)
    return Markup(
        "".join(re.sub(r"([._/])", r"\1<wbr>", escape(x)) if i % 2 else escape(x) for i, x in enumerate(words))
    )
