"""The CUDA path of `torch.ops.rmt_edge.retention`: import this file, and CUDA tensors take the Triton kernels.

Forward by ops/retention/launch.py, backward by the autograd of the reference, recomputed. CPU tensors, and fake ones
of any device, keep the composite reference that ops/retention/op.py registers.
"""

import torch

from rmt_edge.ops.retention.launch import launch_retention
from rmt_edge.ops.retention.op import retention


class RetentionFunction(torch.autograd.Function):
    """The op with a gradient: forward by the kernel (or what the dispatcher finds), backward through the reference."""

    @staticmethod
    def forward(ctx, qkv, sin, cos, lepe_weight, lepe_bias, num_heads, decay, decomposed, forward_op):
        ctx.save_for_backward(qkv, sin, cos, lepe_weight, lepe_bias)
        ctx.attributes = (num_heads, decay, decomposed)
        return forward_op(qkv, sin, cos, lepe_weight, lepe_bias, num_heads, decay, decomposed)

    @staticmethod
    def backward(ctx, grad):
        needed = ctx.needs_input_grad[:5]
        inputs = [x.detach().requires_grad_(need) for x, need in zip(ctx.saved_tensors, needed, strict=True)]
        with torch.enable_grad():
            out = retention(*inputs, *ctx.attributes)
        grads = iter(torch.autograd.grad(out, [x for x in inputs if x.requires_grad], grad))
        return (*(next(grads) if need else None for need in needed), None, None, None, None)


def _forward_below_autograd(*args):
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.rmt_edge.retention(*args)


def _autograd(qkv, sin, cos, lepe_weight, lepe_bias, num_heads, decay, decomposed):
    return RetentionFunction.apply(
        qkv, sin, cos, lepe_weight, lepe_bias, num_heads, decay, decomposed, _forward_below_autograd
    )


_LIBRARY = torch.library.Library("rmt_edge", "IMPL")
_LIBRARY.impl("retention", launch_retention, "CUDA")
_LIBRARY.impl("retention", _autograd, "AutogradCUDA")
