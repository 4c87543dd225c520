"""Executes PTX on host memory: blocks of a grid in lockstep, every instruction over all their threads at once in numpy.

It knows what Triton 3.7.1 (SM 8.0 to 8.9 and 9.0) and NVRTC 12.8 write for the kernels of this project, and refuses
the rest by name. What a GPU would stop at is a GpuError, and more is: see memory.py, shared.py and the opcodes' files.
A branch must be taken by all threads that run together or by none.

Not shown by it: what ptxas makes of the PTX, races in global memory, speed.
"""

import numpy as np

from tests.ptx import comparisons, floats, integers, matrices, moves, packed, parameters, reductions, warps
from tests.ptx.memory import AddressMemory, Memory
from tests.ptx.parse import GpuError, Instruction, Kernel
from tests.ptx.threads import Threads

LANES_AT_ONCE = 1 << 14  # registers of so many threads stay in the processor's cache
LONGEST_RUN = 2_000_000  # instructions; no kernel of ours comes near
BRANCHES = ("bra", "bra.uni", "ret")
INSTRUCTIONS = {
    **integers.INSTRUCTIONS, **floats.INSTRUCTIONS, **moves.INSTRUCTIONS, **warps.INSTRUCTIONS, **matrices.INSTRUCTIONS,
    **comparisons.INSTRUCTIONS, **reductions.INSTRUCTIONS, **parameters.INSTRUCTIONS, **packed.INSTRUCTIONS,
}  # fmt: skip


def check_known(kernel: Kernel) -> None:
    """Every opcode of the kernel, run or not, is one that the machine has."""
    for instruction in kernel.instructions:
        if instruction.opcode not in INSTRUCTIONS and instruction.opcode not in BRANCHES:
            raise GpuError(f"unknown instruction {instruction.opcode}: {instruction.text}")


def launch(
    kernel: Kernel,
    memory: Memory | AddressMemory,
    arguments: list[bytes],
    grid: tuple[int, int, int],
    threads_per_block: int,
    shared_bytes: int,
    check_races: bool = True,
    blocks: range | None = None,
    visits: list[int] | None = None,
) -> int:
    """Run the kernel. arguments: the bytes of each parameter; blocks: some of the grid's, for tests of addresses.

    Returns the number of instructions that a thread executed; visits, if given, becomes how often each one was.
    """
    check_known(kernel)
    if threads_per_block != kernel.threads_per_block:
        raise GpuError(
            f"{kernel.name} is launched with {threads_per_block} threads, compiled for {kernel.threads_per_block}"
        )
    blocks = range(int(np.prod(grid))) if blocks is None else blocks
    at_once = max(1, LANES_AT_ONCE // threads_per_block)
    executed = 0
    for first in range(blocks.start, blocks.stop, at_once):
        count = min(at_once, blocks.stop - first)
        threads = Threads(kernel, memory, arguments, grid, shared_bytes, first, count, check_races)
        counts = [0] * len(kernel.instructions)
        executed = run(threads, counts)
        if visits is not None:
            visits[:] = counts
    return executed


def run(threads: Threads, visits: list[int] | None = None) -> int:
    """Run the threads to their end. Returns the number of instructions executed; visits counts each one's."""
    kernel = threads.kernel
    visits = [0] * len(kernel.instructions) if visits is None else visits
    handlers = [INSTRUCTIONS.get(x.opcode) for x in kernel.instructions]
    counter = 0
    with np.errstate(all="ignore"):
        for executed in range(1, LONGEST_RUN):
            instruction, handler = kernel.instructions[counter], handlers[counter]
            threads.text = instruction.text
            visits[counter] += 1
            counter += 1
            if handler is None:
                if not _is_taken(threads, instruction):
                    continue
                if instruction.opcode == "ret":
                    return executed
                counter = kernel.labels[instruction.operands[0]]
                continue
            if instruction.guard:
                mask = _active(threads, instruction)
                if not mask.any():
                    continue
                threads.mask = None if mask.all() else mask
            handler(threads, instruction.operands)
            threads.mask = None
    raise GpuError(f"{kernel.name} does not end")


def _active(threads: Threads, instruction: Instruction) -> np.ndarray:
    mask = threads.read(instruction.guard, "?")
    return ~mask if instruction.is_negated else mask


def _is_taken(threads: Threads, instruction: Instruction) -> bool:
    if not instruction.guard:
        return True
    mask = _active(threads, instruction)
    if mask.any() and not mask.all():
        raise GpuError(f"threads part ways at {instruction.text}")
    return bool(mask.all())
