"""The retention op against its formula written out, and the ONNX function body against the op."""

import math

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from rmt_edge.errors import RmtEdgeError
from rmt_edge.model.folded import FoldedBlock
from rmt_edge.model.rmt import RelativePosition
from rmt_edge.ops.retention.onnx_function import (
    DOMAIN,
    DOMAIN_VERSION,
    LEPE_KERNEL_SIZE,
    OP_TYPES,
    retention_function,
    retention_node,
)
from rmt_edge.ops.retention.op import retention

GRIDS = [(1, 1), (5, 9), (13, 7), (14, 14)]
# Distance to a float32 result of FP16 arithmetic with FP32 or FP16 sums, on values of order 1: 2^-11 of some units.
FP16_LIMIT = 2e-2


def operands(b, h, w, num_heads, d, seed=0):
    """qkv, sin, cos, lepe_weight, lepe_bias as float32 tensors, and the log-decays."""
    rng = np.random.default_rng(seed)
    c = num_heads * d
    position = RelativePosition(c, num_heads, 4)
    sin, cos = position(h, w)
    qkv = rng.standard_normal((b, h, w, 3 * c)).astype(np.float32)
    qkv[..., c : 2 * c] *= d**-0.5
    weight = 0.2 * rng.standard_normal((c, 1, 5, 5)).astype(np.float32)
    bias = rng.standard_normal(c).astype(np.float32)
    tensors = [torch.from_numpy(qkv), sin, cos, torch.from_numpy(weight), torch.from_numpy(bias)]
    return tensors, position.decay.tolist()


def attend(query, keys, values, positions, decay, at):
    """One query's softmax(q·k + decay·distance)·v in plain Python; positions are tuples of coordinates."""
    scores = [
        sum(a * b for a, b in zip(query, key, strict=True))
        + decay * sum(abs(x - y) for x, y in zip(positions[at], position, strict=True))
        for key, position in zip(keys, positions, strict=True)
    ]
    largest = max(scores)
    weights = [math.exp(x - largest) for x in scores]
    return [
        sum(weight * value[i] for weight, value in zip(weights, values, strict=True)) / sum(weights)
        for i in range(len(values[0]))
    ]


def rotate(x, angles):
    """Theta shift of one token: each pair (x0, x1) turned by its angle."""
    out = []
    for i in range(0, len(x), 2):
        sin, cos = math.sin(angles[i]), math.cos(angles[i])
        out += [x[i] * cos - x[i + 1] * sin, x[i + 1] * cos + x[i] * sin]
    return out


@pytest.mark.parametrize("decomposed", [True, False])
def test_the_op_is_its_formula(decomposed):
    b, h, w, num_heads, d = 1, 3, 4, 2, 4
    c = num_heads * d
    (qkv, sin, cos, weight, bias), decay = operands(b, h, w, num_heads, d)
    actual = retention(qkv, sin, cos, weight, bias, num_heads, decay, decomposed)[0].numpy()

    angle = RelativePosition(c, num_heads, 4).angle.tolist()
    expected = np.zeros((h, w, c))
    grid = [(y, x) for y in range(h) for x in range(w)]
    for n in range(num_heads):
        part = {
            name: {at: qkv[0, at[0], at[1], k * c + n * d : k * c + (n + 1) * d].tolist() for at in grid}
            for k, name in enumerate("qkv")
        }
        for index, at in enumerate(grid):
            angles = [index * a for a in angle]
            part["q"][at], part["k"][at] = rotate(part["q"][at], angles), rotate(part["k"][at], angles)
        passes = [[[(y, x) for x in range(w)] for y in range(h)], [[(y, x) for y in range(h)] for x in range(w)]]
        for lines in passes if decomposed else [[grid]]:
            part["v"] = {
                at: attend(
                    part["q"][at],
                    [part["k"][x] for x in line],
                    [part["v"][x] for x in line],
                    line,
                    decay[n],
                    line.index(at),
                )
                for line in lines
                for at in line
            }
        for at in grid:
            expected[at[0], at[1], n * d : (n + 1) * d] = part["v"][at]
    padded = np.pad(qkv[0, ..., 2 * c :].numpy(), ((2, 2), (2, 2), (0, 0)))
    for y, x in grid:
        window = padded[y : y + 5, x : x + 5]  # (5, 5, c)
        expected[y, x] += (window * weight[:, 0].permute(1, 2, 0).numpy()).sum(axis=(0, 1)) + bias.numpy()
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_the_op_is_registered_and_differentiable():
    (qkv, *rest), decay = operands(1, 2, 3, 2, 4)
    qkv = qkv.double().requires_grad_()
    rest = [x.double() for x in rest]
    op = torch.ops.rmt_edge.retention
    assert torch.equal(op(qkv, *rest, 2, decay, True), retention(qkv, *rest, 2, decay, True))
    torch.autograd.gradcheck(lambda x: op(x, *rest, 2, decay, True), qkv)


def raw_product(qkv, seed=1):
    """The product of which qkv are the true values, and its scale and bias. (…, 3c) and (3c,) float32 tensors."""
    rng = np.random.default_rng(seed)
    scale = torch.from_numpy(rng.uniform(0.2, 1, qkv.shape[-1:]).astype(np.float32))
    bias = torch.from_numpy(rng.standard_normal(qkv.shape[-1:]).astype(np.float32))
    return (qkv - bias) / scale, scale, bias


