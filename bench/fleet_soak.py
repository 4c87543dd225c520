"""Many boards at once over real connections, and many faults: what it takes, and whether a record is wrong or lost.

    python bench/fleet_soak.py [--boards 20] [--cuts 6] [--faults 200] [--record bench/results/fleet_soak.json]

Boards are namespaces of this machine with a real sshd (tests/fleet/namespaces.py; root, openssh-server and iproute2 are
needed), so that all of them share its processors: times are an upper bound, counts are what matters. Their steps are
short ones in the place of a device's; wheel, doctor, bundle, logs and records are real.

1. `boards` follow --steps steps each while --cuts of their cables are pulled for 8 to 12 s.
2. On --few boards cables are pulled (0.2 to 6 s), power is cut, supervisors and the workstation's process are killed
   at random, in as many runs as --faults take.

The last line of output is one JSON object, the record.
"""

import argparse
import json
import os
import random
import resource
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from record import header

from rmt_edge.settings import ROOT
from rmt_edge.writing import write_json

sys.path.insert(0, str(ROOT))  # the harness and the short steps are those of the tests
from tests.bundles import write_bundle
from tests.fleet.faults import Workstation, trouble, wrong
from tests.fleet.namespaces import Drawer, drawer, why_not
from tests.wheels import build_wheel

CUT_SECONDS = (8.0, 12.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boards", type=int, default=20)
    parser.add_argument("--cuts", type=int, default=6)
    parser.add_argument("--few", type=int, default=6)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--lines", type=int, default=40)
    parser.add_argument("--pause-s", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", type=Path)
    args = parser.parse_args()
    if reason := why_not():
        sys.exit(f"There can be no boards here: {reason}.")
    with tempfile.TemporaryDirectory() as folder:
        wheel = build_wheel(Path(folder) / "wheel")
        found = header("fleet_soak") | {
            "settings": {key: value for key, value in vars(args).items() if key != "record"},
            "side_by_side": side_by_side(Path(folder) / "many", wheel, args),
            "faults": faults(Path(folder) / "few", wheel, args),
        }
    if args.record:
        write_json(args.record, found)
    print(json.dumps(found))


def begin(folder: Path, boards: Drawer, wheel: Path, args: argparse.Namespace, name: str) -> tuple[Workstation, Path]:
    """A run of its own bundle on all boards, and the folder that its own will lie in."""
    place = folder / name
    place.mkdir(parents=True)
    # Its checkpoint makes each run's bundle another: a content is copied once.
    bundle = write_bundle(place / f"{name}.rmtedge", checkpoint={"name": f"{name}.pth", "sha256": "0" * 64})
    toml = boards.boards_toml(place / "boards.toml", runs="onnx", python=sys.executable)
    arguments = [toml, bundle, wheel, place / "out", args.steps, args.lines, args.pause_s]
    return Workstation(arguments, f"{boards.bin}:{os.environ['PATH']}", place / "log"), place


def outcome(boards: Drawer, workstation: Workstation, place: Path, args: argparse.Namespace) -> list[str]:
    """What is wrong after a run has ended."""
    rc = workstation.process.wait(timeout=900)
    (folder,) = (place / "out").glob("*-????????")
    found = wrong(boards, folder, args.steps, args.lines)
    return found if rc == 0 else [*found, f"exit status {rc}: {(place / 'log').read_text()[-2000:]}"]


def side_by_side(folder: Path, wheel: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Many boards, some of whose cables are pulled once."""
    rng = random.Random(args.seed)
    with drawer(folder) as boards:
        for number in range(args.boards):
            boards.add(f"board-{number}")
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.monotonic()
        workstation, place = begin(folder, boards, wheel, args, "many")
        cut = []
        for board in rng.sample(list(boards.boards.values()), args.cuts):
            seconds = rng.uniform(*CUT_SECONDS)
            cut.append(round(seconds, 1))
            threading.Timer(rng.uniform(5, 20), lambda b=board, s=seconds: pulled(b, s)).start()
        found = outcome(boards, workstation, place, args)
        seconds = time.monotonic() - start
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "boards": args.boards,
        "cuts_s": cut,
        "seconds": round(seconds, 1),
        "least_seconds": args.steps * args.lines * args.pause_s,
        "workstation_cpu_seconds": round(cpu, 1),
        "records": args.boards * args.steps,
        "wrong": found,
    }


def pulled(board: Any, seconds: float) -> None:
    """A cable out, and in again."""
    board.cut()
    time.sleep(seconds)
    board.heal()


def faults(folder: Path, wheel: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Runs on a few boards, one after the other, until there were so many faults."""
    done: Counter = Counter()
    found, runs, start = [], 0, time.monotonic()
    with drawer(folder) as boards:
        for number in range(args.few):
            boards.add(f"board-{number}")
        while sum(done.values()) < args.faults:
            workstation, place = begin(folder, boards, wheel, args, f"run-{runs}")
            done += trouble(boards, workstation, args.faults - sum(done.values()), args.seed + runs, (0.2, 1.2))
            found += outcome(boards, workstation, place, args)
            runs += 1
            print(f"{runs} runs, {dict(done)}, wrong: {found}", file=sys.stderr, flush=True)
    return {
        "boards": args.few,
        "runs": runs,
        "faults": dict(done),
        "seconds": round(time.monotonic() - start, 1),
        "records": runs * args.few * args.steps,
        "wrong": found,
    }


if __name__ == "__main__":
    main()
