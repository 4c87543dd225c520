"""What a compiled kernel executes, read from its SASS: instructions of a warp, registers, spills, narrow loads.

Straight-line code counts once. A loop counts as often as the machine of tests/ptx went round the loop of the PTX that
it was assembled from: loops are matched in their order, and numbers that differ are an error. A predicated instruction
counts whether its predicate holds or not: it takes its issue slot. A forward branch counts itself and, of the two ways,

- what the PTX machine saw, if it is a branch of the PTX (again matched in order; none in the SASS: both ways count);
- the short way, if ptxas made it for a rare case (division, square root of odd numbers): code that CALLs.
"""

import re
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import triton

from rmt_edge.errors import RmtEdgeError
from tests.ptx.parse import Kernel

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
ROW = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:(@!?U?P\w+)\s+)?([A-Z][A-Z0-9_.]*)([^;]*);", re.M)


@dataclass(frozen=True)
class Row:
    """One SASS instruction."""

    address: int
    guard: str
    opcode: str
    operands: str

    @property
    def target(self) -> int | None:
        """Where a branch goes."""
        found = re.search(r"0x([0-9a-f]+)", self.operands) if self.opcode.startswith("BRA") else None
        return int(found[1], 16) if found else None


@dataclass(frozen=True)
class Usage:
    """What a kernel occupies. spilled_bytes: local memory and stack of a thread."""

    registers: int
    static_shared_bytes: int
    spilled_bytes: int


