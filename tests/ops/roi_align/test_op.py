"""The MultiLevelRoiAlign op against ONNX Runtime's RoiAlign of each level, and against the public code's features."""

import math

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from rmt_edge.errors import RmtEdgeError
from rmt_edge.ops.roi_align.op import STRIDES, levels_of, multi_level_roi_align
from tests.boxes import random_features, random_regions, tensors
from tests.conftest import ROOT
from tests.pyramid import golden_pyramid

GOLDEN = ROOT / "tests" / "golden" / "downstream"
LIMIT = 1e-5  # of features of order 1: sums of float32 in another order


def runtime_roi_align(level, features, rois, output_size):
    """ONNX Runtime's own operator on one level of one image. features: (h, w, c). Returns (n, s, s, c)."""
    info = helper.make_tensor_value_info
    node = helper.make_node(
        "RoiAlign", ["x", "rois", "batch"], ["y"], mode="avg", sampling_ratio=0, spatial_scale=1 / STRIDES[level],
        output_height=output_size, output_width=output_size, coordinate_transformation_mode="half_pixel",
    )  # fmt: skip
    graph = helper.make_graph(
        [node], "roi_align",
        [info("x", TensorProto.FLOAT, [1, None, None, None]), info("rois", TensorProto.FLOAT, [None, 4]),
         info("batch", TensorProto.INT64, [None])],
        [info("y", TensorProto.FLOAT, [None, None, None, None])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    x = np.ascontiguousarray(features.transpose(2, 0, 1)[None])
    (y,) = session.run(None, {"x": x, "rois": rois, "batch": np.zeros(len(rois), np.int64)})
    return y.transpose(0, 2, 3, 1)


def level_by_logarithm(x1, y1, x2, y2):
    """floor(log2(√area / 56 + 1e-6)), 0 to 3, in double precision."""
    return min(max(math.floor(math.log2(math.sqrt(max((x2 - x1) * (y2 - y1), 0)) / 56 + 1e-6)), 0), 3)


@pytest.mark.parametrize("output_size", [7, 14])
@pytest.mark.parametrize("h, w", [(250, 331), (480, 512)])
def test_op_is_onnx_runtimes_operator_on_the_level_of_each_region(output_size, h, w):
    features, rois = random_features(2, 8, h, w), random_regions(2, 60, h, w)
    found = multi_level_roi_align(*tensors([*features, rois]), output_size).numpy()
    assert found.shape == (2, 60, output_size, output_size, 8)
    seen = set()
    for image in range(2):
        for region, roi in enumerate(rois[image]):
            level = level_by_logarithm(*roi.astype(np.float64).tolist())
            seen.add(level)
            wanted = runtime_roi_align(level, features[level][image], roi[None], output_size)
            np.testing.assert_allclose(found[image, region], wanted[0], atol=LIMIT, err_msg=f"{roi} of level {level}")
    assert seen == set(range(3 + (h > 448)))


@pytest.mark.slow
def test_op_gives_the_features_of_the_public_code():
    golden, levels = golden_pyramid(GOLDEN, "maskrcnn_t_240x310")
    wanted = golden["roi_features"].transpose(0, 2, 3, 1)  # 8 regions, every 8th channel
    rois = torch.from_numpy(golden["proposals"][None, : len(wanted), :4])
    found = multi_level_roi_align(*levels, rois, 7)[0, ..., ::8].numpy()
    assert np.abs(wanted).max() > 1
    np.testing.assert_allclose(found, wanted, atol=1e-3)


def test_levels_change_at_112_224_and_448_pixels():
    sides = np.array([1.0, 111.9, 112.1, 223.9, 224.1, 447.9, 448.1, 5000.0], np.float32)
    rois = torch.from_numpy(np.stack([0 * sides, 0 * sides, sides, sides], -1))
    assert levels_of(rois).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    flat = torch.tensor([[0.0, 0, 12544, 1], [5, 5, 5, 5], [9, 9, 5, 20]])  # as large as 112², empty, negative
    assert levels_of(flat).tolist() == [1, 0, 0]


def test_region_without_extent_gives_zeros():
    features = tensors(random_features(1, 4, 64, 64))
    rois = torch.tensor([[[10.0, 10, 10, 30], [10, 10, 30, 10], [0, 0, 0, 0], [30, 30, 10, 10]]])
    assert not multi_level_roi_align(*features, rois, 7).any()


def test_constant_features_give_the_constant_inside_the_map():
    features = [torch.full_like(x, 3.0) for x in tensors(random_features(1, 4, 128, 96))]
    found = multi_level_roi_align(*features, torch.from_numpy(random_regions(1, 40, 128, 96)), 7)
    has_extent = found.abs().amax((2, 3, 4))[0] > 0
    assert 30 < int(has_extent.sum()) < 40
    torch.testing.assert_close(found[0, has_extent], torch.full_like(found[0, has_extent], 3.0))


def test_op_is_registered_and_has_a_gradient_for_features():
    features = [x.double().requires_grad_() for x in tensors(random_features(1, 2, 40, 48))]
    rois = torch.from_numpy(random_regions(1, 12, 40, 48)).double()
    op = torch.ops.rmt_edge.multi_level_roi_align
    torch.testing.assert_close(op(*features, rois, 3), multi_level_roi_align(*features, rois, 3))
    assert torch.autograd.gradcheck(lambda *x: op(*x, rois, 3), features, fast_mode=True)


def test_half_precision_is_rounded_once():
    features = [x.half() for x in tensors(random_features(1, 8, 64, 96))]
    rois = torch.from_numpy(random_regions(1, 20, 64, 96))
    wide = multi_level_roi_align(*(x.float() for x in features), rois, 7)
    assert torch.equal(multi_level_roi_align(*features, rois, 7), wide.half())


def test_what_the_op_does_not_take_is_refused():
    features, rois = tensors(random_features(1, 8, 64, 96)), torch.zeros(1, 3, 4)
    with pytest.raises(RmtEdgeError, match=r"p4 has the shape \(1, 4, 6, 4\)"):
        multi_level_roi_align(*features[:2], features[2][..., :4], features[3], rois, 7)
    with pytest.raises(RmtEdgeError, match=r"rois have the shape \(2, 3, 4\)"):
        multi_level_roi_align(*features, torch.zeros(2, 3, 4), 7)
    with pytest.raises(RmtEdgeError, match="output_size is 0"):
        multi_level_roi_align(*features, rois, 0)
