"""What is asked of boards whose run goes on by itself: how far it is, what it has made, and that it stop."""

import asyncio
from typing import Any

from rmt_edge.errors import RmtEdgeError
from rmt_edge.fleet.boards import Board
from rmt_edge.fleet.fleet import Fleet, all_boards, only_here
from rmt_edge.fleet.run import bring_back, conclude, follow, outcome_of
from rmt_edge.fleet.ssh import LostError, ask

NO_RUN = "no run here"


def status(fleet: Fleet) -> dict[str, str]:
    """Show how far each board is; by board what is wrong. Nothing is changed, here or there."""
    return _each(fleet, _status, keeps=False)


def fetch(fleet: Fleet) -> dict[str, str]:
    """Bring back logs and records of what has ended so far; by board what is wrong."""
    with only_here(fleet):
        return _each(fleet, _fetch, keeps=True)


def stop(fleet: Fleet, others: bool = False) -> dict[str, str]:
    """End the run on each board and go back to its power mode; others: whichever run has the board."""

    async def each(fleet: Fleet, board: Board, uploads: asyncio.Semaphore) -> None:
        done = await _once(fleet, board, fleet.message("stop") | ({"run": None} if others else {}), 120)
        fleet.view.tell(board.name, step="stopped" if done["stopped"] else NO_RUN)

    return _each(fleet, each, keeps=False)


def _each(fleet: Fleet, each: Any, keeps: bool) -> dict[str, str]:
    try:
        return asyncio.run(all_boards(fleet, each, keeps))
    finally:
        fleet.view.close()


async def _once(fleet: Fleet, board: Board, message: dict[str, Any], seconds: float = 60) -> dict[str, Any]:
    """An answer at the first try: somebody is waiting for it."""
    try:
        return await ask(board, message, fleet.control, seconds)
    except LostError as error:
        raise RmtEdgeError(f"{board.name} ({board.ssh}) does not answer: {error}") from error


async def _status(fleet: Fleet, board: Board, uploads: asyncio.Semaphore) -> None:
    state = await _once(fleet, board, fleet.message("state"))
    now = next((x for x in state["steps"] if not x["status"]), None)
    ended = sum(x["status"] is not None for x in state["steps"])
    step = now["name"] if now and state["runs"] else outcome_of(state) if state["steps"] else NO_RUN
    note = f"{ended} of {len(state['steps'])} steps" if state["steps"] else ""
    if (lock := state["lock"]) is not None and lock["run"] != fleet.run:
        note = f"used by {lock['owner']} since {lock['since']}"
    fleet.view.tell(board.name, step=step, note=note, temperature_c=state["temperature_c"])


async def _fetch(fleet: Fleet, board: Board, uploads: asyncio.Semaphore) -> None:
    if "machine" not in fleet.known(board):
        fleet.view.tell(board.name, step=NO_RUN)
        return
    try:
        state = (await follow(fleet, board, wait=False))["state"]
    except LostError as error:
        raise RmtEdgeError(f"{board.name} ({board.ssh}) does not answer: {error}") from error
    await bring_back(fleet, board)
    if state["runs"]:
        fleet.view.tell(board.name, note="goes on")
    else:
        conclude(fleet, board, state)
