"""The CUDA path of `torch.ops.rmt_edge.depthwise_residual` and `.depthwise_residual_norm`.

Import this file, and CUDA tensors take the Triton kernel.

Forward by ops/depthwise/kernels.py, backward by the autograd of the reference, recomputed. CPU tensors, and fake ones
of any device, keep the composite reference that ops/depthwise/op.py registers.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from rmt_edge.ops.depthwise.kernels import launch
from rmt_edge.ops.depthwise.op import LAYER_NORM_EPSILON, depthwise_residual, depthwise_residual_norm


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def launch_residual(
    x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None = None, output_scale: float = 0.0
) -> Tensor:
    """depthwise_residual of op.py by the kernel; no gradient."""
    x, weight, bias = (tensor.contiguous() for tensor in (x, weight, bias))
    return launch(x, weight, bias, _contiguous(residual), output_scale=output_scale)[0]


def launch_residual_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    residual: Tensor | None = None,
    epsilon: float = LAYER_NORM_EPSILON,
    output_scale: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """depthwise_residual_norm of op.py by the kernel; no gradient."""
    x, weight, bias = (tensor.contiguous() for tensor in (x, weight, bias))
    norm_weight, norm_bias = norm_weight.contiguous(), norm_bias.contiguous()
    out, norm = launch(x, weight, bias, _contiguous(residual), norm_weight, norm_bias, epsilon, output_scale)
    assert norm is not None
    return out, norm


class DepthwiseFunction(torch.autograd.Function):
    """One of the ops with a gradient: forward by forward_op, backward through the reference.

    arguments: those of the op, tensors first; the last ones are numbers.
    """

    @staticmethod
    def forward(ctx, forward_op: Callable, reference: Callable, *arguments):
        ctx.reference = reference
        ctx.numbers = [x for x in arguments if isinstance(x, float)]
        ctx.save_for_backward(*arguments[: len(arguments) - len(ctx.numbers)])
        outputs = forward_op(*arguments)
        last = outputs[-1] if isinstance(outputs, tuple) else outputs
        if last.dtype == torch.int8:
            ctx.mark_non_differentiable(last)
        return outputs

    @staticmethod
    def backward(ctx, *grads):
        needed = ctx.needs_input_grad[2 : 2 + len(ctx.saved_tensors)]
        inputs = [
            None if x is None else x.detach().requires_grad_(need)
            for x, need in zip(ctx.saved_tensors, needed, strict=True)
        ]
        with torch.enable_grad():
            outputs = ctx.reference(*inputs, *ctx.numbers)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        pairs = [(out, grad) for out, grad in zip(outputs, grads, strict=True) if out.requires_grad]  # INT8 has none
        wanted = [x for x in inputs if x is not None and x.requires_grad]
        found: list[Tensor | None] = [None] * len(wanted)
        if pairs:
            of_outputs, upstream = zip(*pairs, strict=True)
            found = list(torch.autograd.grad(of_outputs, wanted, upstream, allow_unused=True))
        of_tensors = (found.pop(0) if need else None for need in needed)
        return None, None, *of_tensors, *(None for _ in ctx.numbers)


def _below_autograd(op: Callable) -> Callable:
    def forward(*arguments):
        with torch._C._AutoDispatchBelowAutograd():
            return op(*arguments)

    return forward


def _autograd_residual(x, weight, bias, residual=None, output_scale=0.0):
    forward = _below_autograd(torch.ops.rmt_edge.depthwise_residual)
    return DepthwiseFunction.apply(forward, depthwise_residual, x, weight, bias, residual, float(output_scale))


def _autograd_norm(
    x, weight, bias, norm_weight, norm_bias, residual=None, epsilon=LAYER_NORM_EPSILON, output_scale=0.0
):
    forward = _below_autograd(torch.ops.rmt_edge.depthwise_residual_norm)
    tensors = (x, weight, bias, norm_weight, norm_bias, residual)
    return DepthwiseFunction.apply(forward, depthwise_residual_norm, *tensors, float(epsilon), float(output_scale))


_LIBRARY = torch.library.Library("rmt_edge", "IMPL")
_LIBRARY.impl("depthwise_residual", launch_residual, "CUDA")
_LIBRARY.impl("depthwise_residual", _autograd_residual, "AutogradCUDA")
_LIBRARY.impl("depthwise_residual_norm", launch_residual_norm, "CUDA")
_LIBRARY.impl("depthwise_residual_norm", _autograd_norm, "AutogradCUDA")