@pytest.mark.parametrize("decomposed", [True, False])
def test_a_raw_product_is_scaled_and_biased_first(decomposed):
    (qkv, *rest), decay = operands(2, 3, 4, 2, 16)
    product, scale, bias = raw_product(qkv)
    arguments = (*rest, 2, decay, decomposed)
    found = torch.ops.rmt_edge.retention(product, *arguments, scale, bias)
    torch.testing.assert_close(found, retention(qkv, *arguments), atol=1e-5, rtol=1e-5)
    steps = torch.round(product / 0.05).clamp(-128, 127)
    found = torch.ops.rmt_edge.retention(steps.to(torch.int8), *arguments, scale, bias, 0.05)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, retention(steps * 0.05 * scale + bias, *arguments), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("product", "scale", "bias", "input_scale", "message"),
    [
        (torch.int8, None, None, 0.05, r"qkv is torch\.int8 with no vectors"),
        (torch.int8, 96, 96, 0.0, "qkv is torch.int8 with the input_scale 0"),
        (torch.int8, 96, 96, float("inf"), "the input_scale inf"),
        (torch.int8, 95, 96, 0.05, r"qkv_scale is \(95,\)[^$]*96 channels"),
        (torch.float32, 96, 32, 0.0, r"qkv_bias is \(32,\)"),
        (torch.float32, 96, None, 0.0, r"qkv is torch\.float32 with scale\."),
        (torch.float32, None, None, 0.05, r"qkv is torch\.float32 with the input_scale 0\.05"),
    ],
)
def test_what_is_no_raw_product_is_refused(product, scale, bias, input_scale, message):
    (qkv, *rest), decay = operands(1, 2, 3, 2, 16)
    vectors = [None if x is None else torch.ones(x) for x in (scale, bias)]
    with pytest.raises(RmtEdgeError, match=message):
        retention(qkv.to(product), *rest, 2, decay, True, *vectors, input_scale)


def one_node_model(tensors, num_heads, decay, decomposed, dtype, opset=20):
    """An ONNX model of a single Retention; its qkv is the input, dynamic in the batch. tensors: 5, or 7 if scaled."""
    qkv, *constants = (x.numpy().astype(dtype) for x in tensors)
    _, h, w, c3 = qkv.shape
    names = ["sin", "cos", "lepe_weight", "lepe_bias", "qkv_scale", "qkv_bias"][: len(constants)]
    onnx_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    node = retention_node(["qkv", *names], "out", "retention", num_heads, decay, decomposed, c3 // 3)
    graph = helper.make_graph(
        [node],
        "retention",
        [helper.make_tensor_value_info("qkv", onnx_type, ["batch", h, w, c3])],
        [helper.make_tensor_value_info("out", onnx_type, ["batch", h, w, c3 // 3])],
        [numpy_helper.from_array(x, name) for x, name in zip(constants, names, strict=True)],
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)],
        functions=[retention_function(node.op_type, opset)],
        ir_version=10,
    )


@pytest.mark.parametrize("is_scaled", [False, True], ids=["", "scaled"])
@pytest.mark.parametrize("decomposed", [True, False])
@pytest.mark.parametrize(("num_heads", "d"), [(2, 16), (3, 32)])
@pytest.mark.parametrize(("h", "w"), GRIDS)
def test_the_onnx_function_is_the_op(h, w, num_heads, d, decomposed, is_scaled):
    tensors, decay = operands(3, h, w, num_heads, d)
    expected = retention(*tensors, num_heads, decay, decomposed).numpy()
    if is_scaled:
        product, scale, bias = raw_product(tensors[0])
        tensors = [product, *tensors[1:], scale, bias]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    for dtype, limit in ((np.float32, 1e-5), (np.float16, FP16_LIMIT)):
        model = one_node_model(tensors, num_heads, decay, decomposed, dtype)
        onnx.checker.check_model(model, full_check=True)
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        (actual,) = session.run(None, {"qkv": tensors[0].numpy().astype(dtype)})
        assert actual.dtype == dtype
        np.testing.assert_allclose(actual.astype(np.float32), expected, atol=limit)


def test_the_onnx_function_is_valid_from_opset_19():
    tensors, decay = operands(1, 2, 3, 2, 16)
    model = one_node_model(tensors, 2, decay, True, np.float32, opset=19)
    onnx.checker.check_model(model, full_check=True)
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT


@pytest.mark.parametrize("op_type", OP_TYPES)
def test_the_onnx_function_has_no_branch_and_says_its_kernel_shape(op_type):
    """An If becomes conditional layers in TensorRT; TensorRT 10.3 needs kernel_shape where a weight is computed."""
    nodes = retention_function(op_type, 20).node
    assert not [x for x in nodes if x.op_type == "If"]
    (conv,) = (x for x in nodes if x.op_type == "Conv")
    assert helper.get_node_attr_value(conv, "kernel_shape") == [5, 5]
    assert FoldedBlock(32, 2, 64, OP_TYPES[op_type][0]).lepe.kernel_size == (LEPE_KERNEL_SIZE, LEPE_KERNEL_SIZE)


def test_an_unknown_op_name_is_refused():
    with pytest.raises(RmtEdgeError, match=r"Retention is no Retention op[\s\S]*RetentionDecomposed, RetentionWhole"):
        retention_function("Retention", 20)


def test_a_node_with_one_vector_alone_is_refused():
    with pytest.raises(RmtEdgeError, match=r"node has 6 inputs[^$]*5, or 7 where qkv is a raw product"):
        retention_node(list("abcdef"), "out", "node", 2, [-0.1, -0.2], True, 32)
