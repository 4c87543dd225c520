"""One run on many boards at once: check, copy, start, follow, bring back; and go on wherever an earlier run was cut."""

import asyncio
import base64
import datetime
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

from rmt_edge.artifact import sha256_of
from rmt_edge.errors import RmtEdgeError
from rmt_edge.fleet.boards import Board
from rmt_edge.fleet.checks import MODULES, check_doctor, check_probe
from rmt_edge.fleet.fleet import DONE, FAILED, LOST, RUNNING, STOPPED, Fleet, all_boards, only_here, patiently, request
from rmt_edge.fleet.plan import plan_hash, profile_path
from rmt_edge.fleet.records import take_in
from rmt_edge.fleet.ssh import ask, upload
from rmt_edge.fleet.table import last_line, planned_seconds

MAX_LOSSES = 5  # of a run that was killed or rebooted, before something is wrong


def run_fleet(fleet: Fleet) -> dict[str, str]:
    """Run on all boards; by board what is wrong, empty where nothing is. Ctrl-C leaves the boards at work."""
    with only_here(fleet):
        try:
            return asyncio.run(all_boards(fleet, run_board))
        finally:
            fleet.view.close()


async def run_board(fleet: Fleet, board: Board, uploads: asyncio.Semaphore) -> None:
    """All of a run on one board, from wherever it is."""
    known, wanted = fleet.known(board), plan_hash(board, fleet.options, fleet.cargo)
    if (known.get("status"), known.get("hash"), known.get("run")) == (DONE, wanted, fleet.run):
        fleet.view.tell(board.name, step=DONE, share=1.0, note="was done before")
        return
    is_known = (known.get("hash"), known.get("run")) == (wanted, fleet.run) and "machine" in known
    if not is_known or not (await request(fleet, board, "state"))["runs"]:
        await prepare(fleet, board, uploads)
    fleet.note(board, status=RUNNING, error="", hash=wanted, run=fleet.run)
    state = await run_and_follow(fleet, board)
    await bring_back(fleet, board)
    conclude(fleet, board, state)


def conclude(fleet: Fleet, board: Board, state: dict[str, Any]) -> None:
    """Keep how a run ended; an error for one that failed, was stopped or is killed again and again."""
    steps = [{"name": x["name"]} | (x["status"] or {}) for x in state["steps"]]
    is_within = all(x.get("rc") == 0 for x in steps)
    outcome = outcome_of(state)
    fleet.note(board, status=outcome, steps=steps, is_within_limits=is_within)
    fleet.view.tell(board.name, step=outcome, share=1.0 if outcome == DONE else None)
    if outcome == STOPPED:
        raise RmtEdgeError(f"The run on {board.name} was stopped.", do="Run again: it goes on where it was.")
    if outcome == LOST:
        raise RmtEdgeError(
            f"The run on {board.name} was killed {MAX_LOSSES + 1} times.",
            "the board starts anew each time, or is out of memory (sudo dmesg), or its systemd ends what a user leaves "
            "behind (KillUserProcesses in logind.conf).",
            "Mend that, then run again: it goes on where it was.",
        )
    if outcome == FAILED:
        step = next(x for x in state["steps"] if x["status"] and x["status"]["rc"] not in x["fine"])
        log = fleet.place(board) / "logs" / f"{step['name']}.log"
        said = log.read_text(errors="replace") if log.is_file() else ""
        said = said.rpartition("rmt-edge: ")[2].strip() if "rmt-edge: " in said else last_line(said)
        raise RmtEdgeError(
            f"{step['name']} on {board.name} ended with {step['status']['rc']}: {said[-1500:]}", f"its log is {log}."
        )


def outcome_of(state: dict[str, Any]) -> str:
    """What a state says in one word."""
    if state["runs"]:
        return RUNNING
    statuses = [(x["status"], x["fine"]) for x in state["steps"]]
    if statuses and all(status and status["rc"] in fine for status, fine in statuses):
        return DONE
    if any(status and status["stopped"] for status, _ in statuses):
        return STOPPED
    if any(status and status["rc"] not in fine for status, fine in statuses):
        return FAILED
    return LOST


async def prepare(fleet: Fleet, board: Board, uploads: asyncio.Semaphore) -> None:
    """Everything up to the start: nothing is copied before the board has answered for itself."""
    cargo = fleet.cargo
    fleet.view.tell(board.name, step="checks")
    probe, ahead_s = await patiently(fleet, board, lambda: _probe(fleet, board))
    check_probe(board, fleet.options, cargo, probe, ahead_s)
    since = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="minutes")
    await request(fleet, board, "acquire", since=since)
    await copy(fleet, board, cargo.wheel, cargo.wheel_path, cargo.wheel_sha256, uploads)
    fleet.view.tell(board.name, step="install")
    await request(fleet, board, "install", 300)
    fleet.view.tell(board.name, step="doctor")
    done = await request(fleet, board, "command", 300, argv=["doctor", "--json"])
    if done["rc"] != 0:
        raise RmtEdgeError(f"rmt-edge does not start on {board.name}: {last_line(done['err'])}", done["err"][-1000:])
    diagnosis = json.loads(done["out"])
    check_doctor(board, fleet.options, cargo, diagnosis)
    fleet.note(board, machine=diagnosis["machine"], work=probe["work"])
    if (profile := profile_path(board)) is not None:
        await copy(fleet, board, profile[0], profile[1], sha256_of(profile[0]), uploads)
    await copy(fleet, board, cargo.bundle, cargo.bundle_path, cargo.bundle_sha256, uploads)


