"""Faults at random while a fleet runs: cables pulled and put back, power gone, supervisors and the workstation killed.

    python -m tests.fleet.faults BOARDS.toml BUNDLE WHEEL OUTPUT STEPS LINES PAUSE_S

follows a run of short steps as `rmt-edge fleet run` would, in a process of its own that can be killed.
"""

import io
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from rmt_edge.fleet import fleet as fleet_module
from rmt_edge.fleet import ssh
from rmt_edge.fleet.run import run_fleet
from rmt_edge.fleet.table import View
from rmt_edge.settings import ROOT
from tests.fleet.namespaces import Drawer, NamespaceBoard
from tests.fleet.plans import open_short, wrong_with

KINDS = ("cut", "power", "supervisor", "workstation")
ALIVE_SECONDS = 1  # so that a cut is noticed within three


class Workstation:
    """The process that follows the run; killed and begun again as a laptop is closed and opened."""

    def __init__(self, arguments: list[object], path: str, log: Path):
        self.arguments, self.path, self.log = [str(x) for x in arguments], path, log
        self.process: subprocess.Popen | None = None
        self.begin()

    def begin(self) -> None:
        environment = dict(os.environ) | {"PATH": self.path, "PYTHONPATH": str(ROOT)}
        argv = [sys.executable, "-m", "tests.fleet.faults", *self.arguments]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(argv, env=environment, stdout=log, stderr=log, cwd=ROOT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.begin()

    @property
    def is_done(self) -> bool:
        return self.process.poll() is not None


def trouble(drawer: Drawer, workstation: Workstation, count: int, seed: int, pause_s: tuple[float, float]) -> Counter:
    """Cause so many faults, one after the other, as long as the run goes on; returns how many of each kind."""
    rng, done = random.Random(seed), Counter()
    healing: list[tuple[float, NamespaceBoard]] = []
    while sum(done.values()) < count and not workstation.is_done:
        time.sleep(rng.uniform(*pause_s))
        for when, board in [x for x in healing if x[0] < time.monotonic()]:
            board.heal()
            healing.remove((when, board))
        kind, board = rng.choice(KINDS), rng.choice(list(drawer.boards.values()))
        if kind == "workstation":
            workstation.kill()
        elif any(x is board for _, x in healing):
            continue
        elif kind == "cut":
            board.cut()
            healing.append((time.monotonic() + rng.uniform(0.2, 6), board))
        elif kind == "power":
            board.reboot()
        elif not kill_supervisor(board):
            continue
        done[kind] += 1
    for _, board in healing:
        board.heal()
    return done


def kill_supervisor(board: NamespaceBoard) -> bool:
    """Kill what runs the steps on a board, as a board that is out of memory would; whether there was one."""
    path = next(iter(board.home.glob("rmt-edge-fleet/runs/*/supervisor.json")), None)
    known = json.loads(path.read_text()) if path else {"boot": None}
    if known["boot"] != (board.folder / "boot_id").read_text().strip():
        return False
    inside = ["nsenter", "-t", str(board.first_process()), "-p", "-m", "kill", "-9", str(known["pid"])]
    return subprocess.run(inside, capture_output=True).returncode == 0


def wrong(drawer: Drawer, folder: Path, steps: int, lines: int) -> list[str]:
    """What is not as it must be on any board; folder: the run's."""
    run = json.loads((folder / "run.json").read_text())["run"]
    found = []
    for board in drawer.boards.values():
        there = board.home / "rmt-edge-fleet" / "runs" / run
        found += wrong_with(folder / board.name, there, board.name, steps, lines, was_killed=True)
        if [x.name for x in board.home.iterdir()] != ["rmt-edge-fleet"] or list((board.folder / "tmp").iterdir()):
            found.append(f"{board.name}: something lies outside the folder")
        if (board.home / "rmt-edge-fleet" / "lock.json").exists():
            found.append(f"{board.name}: the lock is left")
    return found


def main() -> int:
    toml, bundle, wheel, output, steps, lines, pause_s = sys.argv[1:]
    ssh.ALIVE_SECONDS, ssh.CONNECT_SECONDS, fleet_module.LONGEST_WAIT = ALIVE_SECONDS, 2, 1.0
    view = View(out=io.StringIO())
    sizes = {"steps": int(steps), "lines": int(lines), "pause_s": float(pause_s)}
    fleet = open_short(Path(toml), Path(bundle), Path(wheel), Path(output), view, 120, **sizes)
    while True:
        found = {name: text for name, text in run_fleet(fleet).items() if text}
        # A run that was killed more often than a board ever is gives up, and is run again, as a person would.
        again = {name for name, text in found.items() if "times" in text or "was stopped" in text}
        if not found or set(found) - again:
            break
    print(json.dumps(found, indent=2), flush=True)
    return len(found)


if __name__ == "__main__":
    sys.exit(main())
