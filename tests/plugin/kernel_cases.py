"""Inputs for the plugins, and what they must give: ops/*/op.py, judged as the kernels' own tests judge."""

from collections.abc import Iterator

import numpy as np
import torch

from rmt_edge.ops.depthwise.onnx_function import OP_TYPES
from rmt_edge.ops.depthwise.op import quantize_int8
from rmt_edge.ops.retention.op import retention
from tests.ops.depthwise.test_depthwise import EPSILON, Case, assert_accurate
from tests.ops.retention.test_kernels import assert_within_reference_error, random_case
from tests.ptx.device import Device
from tests.ptx.plugin import Plugin

DYNAMIC = -1
RAW_STEP = 2.0**-5  # of an int8 qkv: exact in every type
# Share of INT8 values that may be a step off: in float16 the W pass rounds, in float32 another order of sums turns
# ties.
OFF_BY_ONE = {torch.float16: 0.1, torch.float32: 0.002}


def dynamic(array: np.ndarray) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an activation whose batch is not known when the engine is built."""
    return (DYNAMIC, *array.shape[1:]), array.dtype


def every_tactic(plugin: Plugin, arrays: list[np.ndarray]) -> Iterator[tuple[int, list[torch.Tensor]]]:
    """The outputs of each tactic, and of 0, which chooses."""
    for tactic in (0, *plugin.tactics):
        yield tactic, [torch.from_numpy(x) for x in plugin(arrays, tactic)]


def retention_plugin(
    device: Device, tensors: list[torch.Tensor], heads: int, decay: list[float], decomposed: bool, scale: float = 0.0,
    input_scale: float = 0.0, **how,
) -> tuple[Plugin, list[np.ndarray]]:  # fmt: skip
    """The plugin for those inputs, and they as arrays. how: of Plugin."""
    arrays = [x.numpy() for x in tensors]
    h, w, c = *arrays[0].shape[1:3], arrays[0].shape[3] // 3
    attributes = {"num_heads": heads, "decay": decay, "decomposed": int(decomposed), "channels": c}
    attributes |= {"output_scale": scale} if scale else {}
    attributes |= {"input_scale": input_scale} if input_scale else {}
    inputs = [dynamic(arrays[0]), *((x.shape, x.dtype) for x in arrays[1:])]
    return Plugin(device, "Retention", attributes, inputs, [(DYNAMIC, h, w, c)], **how), arrays


def check_retention(device: Device, shape: tuple[int, ...], decomposed: bool, dtype: torch.dtype) -> float:
    """Every tactic against the reference; returns the largest error. shape: b, h, w, heads, head dim."""
    tensors, (heads, decay) = random_case(*shape, dtype, "cpu")
    plugin, arrays = retention_plugin(device, tensors, heads, decay, decomposed, max_batch=shape[0], opt_batch=1)
    wanted, worst = retention(*(x.float() for x in tensors), heads, decay, decomposed), 0.0
    for _, (out,) in every_tactic(plugin, arrays):
        assert_within_reference_error(out, tensors, (heads, decay), decomposed)
        worst = max(worst, float((out.float() - wanted).abs().max()))
    plugin.close()
    return worst


def check_retention_int8(device: Device, shape: tuple[int, ...], decomposed: bool, dtype: torch.dtype) -> float:
    """The same with INT8 output; returns the share of values that are a step off."""
    tensors, (heads, decay) = random_case(*shape, dtype, "cpu")
    scale = 0.0125  # saturates: values reach 3, 127 steps are 1.6
    plugin, arrays = retention_plugin(device, tensors, heads, decay, decomposed, scale, max_batch=shape[0])
    values = retention(*(x.float() for x in tensors), heads, decay, decomposed)
    wanted = torch.round(values / scale).clamp(-128, 127)
    assert (wanted == 127).any() and (wanted == -128).any()
    worst = 0.0
    for tactic, (out,) in every_tactic(plugin, arrays):
        assert out.dtype == torch.int8
        off = (out.float() - wanted).abs()
        assert float(off.max()) <= 1, (tactic, float(off.max()))
        share = float((off > 0).float().mean())
        assert share <= OFF_BY_ONE[dtype], (tactic, share)
        worst = max(worst, share)
    plugin.close()
    return worst


def check_raw_retention(
    device: Device, shape: tuple[int, ...], decomposed: bool, is_int8_input: bool, scale: float
) -> float:
    """The same of a raw product in float16 or int8, with INT8 output if there is a scale; returns the largest error.

    The error may be twice that of the reference run in float16, and half a step more where the output is rounded.
    """
    tensors, (heads, decay) = random_case(*shape, torch.float16, "cpu")
    generator = torch.Generator().manual_seed(1)
    c3 = tensors[0].shape[3]
    vectors = [0.2 + torch.rand(c3, generator=generator), 0.3 * torch.randn(c3, generator=generator)]
    input_scale = RAW_STEP if is_int8_input else 0.0
    qkv = quantize_int8(tensors[0], RAW_STEP) if is_int8_input else tensors[0]
    tensors = [qkv, *tensors[1:], *(x.half() for x in vectors)]
    how = {"input_scale": input_scale, "max_batch": shape[0], "opt_batch": shape[0]}
    plugin, arrays = retention_plugin(device, tensors, heads, decay, decomposed, scale, **how)

    def reference(dtype: torch.dtype) -> torch.Tensor:
        x = [t if t.dtype == torch.int8 else t.to(dtype) for t in tensors]
        return retention(*x[:5], heads, decay, decomposed, *x[5:], input_scale)

    low, wide, worst = reference(torch.float16), reference(torch.float32), 0.0
    limit = 2 * float((low.float() - wide).abs().max()) + float((((low + 0.3) - 0.3) - low).abs().max())
    if scale:
        wide, limit = (wide / scale).clamp(-128, 127), limit / scale + 0.5
        assert (wide == 127).any() and (wide == -128).any()
    for tactic, (out,) in every_tactic(plugin, arrays):
        assert out.dtype == (torch.int8 if scale else torch.float16)
        error = float((out.float() - wide).abs().max())
        assert error <= limit, (tactic, error, limit)
        worst = max(worst, error)
    plugin.close()
    return worst


def depthwise_plugin(device: Device, op_type: str, case: Case, **how) -> tuple[Plugin, list[np.ndarray]]:
    has_residual, has_norm, *_ = OP_TYPES[op_type]
    arrays = [x.numpy() for x in case.tensors.values()]
    shape = (DYNAMIC, *arrays[0].shape[1:])
    attributes = {"channels": shape[-1]} | ({"epsilon": EPSILON} if has_norm else {})
    attributes |= {"output_scale": case.output_scale} if case.output_scale else {}
    attributes |= {"input_scale": case.input_scale} if case.input_scale else {}
    activations = ("x", "residual") if has_residual else ("x",)
    inputs = [
        dynamic(x) if name in activations else (x.shape, x.dtype)
        for name, x in zip(case.tensors, arrays, strict=True)
    ]  # fmt: skip
    return Plugin(device, op_type, attributes, inputs, [shape] * (1 + has_norm), **how), arrays


def check_depthwise(device: Device, op_type: str, case: Case) -> float:
    """Every tactic against the reference; returns the largest error of the floating-point output, 0 without one."""
    plugin, arrays = depthwise_plugin(device, op_type, case, max_batch=case.tensors["x"].shape[0])
    wanted, worst = case.reference(torch.float32)[0], 0.0
    for _, outputs in every_tactic(plugin, arrays):
        assert_accurate(outputs, case)
        if outputs[0].dtype != torch.int8:
            worst = max(worst, float((outputs[0].float() - wanted).abs().max()))
    plugin.close()
    return worst
