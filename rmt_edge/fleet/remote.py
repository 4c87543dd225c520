"""What a board runs for the fleet: this file, power.py, deposit.py and supervise.py, by the board's own Python alone.

ssh.py sends them with every request: BOOTSTRAP reads them from standard input, then a line of JSON, the request, and
answers are lines of JSON. So nothing need be installed before one can look. All that it writes lies in the work folder:

    lock.json                       who uses the board, renewed with every request of its owner
    wheels/, venv-<sha256>/         rmt-edge, installed
    bundles/<sha256>/               bundles, unpacked, with the engines built from them
    power.json                      the power mode to go back to, as long as another one is set
    runs/<run>/                     supervise.py's: the plan, logs, exit statuses and records of one run
    tmp/, cache/                    what commands would leave in /tmp and in the home folder
"""

import base64
import contextlib
import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHUNK = 1 << 16  # of a file or log, in one line of JSON
LOCK_SECONDS = 600  # a lock without a run on the board and not renewed for so long was left behind


class RefusedError(Exception):
    """What the workstation makes an RmtEdgeError of; kind: a word that it tells apart."""

    def __init__(self, kind: str, what: str, note: str = "", do: str = ""):
        super().__init__(what)
        self.answer = {"kind": kind, "what": what, "note": note, "do": do}


def answer(value: dict[str, Any]) -> None:
    """Write one line; a workstation that is gone ends this process."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def work_folder(text: str) -> Path:
    """The work folder's absolute path; what does not begin with / is in the home folder."""
    return Path.home() / text


def read_json(path: Path) -> Any:
    """What a JSON file of ours holds, None without one."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def write_json(path: Path, value: Any) -> None:
    """A JSON file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with part.open("w") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def encoded(content: bytes) -> str:
    """Bytes in JSON."""
    return base64.b64encode(content).decode()


# ---- processes


def boot() -> str:
    """A name for the time since the board was switched on."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def started_at(pid: int) -> str | None:
    """When a process began, in ticks since the boot (proc(5), field 22); None for one that is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if fields[0] == "Z" else fields[19]


def identity(pid: int) -> dict[str, Any]:
    """A process by what no later one shares: a pid is given again."""
    return {"pid": pid, "started": started_at(pid), "boot": boot()}


def is_alive(process: dict[str, Any] | None) -> bool:
    """Whether that very process is running."""
    if process is None or process["started"] is None:  # it had ended before anybody looked
        return False
    return process["boot"] == boot() and started_at(process["pid"]) == process["started"]


def end(process: dict[str, Any] | None, seconds: float = 20, group: bool = False) -> None:
    """End a process, or its whole group: by SIGTERM, and by SIGKILL where it is still there after so long."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process is None or not is_alive(process):
            return
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(process["pid"], number)
        limit = time.monotonic() + seconds
        while is_alive(process) and time.monotonic() < limit:
            time.sleep(0.05)


# ---- the lock


@contextlib.contextmanager
def alone(work: Path) -> Iterator[None]:
    """One request at a time changes the lock or starts a run; the kernel lets go when a process ends."""
    work.mkdir(parents=True, exist_ok=True)
    with (work / ".alone").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def acquire(request: dict[str, Any]) -> dict[str, Any]:
    """Take or renew the lock of a run, or refuse with who has it."""
    work = work_folder(request["folder"])
    with alone(work):
        check_lock(work, request["run"])
        lock = read_json(work / "lock.json")
        since = lock["since"] if lock is not None and lock["run"] == request["run"] else request["since"]
        write_json(work / "lock.json", {"run": request["run"], "owner": request["owner"], "since": since})
        renew(work, request["run"])
    return {}


def renew(work: Path, run: str) -> None:
    """Write down that a lock is in use, by a clock that nobody sets."""
    lock = read_json(work / "lock.json")
    if lock is not None and lock["run"] == run:
        write_json(work / "lock.json", lock | {"boot": boot(), "uptime": time.clock_gettime(time.CLOCK_BOOTTIME)})


def check_lock(work: Path, run: str) -> None:
    """Refuse another's lock, unless nothing of it runs and nobody has renewed it."""
    lock = read_json(work / "lock.json")
    if lock is None or lock["run"] == run:
        return
    supervisor = read_json(work / "runs" / lock["run"] / "supervisor.json")
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - lock.get("uptime", 0)
    if is_alive(supervisor) or (lock.get("boot") == boot() and age < LOCK_SECONDS):
        raise RefusedError("locked", lock["owner"], lock["since"], "running" if is_alive(supervisor) else "")


def release(work: Path, run: str) -> None:
    """Let go of the lock, if it is this run's."""
    lock = read_json(work / "lock.json")
    if lock is not None and lock["run"] == run:
        (work / "lock.json").unlink()
