"""A ZIP file of one canonical form under a seal: any changed byte is refused, and no member can leave its folder.

Members are stored, not compressed (rmt_nano's weights would shrink by 8 %): the same members are the same bytes under
any zlib, and none can unpack to more than lies there. Every member is dated 1980-01-01 and a plain file of mode 0644;
the first is the index, the others are sorted, and each begins where the one before it ends.

The seal is the archive's comment: the sha256 of every byte before its 64 digits. It tells damage, not forgery: who
changes an archive can seal it again. So whatever an archive declares is checked before any of it is read or written.
"""

import contextlib
import hashlib
import os
import stat
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

from rmt_edge.errors import RmtEdgeError

SEAL = b"rmt-edge sha256 "
DIGITS = 64
DATE = (1980, 1, 1, 0, 0, 0)  # the first that a ZIP can hold
ATTRIBUTES = (stat.S_IFREG | 0o644) << 16
UTF8_NAME = 0x800  # the only flag allowed: the name is UTF-8 (APPNOTE.TXT, 4.4.4)
UNIX = 3  # the system that the attributes are of (APPNOTE.TXT, 4.4.2)
# Below 2 GiB - 1, from where on zipfile writes ZIP64 (zipfile.ZIP64_LIMIT), which the canonical form does without.
MAX_BYTES = 2_000_000_000
MAX_MEMBERS = 1000
MAX_INDEX_BYTES = 1 << 20
# The records of APPNOTE.TXT: 4.3.16 end of central directory, 4.3.15 locator of ZIP64's, 4.3.7 local header's length.
END = struct.Struct("<4s4H2LH")
END_SIGNATURE, LOCATOR_SIGNATURE, LOCATOR_BYTES, LOCAL_HEADER_BYTES = b"PK\5\6", b"PK\6\7", 20, 30
CHUNK = 1 << 20
# What zipfile raises on files that were not written by it; NotImplementedError is a RuntimeError.
ZIP_ERRORS = (zipfile.BadZipFile, ValueError, RuntimeError, EOFError, struct.error)


@dataclass(frozen=True)
class Member:
    """A file of an archive, as the index declares it. name: a relative path with forward slashes."""

    name: str
    sha256: str
    size_bytes: int

    def __post_init__(self) -> None:
        is_hash = isinstance(self.sha256, str) and len(self.sha256) == DIGITS and self.sha256.isalnum()
        is_size = type(self.size_bytes) is int and 0 <= self.size_bytes <= MAX_BYTES
        if not isinstance(self.name, str) or not is_hash or not is_size:
            raise ValueError(f"a member with name {self.name!r}, sha256 {self.sha256!r}, size {self.size_bytes!r}")
        if reason := wrong_name(self.name):
            raise ValueError(f"a member with the name {self.name!r}: {reason}")


def wrong_name(name: str) -> str:
    """Why a name cannot be a member's, or nothing."""
    parts = name.split("/")
    if not name or name.startswith("/"):
        return "it is absolute or empty"
    if ".." in parts:
        return "it leaves the folder"
    if "" in parts or "." in parts:
        return "it has empty parts"
    if "\\" in name or ":" in name or not name.isprintable():
        return "it holds a backslash, a colon or a control character"
    return ""


def write_archive(path: Path, index_name: str, index: bytes, members: list[tuple[Member, Path]]) -> None:
    """Write the index and then the files, which must be what the index says of them, in the order of their names."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=False) as archive:
        archive.comment = SEAL + b"0" * DIGITS
        with archive.open(_entry(index_name, len(index)), "w") as target:
            target.write(index)
        for member, source in sorted(members, key=lambda x: x[0].name):
            digest = hashlib.sha256()
            with source.open("rb") as file, archive.open(_entry(member.name, member.size_bytes), "w") as target:
                while chunk := file.read(CHUNK):
                    digest.update(chunk)
                    target.write(chunk)
            if digest.hexdigest() != member.sha256:
                raise RmtEdgeError(f"{source} changed while it was packed.", do="Pack again.")
    seal(path)


def _entry(name: str, size: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, DATE)
    entry.external_attr, entry.create_system, entry.file_size = ATTRIBUTES, UNIX, size
    return entry


def seal(path: Path) -> None:
    """Put the sha256 of all before them in place of the file's last 64 bytes."""
    with path.open("r+b") as file:
        digits = _digest_of_sealed(file)
        file.seek(-DIGITS, os.SEEK_END)
        file.write(digits)


def _digest_of_sealed(file: IO[bytes]) -> bytes:
    digest, left = hashlib.sha256(), file.seek(0, os.SEEK_END) - DIGITS
    file.seek(0)
    while left > 0 and (chunk := file.read(min(CHUNK, left))):
        digest.update(chunk)
        left -= len(chunk)
    return digest.hexdigest().encode()


