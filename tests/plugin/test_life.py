"""A plugin's life in TensorRT, with numbers: batches, contexts, tactics, memory, and what is refused.

On the machine of tests/ptx, so that each result is held to the reference and each access to its tensor.
"""

import hashlib

import numpy as np
import pytest
import torch

from rmt_edge.plugin.cxx import short_ptx
from tests.ops.depthwise.test_depthwise import FP16, FP32, assert_accurate, make_case
from tests.ops.retention.test_kernels import assert_within_reference_error, random_case
from tests.plugin.kernel_cases import depthwise_plugin, retention_plugin
from tests.ptx.device import CONTEXT
from tests.ptx.parse import GpuError

pytestmark = pytest.mark.usefixtures("one_thread")
SHAPE = (4, 5, 9, 2, 16)  # b, h, w, heads, head dim
OTHER_CONTEXT = 32
NEWER_SM, SM = 121, 86


def retention_case(batch=SHAPE[0], seed=0, dtype=FP16):
    tensors, (heads, decay) = random_case(batch, *SHAPE[1:], dtype, "cpu", seed)
    return tensors, heads, decay


def assert_right(out, tensors, heads, decay, decomposed=True):
    assert_within_reference_error(torch.from_numpy(out), tensors, (heads, decay), decomposed)


def first_images(tensors, count):
    return [tensors[0][:count].contiguous(), *tensors[1:]]


@pytest.fixture(params=[np.int64, np.int32], ids=["int64", "int32"])
def integers(request):
    return request.param


def test_batch_1_after_4_and_4_again(device):
    case = retention_case()
    plugin, arrays = retention_plugin(device, *case, True, opt_batch=2, max_batch=4)
    for batch in (4, 1, 4):
        (out,) = plugin([arrays[0][:batch], *arrays[1:]], plugin.tactics[-1])
        assert_right(out, first_images(case[0], batch), *case[1:])


@pytest.mark.parametrize("batch", [1, 3])
def test_sizes_are_those_of_the_call_without_a_change_of_shape(device, batch):
    case = retention_case()
    plugin, arrays = retention_plugin(device, *case, True, max_batch=4)
    plugin([arrays[0][:2], *arrays[1:]])
    (out,) = plugin([arrays[0][:batch], *arrays[1:]], is_told=False)
    assert_right(out, first_images(case[0], batch), *case[1:])


def test_primary_context_serves_where_none_is_current(device):
    case = retention_case(batch=1)
    before = device.driver.standin_primary_users()
    device.driver.standin_set_context(0)
    try:
        plugin, arrays = retention_plugin(device, *case, True)
        assert_right(plugin(arrays)[0], *case)
        plugin.close()
    finally:
        device.driver.standin_set_context(CONTEXT)
    assert device.driver.standin_primary_users() == before


def test_depthwise_batch_1_after_4(device):
    case = make_case((4, 5, 9, 80), 3, (True, True, True), FP16)
    plugin, arrays = depthwise_plugin(device, "AddDepthwiseResidualNormInt8", case, opt_batch=2, max_batch=4)
    full = plugin(arrays)
    assert_accurate([torch.from_numpy(x) for x in full], case)
    one = plugin([x[:1] if x.shape[0] == 4 and x.ndim == 4 else x for x in arrays])
    for got, wanted in zip(one, full, strict=True):
        assert np.array_equal(got, wanted[:1])


def test_int8_output_of_batch_1_after_4(device):
    """Values that no rounding can move: one token, so that the attention gives v; halves of a step go to the even."""
    d = 16
    tensors, (heads, decay) = random_case(4, 1, 1, 1, d, FP16, "cpu")
    tensors[0][..., 2 * d :] = torch.arange(d) - 7.5
    tensors[3].zero_()
    tensors[4].zero_()
    plugin, arrays = retention_plugin(device, tensors, heads, decay, True, scale=1.0, max_batch=4)
    wanted = [-8, -6, -6, -4, -4, -2, -2, 0, 0, 2, 2, 4, 4, 6, 6, 8]
    for batch in (4, 1):
        (out,) = plugin([arrays[0][:batch], *arrays[1:]])
        assert out.dtype == np.int8
        assert out.reshape(batch, d).tolist() == [wanted] * batch


def test_two_execution_contexts_do_not_disturb_each_other(device):
    case = retention_case()
    plugin, arrays = retention_plugin(device, *case, True, contexts=2)
    for context, batch, tactic in ((0, 4, plugin.tactics[0]), (1, 1, plugin.tactics[1]), (0, 2, 0), (1, 4, 0)):
        (out,) = plugin([arrays[0][:batch], *arrays[1:]], tactic, context)
        assert_right(out, first_images(case[0], batch), *case[1:])


