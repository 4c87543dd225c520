"""boards.toml: the boards of a fleet, a table each. Four lines are enough for two of them:

    [orin-1]
    ssh = "nvidia@orin-1.local"
    [thor]
    ssh = "thor.local"

What a name, a destination or a path may hold is checked here, before any of it comes near a command line: a destination
that begins with "-" would be an option to ssh, and a folder with ".." would not be the board's own.
"""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from rmt_edge.device.profile import AUTO, GENERIC, profile_names
from rmt_edge.errors import RmtEdgeError
from rmt_edge.settings import check_choice, read_toml

ENGINES, ONNX_FILES = "engines", "onnx"
FOLDER = "rmt-edge-fleet"
# A name becomes a folder here and a word in messages; 63 is the length of a host's label (RFC 1035, 2.3.4).
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
# `nvpmodel -q` prints names like MAXN_SUPER and 15W.
POWER_MODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+.-]{0,62}")


@dataclass(frozen=True)
class Board:
    """One board.

    ssh: a destination as ssh takes it, `user@host` or a Host of ~/.ssh/config, where port, key and jump hosts stand.
    device: a device profile (`rmt-edge devices`), its path, or auto. power_mode: the one to measure in, by the name
    that `nvpmodel -q` prints; without one, the mode that the board is in. python: the interpreter there. folder: all
    that is written there lies in it; what does not begin with / is in the home folder. runs: engines, built on the
    board; or onnx: the ONNX files by ONNX Runtime, on a board without a GPU.
    """

    name: str
    ssh: str
    device: str = AUTO
    power_mode: str | None = None
    python: str = "python3"
    folder: str = FOLDER
    runs: str = ENGINES

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise RmtEdgeError(
                f"A board is called {self.name!r}.",
                "a name has letters, digits, dots, dashes and underscores, 63 at most.",
            )
        for field in ("ssh", "device", "python", "folder", "runs"):
            value = getattr(self, field)
            if not isinstance(value, str) or not value or not value.isprintable():
                raise RmtEdgeError(f"{field} of {self.name} is {value!r}.", "it is a text without control characters.")
        if self.ssh.startswith("-") or "@-" in self.ssh or "//-" in self.ssh or " " in self.ssh:
            raise RmtEdgeError(
                f"ssh of {self.name} is {self.ssh!r}.",
                "it is `host` or `user@host`; ssh would take this for an option.",
            )
        if self.python.startswith("-"):
            raise RmtEdgeError(f"python of {self.name} is {self.python!r}.", "it is a command or a path.")
        if self.power_mode is not None:
            check_power_mode(self.power_mode)
        check_choice(f"runs of {self.name}", self.runs, (ENGINES, ONNX_FILES))
        if self.device not in (AUTO, *profile_names()) and not self.device.endswith(".toml"):
            if not self.device.startswith(GENERIC):
                raise RmtEdgeError(
                    f"device of {self.name} is {self.device!r}.", f"known: {AUTO}, {', '.join(profile_names())}."
                )
        self._check_folder()

    def _check_folder(self) -> None:
        parts = PurePosixPath(self.folder).parts
        if ".." in parts or self.folder.startswith("~") or len([x for x in parts if x != "/"]) < 1:
            raise RmtEdgeError(
                f"folder of {self.name} is {self.folder!r}.",
                "it is a folder of its own, absolute or in the home folder, without ~ and without `..`.",
            )


def check_power_mode(name: Any) -> str:
    """A power mode's name; an error for what cannot be one."""
    if not isinstance(name, str) or not POWER_MODE.fullmatch(name):
        raise RmtEdgeError(
            f"A power mode is called {name!r}.", "`nvpmodel -q` on the board prints its name, such as 15W."
        )
    return name


def read_boards(path: Path, names: list[str] | None = None) -> list[Board]:
    """The boards of a file, in its order; with names only those."""
    if not path.is_file():
        raise RmtEdgeError(
            f"There is no file {path}.", 'it holds a table for each board: [orin-1] and below it ssh = "user@host".'
        )
    boards = [_board(path, name, values) for name, values in read_toml(path).items()]
    if not boards:
        raise RmtEdgeError(f"{path} has no boards.", do='Give each a table: [orin-1] and below it ssh = "user@host".')
    _check_apart(path, boards)
    known = [x.name for x in boards]
    for name in names or []:
        if name not in known:
            raise RmtEdgeError(f"There is no board {name} in {path}.", f"there are {', '.join(known)}.")
    return [x for x in boards if names is None or x.name in names]


def _board(path: Path, name: str, values: Any) -> Board:
    if not isinstance(values, dict):
        raise RmtEdgeError(f"{path}: {name} is no table.", f"a board is a table: [{name}].")
    fields = [x for x in Board.__dataclass_fields__ if x != "name"]
    if unknown := set(values) - set(fields):
        raise RmtEdgeError(f"{path}: unknown {', '.join(sorted(unknown))} of {name}.", f"known: {', '.join(fields)}.")
    if "ssh" not in values:
        raise RmtEdgeError(f"{path}: {name} has no ssh.", do='Say how ssh reaches it: ssh = "user@host".')
    try:
        return Board(name, **values)
    except RmtEdgeError as error:
        raise RmtEdgeError(f"{path}: {error}") from error


def _check_apart(path: Path, boards: list[Board]) -> None:
    """No two boards share a folder here (some file systems do not tell case) or one over there."""
    seen: dict[Any, Board] = {}
    for board in boards:
        for key in (board.name.lower(), (board.ssh, str(PurePosixPath(board.folder)))):
            if key in seen:
                raise RmtEdgeError(
                    f"{path}: {seen[key].name} and {board.name} are one board: "
                    + ("their names differ in case alone." if isinstance(key, str) else "same ssh, same folder."),
                    do="Name each board once.",
                )
            seen[key] = board
