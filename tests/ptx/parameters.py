"""Parameters that are read at an address in a register: where a kernel selects one of several, LLVM selects addresses.

Source: PTX ISA 8.7, sections "Kernel Function Parameters", "mov", "ld.param". An address here is the parameter's
number, from 1, in the upper half of 64 bits; nothing but ld.param takes it.
"""

import numpy as np

from tests.ptx.integers import Handler, move
from tests.ptx.parse import GpuError, address_parts
from tests.ptx.threads import Threads

_MOVE = move("u8")
NUMBER_SHIFT = 32


def move_or_take_address(t: Threads, o: tuple[str, ...]) -> None:
    """mov.b64, also of a parameter's name."""
    if o[1] not in t.parameters:
        _MOVE(t, o)
        return
    number = list(t.parameters).index(o[1]) + 1
    t.write(o[0], np.array([number << NUMBER_SHIFT], np.uint64))


def load_parameter(width: int, is_signed: bool = False) -> Handler:
    """ld.param d, [parameter] or [register]; a signed one goes into a wider register with its sign."""

    def run(t: Threads, o: tuple[str, ...]) -> None:
        name, offset = address_parts(o[1])
        if name.startswith("%"):
            (address,) = np.unique(t.read(name, "u8"))  # all threads take one parameter
            number = int(address) >> NUMBER_SHIFT
            if not 1 <= number <= len(t.parameters):
                raise GpuError(f"{int(address):#x} is no parameter: {t.text}")
            name, offset = list(t.parameters)[number - 1], offset + (int(address) & (1 << NUMBER_SHIFT) - 1)
        raw = t.parameters[name][offset : offset + width]
        if len(raw) != width:
            raise GpuError(f"a read beyond the parameter: {t.text}")
        value = np.frombuffer(raw, f"{'i' if is_signed else 'u'}{width}")
        t.write(o[0], value.astype(f"i{t.size_of(o[0])}") if is_signed else value)

    return run


INSTRUCTIONS: dict[str, Handler] = {
    "mov.b64": move_or_take_address, "ld.param.b32": load_parameter(4), "ld.param.b64": load_parameter(8),
    "ld.param.s32": load_parameter(4, is_signed=True),
}  # fmt: skip
