"""Integer instructions against numbers worked out by hand from the PTX manual."""

import numpy as np
import pytest

from tests.ptx.parse import GpuError
from tests.ptx.snippet import execute, register_value, values

SIZES = {"%p": 1, "%rs": 2, "%r": 4, "%rd": 8}
LOWEST, HIGHEST = -(2**31), 2**31 - 1

# Instruction, what its registers hold (one value a thread), the register it writes and the values there.
CASES = [
    ("add.s32 %r3, %r1, %r2;", {"%r1": [1, HIGHEST, -5], "%r2": [2, 1, 3]}, "%r3", [3, LOWEST, -2]),
    ("add.s64 %rd3, %rd1, %rd2;", {"%rd1": [2**63 - 1, 2**32], "%rd2": [1, -1]}, "%rd3", [-(2**63), 2**32 - 1]),
    ("sub.s32 %r3, %r1, %r2;", {"%r1": [3, LOWEST], "%r2": [5, 1]}, "%r3", [-2, HIGHEST]),
    ("mul.lo.s32 %r3, %r1, %r2;", {"%r1": [65536, -3], "%r2": [65537, 7]}, "%r3", [65536, -21]),
    ("mul.lo.s64 %rd3, %rd1, %rd2;", {"%rd1": [2**33, -3], "%rd2": [2**31 + 1, 7]}, "%rd3", [2**33, -21]),
    ("mad.lo.s32 %r4, %r1, %r2, %r3;", {"%r1": [65536, 4], "%r2": [65537, -5], "%r3": [9, 1]}, "%r4", [65545, -19]),
    ("mad.lo.s64 %rd4, %rd1, %rd2, %rd3;", {"%rd1": [2**33], "%rd2": [2**31 + 1], "%rd3": [-1]}, "%rd4", [2**33 - 1]),
    ("mul.wide.s32 %rd3, %r1, %r2;", {"%r1": [LOWEST, -2], "%r2": [2, 3]}, "%rd3", [-(2**32), -6]),
    ("mul.wide.u32 %rd3, %r1, %r2;", {"%r1": [-1, 5], "%r2": [2, 3]}, "%rd3", [2**33 - 2, 15]),
    ("mul.wide.u16 %r3, %rs1, %rs2;", {"%rs1": [65535, 5], "%rs2": [65535, 3]}, "%r3", [4294836225, 15]),
    ("mad.wide.s32 %rd3, %r1, -4, %rd2;", {"%r1": [2**30, -1], "%rd2": [1, 2**40]}, "%rd3", [1 - 2**32, 2**40 + 4]),
    ("mad.wide.u32 %rd3, %r1, 2, %rd2;", {"%r1": [-1, 3], "%rd2": [1, -6]}, "%rd3", [2**33 - 1, 0]),
    # Towards zero, not down.
    ("div.s32 %r3, %r1, %r2;", {"%r1": [7, -7, 7, -7, 0], "%r2": [2, 2, -2, -2, 9]}, "%r3", [3, -3, -3, 3, 0]),
    ("div.u32 %r3, %r1, %r2;", {"%r1": [-1, 7], "%r2": [2, 2]}, "%r3", [2**31 - 1, 3]),
    ("rem.u32 %r3, %r1, %r2;", {"%r1": [-1, 7], "%r2": [10, 4]}, "%r3", [5, 3]),
    # The sign of the dividend.
    ("rem.s32 %r3, %r1, %r2;", {"%r1": [7, -7, 7, -7], "%r2": [4, 4, -4, -4]}, "%r3", [3, -3, 3, -3]),
    ("mul.hi.u32 %r3, %r1, %r2;", {"%r1": [-1, 2**31], "%r2": [-1, 4]}, "%r3", [2**32 - 2, 2]),
    ("mul.hi.s32 %r3, %r1, %r2;", {"%r1": [-1, 2**30, LOWEST], "%r2": [5, 8, 2]}, "%r3", [-1, 2, -1]),
    ("cvta.to.global.u64 %rd2, %rd1;", {"%rd1": [2**40 + 5]}, "%rd2", [2**40 + 5]),
    ("cvt.s8.s32 %rs1, %r1;", {"%r1": [0x180, 0x17F, -1]}, "%rs1", [-128, 127, -1]),
    ("cvt.rn.f32.s16 %r1, %rs1;", {"%rs1": [-3, 7, 0]}, "%r1", [0xC0400000, 0x40E00000, 0]),
    ("mov.f32 %r1, 0f3F800000;", {}, "%r1", [0x3F800000]),
    ("mov.u64 %rd1, 8589934593;", {}, "%rd1", [2**33 + 1]),
    ("selp.u32 %r3, %r1, %r2, %p1;", {"%r1": [5, 6], "%r2": [7, 8], "%p1": [True, False]}, "%r3", [5, 8]),
    ("setp.eq.s32 %p1, %r1, 7;\nselp.u32 %r2, 1, 0, %p1;", {"%r1": [7, -7, 8]}, "%r2", [1, 0, 0]),
    ("setp.ne.s32 %p1, %r1, 7;\nselp.u32 %r2, 1, 0, %p1;", {"%r1": [7, -7, 8]}, "%r2", [0, 1, 1]),
    ("neg.s32 %r2, %r1;", {"%r1": [5, -5, LOWEST]}, "%r2", [-5, 5, LOWEST]),
    ("abs.s32 %r2, %r1;", {"%r1": [5, -5, 0]}, "%r2", [5, 5, 0]),
    ("max.s32 %r3, %r1, %r2;", {"%r1": [-1, 3], "%r2": [0, -9]}, "%r3", [0, 3]),
    ("and.b16 %rs3, %rs1, %rs2;", {"%rs1": [0xFF0F], "%rs2": [0x0FF1]}, "%rs3", [0x0F01]),
    ("and.b32 %r3, %r1, %r2;", {"%r1": [0xFFFF0F0F], "%r2": [0x10F0FFFF]}, "%r3", [0x10F00F0F]),
    ("or.b16 %rs3, %rs1, %rs2;", {"%rs1": [0xF000], "%rs2": [0x0FF1]}, "%rs3", [0xFFF1]),
    ("or.b32 %r3, %r1, %r2;", {"%r1": [0xF0000000], "%r2": [0x10]}, "%r3", [0xF0000010]),
    ("or.b64 %rd3, %rd1, %rd2;", {"%rd1": [2**62], "%rd2": [3]}, "%rd3", [2**62 + 3]),
    ("xor.b32 %r3, %r1, %r2;", {"%r1": [0xFF00FF00], "%r2": [0x0F0F0F0F]}, "%r3", [0xF00FF00F]),
    ("not.b32 %r2, %r1;", {"%r1": [0, 0xF]}, "%r2", [-1, 0xFFFFFFF0]),
    # Amounts above the width shift everything out.
    ("shl.b16 %rs2, %rs1, %r1;", {"%rs1": [0x1234, 1, 1], "%r1": [8, 15, 16]}, "%rs2", [0x3400, 0x8000, 0]),
    ("shl.b32 %r3, %r1, %r2;", {"%r1": [3, 1, 1, 1], "%r2": [30, 31, 32, -1]}, "%r3", [0xC0000000, LOWEST, 0, 0]),
    ("shl.b64 %rd2, %rd1, %r1;", {"%rd1": [1, 1, 1], "%r1": [63, 64, 33]}, "%rd2", [2**63, 0, 2**33]),
    ("shr.u16 %rs2, %rs1, %r1;", {"%rs1": [0x8000, 0x8000], "%r1": [15, 16]}, "%rs2", [1, 0]),
    ("shr.s16 %rs2, %rs1, %r1;", {"%rs1": [-256, 0x7F80, -2], "%r1": [8, 7, 16]}, "%rs2", [-1, 255, -1]),
    ("cvt.s16.s8 %rs2, %rs1;", {"%rs1": [0x0180, 0x7F7F, -1]}, "%rs2", [-128, 127, -1]),
    ("shr.u32 %r3, %r1, %r2;", {"%r1": [-1, -1, -1], "%r2": [28, 31, 32]}, "%r3", [15, 1, 0]),
    ("shr.s32 %r3, %r1, %r2;", {"%r1": [-16, -1, LOWEST, 16], "%r2": [2, 31, 40, 2]}, "%r3", [-4, -1, -1, 4]),
    ("bfe.u32 %r2, %r1, 4, 8;", {"%r1": [0xABCDEF12]}, "%r2", [0xF1]),
    ("bfe.u32 %r2, %r1, 28, 8;", {"%r1": [0xABCDEF12]}, "%r2", [0xA]),
    ("bfe.u32 %r2, %r1, 0, 0;", {"%r1": [-1]}, "%r2", [0]),
    ("bfe.s32 %r2, %r1, 3, 1;", {"%r1": [8, 7]}, "%r2", [-1, 0]),
    ("bfe.s32 %r2, %r1, 4, 8;", {"%r1": [0xABCDEF12, 0x7F0]}, "%r2", [-15, 0x7F]),
    ("bfe.s32 %r2, %r1, 28, 8;", {"%r1": [0xABCDEF12, 0x70000000]}, "%r2", [-6, 7]),
    # Byte i of the result is byte `nibble i` of {second, first}; a nibble of 8 or more spreads that byte's sign.
    ("prmt.b32 %r3, %r1, %r2, 0x3340U;", {"%r1": [0x44332211], "%r2": [0x88776655]}, "%r3", [0x44445511]),
    ("prmt.b32 %r3, %r1, %r2, 0x5410U;", {"%r1": [0x44332211], "%r2": [0x88776655]}, "%r3", [0x66552211]),
    ("prmt.b32 %r3, %r1, %r2, 0x7632U;", {"%r1": [0x44332211], "%r2": [0x88776655]}, "%r3", [0x88774433]),
    ("prmt.b32 %r3, %r1, %r2, 0xF8U;", {"%r1": [0x44332211], "%r2": [0x88776655]}, "%r3", [0x1111FF00]),
    ("mov.u16 %rs1, -2;", {}, "%rs1", [0xFFFE]),
    ("mov.u32 %r1, 0x10;", {}, "%r1", [16]),
    ("mov.b64 %rd1, -1;", {}, "%rd1", [2**64 - 1]),
    ("mov.b32 %r1, 0f3F800000;", {}, "%r1", [0x3F800000]),
    ("mov.b32 %r1, {%rs1, %rs2};", {"%rs1": [0x1122], "%rs2": [0x3344]}, "%r1", [0x33441122]),
    ("mov.b32 {%rs1, %rs2}, %r1;", {"%r1": [0x33441122]}, "%rs1", [0x1122]),
    ("mov.b32 {_, %rs2}, %r1;", {"%r1": [0x33441122]}, "%rs2", [0x3344]),
    ("mov.b64 %rd1, {%r1, %r2};", {"%r1": [1], "%r2": [2]}, "%rd1", [2**33 + 1]),
    ("selp.b16 %rs3, %rs1, %rs2, %p1;", {"%rs1": [1, 1], "%rs2": [2, 2], "%p1": [1, 0]}, "%rs3", [1, 2]),
    ("selp.b32 %r3, %r1, -7, %p1;", {"%r1": [1, 1], "%p1": [1, 0]}, "%r3", [1, -7]),
    ("selp.f32 %r3, %r1, 0fFF800000, %p1;", {"%r1": [1, 1], "%p1": [0, 1]}, "%r3", [0xFF800000, 1]),
    ("mov.pred %p2, -1;", {}, "%p2", [True]),
    ("and.pred %p3, %p1, %p2;", {"%p1": [0, 0, 1, 1], "%p2": [0, 1, 0, 1]}, "%p3", [0, 0, 0, 1]),
    ("not.pred %p2, %p1;", {"%p1": [0, 1]}, "%p2", [1, 0]),
    ("setp.eq.b16 %p1, %rs1, 15;", {"%rs1": [15, 14]}, "%p1", [1, 0]),
    ("setp.eq.b32 %p1, %r1, %r2;", {"%r1": [-1, 0], "%r2": [-1, LOWEST]}, "%p1", [1, 0]),
    ("setp.ne.b32 %p1, %r1, 0;", {"%r1": [0, LOWEST]}, "%p1", [0, 1]),
    ("setp.ne.b64 %p1, %rd1, %rd2;", {"%rd1": [2**32, 5], "%rd2": [0, 5]}, "%p1", [1, 0]),
    ("setp.lt.s32 %p1, %r1, %r2;", {"%r1": [-1, 1, 2], "%r2": [1, -1, 2]}, "%p1", [1, 0, 0]),
    ("setp.gt.s32 %p1, %r1, -1;", {"%r1": [0, -1, -2]}, "%p1", [1, 0, 0]),
    ("setp.lt.u32 %p1, %r1, %r2;", {"%r1": [-1, 1, 2], "%r2": [1, -1, 2]}, "%p1", [0, 1, 0]),
    ("cvt.s64.s32 %rd1, %r1;", {"%r1": [-2, 3]}, "%rd1", [-2, 3]),
    ("cvt.u64.u32 %rd1, %r1;", {"%r1": [-2, 3]}, "%rd1", [2**32 - 2, 3]),
    ("cvt.u32.u64 %r1, %rd1;", {"%rd1": [2**40 + 7]}, "%r1", [7]),
    ("cvt.u32.u16 %r1, %rs1;", {"%rs1": [0xFFFF]}, "%r1", [0xFFFF]),
    ("cvt.u16.u32 %rs1, %r1;", {"%r1": [0x12345678]}, "%rs1", [0x5678]),
]  # fmt: skip


