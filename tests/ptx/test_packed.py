"""Pairs of float16 against fractions, and the 8-column matrix product against numpy."""

from fractions import Fraction

import numpy as np
import pytest

from tests.ptx.snippet import execute, values

RANDOM = np.random.default_rng(0)


def nearest_half(exact: Fraction) -> float:
    """The nearest float16, halves to even; of normal numbers and subnormal ones."""
    if exact == 0:
        return 0.0
    exponent = -14
    while abs(exact) >= Fraction(2) ** (exponent + 1):
        exponent += 1
    unit = Fraction(2) ** (exponent - 10)
    return float(round(exact / unit) * unit)


def random_halves(n):
    return (RANDOM.standard_normal(n) * 2.0 ** RANDOM.integers(-12, 4, n)).astype(np.float16)


@pytest.mark.parametrize("opcode", ["mul.rn.f16x2", "add.rn.f16x2", "fma.rn.f16x2"])
def test_each_half_is_the_exact_result_rounded_once(opcode):
    x, y, z = (random_halves(64) for _ in range(3))
    y[:2], z[:2], x[:2] = 1.0, 2.0**-11, 1.0  # a tie, to the even neighbour; with z just above one, up
    z[1] += np.float16(2.0**-21)
    names = ["%r1", "%r2"] + ["%r3"] * opcode.startswith("fma")
    given = dict(zip(names, (a.view(np.uint32) for a in (x, y, z)), strict=False))
    got = values(execute(f"{opcode} %r9, {', '.join(names)};", given), "%r9", "u4").view(np.float16)
    for a, b, c, found in zip(*(map(Fraction, map(float, v)) for v in (x, y, z)), got, strict=True):
        exact = {"m": a * b, "a": a + b, "f": a * b + c}[opcode[0]]
        assert float(found) == nearest_half(exact), (a, b, c)


def test_matrix_product_of_eight_columns():
    lane = np.arange(32)
    g, t = lane // 4, lane % 4
    a, b = (RANDOM.integers(-4, 5, shape).astype(np.float16) for shape in ((16, 8), (8, 8)))
    c = RANDOM.integers(-9, 9, (16, 8)).astype(np.float32)
    pair = lambda low, high: np.stack([low, high], 1).copy().view(np.uint32)[:, 0]  # noqa: E731
    given = {"%r1": pair(a[g, 2 * t], a[g, 2 * t + 1]), "%r2": pair(a[g + 8, 2 * t], a[g + 8, 2 * t + 1]),
             "%r3": pair(b[2 * t, g], b[2 * t + 1, g])}  # fmt: skip
    places = [(g, 2 * t), (g, 2 * t + 1), (g + 8, 2 * t), (g + 8, 2 * t + 1)]
    given |= {f"%r{4 + i}": c[place] for i, place in enumerate(places)}
    registers = "{%r10, %r11, %r12, %r13}, {%r1, %r2}, {%r3}, {%r4, %r5, %r6, %r7}"
    body = f"mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {registers};"
    state = execute(body, given)
    wanted = a.astype(np.float32) @ b.astype(np.float32) + c
    for i, place in enumerate(places):
        assert (values(state, f"%r{10 + i}", "f4") == wanted[place]).all()
