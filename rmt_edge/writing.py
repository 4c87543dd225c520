"""How files are written: whole or not at all, under names that nobody can foresee, and what killed runs left removed.

A file is written beside its place as `.<name>.<owner>.<random>.part` and renamed when it is complete; a folder for
temporary files ends in `.tmp`. The owner is the process that writes: another command in the same folder removes what
processes that are gone have left, and leaves alone what belongs to one that runs.
"""

import contextlib
import json
import logging
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from rmt_edge.errors import RmtEdgeError

PART, SCRATCH = "part", "tmp"
_OWNED = re.compile(r"\..+\.(?P<space>[0-9a-f]+)-(?P<process>\d+)-(?P<start>\d+)\.[0-9a-f]{16}\.(part|tmp)", re.DOTALL)
logger = logging.getLogger(__name__)


@cache
def _process_space() -> str:
    """Tells machines and containers apart that share a folder: a process number means something within one alone."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
        return f"{boot[:12]}{os.stat('/proc/self/ns/pid').st_ino:x}"
    return "0"


def _start_of(process: int) -> int | None:
    """When a process started, in clock ticks since the machine did; None where no such process runs.

    Field 22 of /proc/<process>/stat, proc(5). Process numbers are used again, a number and a start are not.
    """
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _temporary(path: Path, ending: str) -> Path:
    owner = f"{_process_space()}-{os.getpid()}-{_start_of(os.getpid()) or 0}"
    return path.with_name(f".{path.name}.{owner}.{secrets.token_hex(8)}.{ending}")


def _is_left_over(name: str) -> bool:
    """Whether a name is that of something temporary whose process is gone."""
    owner = _OWNED.fullmatch(name)
    if owner is None or owner["space"] == "0" or owner["space"] != _process_space():
        return False
    return _start_of(int(owner["process"])) != int(owner["start"])


def remove_leftovers(folder: Path) -> None:
    """Remove what killed runs on this machine left in a folder; of processes that still run nothing is touched."""
    with os.scandir(folder) as entries:
        left = [Path(x.path) for x in entries if x.name.startswith(".") and _is_left_over(x.name)]
    for path in left:
        logger.info("Removing %s, left by a run that was killed", path.name)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def output_folder(path: Path) -> Path:
    """The folder, made if need be and without what killed runs left in it; an error if it cannot be written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        probe = _temporary(path / "write-probe", PART)
        os.close(_created(probe))
        probe.unlink()
    except OSError as error:
        raise RmtEdgeError(
            f"The output folder {path} cannot be written: {error.strerror or error}.",
            do="Pass a folder that you may write to with --output.",
        ) from error
    return path


def _created(path: Path) -> int:
    """A new file, open: never one that was there before, nor what a link points at. Its mode is the umask's."""
    return os.open(path, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_RDWR, 0o666)


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder, renamed to `path` when the block ends well and removed when it does not.

    The file exists, empty, when the block begins. A library that puts another in its place, as safetensors does, may
    choose its mode; in the end every file has that of the umask. A full disk, told by an OSError or by a library's
    own error, becomes an RmtEdgeError.
    """
    temporary = _temporary(path, PART)
    try:
        descriptor = _created(temporary)
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        os.close(descriptor)
        yield temporary
        with temporary.open("rb") as file:
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise RmtEdgeError(f"{path} cannot be written: {error.strerror or error}.") from error
    except Exception as error:
        if reason := _os_error_in(error):
            raise RmtEdgeError(f"{path} cannot be written: {reason}.") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _os_error_in(error: Exception) -> str | None:
    """What the system said, in an error of a library that is written in Rust and knows no OSError: safetensors'."""
    said = re.search(r"(?P<what>[^:()]+) \(os error \d+\)", str(error))
    return said["what"].strip() if said else None


@contextlib.contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path` for temporary files, removed afterwards."""
    folder = _temporary(path, SCRATCH)
    try:
        folder.mkdir()
    except OSError as error:
        raise RmtEdgeError(f"There is no room for temporary files beside {path}: {error.strerror}.") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """A JSON file, whole or not at all. A NaN or an infinity in it is our bug and raises."""
    with written_whole(path) as temporary:
        temporary.write_text(json_text(value))


def json_text(value: dict[str, Any]) -> str:
    """JSON as every file here holds it."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def user_folder(kind: str) -> Path:
    """rmt-edge's folder among the user's own files of a kind, `cache` or `state`.

    $XDG_CACHE_HOME or $XDG_STATE_HOME, which count only if they are absolute paths, else ~/.cache or ~/.local/state.
    Source: XDG Base Directory Specification 0.8.
    """
    named = Path(os.environ.get(f"XDG_{kind.upper()}_HOME", ""))
    default = Path.home() / {"cache": ".cache", "state": ".local/state"}[kind]
    return (named if named.is_absolute() else default) / "rmt-edge"


def private_folder(path: Path) -> Path:
    """A folder that this user alone may enter, made if need be; what another user owns, or a link, is refused."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        if not path.is_symlink() and path.is_dir() and path.stat().st_uid == os.getuid():
            path.chmod(0o700)
    except OSError as error:
        raise RmtEdgeError(f"The folder {path} cannot be made: {error.strerror or error}.") from error
    if not is_private(path):
        raise RmtEdgeError(
            f"{path} is not a folder of this user's own.",
            "what lies there is loaded into your processes, so nobody else may write it.",
            "Remove it, or set XDG_CACHE_HOME and XDG_STATE_HOME to folders of your own.",
        )
    return path


def is_private(folder: Path) -> bool:
    """Whether a folder is there, no link, and such that this user, or root, alone can read or change what is in it."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid in (os.getuid(), 0) and not found.st_mode & 0o077