def spread(value, count=32):
    """A list of values over the threads, repeated."""
    return np.resize(np.asarray(value, dtype=object), count)


@pytest.mark.parametrize("line, registers, target, wanted", CASES, ids=[x[0] for x in CASES])
def test_instruction_gives_the_manuals_result(line, registers, target, wanted):
    state = execute(line, {name: spread(x) for name, x in registers.items()})
    bits = register_value(target, spread(wanted), SIZES)
    got = np.broadcast_to(state.registers[target], bits.shape)
    assert got.tolist() == bits.tolist()


def test_division_by_zero_is_refused():
    with pytest.raises(GpuError, match="division by zero"):
        execute("div.s32 %r3, %r1, %r2;", {"%r1": 1, "%r2": 0})


def test_guard_leaves_the_other_threads_as_they_are():
    odd = np.arange(32) % 2
    state = execute("@%p1 mov.u32 %r1, 7;\n@!%p1 add.s32 %r1, %r1, 1;", {"%p1": odd, "%r1": np.arange(32)})
    assert values(state, "%r1", "u4").tolist() == [7 if i % 2 else i + 1 for i in range(32)]


def test_thread_and_block_numbers():
    state = execute("mov.u32 %r1, %tid.x;\nmov.u32 %r2, %ctaid.x;\nmov.u32 %r3, %ctaid.y;", blocks=2)
    assert values(state, "%r1", "u4").tolist() == [*range(32), *range(32)]
    assert values(state, "%r2", "u4").tolist() == [0] * 32 + [1] * 32
    assert not values(state, "%r3", "u4").any()
