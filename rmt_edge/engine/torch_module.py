"""The folded form as a PyTorch module whose calls are rmt-edge's plugins: what Torch-TensorRT compiles.

The same arrangement as the ONNX file's plugin form (graph/network.py, graph/plugin_form.py): a block's residual is
added by the op that reads it, and where an INT8 Linear layer reads a plugin's output, the plugin quantises. Each
plugin, and each INT8 Linear layer, is one opaque op `rmt_edge::layer_…`: an exporter keeps it, and no compiler folds
its constants. On a CPU they compute what the engine computes, rounding included, from the references in
ops/retention/op.py and ops/depthwise/op.py.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmt_edge.model.folded import FoldedBlock, FoldedRMT, Ranges, nchw, nhwc
from rmt_edge.ops.depthwise.op import depthwise_residual, depthwise_residual_norm, quantize_int8, taps_from_conv_weight
from rmt_edge.ops.retention.op import retention
from rmt_edge.quantization.formats import int8_of, scale_of


def _rounded(x: Tensor, scale: float) -> Tensor:
    """To INT8 and back; x itself without a scale."""
    return quantize_int8(x, scale).to(x.dtype) * scale if scale else x.clone()


@torch.library.custom_op("rmt_edge::layer_retention", mutates_args=())
def layer_retention(
    qkv: Tensor,
    sin: Tensor,
    cos: Tensor,
    lepe_weight: Tensor,
    lepe_bias: Tensor,
    num_heads: int,
    decay: list[float],
    decomposed: bool,
    output_scale: float,
) -> Tensor:
    """ops/retention/op.py, rounded to INT8 steps of output_scale if that is above 0. (b, h, w, 3c) -> (b, h, w, c)."""
    return _rounded(retention(qkv, sin, cos, lepe_weight, lepe_bias, num_heads, decay, decomposed), output_scale)


@layer_retention.register_fake
def _(qkv, sin, cos, lepe_weight, lepe_bias, num_heads, decay, decomposed, output_scale):
    return qkv.new_empty((*qkv.shape[:-1], qkv.shape[-1] // 3))


@torch.library.custom_op("rmt_edge::layer_depthwise", mutates_args=())
def layer_depthwise(x: Tensor, weight: Tensor, bias: Tensor, output_scale: float) -> Tensor:
    """depthwise_residual of ops/depthwise/op.py without a residual. (b, h, w, c) -> (b, h, w, c)."""
    return _rounded(depthwise_residual(x, weight, bias), output_scale)


@layer_depthwise.register_fake
def _(x, weight, bias, output_scale):
    return torch.empty_like(x)


@torch.library.custom_op("rmt_edge::layer_depthwise_norm", mutates_args=())
def layer_depthwise_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    residual: Tensor | None,
    epsilon: float,
    output_scale: float,
) -> tuple[Tensor, Tensor]:
    """depthwise_residual_norm of ops/depthwise/op.py. (b, h, w, c) -> out and norm, each (b, h, w, c)."""
    out, norm = depthwise_residual_norm(x, weight, bias, norm_weight, norm_bias, residual, epsilon)
    return out, _rounded(norm, output_scale)


@layer_depthwise_norm.register_fake
def _(x, weight, bias, norm_weight, norm_bias, residual, epsilon, output_scale):
    return torch.empty_like(x), torch.empty_like(x)


@torch.library.custom_op("rmt_edge::layer_int8_linear", mutates_args=())
def layer_int8_linear(
    x: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, input_scale: Tensor | None
) -> Tensor:
    """x·Wᵀ + bias of INT8 steps. x: (m, in); weight: (out, in) int8; weight_scale: (out,) or (); bias: (1, out)."""
    if input_scale is not None:
        x = _rounded(x, float(input_scale))
    weights = weight.to(x.dtype) * (weight_scale[:, None] if weight_scale.ndim else weight_scale)
    product = x @ weights.T
    return product if bias is None else product + bias


@layer_int8_linear.register_fake
def _(x, weight, weight_scale, bias, input_scale):
    return x.new_empty((x.shape[0], weight.shape[0]))


class PluginLinear(nn.Module):
    """A Linear layer over the last axis, in INT8 where the ranges have it.

    behind_plugin: its input comes from a plugin, which quantises it with plugin_scale (0: no INT8). has_bias: False
    leaves the bias to whoever adds it.
    """

    def __init__(
        self,
        name: str,
        linear: nn.Linear,
        ranges: Ranges,
        dtype: torch.dtype,
        behind_plugin: bool,
        has_bias: bool = True,
    ):
        super().__init__()
        self.is_int8 = f"{name}.weight_amax" in ranges
        self.features = linear.out_features
        bias = linear.bias.detach().to(dtype).reshape(1, -1) if has_bias else None
        self.register_buffer("bias", bias)
        self.plugin_scale = 0.0
        if not self.is_int8:
            self.register_buffer("weight", linear.weight.detach().to(dtype))
            return
        numpy_type = torch.empty(0, dtype=dtype).numpy().dtype
        scale = scale_of(ranges[f"{name}.weight_amax"], numpy_type)
        self.register_buffer("weight", torch.from_numpy(int8_of(linear.weight.detach().numpy().T, scale).T.copy()))
        self.register_buffer("weight_scale", torch.from_numpy(np.array(scale)))
        input_scale = scale_of(ranges[f"{name}.input_amax"], numpy_type)
        self.plugin_scale = float(input_scale) if behind_plugin else 0.0
        self.register_buffer("input_scale", None if behind_plugin else torch.from_numpy(np.array(input_scale)))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        if self.is_int8:
            product = layer_int8_linear(rows, self.weight, self.weight_scale, self.bias, self.input_scale)
        else:
            product = F.linear(rows, self.weight, None if self.bias is None else self.bias[0])
        return product.reshape(*x.shape[:-1], self.features)


class PluginBlock(nn.Module):
    """One block. Its input is x + residual, and so is its output; see graph._write_block."""

    def __init__(self, name: str, block: FoldedBlock, decay: list[float], ranges: Ranges, dtype: torch.dtype):
        super().__init__()
        self.num_heads, self.decay, self.decomposed = block.num_heads, decay, block.decomposed
        norm = block.retention_layer_norm
        self.epsilon = norm.eps
        constants = {
            "pos_weight": taps_from_conv_weight(block.pos.weight), "pos_bias": block.pos.bias,
            "norm_weight": norm.weight, "norm_bias": norm.bias,
            "lepe_weight": block.lepe.weight, "lepe_bias": block.lepe.bias,
            "dwconv_weight": taps_from_conv_weight(block.dwconv.weight), "dwconv_bias": block.dwconv.bias,
            "fc2_bias": block.fc2.bias,
        }  # fmt: skip
        for key, value in constants.items():
            self.register_buffer(key, value.detach().to(dtype))
        self.final_layer_norm = block.final_layer_norm.to(dtype)
        self.qkv = PluginLinear(f"{name}.qkv", block.qkv, ranges, dtype, True)
        self.out_proj = PluginLinear(f"{name}.out_proj", block.out_proj, ranges, dtype, True)
        self.fc1 = PluginLinear(f"{name}.fc1", block.fc1, ranges, dtype, False)
        self.fc2 = PluginLinear(f"{name}.fc2", block.fc2, ranges, dtype, True, has_bias=False)

    def forward(self, x: Tensor, residual: Tensor | None, sin: Tensor, cos: Tensor) -> tuple[Tensor, Tensor]:
        x, normed = layer_depthwise_norm(
            x, self.pos_weight, self.pos_bias, self.norm_weight, self.norm_bias, residual, self.epsilon,
            self.qkv.plugin_scale,
        )  # fmt: skip
        retained = layer_retention(
            self.qkv(normed), sin, cos, self.lepe_weight, self.lepe_bias, self.num_heads, self.decay, self.decomposed,
            self.out_proj.plugin_scale,
        )  # fmt: skip
        x = x + self.out_proj(retained)
        residual = x + self.fc2_bias
        y = F.gelu(self.fc1(self.final_layer_norm(x)))
        y = layer_depthwise(y, self.dwconv_weight, self.dwconv_bias, self.fc2.plugin_scale)
        return self.fc2(y), residual


class PluginRMT(nn.Module):
    """The classifier. Images (b, 3, height, width) -> logits (b, num_classes), float32 both, in `dtype` between."""

    def __init__(self, model: FoldedRMT, ranges: Ranges, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype
        self.stem = model.stem.to(dtype)
        self.blocks = nn.ModuleList()
        self.downsamples = nn.ModuleList()
        for index, stage in enumerate(model.stages):
            decay = stage.decay.tolist()
            self.register_buffer(f"sin_{index}", stage.sin.to(dtype))
            self.register_buffer(f"cos_{index}", stage.cos.to(dtype))
            self.blocks.append(
                nn.ModuleList(
                    PluginBlock(f"stages.{index}.blocks.{number}", block, decay, ranges, dtype)
                    for number, block in enumerate(stage.blocks)
                )
            )
            self.downsamples.append(nn.Identity() if stage.downsample is None else stage.downsample.to(dtype))
        self.proj = PluginLinear("proj", model.proj, ranges, dtype, False)
        self.head = PluginLinear("head", model.head, ranges, dtype, False)
        self.aux_head = PluginLinear("aux_head", model.aux_head, ranges, dtype, False) if model.aux_head else None

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem[0](images.to(self.dtype))
        for conv in self.stem[1:]:
            x = conv(F.gelu(x))
        x = nhwc(x).contiguous()  # (b, h, w, c)
        for index, blocks in enumerate(self.blocks):
            residual = None
            for block in blocks:
                x, residual = block(x, residual, getattr(self, f"sin_{index}"), getattr(self, f"cos_{index}"))
            x = x + residual
            if index + 1 < len(self.blocks):
                x = nhwc(self.downsamples[index](nchw(x))).contiguous()
        logits = self.head(F.silu(self.proj(x)).mean(dim=(1, 2)))
        if self.aux_head is not None:
            logits = logits + 0.5 * self.aux_head(x).amax(dim=(1, 2))
        return logits.float()
