"""The transport: the user's own `ssh`, a process a request. Config, agent, jump hosts and host keys are the user's.

All requests of a board share one connection (ControlMaster, its socket in a private folder). ssh asks nothing
(BatchMode) and leaves the checking of host keys as the user's configuration has it. A cut link is noticed within
ALIVE_SECONDS * ALIVE_COUNT; then LostError tells it from what trying again does not mend.
"""

import asyncio
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import stat
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from rmt_edge.errors import RmtEdgeError
from rmt_edge.fleet.boards import Board

CONNECT_SECONDS, ALIVE_SECONDS, ALIVE_COUNT = 10, 5, 3
PERSIST_SECONDS = 30  # how long a connection without requests stays open
LINE_BYTES = 16 << 20  # of an answer, at most
UPLOAD_BYTES = 1 << 18
OLDEST_PYTHON = (3, 10)
HERE = Path(__file__).resolve().parent
# The modules that a board gets with each request, by the names under which they import one another.
SENT = {f"rmt_edge.fleet.{x}": (HERE / f"{x}.py") for x in ("remote", "power", "deposit", "supervise")}
# What runs them there: any Python can read it, also one that is too old for the rest.
BOOTSTRAP = """import sys
if sys.version_info < (3, 10):
    sys.stdin.buffer.read(int(sys.argv[1])) if sys.version_info > (3,) else None
    sys.stdout.write('{"too_old": "%d.%d.%d"}\\n' % tuple(sys.version_info[:3]))
    sys.exit(0)
import json, types
for name, text in json.loads(sys.stdin.buffer.read(int(sys.argv[1]))):
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(text, name, "exec"), module.__dict__)
module.main()
"""


class LostError(Exception):
    """The connection was not to be had or was cut: what trying again may mend."""


class RefusedThereError(RmtEdgeError):
    """The board answered that it will not, with its kind of reason."""

    def __init__(self, kind: str, what: str, note: str = "", do: str = ""):
        super().__init__(what, note, do)
        self.kind = kind


def ssh_command(board: Board, remote: list[str], control: Path) -> list[str]:
    """The command line of every call. remote: words of a command, quoted for the shell of the board's user."""
    options = {
        "BatchMode": "yes",
        "ControlMaster": "auto",
        "ControlPath": f"{control}/%C",
        "ControlPersist": str(PERSIST_SECONDS),
        "ConnectTimeout": str(CONNECT_SECONDS),
        "ServerAliveInterval": str(ALIVE_SECONDS),
        "ServerAliveCountMax": str(ALIVE_COUNT),
    }
    words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    # -T: no terminal; --: whatever comes behind it is no option.
    return ["ssh", *words, "-T", "--", board.ssh, shlex.join(remote)]


