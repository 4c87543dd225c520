"""DepthwiseResidual, x + dwconv(x) in NHWC, as plain PyTorch: the reference for everything else.

Source: RMT's conditional position encoding and the convolution inside its feed-forward, "RMT: Retentive Networks Meet
Vision Transformers", CVPR 2024, https://arxiv.org/abs/2309.11523, section 4.1; in rmt_edge/model/rmt.py `Block.pos` and
`FeedForward.dwconv`. Two things differ from the modules there, both for speed on a GPU:

- what lies around the convolution may come with it: of the Linear layer before it the scale and bias of its raw INT8
  product (ops/product.py) and the GELU; the residual added before it, the LayerNorm after it, and the INT8 quantisation
  of what the next Linear reads;
- the weight is (k, k, c), not Conv2d's (c, 1, k, k). An NHWC kernel reads one tap of many channels at a time; in
  Conv2d's order those lie k² elements apart, and no load is wider than one element. `taps_from_conv_weight` converts.

The ONNX function body, the Triton kernel and the TensorRT plugin are held to this file. It is also registered with
PyTorch as `torch.ops.rmt_edge.depthwise_residual` and `.depthwise_residual_norm`, so that an exporter sees one op.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from rmt_edge.ops.product import true_values

LAYER_NORM_EPSILON = 1e-6  # RMT's public code, as model/rmt.py
INT8_MIN, INT8_MAX = -128, 127


def taps_from_conv_weight(weight: Tensor) -> Tensor:
    """The weight of a depthwise Conv2d in the order of this op. (c, 1, k, k) -> (k, k, c)."""
    return weight[:, 0].permute(1, 2, 0).contiguous()


def quantize_int8(x: Tensor, scale: float) -> Tensor:
    """round(x / scale), half to even, saturated to -128..127; ONNX QuantizeLinear with zero point 0.

    The scale counts as rounded to x's type, since that is the type the graph around it holds it in. Returns int8.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    divisor = torch.tensor(scale, dtype=x.dtype, device=x.device).to(wide)
    return torch.round(x.to(wide) / divisor).clamp(INT8_MIN, INT8_MAX).to(torch.int8)


def _convolved(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None) -> Tensor:
    """y + dwconv(y) + bias, y = x + residual. (b, h, w, c) -> (b, h, w, c)."""
    y = x if residual is None else x + residual
    k, c = weight.shape[0], weight.shape[2]
    conv_weight = weight.permute(2, 0, 1)[:, None]  # (c, 1, k, k)
    conv = F.conv2d(y.permute(0, 3, 1, 2), conv_weight, bias, padding=k // 2, groups=c)  # (b, c, h, w)
    return y + conv.permute(0, 2, 3, 1)


def depthwise_residual(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None = None,
    output_scale: float = 0.0,
    x_scale: Tensor | None = None,
    x_bias: Tensor | None = None,
    input_scale: float = 0.0,
    has_gelu: bool = False,
) -> Tensor:
    """out = y + dwconv(y) + bias, y = x + residual, with has_gelu GELU(x) + residual; zero padding, same size.

    x, residual: (b, h, w, c); weight: (k, k, c), k odd; bias: (c,). x_scale, x_bias: (c,), if x is the raw product of
    an INT8 layer, and input_scale, if that is int8; GELU is the exact one, by erf, of the true values. Returns
    (b, h, w, c), INT8 if there is an output_scale.
    """
    x = true_values(x, x_scale, x_bias, input_scale, "x")
    if has_gelu:
        x = F.gelu(x)
    out = _convolved(x, weight, bias, residual)
    return quantize_int8(out, output_scale) if output_scale else out


def depthwise_residual_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    residual: Tensor | None = None,
    epsilon: float = LAYER_NORM_EPSILON,
    output_scale: float = 0.0,
    x_scale: Tensor | None = None,
    x_bias: Tensor | None = None,
    input_scale: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """out = y + dwconv(y) + bias, y = x + residual; norm = LayerNorm(out) over the channels.

    x, residual: (b, h, w, c); weight: (k, k, c), k odd; bias, norm_weight, norm_bias: (c,). x_scale, x_bias,
    input_scale: as for depthwise_residual. Returns out (b, h, w, c), the residual stream, in weight's type whatever the
    scale; and norm (b, h, w, c), INT8 if there is an output_scale.
    """
    x = true_values(x, x_scale, x_bias, input_scale, "x")
    out = _convolved(x, weight, bias, residual)
    norm = F.layer_norm(out, out.shape[-1:], norm_weight, norm_bias, epsilon)
    return out, quantize_int8(norm, output_scale) if output_scale else norm


# Composite, so that autograd goes through the plain ops above; a tracer still records one node.
_LIBRARY = torch.library.Library("rmt_edge", "FRAGMENT")
_LIBRARY.define(
    "depthwise_residual(Tensor x, Tensor weight, Tensor bias, Tensor? residual=None, float output_scale=0.0, "
    "Tensor? x_scale=None, Tensor? x_bias=None, float input_scale=0.0, bool has_gelu=False) -> Tensor"
)
_LIBRARY.define(
    "depthwise_residual_norm(Tensor x, Tensor weight, Tensor bias, Tensor norm_weight, Tensor norm_bias, "
    "Tensor? residual=None, float epsilon=1e-6, float output_scale=0.0, "
    "Tensor? x_scale=None, Tensor? x_bias=None, float input_scale=0.0) -> (Tensor, Tensor)"
)
_LIBRARY.impl("depthwise_residual", depthwise_residual, "CompositeImplicitAutograd")
_LIBRARY.impl("depthwise_residual_norm", depthwise_residual_norm, "CompositeImplicitAutograd")