def test_attributes_of_either_integer_type_are_taken(device, integers):
    case = retention_case(batch=1)
    plugin, arrays = retention_plugin(device, *case, False, integers=integers)
    assert_right(plugin(arrays)[0], *case, decomposed=False)


@pytest.mark.parametrize("dtype", [FP16, FP32], ids=["fp16", "fp32"])
def test_workspace_is_exactly_what_the_largest_batch_needs(device, dtype):
    case = retention_case(dtype=dtype)
    plugin, arrays = retention_plugin(device, *case, True, opt_batch=1, max_batch=4)
    b, h, w, n, d = SHAPE
    assert plugin.workspace_bytes == b * h * w * n * d * arrays[0].itemsize
    plugin.workspace_bytes -= 16
    with pytest.raises(GpuError, match="out of bounds"):
        plugin(arrays)


def test_every_batch_has_its_own_image(device):
    """Images that differ, in reverse order, give the outputs in reverse order."""
    case = retention_case(batch=3)
    plugin, arrays = retention_plugin(device, *case, True, max_batch=3)
    (out,) = plugin(arrays)
    (reverse,) = plugin([np.ascontiguousarray(arrays[0][::-1]), *arrays[1:]])
    assert np.array_equal(out[::-1], reverse)
    assert not np.array_equal(out[0], out[1])


def test_tensors_that_are_not_aligned_are_refused(device):
    plugin, arrays = retention_plugin(device, *retention_case(batch=1), True)
    with pytest.raises(GpuError, match=r"enqueue: Retention: qkv is null or not 16-byte aligned"):
        plugin(arrays, offset=8)
    case = make_case((1, 5, 9, 80), 3, (False, False, False), FP16)
    plugin, arrays = depthwise_plugin(device, "DepthwiseResidual", case)
    with pytest.raises(GpuError, match=r"enqueue: DepthwiseResidual: x is null or not 16-byte aligned"):
        plugin(arrays, offset=8)


def test_tensors_that_are_16_byte_aligned_are_enough(device):
    case = retention_case(batch=1)
    plugin, arrays = retention_plugin(device, *case, True)
    assert_right(plugin(arrays, offset=16)[0], *case)


def test_nothing_but_launches_while_a_graph_is_captured(device):
    case = retention_case(batch=1)
    plugin, arrays = retention_plugin(device, *case, True)
    device.driver.standin_set_capturing(1)
    device.events.clear()
    try:
        assert_right(plugin(arrays)[0], *case)
    finally:
        device.driver.standin_set_capturing(0)
    assert device.events == {"cuLaunchKernel": 2}


def test_what_a_plugin_allocates_is_freed_with_it(device):
    device.events.clear()
    plugin, arrays = retention_plugin(device, *retention_case(batch=1), True, contexts=2)
    plugin(arrays)
    plugin.close()
    assert device.events["cuMemAlloc"] == device.events["cuMemFree"] > 0


def test_a_second_cuda_context_gets_kernels_of_its_own(device):
    """A function of one context is not one of another: the stand-in refuses such a launch, as a driver does."""
    case = retention_case(batch=1)
    retention_plugin(device, *case, True)
    device.driver.standin_set_context(OTHER_CONTEXT)
    try:
        plugin, arrays = retention_plugin(device, *case, True)
        assert_right(plugin(arrays)[0], *case)
    finally:
        device.driver.standin_set_context(CONTEXT)


def sha256_of_text(text):
    return hashlib.sha256(text.encode()).hexdigest()


def test_newer_gpu_runs_the_embedded_ptx_with_the_same_numbers(device):
    case = retention_case(batch=2)
    plugin, arrays = retention_plugin(device, *case, True)
    (wanted,) = plugin(arrays)
    of_cubins = {x.image for x in device.launches[-2:]}
    embedded = {sha256_of_text(short_ptx(x)) for x in device.texts if sha256_of_text(x) in of_cubins}
    device.driver.standin_set_sm(NEWER_SM)
    device.driver.standin_set_context(OTHER_CONTEXT + 1)
    try:
        plugin, arrays = retention_plugin(device, *case, True)
        (out,) = plugin(arrays)
    finally:
        device.driver.standin_set_sm(SM)
        device.driver.standin_set_context(CONTEXT)
    assert {x.image for x in device.launches[-2:]} == embedded, "cubins come from the PTX that is embedded"
    assert np.array_equal(out, wanted)
