"""Comparisons, conversions and selections that the kernels of Nms and MultiLevelRoiAlign use and no other kernel.

Source: PTX ISA 8.7, sections "Comparison and Selection", "Floating-Point Instructions", "Data Movement".
A comparison with a NaN is false.
"""

import numpy as np

from tests.ptx.floats import flushed
from tests.ptx.integers import Handler, binary, select, unary
from tests.ptx.moves import store
from tests.ptx.threads import Threads


def to_int32(t: Threads, o: tuple[str, ...]) -> None:
    """cvt.rzi.s32.f32: towards zero, saturated; NaN becomes 0."""
    x = t.read(o[1], "f4").astype(np.float64)
    whole = np.clip(np.trunc(np.where(np.isnan(x), 0.0, x)), -(2.0**31), 2.0**31 - 1)
    t.write(o[0], whole.astype(np.int32))


def rounded_up(x: np.ndarray) -> np.ndarray:
    """cvt.rpi.ftz.f32.f32."""
    return np.ceil(flushed(x))


INSTRUCTIONS: dict[str, Handler] = {
    "setp.eq.f32": binary(np.equal, "f4"), "setp.gt.f32": binary(np.greater, "f4"),
    "setp.lt.f32": binary(np.less, "f4"), "setp.ge.f32": binary(np.greater_equal, "f4"),
    "setp.le.f32": binary(np.less_equal, "f4"),
    "setp.le.s32": binary(np.less_equal, "i4"), "setp.ge.s32": binary(np.greater_equal, "i4"),
    "or.pred": binary(np.logical_or, "?"), "selp.b64": select("u8"), "min.s32": binary(np.minimum, "i4"),
    "sqrt.rn.f32": unary(np.sqrt, "f4"), "cvt.rzi.s32.f32": to_int32, "cvt.rpi.ftz.f32.f32": unary(rounded_up, "f4"),
    "st.global.b32": store("global", "u4", 1),
}  # fmt: skip
