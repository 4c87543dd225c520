"""Runs a few lines of PTX on the machine, for the tests of its instructions."""

import numpy as np

from tests.ptx import machine
from tests.ptx.memory import AddressMemory, Memory
from tests.ptx.parse import parse_kernel
from tests.ptx.threads import Threads

MODULE = """
.version 8.7
.target sm_90a
.visible .entry snippet(
	.param .u64 .ptr .global .align 1 snippet_param_0,
	.param .u32 snippet_param_1
)
.reqntid {threads}
{{
	.reg .pred 	%p<99>;
	.reg .b16 	%rs<99>;
	.reg .b32 	%r<999>;
	.reg .b64 	%rd<99>;
{body}
	ret;
}}
"""


def execute(
    body: str, registers: dict | None = None, threads: int = 32, shared_bytes: int = 0, blocks: int = 1,
    memory: Memory | AddressMemory | None = None, arguments: tuple[bytes, bytes] = (bytes(8), bytes(4)),
) -> Threads:  # fmt: skip
    """Run the lines and return the threads. registers: name -> a value for all threads, or one for each."""
    kernel = parse_kernel(MODULE.format(threads=threads, body=body))
    machine.check_known(kernel)
    state = Threads(kernel, memory, list(arguments), (blocks, 1, 1), shared_bytes, 0, blocks, check_races=True)
    for name, value in (registers or {}).items():
        state.registers[name] = register_value(name, value, kernel.register_bytes)
    machine.run(state)
    return state


def register_value(name: str, value: object, sizes: dict[str, int]) -> np.ndarray:
    """Bits of a register: of integers by two's complement, of floats by their own representation."""
    size = sizes[name.rstrip("0123456789")]
    array = np.atleast_1d(np.asarray(value))
    if name.startswith("%p"):
        return array.astype(bool)
    if array.dtype.kind == "f":
        return np.ascontiguousarray(array).view(f"u{size}")
    return np.array([int(x) & (1 << 8 * size) - 1 for x in array], dtype=f"u{size}")


def values(state: Threads, name: str, dtype: str) -> np.ndarray:
    """A register of every thread."""
    return state.read_all(name, dtype)