def control_folder() -> Path:
    """A folder of this user alone for the sockets, short: a socket's path has 107 bytes (unix(7)), and ssh adds 17 to
    the 40 of its name while it makes one."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    path = Path(runtime) / "rmt-edge" if 0 < len(runtime) <= 30 and os.path.isdir(runtime) else None
    path = path or Path(f"/tmp/rmt-edge-{os.getuid()}")
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) != 0o700:
        raise RmtEdgeError(
            f"{path} is not a folder of yours alone.", "the sockets of ssh's connections lie there.", f"Remove {path}."
        )
    return path


def check_ssh() -> None:
    """Refuse a workstation without ssh."""
    if shutil.which("ssh") is None:
        raise RmtEdgeError(
            "There is no ssh on this machine.", do="Install OpenSSH's client: apt install openssh-client."
        )


class Connection:
    """One request on its way: a process of ssh, its answers as they come."""

    def __init__(self, board: Board, process: asyncio.subprocess.Process, errors: Any):
        self.board, self.process, self.errors = board, process, errors

    async def send(self, data: bytes) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the reason comes with the exit status
            self.process.stdin.write(data)
            await self.process.stdin.drain()

    async def answer(self) -> dict[str, Any]:
        """The next answer; LostError or an RmtEdgeError where there is none."""
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        if not line.endswith(b"\n"):
            rc = await self.process.wait()
            self.errors.seek(0)
            raise failure(self.board, rc, self.errors.read().decode(errors="replace"))
        try:
            value = json.loads(line)
            assert isinstance(value, dict)
        except (ValueError, AssertionError):
            if line.lstrip().startswith(b"{"):
                raise LostError(f"an answer was cut short: {line[:80]!r}") from None
            raise RmtEdgeError(
                f"{self.board.name} answers {line[:80].decode(errors='replace').strip()!r}.",
                "its shell prints something of its own where no terminal is, which mixes with the answers.",
                f"Mend its start-up files: `ssh {self.board.ssh} true` must print nothing.",
            ) from None
        if "too_old" in value:
            raise RmtEdgeError(
                f"{self.board.python} on {self.board.name} is Python {value['too_old']}.",
                "rmt-edge needs Python 3.10 or newer (JetPack 6 and later have it).",
                'Install one there, and name it in boards.toml: python = "python3.10".',
            )
        if "refused" in value:
            raise refused(self.board, value["refused"])
        return value


def refused(board: Board, value: dict[str, str]) -> Exception:
    """What a board refuses, as an error; or what to try again."""
    kind, what, note, do = (str(value.get(key, "")) for key in ("kind", "what", "note", "do"))
    if kind in ("cut", "damaged"):
        return LostError(what)
    if kind == "full":
        return RefusedThereError(
            kind, f"The disk of {board.name} is full: {what}.", "", f"Make room in {board.folder} and run again."
        )
    if kind == "locked":
        since = f" since {note}" if note else ""
        return RefusedThereError(
            kind,
            f"{board.name} is used by another fleet run: {what}{since}.",
            "its steps are running." if do else "it may still be copying.",
            f"Wait for it, or end it: rmt-edge fleet BOARDS.toml stop --boards {board.name} --others.",
        )
    return RefusedThereError(kind, f"{board.name}: {what}", note, do)


@contextlib.asynccontextmanager
async def opened(board: Board, request: dict[str, Any], control: Path) -> AsyncIterator[Connection]:
    """Send a request; leaving the block ends it."""
    sources = json.dumps([(name, path.read_text(encoding="utf-8")) for name, path in SENT.items()]).encode()
    remote = [board.python, "-I", "-c", BOOTSTRAP, str(len(sources))]
    with tempfile.TemporaryFile() as errors:
        process = await asyncio.create_subprocess_exec(
            *ssh_command(board, remote, control),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,  # a file: a connection that stays open may keep a pipe open, too
            limit=LINE_BYTES,
            env=dict(os.environ) | {"LC_ALL": "C.UTF-8"},  # messages as `failure` knows them
            start_new_session=True,  # Ctrl-C is for us, not for it
        )
        connection = Connection(board, process, errors)
        try:
            line = json.dumps(request | {"folder": board.folder}).encode() + b"\n"
            await connection.send(sources + line)
            yield connection
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # a jump host's ssh too, which holds the pipes
            await process.wait()


async def ask(
    board: Board,
    request: dict[str, Any],
    control: Path,
    seconds: float = 60,
    each: Callable[[dict[str, Any]], None] = lambda value: None,
) -> dict[str, Any]:
    """Send a request and return what it ends with; each: takes the answers before. seconds: how long one may take."""
    async with opened(board, request, control) as connection:
        while True:
            try:
                value = await asyncio.wait_for(connection.answer(), seconds)
            except asyncio.TimeoutError:
                raise LostError(f"no answer for {seconds:g} s") from None
            if "done" in value:
                return value["done"]
            each(value)


async def upload(
    board: Board, run: str, source: Path, path: str, sha256: str, control: Path, told: Callable[[int, int], None]
) -> None:
    """Copy a file to a path of the work folder, from where an earlier copy was cut. told: takes (bytes there, all)."""
    size = source.stat().st_size
    request = {"do": "put", "run": run, "path": path, "size": size, "sha256": sha256}
    async with opened(board, request, control) as connection:
        there = (await asyncio.wait_for(connection.answer(), 60))["from"]
        with source.open("rb") as file:
            file.seek(there)
            while chunk := file.read(UPLOAD_BYTES):
                try:
                    await asyncio.wait_for(connection.send(chunk), 60)
                except asyncio.TimeoutError:
                    raise LostError("no byte went out for 60 s") from None
                there += len(chunk)
                told(there, size)
        assert connection.process.stdin is not None
        connection.process.stdin.close()
        with contextlib.suppress(asyncio.TimeoutError):
            if "done" in await asyncio.wait_for(connection.answer(), 300):
                return
        raise LostError("no answer after the last byte")


async def hang_up(board: Board, control: Path) -> None:
    """Close the board's connection once nothing uses it any more, another process of ours included."""
    argv = ssh_command(board, [], control)
    at = argv.index("-T")
    quiet = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        *argv[:at], "-O", "stop", "--", board.ssh, stdin=quiet, stdout=quiet, stderr=quiet
    )
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(process.wait(), 10)


def failure(board: Board, rc: int, said: str) -> Exception:
    """Why there is no answer, by ssh's exit status and what it or the board's shell wrote on stderr.

    The phrases are OpenSSH's (sshconnect.c, sshconnect2.c, misc.c of 9.2), unchanged for ten years.
    """
    last = next((x.strip() for x in reversed(said.splitlines()) if x.strip()), "it says nothing")
    last = "".join(x for x in last if x.isprintable())
    if "REMOTE HOST IDENTIFICATION HAS CHANGED" in said:
        return RefusedThereError(
            "host key changed",
            f"The host key of {board.name} ({board.ssh}) has changed.",
            "the board was flashed anew, or another machine answers in its place: make sure before you go on.",
            f"If it is the same board: ssh-keygen -R {_host(board)}, then ssh {board.ssh} once.",
        )
    if "Host key verification failed" in said or "host key is known" in said:
        return RefusedThereError(
            "host key unknown",
            f"The host key of {board.name} ({board.ssh}) is not known here.",
            "ssh must have seen a board once, by you.",
            f"Compare its fingerprint and accept it: ssh {board.ssh}",
        )
    if "Permission denied" in said and rc == 255:
        return RefusedThereError(
            "key",
            f"{board.name} ({board.ssh}) accepts no key of yours: {last}",
            "passwords are not asked for, since runs go on by themselves.",
            f"ssh-copy-id {board.ssh}, or load the key into the agent: ssh-add.",
        )
    if "Could not resolve hostname" in said:
        do = "Mend ssh in boards.toml, or add a Host to ~/.ssh/config."
        return RefusedThereError("host", f"There is no host {board.ssh} ({board.name}).", last, do)
    if re.search(r"[Bb]ad configuration option|Unsupported option|terminating, \d+ bad", said):
        return RefusedThereError("config", f"ssh does not read its configuration: {last}", "", "Mend ~/.ssh/config.")
    if rc in (126, 127) or (rc not in (255, -9) and "not found" in said):
        return RefusedThereError(
            "python",
            f"{board.name} has no {board.python}: {last}",
            "rmt-edge needs Python 3.10 or newer there.",
            'Install it (sudo apt install python3), or name one in boards.toml: python = "/usr/bin/python3".',
        )
    if rc != 255 and "Traceback" in said:
        return RuntimeError(f"{board.name}, exit status {rc}:\n{said}")
    return LostError(last)


def _host(board: Board) -> str:
    return board.ssh.rpartition("@")[2].removeprefix("ssh://")
