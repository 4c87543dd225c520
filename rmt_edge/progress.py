"""Progress of long work: tqdm's bar on a terminal; elsewhere, so that a log file stays readable, two lines a step.

The lines go through logging, as everything else that the command line tells.
"""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm import tqdm

logger = logging.getLogger(__name__)


def progress_bar(iterable: Iterable | None = None, desc: str = "", total: float | None = None, **options: Any) -> Any:
    """What shows the progress of a step on stderr, as `tqdm` with the same arguments would: a tqdm, or Lines."""
    if sys.stderr is not None and sys.stderr.isatty():
        return tqdm(iterable, desc, total, **options)
    return Lines(iterable, desc, total, **options)


class Lines:
    """A step told by its start and its end, with the methods of tqdm that are used here.

    Of tqdm's options unit, unit_scale, initial and disable count; those of how a bar looks mean nothing here.
    """

    def __init__(
        self,
        iterable: Iterable | None = None,
        desc: str = "",
        total: float | None = None,
        unit: str = "it",
        unit_scale: bool = False,
        initial: float = 0,
        disable: bool = False,
        **look: Any,
    ):
        self.iterable, self.desc, self.n = iterable, desc, initial
        self.total = total if total is not None else _length(iterable)
        self.unit, self.unit_scale, self.is_open = unit, unit_scale, not disable
        self.start = time.monotonic()
        if self.is_open:
            logger.info("%s: begins%s", desc, f", {self._count(self.total)}" if self.total else "")

    def __iter__(self) -> Iterator:
        assert self.iterable is not None, self.desc
        try:
            for item in self.iterable:
                yield item
                self.n += 1
        finally:
            self.close()

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def update(self, n: float = 1) -> None:
        self.n += n

    def reset(self, total: float | None = None) -> None:
        self.n, self.total = 0, total or self.total

    def set_postfix_str(self, text: str) -> None:
        """A phase within a step is no line."""

    def refresh(self) -> None:
        """There is nothing to draw again."""

    def close(self) -> None:
        """Tell the end, once: how many of how many, and the seconds."""
        if not self.is_open:
            return
        self.is_open = False
        is_whole = not self.total or self.n >= self.total
        done = self._count(self.n) if is_whole else f"stopped at {self._count(self.n)} of {self._count(self.total)}"
        logger.info("%s: %s in %.1f s", self.desc, done, time.monotonic() - self.start)

    def _count(self, n: float | None) -> str:
        if self.unit_scale:
            return tqdm.format_sizeof(n or 0, self.unit)
        plural = "es" if self.unit.endswith("ch") else "s"
        return f"{n:.0f} {self.unit}{'' if n == 1 or self.unit == 's' else plural}"


def _length(iterable: Any) -> int | None:
    return len(iterable) if hasattr(iterable, "__len__") else None
