"""MultiLevelRoiAlign's ONNX function body, run by ONNX Runtime, against the op."""

import numpy as np
import onnx
import onnxruntime
import pytest

from rmt_edge.errors import RmtEdgeError
from rmt_edge.ops.roi_align.onnx_function import LARGEST_AREA, LEVEL_NAMES, roi_align_node, window_pixels
from rmt_edge.ops.roi_align.op import levels_of, multi_level_roi_align
from tests.boxes import maps_of, random_features, random_regions, roi_align_model, tensors

LIMIT = 1e-5  # of features of order 1: sums of float32 in another order


def run(model, arrays):
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (out,) = session.run(None, dict(zip((*LEVEL_NAMES, "rois"), arrays, strict=True)))
    return out


@pytest.mark.parametrize("output_size", [1, 7, 14])
@pytest.mark.parametrize("h, w", [(256, 320), (330, 250), (32, 32)])
def test_body_is_the_op(output_size, h, w):
    arrays = [*random_features(2, 8, h, w), random_regions(2, 60, h, w)]
    model = roi_align_model(2, 60, 8, maps_of(h, w), output_size)
    onnx.checker.check_model(model, full_check=True)
    wanted = multi_level_roi_align(*tensors(arrays), output_size).numpy()
    np.testing.assert_allclose(run(model, arrays), wanted, atol=LIMIT)


def test_body_in_half_precision_is_near_the_op():
    arrays = [*random_features(1, 16, 128, 160, np.float16), random_regions(1, 40, 128, 160)]
    out = run(roi_align_model(1, 40, 16, maps_of(128, 160), 7, np.float16), arrays)
    assert out.dtype == np.float16
    wide = [x.astype(np.float32) for x in arrays]
    wanted = multi_level_roi_align(*tensors(wide), 7).numpy()
    np.testing.assert_allclose(out, wanted, atol=4 * 2.0**-11 * np.abs(wanted).max())


def test_body_takes_any_batch_maps_up_to_the_largest_and_any_number_of_regions():
    model = roi_align_model("b", "n", 4, maps_of(256, 320), 7)
    for shape in model.graph.input[:4]:
        for axis in (1, 2):
            shape.type.tensor_type.shape.dim[axis].dim_param = f"{shape.name}_{axis}"
    for b, n, h, w in ((1, 11, 256, 320), (3, 20, 90, 320), (2, 15, 256, 64)):
        arrays = [*random_features(b, 4, h, w), random_regions(b, n, h, w, seed=n)]
        wanted = multi_level_roi_align(*tensors(arrays), 7).numpy()
        np.testing.assert_allclose(run(model, arrays), wanted, atol=LIMIT)


def touched_pixels(roi, maps, level):
    """Pixels of the window from the first to the last pixel that a region of that level may touch."""
    count = 1
    for axis, size in enumerate(reversed(maps[level])):
        start, end = (roi[axis + k] / 4 / 2**level - 0.5 for k in (0, 2))
        first = min(max(np.floor(start), 0), size - 1)
        count *= min(np.floor(min(max(end, 0), size - 1)) + 1, size - 1) - first + 1
    return count


@pytest.mark.parametrize("h, w", [(256, 320), (320, 256), (800, 1344), (64, 64)])
def test_window_holds_every_region_and_not_much_more(h, w):
    """Regions of all shapes, those as large as their level allows among them."""
    maps, rng = maps_of(h, w), np.random.default_rng(0)
    limit, most = window_pixels(maps), 0
    area = np.where(rng.random(20000) < 0.5, 0.999, rng.uniform(0, 30, 20000)) * 16 * LARGEST_AREA
    aspect = np.exp(rng.uniform(-6, 6, 20000))
    size = np.stack([np.sqrt(area * aspect), np.sqrt(area / aspect)], -1)
    corner = rng.uniform(0, 1, (20000, 2)) * np.maximum([w, h] - size, 1)
    rois = np.clip(np.concatenate([corner, corner + size], -1), 0, [w, h, w, h]).astype(np.float32)
    for roi, level in zip(rois, levels_of(*tensors([rois])).tolist(), strict=True):
        most = max(most, touched_pixels(roi, maps, level))
    assert 0.75 * limit < most <= limit


def test_wrong_node_is_refused():
    maps = maps_of(64, 64)
    with pytest.raises(RmtEdgeError, match="4 inputs and 4 maps"):
        roi_align_node(["a", "b", "c", "d"], "e", "node", 7, maps)
    with pytest.raises(RmtEdgeError, match="5 inputs and 3 maps"):
        roi_align_node(list("abcde"), "f", "node", 7, maps[:3])
    with pytest.raises(RmtEdgeError, match="output_size 0"):
        roi_align_node(list("abcde"), "f", "node", 0, maps)
