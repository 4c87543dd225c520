"""float32 instructions against exact numbers: fractions rounded once, as the manual's .rn asks for."""

from fractions import Fraction

import numpy as np
import pytest

from tests.ptx import floats
from tests.ptx.snippet import execute, values

INF, NAN = np.inf, np.nan
ULP = 2.0**-23  # of 1
TINY = 2.0**-126  # the smallest normal float32
SUBNORMAL = 2.0**-149  # the smallest of all

# Instruction with f for its registers' values in order, the operands, the result; all exact in float32.
CASES = [
    ("add.f32", (1.0, ULP / 2), 1.0),  # a tie, to the even neighbour
    ("add.f32", (1.0 + ULP, ULP / 2), 1.0 + 2 * ULP),  # a tie, to the even neighbour
    ("add.f32", (SUBNORMAL, SUBNORMAL), 2 * SUBNORMAL),  # nothing is flushed
    ("sub.f32", (1.0, 1.5), -0.5),
    ("sub.f32", (INF, INF), NAN),
    ("mul.f32", (1.0 + ULP, 1.0 + ULP), 1.0 + 2 * ULP),
    ("mul.f32", (TINY, 0.5), TINY / 2),
    ("mul.f32", (2.0**127, 4.0), INF),
    ("fma.rn.f32", (1.0 + ULP, 1.0 + ULP, -(1.0 + 2 * ULP)), ULP * ULP),  # the product is not rounded
    ("fma.rn.f32", (2.0, 3.0, -6.5), -0.5),
    ("min.f32", (NAN, 2.0), 2.0), ("min.f32", (0.0, -0.0), -0.0), ("min.f32", (-0.0, 0.0), -0.0),
    ("min.f32", (-3.0, 2.0), -3.0),
    ("max.f32", (NAN, 2.0), 2.0), ("max.f32", (-0.0, 0.0), 0.0), ("max.f32", (0.0, -0.0), 0.0),
    ("max.f32", (-INF, -5.0), -5.0),
    ("div.full.f32", (1.0, 3.0), float(np.float32(1 / 3))), ("div.full.f32", (1.0, 0.0), INF),
    ("div.rn.f32", (1.0, 3.0), 11184811 * 2.0**-25), ("div.rn.f32", (-1.0, 0.0), -INF),  # 2^25 / 3 = 11184810.67
    ("ex2.approx.ftz.f32", (3.0,), 8.0), ("ex2.approx.ftz.f32", (-1.0,), 0.5), ("ex2.approx.ftz.f32", (-INF,), 0.0),
    ("ex2.approx.ftz.f32", (-127.0,), 0.0),  # the result would be subnormal
    ("ex2.approx.ftz.f32", (SUBNORMAL,), 1.0), ("ex2.approx.ftz.f32", (0.5,), 11863283 * 2.0**-23),
    ("sqrt.approx.ftz.f32", (9.0,), 3.0), ("sqrt.approx.ftz.f32", (SUBNORMAL,), 0.0),
    ("sqrt.approx.ftz.f32", (-0.0,), -0.0), ("sqrt.approx.ftz.f32", (-1.0,), NAN),
]  # fmt: skip


@pytest.mark.parametrize("opcode, operands, wanted", CASES, ids=str)
def test_result_is_the_exact_one_rounded_once(opcode, operands, wanted):
    names = [f"%r{i + 1}" for i in range(len(operands))]
    registers = {name: np.float32(x) for name, x in zip(names, operands, strict=True)}
    assert all(float(x) == y or y != y for x, y in zip(registers.values(), operands, strict=True))
    got = values(execute(f"{opcode} %r9, {', '.join(names)};", registers), "%r9", "f4")[0]
    assert (np.isnan(got) and np.isnan(wanted)) or (got == wanted and np.signbit(got) == np.signbit(wanted))


# 2^60 + 2^37 + 2^36 - 2^-10: float32 has steps of 2^37 there, float64 drops the last part and makes a tie of it.
BESIDE_A_TIE = (2.0**18 * (1 + ULP), 2.0**18 * (1 - ULP), 2.0**60 + 2.0**37)


def nearest_float32(exact: Fraction) -> Fraction:
    """The nearest multiple of the exact value's unit in the last place, halves to even; above the subnormals."""
    exponent = 0
    while abs(exact) >= Fraction(2) ** (exponent + 1):
        exponent += 1
    while abs(exact) < Fraction(2) ** exponent:
        exponent -= 1
    unit = Fraction(2) ** (max(exponent, -126) - 23)
    return round(exact / unit) * unit  # Python rounds halves of a Fraction to even


def test_fma_rounds_once_where_two_roundings_would_differ():
    """x·y + z a hair beside a tie of float32, where float64 loses the hair; and random operands besides."""
    rng = np.random.default_rng(0)
    x = np.float32(1) + rng.integers(0, 2**12, 4096).astype(np.float32) * np.float32(ULP)
    y = np.float32(1) + rng.integers(0, 2**23, 4096).astype(np.float32) * np.float32(ULP)
    z = (rng.choice([-1, 1], 4096) * 2.0 ** rng.integers(-60, 40, 4096)).astype(np.float32)
    x[0], y[0], z[0] = BESIDE_A_TIE
    x[1], y[1], z[1] = 2.0**-75, 2.0**-75, 2.0**-149  # a tie among subnormal results
    state = execute("fma.rn.f32 %r4, %r1, %r2, %r3;", {"%r1": x, "%r2": y, "%r3": z}, threads=1024, blocks=4)
    exact = [Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c)) for a, b, c in zip(x, y, z, strict=True)]
    assert [Fraction(float(v)) for v in values(state, "%r4", "f4")] == [nearest_float32(v) for v in exact]


