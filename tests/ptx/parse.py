"""Reads PTX as Triton 3.7.1 and NVRTC 12.8 write it: one kernel a module, one instruction a line.

Source: PTX ISA 8.7, "Syntax", https://docs.nvidia.com/cuda/parallel-thread-execution/
"""

import functools
import re
from dataclasses import dataclass

import numpy as np

PARAMETER_BYTES = {"u64": 8, "b64": 8, "u32": 4, "b32": 4, "f32": 4}
REGISTER_BYTES = {"pred": 1, "b16": 2, "b32": 4, "f32": 4, "b64": 8}
SHARED_SYMBOL = "global_smem"  # the one shared array of Triton's kernels; it lies at shared address 0


class GpuError(Exception):
    """What a GPU would stop at, or what no kernel of ours may do; and PTX that the machine does not know."""


@dataclass(frozen=True)
class Instruction:
    """`@guard opcode operands;`. Operands are texts: vectors in braces and addresses in brackets stay whole."""

    opcode: str
    operands: tuple[str, ...]
    guard: str  # a predicate register, or ""
    is_negated: bool
    text: str


@dataclass(frozen=True)
class Kernel:
    """One entry of a module. parameters: name and bytes, in order; labels: name -> index of the instruction."""

    name: str
    target: str
    parameters: tuple[tuple[str, int], ...]
    threads_per_block: int
    register_bytes: dict[str, int]  # by prefix: {"%p": 1, "%r": 4, …}
    instructions: tuple[Instruction, ...]
    labels: dict[str, int]


@functools.lru_cache(maxsize=256)
def parse_kernel(ptx: str) -> Kernel:
    """The kernel of a PTX module that holds exactly one."""
    entries = re.findall(r"\.entry (\w+)\((.*?)\)", ptx, re.S)
    if len(entries) != 1:
        raise GpuError(f"{len(entries)} kernels in one PTX module; expected one")
    name, declared = entries[0]
    parameters = re.findall(r"\.param \.(\w+)[^,\n]*?(\w+)\s*(?:,|$)", declared, re.M)
    threads = re.search(r"\.reqntid (\d+)\s*$", ptx, re.M)
    if threads is None:
        raise GpuError(f"{name} does not say how many threads it is compiled for (.reqntid)")
    registers = re.findall(r"\.reg \.(\w+)\s+(%\w+?)(?:<\d+>)?;", ptx)
    instructions, labels = _parse_body(ptx[ptx.index("{", ptx.index(".reqntid")) :])
    return Kernel(
        name=name,
        target=re.search(r"\.target (\w+)", ptx)[1],
        parameters=tuple((name, PARAMETER_BYTES[kind]) for kind, name in parameters),
        threads_per_block=int(threads[1]),
        register_bytes={prefix: REGISTER_BYTES[kind] for kind, prefix in registers},
        instructions=instructions,
        labels=labels,
    )


def _parse_body(body: str) -> tuple[tuple[Instruction, ...], dict[str, int]]:
    instructions: list[Instruction] = []
    labels = {}
    for line in body.splitlines():
        line = line.split("//")[0].strip()
        if not line or line[0] in ".{}":
            continue
        if line.endswith(":"):
            labels[line[:-1]] = len(instructions)
            continue
        found = re.fullmatch(r"(?:@(!?)(%\w+)\s+)?([\w.:]+)\s*(.*?)\s*;", line)
        if found is None:
            raise GpuError(f"cannot read this line of PTX: {line}")
        negated, guard, opcode, operands = found.groups()
        instructions.append(Instruction(opcode, split_operands(operands), guard or "", negated == "!", line))
    return tuple(instructions), labels


def split_operands(text: str) -> tuple[str, ...]:
    """The operands between commas that lie outside braces and brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "{[") - (character in "}]")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return tuple(x.strip() for x in parts if x.strip())


@functools.cache
def vector_elements(operand: str) -> tuple[str, ...]:
    """The registers of `{a, b}`; of a single operand, itself."""
    return tuple(x.strip() for x in operand.strip("{} ").split(","))


@functools.cache
def address_parts(operand: str) -> tuple[str, int]:
    """Base and byte offset of `[base + offset]`."""
    found = re.fullmatch(r"\[\s*(%?\w+)\s*(?:\+\s*(-?\w+))?\s*\]", operand)
    if found is None:
        raise GpuError(f"cannot read the address {operand}")
    return found[1], int(found[2], 0) if found[2] else 0


@functools.cache
def constant(operand: str, dtype: str) -> np.ndarray:
    """A literal as one element of that type. `0f3F800000` is a float32 by its bits; `16U` and `-1` are integers."""
    kind = np.dtype(dtype)
    if operand == SHARED_SYMBOL:
        bits = 0
    elif re.fullmatch(r"0[fF][0-9A-Fa-f]{8}", operand):
        bits = int(operand[2:], 16)
    elif re.fullmatch(r"-?(0x[0-9A-Fa-f]+|\d+)U?", operand):
        bits = int(operand.rstrip("U"), 0)
    else:
        raise GpuError(f"cannot read the operand {operand}")
    if kind.kind == "b":
        return np.array([bits != 0])
    whole = np.array([bits & (1 << 8 * kind.itemsize) - 1], dtype=f"u{kind.itemsize}")
    value = whole.view(kind)
    value.flags.writeable = False
    return value
