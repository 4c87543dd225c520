"""Comparisons and conversions against what the manual says of each value; min and selection by plain numbers."""

import numpy as np
import pytest

from tests.ptx.snippet import execute, values

INF, NAN, SUBNORMAL = np.inf, np.nan, 2.0**-149

COMPARED = [
    ("setp.eq.f32", 2.0, 2.0, True), ("setp.eq.f32", 0.0, -0.0, True), ("setp.eq.f32", NAN, NAN, False),
    ("setp.gt.f32", 2.0, 1.0, True), ("setp.gt.f32", 2.0, 2.0, False), ("setp.gt.f32", NAN, 1.0, False),
    ("setp.lt.f32", 1.0, 2.0, True), ("setp.lt.f32", 2.0, 2.0, False), ("setp.lt.f32", 1.0, NAN, False),
    ("setp.ge.f32", 2.0, 2.0, True), ("setp.ge.f32", 1.0, 2.0, False), ("setp.ge.f32", NAN, NAN, False),
    ("setp.le.f32", 2.0, 2.0, True), ("setp.le.f32", 2.0, 1.0, False), ("setp.le.f32", NAN, 1.0, False),
]  # fmt: skip
INTEGERS = [
    ("setp.le.s32", -1, 0, True), ("setp.le.s32", 0, -1, False), ("setp.le.s32", 5, 5, True),
    ("setp.ge.s32", 0, -1, True), ("setp.ge.s32", -1, 0, False), ("setp.ge.s32", 5, 5, True),
]  # fmt: skip


@pytest.mark.parametrize("opcode, x, y, wanted", COMPARED + INTEGERS, ids=str)
def test_comparison(opcode, x, y, wanted):
    kind = np.float32 if opcode.endswith("f32") else np.int32
    state = execute(f"{opcode} %p1, %r1, %r2;", {"%r1": kind(x), "%r2": kind(y)})
    assert values(state, "%p1", "?")[0] == wanted


CONVERTED = [(2.9, 2), (-2.9, -2), (0.0, 0), (3e9, 2**31 - 1), (-3e9, -(2**31)), (INF, 2**31 - 1), (NAN, 0)]


@pytest.mark.parametrize("x, wanted", CONVERTED, ids=str)
def test_conversion_to_an_integer_goes_towards_zero_and_saturates(x, wanted):
    state = execute("cvt.rzi.s32.f32 %r2, %r1;", {"%r1": np.float32(x)})
    assert values(state, "%r2", "i4")[0] == wanted


ROUNDED_UP = [(1.25, 2.0), (-1.25, -1.0), (3.0, 3.0), (SUBNORMAL, 0.0), (2.0**-126, 1.0), (INF, INF)]


@pytest.mark.parametrize("x, wanted", ROUNDED_UP, ids=str)
def test_rounding_up_takes_a_subnormal_number_for_zero(x, wanted):
    assert values(execute("cvt.rpi.ftz.f32.f32 %r2, %r1;", {"%r1": np.float32(x)}), "%r2", "f4")[0] == wanted


@pytest.mark.parametrize("x, wanted", [(9.0, 3.0), (2.0, 11863283 * 2.0**-23), (SUBNORMAL * 4, 2.0**-73.5)], ids=str)
def test_square_root_is_the_nearest_float32(x, wanted):
    got = float(values(execute("sqrt.rn.f32 %r2, %r1;", {"%r1": np.float32(x)}), "%r2", "f4")[0])
    assert got == float(np.float32(wanted))
    assert np.isnan(values(execute("sqrt.rn.f32 %r2, %r1;", {"%r1": np.float32(-1)}), "%r2", "f4")[0])


def test_predicates_are_joined_and_wide_registers_selected():
    lanes = np.arange(32)
    registers = {"%p1": lanes % 2 == 0, "%p2": lanes % 3 == 0, "%rd1": np.full(32, 2**40), "%rd2": np.full(32, 7)}
    state = execute("or.pred %p3, %p1, %p2; \n selp.b64 %rd3, %rd1, %rd2, %p3;", registers)
    either = (lanes % 2 == 0) | (lanes % 3 == 0)
    assert (values(state, "%p3", "?") == either).all()
    assert (values(state, "%rd3", "u8") == np.where(either, 2**40, 7)).all()


def test_smaller_integer_has_a_sign():
    state = execute("min.s32 %r3, %r1, %r2;", {"%r1": np.int32(-5), "%r2": np.int32(3)})
    assert values(state, "%r3", "i4")[0] == -5
