"""What a run under way has found, image by image, in a file that grows: a run that was killed continues where it was.

`<file>.part` is one line of JSON, the identity of the run (hashes of model and data set, settings, versions), then a
chunk per batch: index of its first image, crc32, and one record of fixed size for each image. A chunk that is cut short
or damaged, and all after it, counts as not run.
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

from rmt_edge.errors import RmtEdgeError

_CHUNK = struct.Struct("<QI")  # first image, crc32
_MAX_IDENTITY = 1 << 16  # bytes; a longer first line is none of ours
logger = logging.getLogger(__name__)


class Partial:
    """The records so far and the file that takes further ones."""

    def __init__(self, done: list[np.ndarray], file: BinaryIO, dtype: np.dtype):
        self.done, self.file, self.dtype = done, file, dtype

    def __len__(self) -> int:
        """Images done."""
        return sum(len(rows) for rows in self.done)

    def append(self, rows: np.ndarray) -> None:
        """Keep one more batch, (b,) records; once this returns, a killed process does not lose it."""
        assert rows.dtype == self.dtype, (rows.dtype, self.dtype)
        payload = rows.tobytes()
        self.file.write(_CHUNK.pack(len(self), zlib.crc32(payload)) + payload)
        self.file.flush()
        self.done.append(rows)

    def rows(self) -> np.ndarray:
        """The records of all images, in order. (n,)"""
        return np.concatenate([np.empty(0, self.dtype), *self.done])


def partial_path(path: Path) -> Path:
    """Where what was found so far lies, of a run that will write `path`."""
    return path.with_name(path.name + ".part")


@contextmanager
def resumed(path: Path, identity: dict[str, Any], batch: int, dtype: np.dtype, count: int) -> Iterator[Partial]:
    """What an earlier run of the same identity left of what is to become `path`, open for more.

    batch, dtype, count: images per chunk, the record of an image, images in all. The file stays until `finish`.
    """
    part = partial_path(path)
    line = json.dumps(identity | {"record": dtype.descr}, sort_keys=True).encode() + b"\n"
    assert len(line) < _MAX_IDENTITY, len(line)
    done = _chunks(part, line, batch, dtype, count)
    if done:
        logger.info("%s: continuing after %d of %d images.", path.name, sum(len(x) for x in done), count)
    try:
        # What follows the last whole chunk is cut off; a file of another run is begun anew.
        with part.open("r+b" if done else "w+b") as file:
            if not done:
                file.write(line)
            file.seek(len(line) + sum(_CHUNK.size + x.nbytes for x in done))
            file.truncate()
            yield Partial(done, file, dtype)
    except OSError as error:
        raise RmtEdgeError(f"{part} cannot be written: {error.strerror or error}.") from error


def finish(path: Path) -> None:
    """Remove what was found so far, now that the file at `path` holds all of it."""
    partial_path(path).unlink(missing_ok=True)


def _chunks(part: Path, line: bytes, batch: int, dtype: np.dtype, count: int) -> list[np.ndarray]:
    """The whole chunks at the head of a partial file; none if it is of another run. line: that of this run."""
    if not part.is_file():
        return []
    done: list[np.ndarray] = []
    with part.open("rb") as file:
        if file.readline(_MAX_IDENTITY) != line:
            logger.info("%s is of another model, data set, setting or version: starting anew.", part.name)
            return []
        for start in range(0, count, batch):
            size = min(batch, count - start) * dtype.itemsize
            head, payload = file.read(_CHUNK.size), file.read(size)
            if len(payload) < size or _CHUNK.unpack(head) != (start, zlib.crc32(payload)):
                break
            done.append(np.frombuffer(payload, dtype))
    return done
