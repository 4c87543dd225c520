"""The arithmetic of INT8: a range to a scale, values to steps. Symmetric, round half to even, within ±127.

The graph, the fake quantisation and the second road all round by these functions and no others.
"""

import numpy as np
from torch import Tensor

INT8_MAX = 127.0
# The smallest normal FP16 number. A smaller scale would lose its own digits; a weight below it changes no FP16 sum.
MIN_SCALE = 2.0**-14


def scale_of(amax: Tensor, dtype: np.dtype) -> np.ndarray:
    """amax/127 in the graph's type, at least MIN_SCALE. One number for one range, (out,) for one per channel."""
    scale = np.maximum(amax.numpy().astype(np.float64) / INT8_MAX, MIN_SCALE).astype(dtype)
    return scale.reshape(()) if scale.size == 1 else scale


def product_scales(amax: Tensor, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """The scale () of a raw product's weights and its channels' multiples of it, (out,) or (), in the graph's type.

    Channel c of the weights has steps of scale·multiple_c, the multiple at most 1 (ops/product.py). amax: (out,) or
    (1,). A channel below MIN_SCALE of the largest has its multiple raised to that: no FP16 sum shows the difference.
    """
    largest = amax.max().reshape(1)
    multiples = np.maximum((amax / largest).numpy().astype(np.float64), MIN_SCALE).astype(dtype)
    return scale_of(largest, dtype), multiples.reshape(()) if multiples.size == 1 else multiples


def along_axis(scale: np.ndarray, axis: int, ndim: int) -> np.ndarray:
    """A scale (out,) in the shape in which it multiplies a tensor of ndim axes along one of them; () stays ()."""
    return scale.reshape([-1 if i == axis else 1 for i in range(ndim)]) if scale.ndim else scale


def int8_of(value: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """round(value/scale), half to even, within ±127."""
    return np.clip(np.rint(value / scale.astype(np.float32)), -INT8_MAX, INT8_MAX).astype(np.int8)
