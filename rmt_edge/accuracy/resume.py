"""Predictions of a run under way, in a file beside those to come: a run that was killed continues where it was.

`<predictions>.part` is one line of JSON, the identity of the run (hashes of model and data set, settings, versions),
then a chunk per batch: index of its first image and crc32, classes (b, k) int32 and scores (b, k) float32. A chunk that
is cut short or damaged, and all after it, counts as not run.
"""

import json
import logging
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from rmt_edge.accuracy.paired import Top
from rmt_edge.errors import RmtEdgeError

_CHUNK = struct.Struct("<QI")  # first image, crc32
_MAX_IDENTITY = 1 << 16  # bytes; a longer first line is none of ours
logger = logging.getLogger(__name__)


class Partial:
    """The predictions so far and the file that takes further ones."""

    def __init__(self, done: list[Top], file: BinaryIO):
        self.done = done
        self.file = file

    def __len__(self) -> int:
        """Images done."""
        return sum(len(top.classes) for top in self.done)

    def append(self, top: Top) -> None:
        """Keep one more batch; once this returns, a killed process does not lose it."""
        payload = top.classes.astype("<i4").tobytes() + top.scores.astype("<f4").tobytes()
        self.file.write(_CHUNK.pack(len(self), zlib.crc32(payload)) + payload)
        self.file.flush()
        self.done.append(top)

    def top(self) -> Top:
        """All predictions, in order."""
        return Top(*(np.concatenate(arrays) for arrays in zip(*self.done, strict=True)))


def partial_path(path: Path) -> Path:
    """Where the predictions so far lie."""
    return path.with_name(path.name + ".part")


@contextmanager
def resumed(path: Path, identity: dict[str, Any], batch: int, kept: int, count: int) -> Iterator[Partial]:
    """What an earlier run of the same identity left of the predictions at `path`, open for more.

    batch, kept, count: images per chunk, classes per image, images in all. The file stays until `finish`.
    """
    part = partial_path(path)
    done = _chunks(part, identity, batch, kept, count)
    if done:
        logger.info("%s: continuing after %d of %d images.", path.name, sum(len(x.classes) for x in done), count)
    try:
        # What follows the last whole chunk is cut off; a file of another run is begun anew.
        with part.open("r+b" if done else "w+b") as file:
            line = _identity_line(identity)
            if not done:
                file.write(line)
            file.seek(len(line) + sum(_CHUNK.size + x.classes.size * 8 for x in done))
            file.truncate()
            yield Partial(done, file)
    except OSError as error:
        raise RmtEdgeError(f"{part} cannot be written: {error.strerror or error}.") from error


def finish(path: Path) -> None:
    """Remove the predictions so far, now that the file at `path` holds all of them."""
    partial_path(path).unlink(missing_ok=True)


def _identity_line(identity: dict[str, Any]) -> bytes:
    line = json.dumps(identity, sort_keys=True).encode() + b"\n"
    assert len(line) < _MAX_IDENTITY, len(line)
    return line


def _chunks(part: Path, identity: dict[str, Any], batch: int, kept: int, count: int) -> list[Top]:
    """The whole chunks at the head of a partial file; none if it is of another run."""
    if not part.is_file():
        return []
    done: list[Top] = []
    with part.open("rb") as file:
        if file.readline(_MAX_IDENTITY) != _identity_line(identity):
            logger.info("%s is of another model, data set, setting or version: starting anew.", part.name)
            return []
        for start in range(0, count, batch):
            images = min(batch, count - start)
            half = images * kept * 4  # bytes of the int32 classes, and of the float32 scores
            head, payload = file.read(_CHUNK.size), file.read(2 * half)
            if len(payload) < 2 * half or _CHUNK.unpack(head) != (start, zlib.crc32(payload)):
                break
            classes, scores = np.frombuffer(payload[:half], "<i4"), np.frombuffer(payload[half:], "<f4")
            done.append(Top(classes.reshape(images, kept), scores.reshape(images, kept)))
    return done
