"""float32 arithmetic and conversions, with the rounding that PTX asks for.

Source: PTX ISA 8.7, sections "Floating-Point Instructions" and "Data Movement and Conversion: cvt". Every result of a
`.rn` instruction is the exact one rounded once, to the nearest, halves to even. So are ex2.approx, sqrt.approx and
div.full, which a GPU may have up to 2 units in the last place off; `off_by_ulps` lets a test have them all off.
"""

import numpy as np

from tests.ptx.integers import Handler, binary, unary
from tests.ptx.threads import Threads

off_by_ulps = 0  # of approximate instructions, away from 0 or towards it
SMALLEST_NORMAL = np.finfo(np.float32).tiny
# The bits of a float64 that a float32 has not: set to just this, the value lies half way between two float32.
DROPPED_BITS, HALF_WAY = np.uint64(0x1FFFFFFF), np.uint64(0x10000000)


def fused_multiply_add(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """x·y + z, rounded once. float32, broadcast together."""
    product = x.astype(np.float64) * y  # exact: 24 + 24 bits
    total = product + z
    result = total.astype(np.float32)
    # Rounding to float64 first may make a tie of what is none, or move one; so may it among subnormal results.
    doubtful = (total.view(np.uint64) & DROPPED_BITS) == HALF_WAY
    doubtful |= (np.abs(total) < SMALLEST_NORMAL) & (total != 0)
    if doubtful.any():
        product, z = np.broadcast_arrays(product, z)
        result[doubtful] = _rounded_to_odd(product[doubtful], z[doubtful].astype(np.float64)).astype(np.float32)
    return result


def _rounded_to_odd(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x + y in float64, with the last bit set if the sum is not exact, so that rounding it again is right.

    Source: Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", IEEE Trans. Computers 57 (4), 2008.
    """
    total = x + y
    shifted = total - x
    error = (x - (total - shifted)) + (y - shifted)  # Knuth's TwoSum: exact
    is_even = total.view(np.uint64) & np.uint64(1) == 0
    towards = np.where(error > 0, np.inf, -np.inf)
    return np.where((error != 0) & is_even, np.nextafter(total, towards), total)


def smaller(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """min.f32: of a NaN and a number the number; -0 lies below +0."""
    both_zero = np.where(np.signbit(x), x, y)
    return np.where((x == 0) & (y == 0), both_zero, np.fmin(x, y))


def larger(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """max.f32."""
    both_zero = np.where(np.signbit(x), y, x)
    return np.where((x == 0) & (y == 0), both_zero, np.fmax(x, y))


def flushed(x: np.ndarray) -> np.ndarray:
    """.ftz: a subnormal number becomes zero of the same sign."""
    return np.where(np.abs(x) < SMALLEST_NORMAL, np.copysign(np.float32(0), x), x)


def approximate(x: np.ndarray) -> np.ndarray:
    """A result with the error that a test asks for. Zeros, infinities and NaN stay."""
    if not off_by_ulps:
        return x
    moved = (x.view(np.int32) + np.int32(off_by_ulps)).view(np.float32)
    return np.where(np.isfinite(x) & np.isfinite(moved) & (np.abs(x) > 2 * SMALLEST_NORMAL), moved, x)


def full_range_quotient(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """div.full.f32."""
    return approximate(x / y)


def power_of_two(x: np.ndarray) -> np.ndarray:
    """ex2.approx.ftz.f32."""
    return approximate(flushed(np.exp2(flushed(x).astype(np.float64)).astype(np.float32)))


def square_root(x: np.ndarray) -> np.ndarray:
    """sqrt.approx.ftz.f32."""
    return approximate(flushed(np.sqrt(flushed(x))))


def reciprocal(x: np.ndarray) -> np.ndarray:
    """rcp.approx.ftz.f32."""
    return approximate(flushed(np.float32(1) / flushed(x)))


def reciprocal_root(x: np.ndarray) -> np.ndarray:
    """rsqrt.approx.ftz.f32."""
    return approximate(flushed((1 / np.sqrt(flushed(x).astype(np.float64))).astype(np.float32)))


def fused(t: Threads, o: tuple[str, ...]) -> None:
    t.write(o[0], fused_multiply_add(t.read(o[1], "f4"), t.read(o[2], "f4"), t.read(o[3], "f4")))


def to_half(t: Threads, o: tuple[str, ...]) -> None:
    t.write(o[0], t.read(o[1], "f4").astype(np.float16))


def to_two_halves(t: Threads, o: tuple[str, ...]) -> None:
    """cvt.rn.f16x2.f32 d, a, b: a becomes the upper half, b the lower."""
    upper, lower = (t.read(x, "f4").astype(np.float16).view(np.uint16).astype(np.uint32) for x in o[1:3])
    t.write(o[0], upper << np.uint32(16) | lower)


def from_half(t: Threads, o: tuple[str, ...]) -> None:
    t.write(o[0], t.read(o[1], "f2").astype(np.float32))


def to_int16(t: Threads, o: tuple[str, ...]) -> None:
    """cvt.rzi.s16.f32: towards zero, saturated; NaN becomes 0."""
    x = t.read(o[1], "f4")
    whole = np.clip(np.trunc(np.where(np.isnan(x), np.float32(0), x)), -(2**15), 2**15 - 1)
    t.write(o[0], whole.astype(np.int16))


def is_not_above(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """setp.leu: less, equal or not comparable."""
    return ~(x > y)


def from_integer(dtype: str) -> Handler:
    """cvt.rn.f32.{s,u}32: to the nearest float32."""
    return lambda t, o: t.write(o[0], t.read(o[1], dtype).astype(np.float32))


INSTRUCTIONS: dict[str, Handler] = {
    "add.f32": binary(np.add, "f4"), "sub.f32": binary(np.subtract, "f4"), "mul.f32": binary(np.multiply, "f4"),
    "fma.rn.f32": fused, "min.f32": binary(smaller, "f4"), "max.f32": binary(larger, "f4"),
    "div.full.f32": binary(full_range_quotient, "f4"), "div.rn.f32": binary(np.divide, "f4"),
    "ex2.approx.ftz.f32": unary(power_of_two, "f4"), "sqrt.approx.ftz.f32": unary(square_root, "f4"),
    "rcp.approx.ftz.f32": unary(reciprocal, "f4"), "rsqrt.approx.ftz.f32": unary(reciprocal_root, "f4"),
    "abs.f32": unary(np.abs, "f4"), "neg.f32": unary(np.negative, "f4"),
    "setp.leu.f32": binary(is_not_above, "f4"),
    "cvt.f32.f16": from_half, "cvt.rn.f16.f32": to_half, "cvt.rn.f16x2.f32": to_two_halves,
    "cvt.rzi.s16.f32": to_int16, "cvt.rn.f32.s32": from_integer("i4"), "cvt.rn.f32.u32": from_integer("u4"),
    "cvt.rn.f32.s16": from_integer("i2"),
}  # fmt: skip
