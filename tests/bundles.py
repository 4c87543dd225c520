"""Small bundles of anything, and bundles that rmt-edge would not write, sealed as if it had."""

import hashlib
import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rmt_edge.bundle import archive
from rmt_edge.bundle.archive import Member
from rmt_edge.bundle.bundle import INDEX, Index, Model
from rmt_edge.bundle.subset import IMAGES, LABELS, LOGITS, NAMES

Entries = list[tuple[zipfile.ZipInfo, bytes]]


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


FILES = {
    "libraries/librmt_edge_plugin_x86_64.so": b"library",
    "m.onnx": b"model" * 20,
    "m.onnx.json": b"{}",
    "m.plugin.onnx": b"plugin form" * 20,
    "m.plugin.onnx.json": b"{}",
    IMAGES: npy(np.zeros((1, 32, 32, 3), np.uint8)),
    LABELS: npy(np.array([1])),
    LOGITS: npy(np.array([[0.5, 1.5]], np.float32)),
    NAMES: b'["a/1.png"]',
}


def index_of(files: dict[str, bytes], **changes) -> Index:
    members = [Member(name, hashlib.sha256(files[name]).hexdigest(), len(files[name])) for name in sorted(files)]
    values = {
        "checkpoint": {"name": "c.pth", "sha256": "0" * 64},
        "weights": None,
        "variant": "rmt_nano",
        "num_classes": 2,
        "preprocessing": {"height": 32, "width": 32},
        "models": (Model("m.onnx", "fp16", "fp16"),),
        "libraries": {},
        "validation": {"images": 1, "dataset": {"name": "d", "sha256": "1" * 64, "images": 3}, "class_names": None},
        "versions": {},
        "members": tuple(members),
    }
    return Index(**values | changes)


def write_bundle(path: Path, files: dict[str, bytes] = FILES, **changes) -> Path:
    """As pack writes it."""
    index = index_of(files, **changes)
    sources = path.parent / "sources"
    pairs = []
    for number, member in enumerate(index.members):
        source = sources / str(number)
        sources.mkdir(exist_ok=True)
        source.write_bytes(files[member.name])
        pairs.append((member, source))
    archive.write_archive(path, INDEX, index.to_json(), pairs)
    return path


def forge(
    path: Path,
    change: Callable[[Entries], None] = lambda entries: None,
    index: bytes | None = None,
    patch: Callable[[bytearray], None] = lambda content: None,
) -> Path:
    """A bundle with changed entries (ZipInfo and content), another index or patched bytes, under a right seal."""
    content = {INDEX: index_of(FILES).to_json() if index is None else index} | dict(sorted(FILES.items()))
    entries = [(archive._entry(name, len(data)), data) for name, data in content.items()]
    change(entries)
    with zipfile.ZipFile(path, "w") as file:
        file.comment = archive.SEAL + b"0" * archive.DIGITS
        for entry, data in entries:
            file.writestr(entry, data, entry.compress_type)
    data = bytearray(path.read_bytes())
    patch(data)
    path.write_bytes(data)
    archive.seal(path)
    return path


def directory_at(content: bytearray, name: str) -> int:
    """Where the directory's record of a member begins (APPNOTE.TXT, 4.3.12: the name follows 46 bytes)."""
    (start,) = struct.unpack_from("<L", content, content.rindex(b"PK\5\6") + 16)
    return content.index(name.encode(), start) - 46
