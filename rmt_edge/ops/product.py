"""What an op does with the raw product of an INT8 Linear layer that it reads, in PyTorch: the reference.

A Linear layer with INT8 weights of one scale per output channel is a matrix product, then a multiplication and an
addition per channel. TensorRT-RTX runs the latter two as a kernel of their own, and none where the weight's scale is
one number and there is no bias (measured by layer lists). So the product is written with the largest channel's scale s
alone, and whoever reads it makes the rest when it loads:

    product = x·(W_int8·s)ᵀ,   true_c = product_c·scale_c + bias_c,   scale_c = s_c / s

The product may travel in INT8, rounded to steps of one size, `input_scale`. As its channels have equal weight ranges,
this is a step per channel of the true values, input_scale·scale_c.
"""

import math

import torch
from torch import Tensor

from rmt_edge.errors import RmtEdgeError


def true_values(x: Tensor, scale: Tensor | None, bias: Tensor | None, input_scale: float, name: str) -> Tensor:
    """x·input_scale·scale + bias over the last axis, in scale's type; x itself where there is neither.

    x: (…, c), floating with an input_scale of 0, or int8; scale, bias: (c,), or None for values that are true already.
    name: of x, for messages.
    """
    check_product(x, scale, bias, input_scale, name)
    if scale is None or bias is None:
        return x
    if x.dtype == torch.int8:
        x = x.to(scale.dtype) * torch.tensor(input_scale, dtype=scale.dtype, device=x.device)
    return x * scale + bias


def check_product(x: Tensor, scale: Tensor | None, bias: Tensor | None, input_scale: float, name: str) -> None:
    """Refuse what is no product: one vector without the other, a wrong length, INT8 without a step, a step without."""
    is_int8 = x.dtype == torch.int8
    if (scale is None) != (bias is None) or (is_int8 and scale is None):
        given = [which for which, vector in (("scale", scale), ("bias", bias)) if vector is not None]
        raise RmtEdgeError(
            f"{name} is {x.dtype} with {' and '.join(given) or 'no vectors'}.",
            "a raw product comes with scale and bias, one number a channel each; in INT8 it is always raw.",
        )
    for which, vector in (("scale", scale), ("bias", bias)):
        if vector is not None and vector.shape != x.shape[-1:]:
            raise RmtEdgeError(
                f"{name}_{which} is {tuple(vector.shape)}.",
                f"{name} has {x.shape[-1]} channels, and it one number each.",
            )
    if scale is not None and not is_int8 and x.dtype != scale.dtype:
        raise RmtEdgeError(f"{name} is {x.dtype}, its scale {scale.dtype}.", "both have one type, or the product int8.")
    if not (math.isfinite(input_scale) and (input_scale > 0 if is_int8 else input_scale == 0)):
        raise RmtEdgeError(
            f"{name} is {x.dtype} with the input_scale {input_scale:g}.",
            "an INT8 input has a finite one above 0, any other has none.",
        )
