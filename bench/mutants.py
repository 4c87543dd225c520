"""Plants each fault of tests/mutants.toml in a copy of the tree, builds, runs the tests, and wants them red.

    python bench/mutants.py --record bench/results/mutants.json
    python bench/mutants.py --only "plugin form"            those with this text in their name

Runs by hand: a fault in C++ rebuilds the library (20 s), one in a kernel all kernels (a minute or two). Each group of
tests is run without a fault first: red then would mean nothing. The record keeps, for each fault, the first test that
noticed it; a record that exists is continued, and a fault that it holds is not planted again unless its text changed.
The exit code is 1 if a fault stayed unnoticed.
"""

import argparse
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import header
from tqdm import tqdm

from rmt_edge.settings import ROOT, read_toml
from rmt_edge.writing import write_json

LIST = ROOT / "tests" / "mutants.toml"
# The tests that answer for each kind of fault, the quickest to notice one first.
TESTS = {
    "plugin": ("tests/plugin/test_life.py", "tests/plugin/test_numbers.py", "tests/plugin/test_addresses.py"),
    "boxes": (
        "tests/ops/nms", "tests/ops/roi_align", "tests/plugin/test_numbers.py::TestSm86::test_nms_is_the_reference",
        "tests/plugin/test_numbers.py::TestSm86::test_nms_multiplies_and_adds_in_two_steps",
        "tests/plugin/test_numbers.py::TestSm86::test_roi_align_is_the_reference",
    ),
    "graph": ("tests/graph", "tests/plugin/test_graph_numbers.py"),
    "quantization": ("tests/model/test_folded.py", "tests/quantization", "tests/plugin/test_graph_numbers.py"),
}  # fmt: skip
# Of build/: what the library is made from. Linked, since the build writes new files there and changes none.
LINKED = ("plugin-cache/kernels", "plugin-cache/headers", "plugin-cache/nvrtc")
COPIED = ("test-plugin",)
RED = 1  # pytest's exit code for failed tests; others mean that it could not run
TIMEOUT_S = 900


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A fault: in `file` the text `what` becomes `by`. tests: a key of TESTS."""

    name: str
    file: str
    what: str
    by: str
    tests: str

    def planted(self, text: str) -> str:
        count = text.count(self.what)
        if count != 1:
            raise SystemExit(f"{self.name}: its text occurs {count} times in {self.file}; expected once.")
        return text.replace(self.what, self.by)


def read_mutants(path: Path = LIST) -> list[Mutant]:
    return [Mutant(**x) for x in read_toml(path)["mutant"]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="text in the names of the faults to plant")
    parser.add_argument("--record", type=Path, help="continue this record")
    parser.add_argument("--known-green", action="store_true", help="do not run the tests without a fault first")
    args = parser.parse_args()
    mutants = [x for x in read_mutants() if args.only in x.name]
    known = json.loads(args.record.read_text())["mutants"] if args.record and args.record.exists() else []
    rows = {x["name"]: x for x in known}
    todo = [x for x in mutants if rows.get(x.name, {}).get("by") != x.by]
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        copy_tree(tree)
        for group in sorted({x.tests for x in todo} if not args.known_green else ()):
            code, output = run_tests(tree, group)
            if code:
                raise SystemExit(f"The tests of {group} fail without any fault:\n{output[-3000:]}")
        for mutant in tqdm(todo, "faults", unit="fault"):
            rows[mutant.name] = row_of(mutant, tree)
            if args.record:
                write_json(args.record, record_of(list(rows.values())))
    unnoticed = [x["name"] for x in rows.values() if not x["is_noticed"]]
    print(json.dumps(record_of(list(rows.values()))))
    return int(bool(unnoticed))


def record_of(rows: list[dict]) -> dict:
    noticed = sum(x["is_noticed"] for x in rows)
    return header("mutants") | {
        "listed": len(read_mutants()),
        "planted": len(rows),
        "noticed": noticed,
        "mutants": rows,
    }


def copy_tree(tree: Path) -> None:
    """The tracked files as they are now, the virtual environment by a link, and what a build starts from."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
    for name in LINKED + COPIED:
        if (ROOT / "build" / name).is_dir():
            how = os.link if name in LINKED else shutil.copy2
            shutil.copytree(ROOT / "build" / name, tree / "build" / name, copy_function=how)
    # The library for this processor alone: half the time of every build.
    conftest = tree / "tests" / "conftest.py"
    conftest.write_text(re.sub(r', "aarch64": "[^"]*"', "", conftest.read_text()))


def run_tests(tree: Path, group: str) -> tuple[int, str]:
    """pytest's exit code and output, in the copy, up to the first failure."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow", *TESTS[group]]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"PYTHONPATH": str(tree)}
    done = subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    return done.returncode, done.stdout + done.stderr


def row_of(mutant: Mutant, tree: Path) -> dict:
    """Plant the fault, run its tests, put it right again."""
    path = tree / mutant.file
    original, start = path.read_text(), time.monotonic()
    path.write_text(mutant.planted(original))
    try:
        code, output = run_tests(tree, mutant.tests)
    finally:
        path.write_text(original)
    # A fault that does not compile proves nothing.
    if code not in (0, RED) or "rmt-edge: error: Building" in output or "CompilationError" in output:
        raise SystemExit(f"{mutant.name}: the tests could not run:\n{output[-3000:]}")
    first = re.search(r"^(?:FAILED|ERROR) (\S.*?)(?: - |$)", output, re.M)
    seconds = round(time.monotonic() - start, 1)
    return dataclasses.asdict(mutant) | {
        "is_noticed": code == RED, "noticed_by": first[1] if first else None, "seconds": seconds,
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
