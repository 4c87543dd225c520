"""One level below engines: the folded form in PyTorch under a CUDA graph, with and without the plugin's kernels.

For a card on which TensorRT-RTX does not run. Both forms are engine/torch_module.py in FP16, so they differ in nothing
but the two ops: `kernels` launches the plugin library's cubins by their C entry points, `operators` computes the
references of ops/retention/op.py and ops/depthwise/op.py. Errors are against the float32 folded form on the same
images.
"""

import ctypes
import statistics
from pathlib import Path
from typing import Any

import torch
from kernels import as_cuda_graph, latencies_ms

from rmt_edge.engine import torch_module as plugin_form
from rmt_edge.engine.torch_module import PluginRMT
from rmt_edge.model.checkpoint import load_checkpoint
from rmt_edge.model.folded import folded_from_model
from rmt_edge.plugin import load

FLOAT16 = 1  # RMT_EDGE_FLOAT16 of plugin/cpp/common/libraryApi.h
IMAGES = 8  # for the errors


def pointer(tensor: torch.Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def use_library(path: Path) -> None:
    """Make the plugin form's ops launch the library's kernels for tensors on the GPU. FP16 alone."""
    library = load.open_library(path)

    def checked(status: int) -> None:
        if status:
            raise RuntimeError(load.take_last_error(path))

    def stream() -> ctypes.c_void_p:
        return ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)

    decays: dict[tuple[float, ...], torch.Tensor] = {}

    @plugin_form.layer_retention.register_kernel("cuda")
    def retention(qkv, sin, cos, lepe_weight, lepe_bias, num_heads, decay, decomposed, output_scale):
        assert output_scale == 0 and qkv.dtype == torch.float16, (output_scale, qkv.dtype)
        b, h, w, c3 = qkv.shape
        sizes = [b, h, w, num_heads, c3 // 3 // num_heads, int(decomposed), FLOAT16]
        key = tuple(decay)
        if key not in decays:
            decays[key] = torch.tensor(decay, device=qkv.device)
        out = qkv.new_empty((b, h, w, c3 // 3))
        workspace = qkv.new_empty(library.rmt_retention_workspace_bytes(*sizes) or 16, dtype=torch.uint8)
        tensors = (qkv.contiguous(), sin, cos, lepe_weight, lepe_bias, decays[key])
        pointers = [
            *map(pointer, tensors),
            None,
            None,
            pointer(out),
            pointer(workspace),
        ]  # true values: no scale, no bias
        checked(library.rmt_retention_launch(*pointers, *sizes, ctypes.c_float(0), ctypes.c_float(0), 0, stream()))
        return out

    def depthwise(x, weight, bias, residual, norm_weight, norm_bias, epsilon):
        x, residual = x.contiguous(), None if residual is None else residual.contiguous()
        out = torch.empty_like(x)
        norm = None if norm_weight is None else torch.empty_like(x)
        pointers = [pointer(t) for t in (x, weight, bias, residual, norm_weight, norm_bias, out, norm)]
        sizes = [*x.shape, FLOAT16]
        floats = [ctypes.c_float(epsilon), ctypes.c_float(0)]
        checked(library.rmt_depthwise_residual_launch(*pointers, *sizes, *floats, 0, stream()))
        return out, norm

    @plugin_form.layer_depthwise.register_kernel("cuda")
    def plain(x, weight, bias, output_scale):
        assert output_scale == 0, output_scale
        return depthwise(x, weight, bias, None, None, None, 0.0)[0]

    @plugin_form.layer_depthwise_norm.register_kernel("cuda")
    def with_norm(x, weight, bias, norm_weight, norm_bias, residual, epsilon, output_scale):
        assert output_scale == 0, output_scale
        return depthwise(x, weight, bias, residual, norm_weight, norm_bias, epsilon)


def compare_ops(checkpoint: Path, library: Path, batches: tuple[int, ...]) -> dict[str, Any]:
    """The errors and latencies of a checkpoint by either ops. The ops stay with the library's kernels afterwards."""
    model = load_checkpoint(checkpoint)
    size = model.preprocessing
    folded = folded_from_model(model, size.height, size.width)
    images = torch.randn(max(*batches, IMAGES), 3, size.height, size.width, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = folded(images[:IMAGES])
        form = PluginRMT(folded, {}, torch.float16).eval().cuda()
        images = images.cuda()
        found: dict[str, Any] = {"checkpoint": checkpoint.name, "rows": []}
        for name in ("operators", "kernels"):
            if name == "kernels":
                use_library(library)
            error = (form(images[:IMAGES]).cpu() - wanted).norm() / wanted.norm()
            for batch in batches:
                part = images[:batch].contiguous()
                samples = latencies_ms(as_cuda_graph(lambda part=part: form(part)))
                found["rows"].append({"ops": name, "batch": batch, "relative_error": float(error),
                                      "p50_ms": statistics.median(samples), "samples_ms": samples})  # fmt: skip
    return found
