"""Retention, RMT's Manhattan self-attention (MaSA), as plain PyTorch: the reference for everything else.

Source: "RMT: Retentive Networks Meet Vision Transformers", CVPR 2024, https://arxiv.org/abs/2309.11523, sections 3.2 to
3.4. One difference: equation 6 multiplies the decay after the softmax; the public code, and so every public checkpoint,
adds its logarithm before it. This file follows the code.

The model runs this file; tests, benchmarks, the Triton kernels and the TensorRT plugin are held to it. It is also
registered with PyTorch as `torch.ops.rmt_edge.retention`, so that an exporter sees one op instead of its parts.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from rmt_edge.ops.product import true_values


def theta_shift(x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
    """Rotate the interleaved pairs (x0, x1), (x2, x3), … by the angle of their position (paper, section 3.2).

    x: (b, n, l, d); sin, cos: (l, d), each angle stored twice, once for either element of its pair.
    """
    rotated = torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)  # (b, n, l, d): (x0, x1) -> (-x1, x0)
    return x * cos + rotated * sin


def axis_distance(length: int) -> Tensor:
    """|i - j| of all pairs of positions on one axis. (length, length), float32."""
    position = torch.arange(length, dtype=torch.float32)
    return (position[:, None] - position[None, :]).abs()


def manhattan_distance(h: int, w: int) -> Tensor:
    """|y_i - y_j| + |x_i - x_j| of all pairs of positions on a row-major h x w grid. (h·w, h·w), float32."""
    return (axis_distance(h)[:, None, :, None] + axis_distance(w)[None, :, None, :]).reshape(h * w, h * w)


def decayed_attention(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, distance: Tensor) -> Tensor:
    """softmax(q·kᵀ + decay·distance)·v over the last but one axis.

    q, k, v: (..., n, l, d); decay: (n,), log of the decay per step, negative; distance: (l, l). Returns (..., n, l, d).
    """
    mask = (decay[:, None, None] * distance).to(q.dtype)  # (n, l, l)
    return torch.softmax(q @ k.transpose(-1, -2) + mask, dim=-1) @ v


def retention(
    qkv: Tensor,
    sin: Tensor,
    cos: Tensor,
    lepe_weight: Tensor,
    lepe_bias: Tensor,
    num_heads: int,
    decay: list[float],
    decomposed: bool,
    qkv_scale: Tensor | None = None,
    qkv_bias: Tensor | None = None,
    input_scale: float = 0.0,
) -> Tensor:
    """scores = θ(q)·θ(k)ᵀ + decay·distance; out = softmax(scores)·v + LePE(v).

    Decomposed: attention along W, then along H with the first pass's output as v, each with the distance on its own
    axis. Whole: attention over all h·w positions with the Manhattan distance. The keys come already scaled by d^-0.5.

    qkv: (b, h, w, 3c), the packed projections before the theta shift; sin, cos: (h·w, d); lepe_weight: (c, 1, k, k), a
    depthwise convolution of v, added to the result; lepe_bias: (c,); decay: log-decay of each of the num_heads heads.
    qkv_scale, qkv_bias: (3c,), if qkv is the raw product of an INT8 layer (ops/product.py), and input_scale, if that is
    int8. Returns (b, h, w, c), what out_proj takes, in sin's type.
    """
    qkv = true_values(qkv, qkv_scale, qkv_bias, input_scale, "qkv")
    b, h, w, c3 = qkv.shape
    c, l = c3 // 3, h * w
    d = c // num_heads
    q, k, v = qkv.view(b, l, 3, num_heads, d).permute(2, 0, 3, 1, 4)  # each (b, n, l, d)
    q, k = theta_shift(q, sin, cos), theta_shift(k, sin, cos)
    log_decay = torch.tensor(decay, dtype=torch.float32, device=qkv.device)  # (n,)

    if decomposed:
        q, k, out = (x.view(b, num_heads, h, w, d).transpose(1, 2) for x in (q, k, v))  # (b, h, n, w, d)
        out = decayed_attention(q, k, out, log_decay, axis_distance(w).to(qkv.device))  # (b, h, n, w, d)
        q, k, out = (x.transpose(1, 3) for x in (q, k, out))  # (b, w, n, h, d)
        out = decayed_attention(q, k, out, log_decay, axis_distance(h).to(qkv.device))  # (b, w, n, h, d)
        out = out.permute(0, 3, 1, 2, 4).reshape(b, h, w, c)
    else:
        out = decayed_attention(q, k, v, log_decay, manhattan_distance(h, w).to(qkv.device))  # (b, n, l, d)
        out = out.transpose(1, 2).reshape(b, h, w, c)

    values = qkv[..., 2 * c :].permute(0, 3, 1, 2)  # (b, c, h, w)
    lepe = F.conv2d(values, lepe_weight, lepe_bias, padding=lepe_weight.shape[-1] // 2, groups=c)
    return out + lepe.permute(0, 2, 3, 1)


# Composite, so that autograd goes through the plain ops above; a tracer still records one node.
_LIBRARY = torch.library.Library("rmt_edge", "DEF")
_LIBRARY.define(
    "retention(Tensor qkv, Tensor sin, Tensor cos, Tensor lepe_weight, Tensor lepe_bias, "
    "int num_heads, float[] decay, bool decomposed, Tensor? qkv_scale=None, Tensor? qkv_bias=None, "
    "float input_scale=0.0) -> Tensor"
)
_LIBRARY.impl("retention", retention, "CompositeImplicitAutograd")
