"""Arithmetic on two float16 in one register, the lower one first.

Source: PTX ISA 8.7, "Half Precision Floating-Point Instructions". Each half is the exact result rounded once, to the
nearest, halves to even; subnormal numbers stay. A product of two float16 and its sum with a third are exact in float64
but for sums that lie more than 2^52 apart, of which the smaller part then decides ties: they are made odd.
"""

from collections.abc import Callable

import numpy as np

from tests.ptx.floats import _rounded_to_odd
from tests.ptx.integers import Handler
from tests.ptx.threads import Threads


def halves(bits: np.ndarray) -> np.ndarray:
    """uint32 (n,) -> float64 (n, 2), lower half first."""
    return np.ascontiguousarray(bits).view(np.float16).reshape(-1, 2).astype(np.float64)


def packed(function: Callable[..., np.ndarray]) -> Handler:
    def run(t: Threads, o: tuple[str, ...]) -> None:
        result = function(*(halves(t.read(x, "u4")) for x in o[1:])).astype(np.float16)
        t.write(o[0], np.ascontiguousarray(result).view(np.uint32).reshape(-1))

    return run


def multiply_add(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    x, z = np.broadcast_arrays(x * y, z)
    return _rounded_to_odd(x, z)


INSTRUCTIONS: dict[str, Handler] = {
    "mul.rn.f16x2": packed(np.multiply), "add.rn.f16x2": packed(np.add), "fma.rn.f16x2": packed(multiply_add),
}  # fmt: skip
