"""What TensorRT-RTX makes of Nms and MultiLevelRoiAlign without a GPU: as plugins, as bodies, and what is refused."""

import re

import numpy as np
import onnx
import pytest

from rmt_edge.graph.plugin_form import to_plugin
from tests.boxes import maps_of, nms_model, random_features, roi_align_model
from tests.plugin.models import change_attributes

PICTURE = (256, 320)
DTYPES = pytest.mark.parametrize("dtype", [np.float16, np.float32], ids=["fp16", "fp32"])


def nms_plugin_model(changes=None, n=300, m=100):
    """One Nms plugin node, the batch dynamic. changes: attributes to replace, or to drop if None."""
    return as_plugin(nms_model("b", n, 0.7, -1.0, m, with_body=False), changes)


def roi_align_plugin_model(changes=None, dtype=np.float16, c=64, s=7):
    return as_plugin(roi_align_model("b", 50, c, maps_of(*PICTURE), s, dtype, with_body=False), changes)


def as_plugin(model, changes):
    to_plugin(model.graph.node[0])
    change_attributes(model.graph.node[0], changes or {})
    return model


def layers_of_type(built, kind):
    return [x for x in built["layers"] if f"LayerType: {kind}" in x]


@pytest.mark.trt
def test_engine_of_nms_is_the_plugin_layer(build_engine):
    built = build_engine(nms_plugin_model())
    assert built["plugin_layers"] == 1 and built["engine_bytes"] > 0, built
    (plugin,) = layers_of_type(built, "custom_layer")
    outputs = plugin.split("Outputs: ")[1]
    assert outputs.count("Datatype: Int32") == 2 and outputs.count("Datatype: Float") == 2


@pytest.mark.trt
@DTYPES
@pytest.mark.parametrize("s", [7, 14])
def test_engine_of_roi_align_is_the_plugin_layer(build_engine, dtype, s):
    built = build_engine(roi_align_plugin_model(dtype=dtype, s=s))
    assert built["plugin_layers"] == 1 and built["engine_bytes"] > 0, built
    (plugin,) = layers_of_type(built, "custom_layer")
    assert ("Datatype: Half" in plugin.split("Outputs: ")[1]) == (dtype == np.float16)


@pytest.mark.trt
@pytest.mark.parametrize("n, m", [(4819, 1000), (1000, 100)])
def test_engine_of_the_body_of_nms_builds_without_a_plugin(build_engine_with_bodies, n, m):
    built = build_engine_with_bodies(nms_model("b", n, 0.7, -1.0, m))
    assert built["plugin_layers"] == 0 and built["engine_bytes"] > 0, built


@pytest.mark.trt
@DTYPES
def test_engine_of_the_body_of_roi_align_builds_without_a_plugin(build_engine_with_bodies, dtype):
    built = build_engine_with_bodies(roi_align_model("b", 1000, 256, maps_of(800, 1344), 7, dtype))
    assert built["plugin_layers"] == 0 and built["engine_bytes"] > 0, built


BAD_NMS = {
    "no iou_threshold": (dict(changes=dict(iou_threshold=None)), "attribute iou_threshold is missing"),
    "iou_threshold": (dict(changes=dict(iou_threshold=1.5)), r"iou_threshold is 1\.50*; it must be 0 to 1"),
    "no score_threshold": (dict(changes=dict(score_threshold=None)), "attribute score_threshold is missing"),
    "score_threshold": (dict(changes=dict(score_threshold=float("nan"))), "score_threshold holds a value that is not"),
    "no max_outputs": (dict(changes=dict(max_outputs=None)), "attribute max_outputs is missing"),
    "max_outputs": (dict(changes=dict(max_outputs=0)), "max_outputs is 0; it must be 1 or more"),
    "too many outputs": (dict(m=301), "max_outputs is 301, more than the 300 boxes"),
    "too many boxes": (dict(n=8193), r"8193 boxes is out of range. Note: .* 1 to 8192 boxes"),
}


@pytest.mark.trt
@pytest.mark.parametrize("arguments, message", BAD_NMS.values(), ids=BAD_NMS)
def test_wrong_nms_is_refused_with_a_message(build_engine, arguments, message):
    assert_refused(build_engine(nms_plugin_model(**arguments)), message, "Nms")


BAD_ROI_ALIGN = {
    "no output_size": (dict(changes=dict(output_size=None)), "attribute output_size is missing"),
    "output_size": (dict(changes=dict(output_size=65)), "output_size is 65; it must be 1 to 64"),
    "channels": (dict(c=40), "40 channels are unsupported; supported: multiples of 16"),
}


@pytest.mark.trt
@pytest.mark.parametrize("arguments, message", BAD_ROI_ALIGN.values(), ids=BAD_ROI_ALIGN)
def test_wrong_roi_align_is_refused_with_a_message(build_engine, arguments, message):
    assert_refused(build_engine(roi_align_plugin_model(**arguments)), message, "MultiLevelRoiAlign")


def assert_refused(built, message, op):
    assert built["engine_bytes"] == 0
    assert re.search(message, built["error"]), built["error"]
    assert f"rmt_edge: error: {op}" in built["stderr"]


def with_constant(model, name, array):
    """The model with one of its inputs a constant."""
    kept = [x for x in model.graph.input if x.name != name]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return model


MAP = random_features(1, 64, *PICTURE, np.float16)[3]
OF_OTHER_KIND = {
    "ids": (nms_plugin_model, "ids", np.zeros((1, 300), np.float32), "ids has data type 0, not 3 beside boxes of 0"),
    "scores": (
        nms_plugin_model,
        "scores",
        np.zeros((1, 299), np.float32),
        r"scores must be \(., 300\), not \(1, 299\)",
    ),
    "boxes": (
        nms_plugin_model,
        "boxes",
        np.zeros((1, 300, 5), np.float32),
        r"boxes must be \(b, n, 4\), not \(1, 300, 5",
    ),
    "half boxes": (nms_plugin_model, "boxes", np.zeros((1, 300, 4), np.float16), "has data type 0, not 1 beside boxes"),
    "rois": (roi_align_plugin_model, "rois", np.zeros((1, 50, 4), np.float16), "rois has data type 1, not 0 beside p2"),
    "five": (roi_align_plugin_model, "rois", np.zeros((1, 50, 5), np.float32), r"rois must be .* not \(1, 50, 5\)"),
    "maps": (roi_align_plugin_model, "p5", MAP[..., :32], r"p5 is \(1, 8, 10, 32\) beside p2 of \(., 64, 80, 64\)"),
    "map type": (roi_align_plugin_model, "p5", MAP.astype(np.float32), "p5 has data type 0, not 1 beside p2 of 1"),
}


@pytest.mark.trt
@pytest.mark.parametrize("make, name, array, message", OF_OTHER_KIND.values(), ids=OF_OTHER_KIND)
def test_input_of_another_type_or_shape_is_refused_with_a_message(build_engine, make, name, array, message):
    built = build_engine(with_constant(make(), name, array))
    assert built["engine_bytes"] == 0
    assert re.search(message, built["error"]), built["error"]
