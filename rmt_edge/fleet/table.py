"""The live table of a run: on a terminal drawn again in place, elsewhere a line when a board comes to another step."""

import logging
import re
import shutil
import sys
import time
from dataclasses import dataclass, field
from typing import TextIO

logger = logging.getLogger(__name__)
COLUMNS = ("board", "step", "progress", "°C", "min left", "")
DRAW_SECONDS = 0.5


@dataclass
class Row:
    """What is told of one board. share: of the step, None where nobody knows; left_s: seconds to its end."""

    board: str
    step: str = "–"
    share: float | None = None
    temperature_c: float | None = None
    left_s: float | None = None
    note: str = ""

    def cells(self) -> tuple[str, ...]:
        share = "–" if self.share is None else f"{100 * self.share:.0f} %"
        hot = "–" if self.temperature_c is None else f"{self.temperature_c:.0f}"
        left = "–" if self.left_s is None else f"{self.left_s / 60:.1f}"
        return self.board, self.step, share, hot, left, clean(self.note)


@dataclass
class View:
    """The table of all boards. out: where it is drawn if that is a terminal."""

    rows: dict[str, Row] = field(default_factory=dict)
    out: TextIO = field(default_factory=lambda: sys.stderr)
    drawn: int = 0
    last: float = 0.0
    told: dict[str, tuple[str, str]] = field(default_factory=dict)

    def tell(self, board: str, **changes: object) -> None:
        """Change a board's row; a step begins without the share and the seconds of the one before."""
        row = self.rows.setdefault(board, Row(board))
        if "step" in changes and changes["step"] != row.step:
            row.share = row.left_s = None
            row.note = ""
        for key, value in changes.items():
            setattr(row, key, value)
        if self.out.isatty():
            if time.monotonic() - self.last > DRAW_SECONDS:
                self.draw()
        elif self.told.get(board) != (row.step, row.note if "note" in changes else ""):
            self.told[board] = (row.step, row.note if "note" in changes else "")
            logger.info("fleet: %s", ", ".join(x for x in (board, row.step, clean(row.note)) if x))

    def draw(self) -> None:
        """Draw all rows over those drawn before."""
        width, height = shutil.get_terminal_size()
        rows = sorted(self.rows.values(), key=lambda x: x.share == 1.0)  # those that are done last, where room ends
        lines = [line[: width - 1] for line in table([x.cells() for x in rows])]
        if len(lines) > height - 1:
            lines = [*lines[: height - 2], f"… and {len(lines) - height + 2} more"]
        up = f"\x1b[{self.drawn}A" if self.drawn else ""
        self.out.write(up + "".join(f"\x1b[2K{line}\n" for line in lines))
        self.out.flush()
        self.drawn, self.last = len(lines), time.monotonic()

    def close(self) -> None:
        """The last state stays."""
        if self.out.isatty() and self.rows:
            self.draw()


def table(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows under COLUMNS."""
    every = [COLUMNS, *rows]
    widths = [max(map(len, column)) for column in zip(*every, strict=True)]
    return ["  ".join(x.ljust(w) for x, w in zip(row, widths, strict=True)).rstrip() for row in every]


def clean(text: str) -> str:
    """What came from a board, on one line and without what a terminal would obey."""
    return re.sub(r"\s+", " ", "".join(x if x.isprintable() else " " for x in text)).strip()[:100]


# What commands say of themselves on stderr (progress.Lines): "bench: begins, 120 s", "validate: begins, 4 batches".
_PLANNED = re.compile(r"bench: begins, (\d+) s\s*$", re.MULTILINE)


def planned_seconds(log: str) -> float | None:
    """How long a bench says it will take."""
    found = _PLANNED.findall(log)
    return float(found[-1]) if found else None


def last_line(log: str) -> str:
    """The last line of a log that says something."""
    return next((x.strip() for x in reversed(log.splitlines()) if x.strip()), "")