async def _probe(fleet: Fleet, board: Board) -> tuple[dict[str, Any], float]:
    """What a board says of itself, and by how much its clock is ahead at least: the answer's way is no fault of it."""
    sent = time.time()
    found = await ask(board, fleet.message("probe", bundle=fleet.cargo.bundle_path, modules=MODULES), fleet.control)
    received = time.time()
    ahead = max(0.0, found["time"] - received) + min(0.0, found["time"] - sent)
    return found, ahead


async def copy(fleet: Fleet, board: Board, source: Path, path: str, sha256: str, uploads: asyncio.Semaphore) -> None:
    """Copy a file unless it is there."""

    def told(there: int, size: int) -> None:
        fleet.contact[board.name] = time.monotonic()
        fleet.view.tell(board.name, share=there / max(1, size))

    fleet.view.tell(board.name, step=f"copy {source.name}")
    async with uploads:
        await patiently(fleet, board, lambda: upload(board, fleet.run, source, path, sha256, fleet.control, told))


async def run_and_follow(fleet: Fleet, board: Board) -> dict[str, Any]:
    """Start the plan and follow it to its end; one that ends without a word, by a reboot, is started again."""
    since = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="minutes")
    plan = fleet.plan(board, fleet.options, fleet.cargo, fleet.known(board)["work"])
    state: dict[str, Any] = {}
    for _ in range(MAX_LOSSES + 1):
        await request(fleet, board, "acquire", since=since)
        await request(fleet, board, "start", 120, plan=plan)
        state = (await patiently(fleet, board, lambda: follow(fleet, board)))["state"]
        if outcome_of(state) != LOST:
            break
        fleet.view.tell(board.name, note="it ended without a word: started again")
    return state


async def follow(fleet: Fleet, board: Board, wait: bool = True) -> dict[str, Any]:
    """Take in logs and states until the run ends, or once; a log goes on from the bytes that are here."""
    logs = fleet.place(board) / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    offsets = {path.stem: path.stat().st_size for path in logs.glob("*.log")}

    def take(value: dict[str, Any]) -> None:
        fleet.contact[board.name] = time.monotonic()
        if "log" in value:
            name = str(value["log"])
            if not name.replace("-", "").replace("_", "").replace(".", "").replace("+", "").isalnum():
                raise RmtEdgeError(f"{board.name} has a log {name!r}.")
            with (logs / f"{name}.log").open("ab") as file:
                if file.tell() == value["from"]:  # whatever else was here already
                    file.write(base64.b64decode(value["data"]))
        if "state" in value:
            show(fleet, board, value["state"])

    return await ask(board, fleet.message("follow", offsets=offsets, wait=wait), fleet.control, 60, take)


def show(fleet: Fleet, board: Board, state: dict[str, Any]) -> None:
    """A state in the table: share and seconds left by what a bench plans, else by what other boards took."""
    for x in state["steps"]:
        if (
            x["status"]
            and x["status"]["rc"] in x["fine"]
            and x["status"]["seconds"] not in fleet.seconds.get(x["name"], [])
        ):
            fleet.seconds.setdefault(x["name"], []).append(x["status"]["seconds"])
    now = next((x for x in state["steps"] if not x["status"]), None)
    if now is None or not state["runs"]:
        return
    log = fleet.place(board) / "logs" / f"{now['name']}.log"
    said = log.read_text(errors="replace")[-20000:] if log.is_file() else ""
    elapsed = now["elapsed"] or 0.0
    whole = planned_seconds(said) or median(fleet.seconds.get(now["name"], [0.0]))
    fleet.view.tell(
        board.name,
        step=now["name"],
        share=min(0.99, elapsed / whole) if whole else None,
        left_s=max(0.0, whole - elapsed) if whole else None,
        temperature_c=state["temperature_c"],
    )


async def bring_back(fleet: Fleet, board: Board) -> None:
    """Bring the records of a run back, those that are not here as they are there."""
    place = fleet.place(board)
    known = {x.relative_to(place).as_posix(): sha256_of(x) for x in place.glob("*/*.json")}
    parts: dict[str, bytes] = {}

    def take(value: dict[str, Any]) -> None:
        parts[value["record"]] = parts.get(value["record"], b"") + base64.b64decode(value["data"])

    async def once() -> dict[str, str]:
        parts.clear()
        return (await ask(board, fleet.message("records", known=known), fleet.control, 60, take))["records"]

    there = await patiently(fleet, board, once)
    contents = {name: parts[name] if name in parts else (place / name).read_bytes() for name in there}
    take_in(place, board.name, contents, fleet.cargo.index, fleet.known(board)["machine"])
