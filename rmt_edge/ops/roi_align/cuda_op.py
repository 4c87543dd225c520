"""The CUDA path of `torch.ops.rmt_edge.multi_level_roi_align`: import this file, and CUDA tensors take the kernel.

Forward by ops/roi_align/kernels.py, backward by the autograd of the reference, recomputed; regions have no gradient.
CPU tensors, and fake ones of any device, keep the composite reference that ops/roi_align/op.py registers.
"""

import torch

from rmt_edge.ops.roi_align.kernels import launch
from rmt_edge.ops.roi_align.op import multi_level_roi_align


class RoiAlignFunction(torch.autograd.Function):
    """The op with a gradient for p2 to p5: forward by the kernel, backward through the reference."""

    @staticmethod
    def forward(ctx, p2, p3, p4, p5, rois, output_size):
        ctx.save_for_backward(p2, p3, p4, p5, rois)
        ctx.output_size = output_size
        return launch(p2, p3, p4, p5, rois, output_size)

    @staticmethod
    def backward(ctx, grad):
        *features, rois = ctx.saved_tensors
        inputs = [x.detach().requires_grad_(need) for x, need in zip(features, ctx.needs_input_grad, strict=False)]
        wanted = [x for x in inputs if x.requires_grad]
        with torch.enable_grad():
            p2, p3, p4, p5 = inputs
            out = multi_level_roi_align(p2, p3, p4, p5, rois, ctx.output_size)
        found = iter(torch.autograd.grad(out, wanted, grad, allow_unused=True))  # a level may have no region
        return (*(next(found) if x.requires_grad else None for x in inputs), None, None)


_LIBRARY = torch.library.Library("rmt_edge", "IMPL")
_LIBRARY.impl("multi_level_roi_align", launch, "CUDA")
_LIBRARY.impl("multi_level_roi_align", RoiAlignFunction.apply, "AutogradCUDA")
