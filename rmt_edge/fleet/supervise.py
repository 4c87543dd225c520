"""One run on a board, detached from every connection: its steps one after the other, and what a workstation asks of it.

`start` writes the plan and starts this file as a process of its own session, from the installed wheel; nothing depends
on a connection from then on. In runs/<run>/:

    plan.json           the steps, each {"name", "argv", "power_mode", "fine", "manifests", "into"}
    supervisor.json     the process that runs them
    <step>/             log (stderr), out (stdout), child.json (the process), status.json (once it has ended)
    records/            what comes back

A step that has ended well is not run again: a plan that is started a second time, after a reboot or by a second `run`,
goes on where it was. An item of argv is a text, or {"printed_by": step, "suffix"}: the paths that it printed.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rmt_edge.fleet.deposit import command, environment_of, install, probe, put, records
from rmt_edge.fleet.power import restore, set_power_mode
from rmt_edge.fleet.remote import (
    CHUNK,
    RefusedError,
    acquire,
    alone,
    answer,
    check_lock,
    encoded,
    end,
    identity,
    is_alive,
    read_json,
    release,
    work_folder,
    write_json,
)

LOOK_SECONDS = 0.25  # between two looks at the logs
START_SECONDS = 60.0
BEAT_SECONDS = 3.0  # between two answers where nothing is new
ERRNO_FULL = (28, 122)  # ENOSPC, EDQUOT of errno.h


class StoppedError(Exception):
    """SIGTERM came."""


def spec_of(step: dict[str, Any]) -> str:
    """A step by the hash of all that it says."""
    return hashlib.sha256(json.dumps(step, sort_keys=True).encode()).hexdigest()


def status_of(folder: Path, step: dict[str, Any]) -> dict[str, Any] | None:
    """How a step ended, if it has and is still the same step."""
    found = read_json(folder / step["name"] / "status.json")
    return found if found is not None and found["spec"] == spec_of(step) else None


def start(request: dict[str, Any]) -> dict[str, Any]:
    """Start the plan of a run, unless it is running; what an end without a word left behind is cleared first."""
    work = work_folder(request["folder"])
    folder = work / "runs" / request["run"]
    with alone(work):
        check_lock(work, request["run"])
        if is_alive(read_json(folder / "supervisor.json")):
            return {"already": True}
        _clear(work, folder)
        write_json(folder / "plan.json", request["plan"])
        python = str(work / request["environment"] / "bin" / "python")
        argv = [python, "-m", "rmt_edge.fleet.supervise", str(work), request["run"]]
        with (folder / "supervisor.log").open("a") as log:
            process = subprocess.Popen(
                argv, cwd=folder, env=environment_of(work), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        limit = time.monotonic() + START_SECONDS  # it writes down itself who it is, once it is the only one
        while process.poll() is None and not is_alive(read_json(folder / "supervisor.json")):
            if time.monotonic() > limit:
                raise RefusedError("start", f"The run did not start within {START_SECONDS:g} s.")
            time.sleep(0.05)
    return {"already": False}


def _clear(work: Path, folder: Path) -> None:
    """End the children of a supervisor that was killed, and go back to the power mode that it did not."""
    for path in folder.glob("*/child.json"):
        end(read_json(path), group=True)
    restore(work)


def supervise(work: Path, run: str) -> None:
    """Run the steps that are not done, up to the first that fails."""
    folder = work / "runs" / run
    only = (folder / ".only").open("w")
    try:
        fcntl.flock(only, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until this process ends, however it does
    except BlockingIOError:
        return

    def stop(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise StoppedError

    signal.signal(signal.SIGTERM, stop)
    try:
        write_json(folder / "supervisor.json", identity(os.getpid()))
        for step in read_json(folder / "plan.json")["steps"]:
            status = status_of(folder, step)
            if status is None or status["rc"] not in step["fine"]:
                if _run_step(work, folder, step) not in step["fine"]:
                    break
    except StoppedError:
        pass
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        restore(work)
        release(work, run)


def _run_step(work: Path, folder: Path, step: dict[str, Any]) -> int:
    """One step, its exit status written down last."""
    place = folder / step["name"]
    place.mkdir(exist_ok=True)
    (place / "status.json").unlink(missing_ok=True)
    begun, rc, stopped = time.time(), 2, False
    with (place / "log").open("ab") as log, (place / "out").open("wb") as out:
        try:
            argv = expanded(folder, step["argv"])
            _bring_manifests(folder, step)
            if step["power_mode"] is not None:
                set_power_mode(work, step["power_mode"])
            write_json(place / "begun.json", {"time": begun})
            child = subprocess.Popen(
                argv, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=log, start_new_session=True
            )
            write_json(place / "child.json", identity(child.pid))
            rc = child.wait()
        except RefusedError as error:
            log.write(f"{error}\n".encode())
        except StoppedError:
            stopped = True
            end(read_json(place / "child.json"), group=True)
    # Nobody is told of an end before what it wrote will be there after the power is cut.
    os.sync()
    status = {"rc": rc, "spec": spec_of(step), "seconds": time.time() - begun, "stopped": stopped}
    write_json(place / "status.json", status)
    if stopped:
        raise StoppedError
    return rc


def expanded(folder: Path, items: list[Any]) -> list[str]:
    """The words of a command, the paths that an earlier step printed among them."""
    found: list[str] = []
    for item in items:
        if isinstance(item, str):
            found.append(item)
            continue
        text = (folder / item["printed_by"] / "out").read_text()
        paths = [x for x in text.splitlines() if x.endswith(item["suffix"])]
        if not paths:
            raise RefusedError("step", f"{item['printed_by']} printed no path that ends in {item['suffix']}.")
        found += paths
    return found


def _bring_manifests(folder: Path, step: dict[str, Any]) -> None:
    """Copy the manifests of files, and those of predictions, to the records, where `verdict` ties them together."""
    if step.get("into") is None:
        return
    into = folder / step["into"]
    into.mkdir(parents=True, exist_ok=True)
    for path in expanded(folder, step["manifests"]):
        shutil.copy(f"{path}.json", into)
    for source in (folder / "records" / "validate").glob("*.json"):
        shutil.copy(source, into)


def temperature_c() -> float | None:
    """The hottest thermal zone that answers with what can be a temperature."""
    found = []
    for zone in Path("/sys/class/thermal").glob("thermal_zone*/temp"):
        with contextlib.suppress(OSError, ValueError):
            found.append(int(zone.read_text()) / 1e3)
    return max((x for x in found if -50 < x < 150), default=None)


def state(request: dict[str, Any]) -> dict[str, Any]:
    """How far a run is. "run" names it."""
    work = work_folder(request["folder"])
    folder = work / "runs" / request["run"]
    runs = is_alive(read_json(folder / "supervisor.json"))  # before its files: what it left is then all there
    steps, plan = [], read_json(folder / "plan.json")
    for step in plan["steps"] if plan else []:
        begun = read_json(folder / step["name"] / "begun.json")
        status = status_of(folder, step)
        elapsed = max(0.0, time.time() - begun["time"]) if begun else None
        steps.append({"name": step["name"], "elapsed": elapsed, "status": status, "fine": step["fine"]})
    return {"runs": runs, "steps": steps, "temperature_c": temperature_c(), "lock": read_json(work / "lock.json")}


def follow(request: dict[str, Any]) -> dict[str, Any]:
    """Answer what is new in the logs, from the bytes in "offsets", and how far the run is, until it has ended."""
    work = work_folder(request["folder"])
    folder, offsets = work / "runs" / request["run"], dict(request["offsets"])
    last, beat = None, 0.0
    while True:
        now = state(request)
        for step in now["steps"]:
            _new_bytes(folder, step["name"], offsets)
        # Elapsed seconds change with every look; that alone is told with the next beat.
        shape = [(x["name"], x["elapsed"] is None, x["status"]) for x in now["steps"]], now["runs"]
        if shape != last or time.monotonic() - beat > BEAT_SECONDS:
            answer({"state": now})
            last, beat = shape, time.monotonic()
        if not now["runs"] or not request.get("wait", True):
            return {"state": now}
        time.sleep(LOOK_SECONDS)


def _new_bytes(folder: Path, name: str, offsets: dict[str, int]) -> None:
    with contextlib.suppress(FileNotFoundError), (folder / name / "log").open("rb") as file:
        file.seek(offsets.get(name, 0))
        while chunk := file.read(CHUNK):
            answer({"log": name, "from": offsets.get(name, 0), "data": encoded(chunk)})
            offsets[name] = offsets.get(name, 0) + len(chunk)


def stop(request: dict[str, Any]) -> dict[str, Any]:
    """End a run and go back to its power mode. "run" None: whichever has the lock."""
    work = work_folder(request["folder"])
    lock = read_json(work / "lock.json")
    run = request["run"] or (lock["run"] if lock else None)
    if run is None or not (work / "runs" / run).is_dir():
        if run is not None:
            release(work, run)
        return {"stopped": lock is not None and lock["run"] == run}
    folder = work / "runs" / run
    supervisor = read_json(folder / "supervisor.json")
    was_running = is_alive(supervisor)
    end(supervisor, seconds=60)
    with alone(work):
        _clear(work, folder)
        release(work, run)
    return {"stopped": was_running}


# By the word in a request.
ANSWERS = {
    "probe": probe, "acquire": acquire, "install": install, "command": command, "start": start, "state": state,
    "follow": follow, "records": records, "stop": stop,
}  # fmt: skip


def main() -> None:
    """Answer one request of standard input."""
    source = sys.stdin.buffer
    request = json.loads(source.readline())
    try:
        done = put(request, source) if request["do"] == "put" else ANSWERS[request["do"]](request)
        answer({"done": done})
    except RefusedError as error:
        answer({"refused": error.answer})
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            os._exit(1)  # the workstation is gone: nobody is left to tell
        kind = "full" if error.errno in ERRNO_FULL else "os"
        answer({"refused": {"kind": kind, "what": str(error), "note": "", "do": ""}})


if __name__ == "__main__":
    supervise(Path(sys.argv[1]), sys.argv[2])
