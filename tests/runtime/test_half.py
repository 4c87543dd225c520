"""A file on the CPU rounds what an engine rounds: held to PyTorch's own FP16, and to the values themselves."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from rmt_edge.artifact import QUANTIZED, read_artifact
from rmt_edge.errors import RmtEdgeError
from rmt_edge.graph.export import folded_from_file
from rmt_edge.metrics import relative_error
from rmt_edge.runtime.half import half_tensors, rounded_to_half
from rmt_edge.runtime.onnx_runner import OnnxRunner, open_onnx
from rmt_edge.runtime.runner import noise_images


@pytest.fixture(scope="module")
def model(onnx_files):
    return onnx.load(onnx_files["fp16"])


def test_the_error_is_that_of_pytorch_in_half(onnx_files, quantized):
    """PyTorch's CPU rounds every tensor of a model in half and sums in float32, as a GPU does."""
    folded, _ = folded_from_file(read_artifact(quantized["fp16"], QUANTIZED))
    images = noise_images(6, (3, 40, 48))
    with torch.no_grad():
        exact = folded(torch.from_numpy(images)).numpy()
        half = folded.half()(torch.from_numpy(images).half()).float().numpy()
    of_torch = relative_error(half, exact)
    of_engine = relative_error(open_onnx(onnx_files["fp16"])(images)["logits"], exact)
    as_is = relative_error(OnnxRunner(onnx_files["fp16"])(images)["logits"], exact)
    assert 0.6 * of_torch < of_engine < 1.6 * of_torch, (of_torch, of_engine)
    assert as_is < 0.9 * of_engine  # ONNX Runtime's own run flatters: 2.4 times on the trained reference


@pytest.mark.parametrize("recipe", ["fp16", "int8"])
def test_every_tensor_that_was_fp16_holds_fp16_values(onnx_files, recipe):
    model = onnx.load(onnx_files[recipe])
    half = sorted(half_tensors(model))
    assert len(half) > 50
    made = rounded_to_half(model)
    made.graph.output.extend(helper.make_tensor_value_info(x, TensorProto.FLOAT, None) for x in half)
    session = OnnxRunner(onnx_files[recipe], content=made.SerializeToString()).session
    found = dict(zip(half, session.run(half, {"images": noise_images(1, (3, 40, 48))}), strict=True))
    assert not [name for name, x in found.items() if (x != x.astype(np.float16)).any()]


def test_constants_keep_their_values_and_the_model_is_left_alone(model):
    before = model.SerializeToString()
    made = rounded_to_half(model)
    assert model.SerializeToString() == before
    constants = {x.name: numpy_helper.to_array(x) for x in model.graph.initializer}
    for constant in made.graph.initializer:
        assert constant.data_type != TensorProto.FLOAT16
        np.testing.assert_array_equal(numpy_helper.to_array(constant), constants[constant.name])
    onnx.checker.check_model(made, full_check=True)


def test_an_overflow_of_fp16_is_one_here_too():
    """ONNX Runtime's own run of the same file goes on in float32, and comes back with a number."""
    half = numpy_helper.from_array(np.array([300.0], np.float16), "k")
    nodes = [
        helper.make_node("Cast", ["images"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("Mul", ["h", "k"], ["big"]),
        helper.make_node("Div", ["big", "k"], ["small"]),
        helper.make_node("Cast", ["small"], ["logits"], to=TensorProto.FLOAT),
    ]
    shape = [1, 3, 2, 2]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)], [half],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    images = np.full(shape, 300.0, np.float32)
    run = OnnxRunner(Path("x"), content=rounded_to_half(model).SerializeToString())
    assert np.isinf(run(images)["logits"]).all()


def test_fp32_files_run_as_they_are_and_latency_is_measured_without_rounding(onnx_files):
    images = noise_images(2, (3, 40, 48))
    np.testing.assert_array_equal(
        open_onnx(onnx_files["fp32"])(images)["logits"], OnnxRunner(onnx_files["fp32"])(images)["logits"]
    )
    as_is = open_onnx(onnx_files["fp16"], as_engine=False)
    np.testing.assert_array_equal(as_is(images)["logits"], OnnxRunner(onnx_files["fp16"])(images)["logits"])


def test_an_fp16_border_is_refused(model):
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    changed.graph.node[-1].attribute[0].i = TensorProto.FLOAT16
    changed.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    with pytest.raises(RmtEdgeError, match=r"logits of the model is FP16"):
        rounded_to_half(changed)
