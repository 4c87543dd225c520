"""Integer arithmetic, comparisons, selection, predicates, bits and register moves.

Source: PTX ISA 8.7, sections "Integer Arithmetic", "Comparison and Selection", "Logic and Shift", "Data Movement".
Arithmetic wraps around; a division by zero, whose result the manual leaves open, is a fault.
"""

from collections.abc import Callable

import numpy as np

from tests.ptx.parse import GpuError, vector_elements
from tests.ptx.threads import Threads

Handler = Callable[[Threads, tuple[str, ...]], None]


def unary(function: Callable, dtype: str) -> Handler:
    return lambda t, o: t.write(o[0], function(t.read(o[1], dtype)))


def binary(function: Callable, dtype: str) -> Handler:
    return lambda t, o: t.write(o[0], function(t.read(o[1], dtype), t.read(o[2], dtype)))


def multiply_add(dtype: str) -> Handler:
    """mad.lo: the low half of a·b, plus c."""
    return lambda t, o: t.write(o[0], t.read(o[1], dtype) * t.read(o[2], dtype) + t.read(o[3], dtype))


def wide_product(dtype: str, wide: str, is_added: bool = False) -> Handler:
    """mul.wide, mad.wide: the whole product, twice as wide, plus c of that width."""

    def run(t: Threads, o: tuple[str, ...]) -> None:
        product = t.read(o[1], dtype).astype(wide) * t.read(o[2], dtype).astype(wide)
        t.write(o[0], product + t.read(o[3], wide) if is_added else product)

    return run


