"""A run and its boards: what all of it shares, its folder here, and how long one waits for a board without an answer.

The folder of a run, `<bundle>-<sha256>/`, holds run.json (by which name the boards know the run), and for each board
board.json (how far it is), logs/ and its records. A second run of the same goes on from what is here and on the boards.
"""

import asyncio
import contextlib
import datetime
import fcntl
import getpass
import json
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from rmt_edge.errors import RmtEdgeError
from rmt_edge.fleet.boards import Board
from rmt_edge.fleet.plan import Cargo, Options, plan_of
from rmt_edge.fleet.ssh import LostError, RefusedThereError, ask, check_ssh, control_folder, hang_up
from rmt_edge.fleet.table import View
from rmt_edge.writing import output_folder, write_json

FIRST_SECONDS = 30.0  # without an answer to the first request
PATIENCE_SECONDS = 900.0  # without an answer later: a Jetson takes two minutes to start, and switches are slow to find
LONGEST_WAIT = 10.0  # between two tries
UPLOADS = 8  # at a time: more only share the same cable
DONE, FAILED, RUNNING, STOPPED, UNREACHABLE, LOST = "done", "failed", "running", "stopped", "unreachable", "lost"
Result = TypeVar("Result")


@dataclass
class Fleet:
    """A run: what every board's part of it needs. run: its name on the boards; owner: as a lock tells it."""

    boards: list[Board]
    options: Options
    cargo: Cargo
    folder: Path
    run: str
    control: Path
    view: View = field(default_factory=View)
    patience_s: float = PATIENCE_SECONDS
    owner: str = field(default_factory=lambda: f"{getpass.getuser()} on {socket.gethostname()}")
    seconds: dict[str, list[float]] = field(default_factory=dict)
    contact: dict[str, float] = field(default_factory=dict)
    plan: Callable[[Board, Options, Cargo, str], dict[str, Any]] = plan_of

    def place(self, board: Board) -> Path:
        return self.folder / board.name

    def known(self, board: Board) -> dict[str, Any]:
        """board.json; empty for a board that was never reached."""
        return self.known_of(self.place(board) / "board.json")

    def known_of(self, path: Path) -> dict[str, Any]:
        """What a board.json holds."""
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def note(self, board: Board, **changes: Any) -> None:
        """Keep what is known of a board."""
        output_folder(self.place(board))
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        value = {"board": asdict(board)} | self.known(board) | changes | {"updated": now}
        write_json(self.place(board) / "board.json", value)

    def message(self, do: str, **values: Any) -> dict[str, Any]:
        """A request of this run."""
        cargo = {"environment": self.cargo.environment, "wheel": self.cargo.wheel_path}
        return {"do": do, "run": self.run, "owner": self.owner} | cargo | values


def open_fleet(
    boards: list[Board],
    options: Options | None,
    cargo: Cargo,
    output: Path,
    again: bool = False,
    view: View | None = None,
) -> Fleet:
    """The run of a bundle in a folder: the one that was begun there, or with `again` a new one. Without options those
    that it was begun with."""
    check_ssh()
    folder = output_folder(output / f"{cargo.bundle.stem}-{cargo.bundle_sha256[:8]}")
    known = read_run(folder)
    run = secrets.token_hex(8) if again or known is None else known["run"]
    if options is None:
        stored = {} if known is None else known["options"]
        kept: dict[str, Any] = {key: tuple(x) if isinstance(x, list) else x for key, x in stored.items()}
        options = Options(**kept)
    bundle = {"bundle": str(cargo.bundle.absolute()), "sha256": cargo.bundle_sha256}
    value = {"run": run} | bundle | {"options": json.loads(json.dumps(asdict(options)))}
    if value != known:
        write_json(folder / "run.json", value)
    return Fleet(boards, options, cargo, folder, run, control_folder(), view or View())


def read_run(folder: Path) -> dict[str, Any] | None:
    """run.json of a folder, None without one."""
    path = folder / "run.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def bundle_of(output: Path) -> Path:
    """The bundle of the one run in a folder."""
    runs = {path.parent.name: read_run(path.parent) for path in sorted(output.glob("*/run.json"))}
    if len(runs) != 1:
        raise RmtEdgeError(
            f"{output} holds {len(runs)} runs: {', '.join(runs)}." if runs else f"There is no run in {output}.",
            "a run is of a bundle.",
            "Name the bundle, behind the action.",
        )
    (run,) = runs.values()
    assert run is not None
    return Path(run["bundle"])


@contextlib.contextmanager
def only_here(fleet: Fleet) -> Iterator[None]:
    """One process at a time follows a run; the kernel lets go when it ends."""
    with (fleet.folder / ".only").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RmtEdgeError(
                f"Another process follows this run in {fleet.folder}.", do="Let it, or look: rmt-edge fleet … status."
            ) from None
        yield


async def all_boards(
    fleet: Fleet, each: Callable[[Fleet, Board, asyncio.Semaphore], Awaitable[None]], keeps: bool = True
) -> dict[str, str]:
    """Each board by itself: what is wrong with one does not touch the others; a bug of ours does.

    keeps: whether what is wrong is written down as the state of the board's run.
    """
    uploads = asyncio.Semaphore(UPLOADS)
    found: dict[str, str] = {}

    async def one(board: Board) -> None:
        try:
            await each(fleet, board, uploads)
            found[board.name] = ""
        except RmtEdgeError as error:
            found[board.name] = str(error)
            status = UNREACHABLE if isinstance(error, UnreachableError) else FAILED
            if keeps:
                fleet.note(board, status=status, error=str(error))
            fleet.view.tell(board.name, step=status, note=str(error).splitlines()[0])
        await hang_up(board, fleet.control)

    tasks = [asyncio.create_task(one(board)) for board in fleet.boards]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return {board.name: found[board.name] for board in fleet.boards}


class UnreachableError(RmtEdgeError):
    """A board did not answer for longer than one waits."""


async def patiently(fleet: Fleet, board: Board, action: Callable[[], Awaitable[Result]]) -> Result:
    """Do what may be cut, again and again, until the board has not answered for so long."""
    begun, wait = time.monotonic(), 0.5
    while True:
        try:
            result = await action()
            fleet.contact[board.name] = time.monotonic()
            return result
        except (LostError, RefusedThereError) as error:
            # A board that is starting refuses everybody at first (pam_nologin).
            if isinstance(error, RefusedThereError) and not (error.kind == "key" and board.name in fleet.contact):
                raise
            silent = time.monotonic() - max(begun, fleet.contact.get(board.name, begun))
            limit = fleet.patience_s if board.name in fleet.contact else min(FIRST_SECONDS, fleet.patience_s)
            if silent > limit:
                raise UnreachableError(
                    f"{board.name} ({board.ssh}) has not answered for {silent:.0f} s: {error}",
                    "what runs there goes on." if board.name in fleet.contact else "",
                    "See to the board and its network, then run again: it goes on where it was.",
                ) from error
            fleet.view.tell(board.name, note=f"no answer for {silent:.0f} s: {error}")
            await asyncio.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)


async def request(fleet: Fleet, board: Board, do: str, seconds: float = 60, **values: Any) -> dict[str, Any]:
    """Send a request until it is answered."""
    return await patiently(fleet, board, lambda: ask(board, fleet.message(do, **values), fleet.control, seconds))