def test_two_roundings_would_have_failed_that():
    x, y, z = BESIDE_A_TIE
    twice = np.float32(np.float64(x) * np.float64(y) + np.float64(z))
    assert Fraction(float(twice)) != nearest_float32(Fraction(x) * Fraction(y) + Fraction(z))


@pytest.mark.parametrize("ulps, wanted", [(2, 1 + 2 * ULP), (-2, 1 - ULP)])
def test_approximate_results_can_be_had_off(monkeypatch, ulps, wanted):
    """A unit in the last place is half as large below 1."""
    monkeypatch.setattr(floats, "off_by_ulps", ulps)
    body = """ex2.approx.ftz.f32 %r2, 0f00000000;
        div.full.f32 %r3, %r1, %r1;
        sqrt.approx.ftz.f32 %r4, %r1;
        div.rn.f32 %r5, %r1, %r1;
        ex2.approx.ftz.f32 %r6, 0fFF800000;"""
    state = execute(body, {"%r1": np.float32(1)})
    assert [values(state, f"%r{i}", "f4")[0] for i in range(2, 7)] == [wanted, wanted, wanted, 1, 0]


def test_unordered_comparison_is_true_for_nan():
    state = execute("setp.leu.f32 %p1, %r1, 0f00000000;", {"%r1": np.resize(np.float32([-1, 0, 1, NAN]), 32)})
    assert state.registers["%p1"][:4].tolist() == [True, True, False, True]


HALVES = [(1.0, 0x3C00), (-2.0, 0xC000), (65504.0, 0x7BFF), (65520.0, 0x7C00), (2.0**-24, 0x0001), (2.0**-25, 0x0000),
          (1 + 2.0**-11, 0x3C00), (1 + 3 * 2.0**-11, 0x3C02), (-INF, 0xFC00)]  # fmt: skip


def test_halves_are_rounded_to_even_and_overflow_to_infinity():
    numbers, bits = np.float32([x for x, _ in HALVES]), [x for _, x in HALVES]
    state = execute("cvt.rn.f16.f32 %rs1, %r1;", {"%r1": np.resize(numbers, 32)})
    assert values(state, "%rs1", "u2")[: len(bits)].tolist() == bits


def test_first_operand_becomes_the_upper_half():
    state = execute("cvt.rn.f16x2.f32 %r3, %r1, %r2;", {"%r1": np.float32(1), "%r2": np.float32(-2)})
    assert values(state, "%r3", "u4")[0] == 0x3C00C000


def test_half_becomes_its_own_value():
    state = execute("cvt.f32.f16 %r1, %rs1;", {"%rs1": np.resize([0x3C00, 0x0001, 0x7C00, 0xC000], 32)})
    assert values(state, "%r1", "f4")[:4].tolist() == [1.0, 2.0**-24, INF, -2.0]


def test_integer_from_float_goes_towards_zero_and_saturates():
    numbers = np.float32([1.9, -1.9, 40000.0, -40000.0, NAN, -128.0])
    state = execute("cvt.rzi.s16.f32 %rs1, %r1;", {"%r1": np.resize(numbers, 32)})
    assert values(state, "%rs1", "i2")[:6].tolist() == [1, -1, 32767, -32768, 0, -128]


def test_float_from_integer_is_the_nearest():
    integers = np.resize([2**24 + 1, 2**24 + 3, -1], 32)  # the first two lie half way between two float32
    state = execute("cvt.rn.f32.s32 %r2, %r1;\ncvt.rn.f32.u32 %r3, %r1;", {"%r1": integers})
    assert values(state, "%r2", "f4")[:3].tolist() == [2.0**24, 2.0**24 + 4, -1.0]
    assert values(state, "%r3", "f4")[:3].tolist() == [2.0**24, 2.0**24 + 4, 2.0**32]


@pytest.mark.parametrize(
    "opcode, operands, wanted",
    [
        ("rcp.approx.ftz.f32", (4.0,), 0.25), ("rcp.approx.ftz.f32", (-0.0,), -INF), 
        ("rcp.approx.ftz.f32", (INF,), 0.0),
        ("rsqrt.approx.ftz.f32", (0.25,), 2.0), ("rsqrt.approx.ftz.f32", (SUBNORMAL,), INF),
        ("abs.f32", (-0.5,), 0.5), ("neg.f32", (0.5,), -0.5),
    ],
    ids=str,
)  # fmt: skip
def test_reciprocals_and_signs(opcode, operands, wanted):
    got = values(execute(f"{opcode} %r9, %r1;", {"%r1": np.float32(operands[0])}), "%r9", "f4")[0]
    assert got == wanted and np.signbit(got) == np.signbit(wanted)