@contextlib.contextmanager
def open_archive(path: Path, index_name: str) -> Iterator[zipfile.ZipFile]:
    """The archive, once its seal and its directory have been checked.

    What zipfile raises inside the block says that a member is not what the directory describes.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise RmtEdgeError(f"{path} cannot be opened: {error.strerror}.") from error
    with file:
        _check_seal(file, path)
        _check_end(file, path)
        try:
            with zipfile.ZipFile(file) as archive:
                _check_directory(archive, path, index_name)
                yield archive
        except ZIP_ERRORS as error:
            refuse(path, str(error))


def refuse(path: Path, reason: str) -> NoReturn:
    """Refuse an archive whose seal is whole, but that rmt-edge did not write."""
    raise RmtEdgeError(
        f"{path} is refused: {reason}.", "rmt-edge did not write it so.", "Get the bundle from `rmt-edge pack` again."
    )


def _check_seal(file: IO[bytes], path: Path) -> None:
    size = file.seek(0, os.SEEK_END)
    if size > MAX_BYTES:
        refuse(path, f"it has {size:,} bytes, and a bundle at most {MAX_BYTES:,}")
    file.seek(max(0, size - DIGITS - len(SEAL)))
    mark, digits = file.read(len(SEAL)), file.read(DIGITS)
    if mark != SEAL or digits != _digest_of_sealed(file):
        raise RmtEdgeError(
            f"{path} is no bundle, or not a whole one: its end does not hold the sha256 of the rest.",
            "it was cut short or changed on its way, or `rmt-edge pack` did not write it.",
            "Copy it again from where it was packed.",
        )


def _check_end(file: IO[bytes], path: Path) -> None:
    """The last record, before zipfile goes by it: it reads a directory of any length into memory."""
    at = file.seek(0, os.SEEK_END) - DIGITS - len(SEAL) - END.size
    if at < 0:
        refuse(path, "it is no ZIP file")
    file.seek(max(0, at - LOCATOR_BYTES))
    locator = file.read(min(at, LOCATOR_BYTES))
    signature, *disks, entries, size, offset, comment = END.unpack(file.read(END.size))
    if signature != END_SIGNATURE or comment != len(SEAL) + DIGITS:
        refuse(path, "it is no ZIP file")
    if locator.startswith(LOCATOR_SIGNATURE) or disks != [0, 0, entries] or offset + size != at:
        refuse(path, "its directory does not lie at its end")
    if not 0 < entries <= MAX_MEMBERS or size > MAX_INDEX_BYTES:
        refuse(path, f"its directory has {entries} members in {size:,} bytes")


def _check_directory(archive: zipfile.ZipFile, path: Path, index_name: str) -> None:
    """Every member is a plain file under a name that stays inside, where it must lie, and there is nothing else."""
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    for entry in entries:
        if reason := wrong_name(entry.orig_filename):
            refuse(path, f"{entry.orig_filename!r} cannot be unpacked: {reason}")
        if entry.external_attr != ATTRIBUTES:
            refuse(path, f"{entry.filename} is no plain file")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & ~UTF8_NAME or entry.extra or entry.comment:
            refuse(path, f"{entry.filename} is compressed, encrypted or has extra fields")
    if len(set(names)) != len(names):
        refuse(path, "two members have one name")
    if names[0] != index_name or names[1:] != sorted(names[1:]):
        refuse(path, f"its members are not {index_name} and then the others, sorted")
    at = 0
    for entry in entries:
        if entry.header_offset != at or entry.compress_size != entry.file_size:
            refuse(path, f"{entry.filename} does not lie where the member before it ends")
        at += LOCAL_HEADER_BYTES + len(entry.filename.encode()) + entry.file_size
    if archive.start_dir != at:
        refuse(path, "its directory does not begin where its last member ends")
    if entries[0].file_size > MAX_INDEX_BYTES:
        refuse(path, f"its index has {entries[0].file_size:,} bytes")


def copy_member(archive: zipfile.ZipFile, member: Member, target: Path, progress: Any) -> None:
    """Write a member to a new file, reading what it declares and no more. progress: its update() takes bytes."""
    digest, left = hashlib.sha256(), member.size_bytes
    with archive.open(member.name) as source, target.open("xb") as file:
        while left > 0 and (chunk := source.read(min(CHUNK, left))):
            digest.update(chunk)
            file.write(chunk)
            left -= len(chunk)
            progress.update(len(chunk))
        file.flush()
        os.fsync(file.fileno())
    if left or digest.hexdigest() != member.sha256:
        raise ValueError(f"{member.name} is not the file that the index describes")