def _dump(option: str, cubin: Path) -> str:
    environment = {"PATH": f"{TOOLS}:/usr/bin:/bin"}
    done = subprocess.run([TOOLS / "cuobjdump", option, cubin], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RmtEdgeError(f"cuobjdump {option} {cubin} failed: {done.stderr.strip()}")
    return done.stdout


@cache
def listing(cubin: Path) -> tuple[Row, ...]:
    """The instructions, without the padding behind the last jump to itself."""
    rows = [Row(int(a, 16), guard or "", op, rest) for a, guard, op, rest in ROW.findall(_dump("-sass", cubin))]
    stops = [i for i, row in enumerate(rows) if row.target == row.address]
    return tuple(rows[: stops[0]] if stops else rows)


@cache
def usage(cubin: Path) -> Usage:
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", _dump("-res-usage", cubin))
    if found is None:
        raise RmtEdgeError(f"cuobjdump says nothing of the registers in {cubin}.")
    registers, stack, shared, local = map(int, found.groups())
    return Usage(registers, shared, max(stack, local))


def narrow_loads(cubin: Path) -> int:
    """Global loads of two bytes or one, in the code."""
    return sum(bool(re.search(r"^LDG\b.*\.(U16|S16|U8|S8)", row.opcode)) for row in listing(cubin))


@dataclass(frozen=True)
class PtxFlow:
    """Of a run of the PTX: the rounds of each loop when it was entered, whether each forward branch was taken."""

    trips: tuple[int, ...]
    taken: tuple[bool, ...]


def flow_of(kernel: Kernel, visits: tuple[int, ...]) -> PtxFlow:
    """visits: how often a thread executed each instruction."""
    trips, taken = [], []
    for i, x in enumerate(kernel.instructions):
        if not x.opcode.startswith("bra") or not visits[i]:
            continue
        to = kernel.labels[x.operands[0]]
        if to <= i:
            entered = max(1, visits[to - 1]) if to else 1  # an inner loop is entered more than once
            trips.append(visits[to] // entered)
        elif x.guard:
            taken.append(visits[i + 1] == 0)
    return PtxFlow(tuple(trips), tuple(taken))


def executed(rows: tuple[Row, ...], flow: PtxFlow) -> int:
    """Instructions that a warp executes."""
    index = {row.address: i for i, row in enumerate(rows)}
    back = [i for i, row in enumerate(rows) if row.target is not None and row.target < row.address]
    rare = _rare_code(rows, index)
    back = [i for i in back if i not in rare]
    counts = [0 if i in rare else 1 for i in range(len(rows))]
    forward = [
        i
        for i, row in enumerate(rows)
        if i not in rare and row.guard and row.target is not None and row.target > row.address
        and not _skips(rows, index, i, rare)
    ]  # fmt: skip
    if forward and len(forward) != len(flow.taken):  # of a branch to the end ptxas may make an exit
        ends = [i for i, row in enumerate(rows) if i not in rare and row.guard and row.opcode == "EXIT"]
        forward = sorted([*forward, *ends])
    # Where ptxas made predicates or exits of all branches, both ways count.
    taken = _matched(forward, flow.taken, "forward branches", rows) if forward else ()
    trips = _matched(back, flow.trips, "loops", rows)
    for i, is_taken in zip(forward, taken, strict=True):
        target = rows[i].target
        skipped = range(i + 1, len(rows) if target is None else index[target])
        if is_taken:
            for j in skipped:
                counts[j] = 0
        elif target is not None:  # what follows the other way, up to its exit or where both meet
            end = next((j for j in skipped if rows[j].opcode == "EXIT" and not rows[j].guard), None)
            if end is not None:
                for j in range(end + 1, len(rows)):
                    counts[j] = 0
    _drop_jumped_over(rows, index, counts, {i for i, is_taken in zip(forward, taken, strict=True) if is_taken})
    for i, n in zip(back, trips, strict=True):
        for j in range(index[rows[i].target], i + 1):
            counts[j] *= n
    end = next(j for j, row in enumerate(rows) if row.opcode == "EXIT" and not row.guard and counts[j])
    return sum(counts[: end + 1])


def _drop_jumped_over(rows: tuple[Row, ...], index: dict[int, int], counts: list[int], taken: set[int]) -> None:
    """Set to 0 the counts of what a jump without a guard passes over, if no other jump that is made leads into it."""
    jumps = {
        i: index[row.target]
        for i, row in enumerate(rows)
        if counts[i] and row.target is not None and row.target > row.address and (i in taken or not row.guard)
    }
    for i, to in jumps.items():
        is_entered = any(i < there < to for x, there in jumps.items() if counts[x] and x != i)
        if not rows[i].guard and counts[i] and not is_entered:
            for j in range(i + 1, to):
                counts[j] = 0


def _matched(places: list[int], found: tuple, what: str, rows: tuple[Row, ...]) -> tuple:
    if len(places) == len(found):
        return found
    where = ", ".join(f"{rows[i].address:#x}" for i in places)
    raise RmtEdgeError(f"The SASS has {len(places)} {what} ({where}), the PTX {len(found)}: {found}.")


def _rare_code(rows: tuple[Row, ...], index: dict[int, int]) -> set[int]:
    """Code for rare cases: what a conditional branch skips and what holds a CALL, with the routines behind the end."""
    rare: set[int] = set()
    for i, row in enumerate(rows):
        if row.guard and row.target is not None and row.target > row.address:
            skipped = range(i + 1, index.get(row.target, i + 1))
            if any(rows[j].opcode.startswith("CALL") for j in skipped) and len(skipped) < RARE_AT_MOST:
                rare |= set(skipped)
    returns = [i for i, row in enumerate(rows) if row.opcode.startswith("RET")]
    if returns:  # routines lie behind the kernel's last EXIT
        last = max(i for i, row in enumerate(rows) if row.opcode == "EXIT" and i < returns[0])
        rare |= set(range(last + 1, len(rows)))
    return rare


RARE_AT_MOST = 40  # instructions around a CALL: moves of its arguments


def _skips(rows: tuple[Row, ...], index: dict[int, int], i: int, rare: set[int]) -> bool:
    """Whether a branch passes over rare code alone, or over the reset of barriers that ptxas puts first for SM 8.7."""
    skipped = range(i + 1, index[rows[i].target or 0])
    return all(j in rare for j in skipped) or all(rows[j].opcode.startswith(("BMOV", "UMOV", "NOP")) for j in skipped)