def truncated_quotient(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x / y towards zero, int32."""
    if (y == 0).any():
        raise GpuError("a division by zero")
    wide_x, wide_y = x.astype(np.int64), y.astype(np.int64)
    return (np.abs(wide_x) // np.abs(wide_y) * np.sign(wide_x) * np.sign(wide_y)).astype(np.int32)


def remainder(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x - y·(x / y towards zero), int32."""
    return (x.astype(np.int64) - truncated_quotient(x, y).astype(np.int64) * y).astype(np.int32)


def unsigned_quotient(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if (y == 0).any():
        raise GpuError("a division by zero")
    return x // y


def high_product(dtype: str, wide: str) -> Handler:
    """mul.hi: the upper half of the whole product."""

    def run(t: Threads, o: tuple[str, ...]) -> None:
        product = t.read(o[1], dtype).astype(wide) * t.read(o[2], dtype).astype(wide)
        t.write(o[0], (product >> np.asarray(32, wide)).astype(dtype))

    return run


def low_byte(of: str) -> Handler:
    """cvt.s8.s32, cvt.s16.s8: the low byte, its sign extended to the 16 bits of the register."""
    return lambda t, o: t.write(o[0], t.read(o[1], of).astype(np.int8).astype(np.int16))


def shift_left(dtype: str) -> Handler:
    bits = 8 * np.dtype(dtype).itemsize

    def run(t: Threads, o: tuple[str, ...]) -> None:
        value, by = t.read(o[1], dtype), t.read(o[2], "u4")  # the amount is 32 bits wide whatever the value is
        shifted = value << np.minimum(by, bits - 1).astype(dtype)
        t.write(o[0], np.where(by >= bits, np.zeros(1, dtype), shifted))

    return run


def shift_right(dtype: str) -> Handler:
    """Unsigned: zeros come in, and amounts beyond the width give 0. Signed: the sign does."""
    bits = 8 * np.dtype(dtype).itemsize
    is_signed = dtype[0] == "i"

    def run(t: Threads, o: tuple[str, ...]) -> None:
        value, by = t.read(o[1], dtype), t.read(o[2], "u4")
        shifted = value >> np.minimum(by, bits - 1).astype(dtype)
        t.write(o[0], shifted if is_signed else np.where(by >= bits, np.zeros(1, dtype), shifted))

    return run


def extract_bits(is_signed: bool) -> Handler:
    """bfe: `length` bits from `start` on; a signed field is filled with its highest bit that exists, bit 31 at most."""

    def run(t: Threads, o: tuple[str, ...]) -> None:
        value = t.read(o[1], "u4").astype(np.int64)
        start, length = (t.read(x, "u4").astype(np.int64) & 0xFF for x in o[2:4])
        kept = np.minimum(length, np.maximum(32 - start, 0))  # bits of the field that the value has
        field = (value >> np.minimum(start, 63)) & ((np.int64(1) << np.minimum(kept, 32)) - 1)
        if is_signed:
            sign = value >> np.clip(np.minimum(start + length - 1, 31), 0, 31) & 1
            field = np.where((sign != 0) & (length > 0), field | (np.int64(-1) << np.minimum(kept, 32)), field)
        t.write(o[0], (field & 0xFFFFFFFF).astype(np.uint32))

    return run


def permute_bytes(t: Threads, o: tuple[str, ...]) -> None:
    """prmt.b32: each nibble of the selector picks a byte of {b, a}; its high bit asks for that byte's sign instead."""
    pair = t.read(o[1], "u4").astype(np.uint64) | t.read(o[2], "u4").astype(np.uint64) << np.uint64(32)
    selector = t.read(o[3], "u4").astype(np.uint64)
    result = np.zeros(1, np.uint64)
    for i in range(4):
        nibble = selector >> np.uint64(4 * i)
        byte = pair >> np.uint64(8) * (nibble & np.uint64(7)) & np.uint64(0xFF)
        sign = np.where(byte & np.uint64(0x80), np.uint64(0xFF), np.uint64(0))
        result = result | np.where(nibble & np.uint64(8), sign, byte) << np.uint64(8 * i)
    t.write(o[0], result.astype(np.uint32))


def move(dtype: str) -> Handler:
    """mov, also between one register and a vector of smaller ones, the first of which holds the lowest bits."""
    width = np.dtype(dtype).itemsize

    def run(t: Threads, o: tuple[str, ...]) -> None:
        to, source = (vector_elements(x) for x in o)
        bits = 8 * width // max(len(to), len(source))
        if len(to) > 1:
            whole = t.read(o[1], dtype)
            for i, name in enumerate(to):
                t.write(name, (whole >> np.asarray(bits * i, dtype)).astype(f"u{bits // 8}"))
        elif len(source) > 1:
            parts = [
                t.read(x, f"u{bits // 8}").astype(dtype) << np.asarray(bits * i, dtype) for i, x in enumerate(source)
            ]
            t.write(o[0], np.bitwise_or.reduce(np.broadcast_arrays(*parts)))
        else:
            t.write(o[0], t.read(o[1], dtype))

    return run


def select(dtype: str) -> Handler:
    return lambda t, o: t.write(o[0], np.where(t.read(o[3], "?"), t.read(o[1], dtype), t.read(o[2], dtype)))


def convert(of: str, to: str) -> Handler:
    """cvt between integers: truncated, or extended by zeros or the sign of the source's type."""
    return lambda t, o: t.write(o[0], t.read(o[1], of).astype(to))


INSTRUCTIONS: dict[str, Handler] = {
    "add.s32": binary(np.add, "i4"), "add.s64": binary(np.add, "i8"), "sub.s32": binary(np.subtract, "i4"),
    "mul.lo.s32": binary(np.multiply, "i4"), "mul.lo.s64": binary(np.multiply, "i8"),
    "mad.lo.s32": multiply_add("i4"), "mad.lo.s64": multiply_add("i8"),
    "mul.wide.s32": wide_product("i4", "i8"), "mul.wide.u32": wide_product("u4", "u8"),
    "mul.wide.u16": wide_product("u2", "u4"),
    "mad.wide.s32": wide_product("i4", "i8", True), "mad.wide.u32": wide_product("u4", "u8", True),
    "div.s32": binary(truncated_quotient, "i4"),
    "div.u32": binary(unsigned_quotient, "u4"), "rem.s32": binary(remainder, "i4"),
    "rem.u32": binary(lambda x, y: x - unsigned_quotient(x, y) * y, "u4"), "cvt.s8.s32": low_byte("i4"),
    "cvt.s16.s8": low_byte("i2"), "shr.s16": shift_right("i2"),
    "mul.hi.s32": high_product("i4", "i8"), "mul.hi.u32": high_product("u4", "u8"), "min.s32": binary(np.minimum, "i4"),
    "mov.f32": move("u4"), "mov.u64": move("u8"), "cvta.to.global.u64": move("u8"), "selp.u32": select("u4"),
    "selp.b64": select("u8"), "setp.ge.s32": binary(np.greater_equal, "i4"), "setp.eq.s32": binary(np.equal, "i4"),
    "setp.ne.s32": binary(np.not_equal, "i4"),
    "neg.s32": unary(np.negative, "i4"), "abs.s32": unary(np.abs, "i4"), "max.s32": binary(np.maximum, "i4"),
    "and.b16": binary(np.bitwise_and, "u2"), "and.b32": binary(np.bitwise_and, "u4"),
    "or.b16": binary(np.bitwise_or, "u2"), "or.b32": binary(np.bitwise_or, "u4"),
    "or.b64": binary(np.bitwise_or, "u8"), "xor.b32": binary(np.bitwise_xor, "u4"),
    "not.b32": unary(np.invert, "u4"),
    "shl.b16": shift_left("u2"), "shl.b32": shift_left("u4"), "shl.b64": shift_left("u8"),
    "shr.u16": shift_right("u2"), "shr.u32": shift_right("u4"), "shr.s32": shift_right("i4"),
    "bfe.u32": extract_bits(False), "bfe.s32": extract_bits(True), "prmt.b32": permute_bytes,
    "mov.u16": move("u2"), "mov.u32": move("u4"), "mov.b32": move("u4"), "mov.b64": move("u8"), "mov.pred": move("?"),
    "selp.b16": select("u2"), "selp.b32": select("u4"), "selp.f32": select("u4"),
    "and.pred": binary(np.logical_and, "?"), "not.pred": unary(np.logical_not, "?"),
    "setp.eq.b16": binary(np.equal, "u2"), "setp.eq.b32": binary(np.equal, "u4"),
    "setp.ne.b32": binary(np.not_equal, "u4"), "setp.ne.b64": binary(np.not_equal, "u8"),
    "setp.lt.s32": binary(np.less, "i4"), "setp.gt.s32": binary(np.greater, "i4"), "setp.lt.u32": binary(np.less, "u4"),
    "cvt.s64.s32": convert("i4", "i8"), "cvt.u64.u32": convert("u4", "u8"), "cvt.u32.u64": convert("u8", "u4"),
    "cvt.u32.u16": convert("u2", "u4"), "cvt.u16.u32": convert("u4", "u2"),
}  # fmt: skip
