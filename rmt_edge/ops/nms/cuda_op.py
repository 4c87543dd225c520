"""The CUDA path of `torch.ops.rmt_edge.nms`: import this file, and CUDA tensors take the Triton kernels."""

import torch

from rmt_edge.ops.nms.kernels import launch

_LIBRARY = torch.library.Library("rmt_edge", "IMPL")
_LIBRARY.impl("nms", launch, "CUDA")
