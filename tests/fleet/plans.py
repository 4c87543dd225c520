"""Short steps in the place of a device's hours, whose records, logs and executions say whether anything went wrong.

Every step writes a line to executions.txt when it ends, so that one that was done and is run again is seen; every
record names its board and the step's number.
"""

import json
from dataclasses import replace
from pathlib import Path

from rmt_edge.artifact import ONNX
from rmt_edge.fleet.boards import read_boards
from rmt_edge.fleet.fleet import Fleet, open_fleet
from rmt_edge.fleet.plan import Options, read_cargo
from rmt_edge.fleet.table import View
from rmt_edge.latency.record import read_latency_record
from tests.latency_records import make_run, write_record

# argv: the record's template, its path, the board, the step, lines of the log, seconds between two.
SCRIPT = """
import json, pathlib, sys, time
from rmt_edge.device.machine import this_machine
template, path, board, step, lines, pause = sys.argv[1:]
for i in range(int(lines)):
    print(f"{board} {step} line {i}", file=sys.stderr, flush=True)
    time.sleep(float(pause))
record = json.loads(template)
record["machine"] = this_machine().to_dict()
record["versions"] = {"board": board, "step": step}
path = pathlib.Path(path)
path.parent.mkdir(parents=True, exist_ok=True)
part = path.with_name("." + path.name)
part.write_text(json.dumps(record))
part.replace(path)
with open("executions.txt", "a") as file:
    file.write(step + "\\n")
"""


def short_plan(folder: Path, onnx_sha256: str, steps: int = 2, lines: int = 5, pause_s: float = 0.1):
    """What makes a plan for Fleet.plan: so many steps, each with a log of so many lines and a latency record."""
    folder.mkdir(parents=True, exist_ok=True)
    template_path = folder / "template.latency.json"
    runs = [make_run([1.0, 1.1, 1.2] * 10, runner="onnxruntime", clock="perf_counter", cuda_graph=False)]
    write_record(template_path, "m.onnx", runs, onnx_sha256, ONNX)
    record = read_latency_record(template_path)
    template = json.dumps(record.to_dict())

    def plan(board, options, cargo, work):
        python = f"{work}/{cargo.environment}/bin/python"
        found = []
        for number in range(steps):
            path = f"records/default/m{number}.latency.json"
            argv = [python, "-c", SCRIPT, template, path, board.name, str(number), str(lines), str(pause_s)]
            found.append({"name": f"step{number}", "argv": argv, "power_mode": None, "fine": [0]})
        return {"steps": found}

    return plan


def open_short(
    toml: Path, bundle: Path, wheel: Path, output: Path, view: View | None = None, patience_s: float = 300, **sizes
) -> Fleet:
    """The run of a bundle of tests/bundles.py with short steps, on all boards of a file."""
    cargo = read_cargo(bundle, wheel)
    fleet = open_fleet(read_boards(toml), Options(), cargo, output, view=view)
    sha256 = cargo.index.sha256_of("m.onnx")
    return replace(fleet, plan=short_plan(output / "plan", sha256, **sizes), patience_s=patience_s)


def wrong_with(
    place: Path, there: Path, board: str, steps: int = 2, lines: int = 5, was_killed: bool = False
) -> list[str]:
    """What is not as it must be with a board's records and logs: `place` here, `there` the run's folder over there.

    was_killed: a step may have been killed behind its own end, before its exit status was kept; it is then run again.
    """
    found = []
    for number in range(steps):
        here = place / "default" / f"m{number}.latency.json"
        if not here.is_file():
            found.append(f"{board}: record {number} is lost")
            continue
        if here.read_bytes() != (there / "records" / "default" / here.name).read_bytes():
            found.append(f"{board}: record {number} is not what lies there")
        if json.loads(here.read_text())["versions"] != {"board": board, "step": str(number)}:
            found.append(f"{board}: record {number} is another's")
        log, log_there = place / "logs" / f"step{number}.log", there / f"step{number}" / "log"
        if not log.is_file() or log.read_bytes() != log_there.read_bytes():
            found.append(f"{board}: log {number} is not what lies there")
        elif log.read_text().splitlines()[-lines:] != [f"{board} {number} line {i}" for i in range(lines)]:
            found.append(f"{board}: log {number} does not end with its lines")
    records = sorted(x.name for x in (place / "default").glob("*.json")) if (place / "default").is_dir() else []
    if records != [f"m{number}.latency.json" for number in range(steps)]:
        found.append(f"{board}: the records are {records}")
    ran = (there / "executions.txt").read_text().split() if (there / "executions.txt").is_file() else []
    if (sorted(set(ran)) if was_killed and ran == sorted(ran) else ran) != [str(number) for number in range(steps)]:
        found.append(f"{board}: the steps that ended are {ran}")
    return found
