"""Nms's ONNX function body, run by ONNX Runtime, against the op: exact."""

import numpy as np
import onnx
import onnxruntime
import pytest

from rmt_edge.errors import RmtEdgeError
from rmt_edge.ops.nms.onnx_function import nms_node
from rmt_edge.ops.nms.op import nms
from tests.boxes import cases_of_boxes, chain_of_boxes, nms_model, random_boxes, tensors


def run(model, arrays):
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, dict(zip(("boxes", "scores", "ids"), arrays, strict=True)))


@pytest.mark.parametrize("case", cases_of_boxes().values(), ids=cases_of_boxes())
def test_body_is_the_op(case):
    arrays, iou_threshold, score_threshold, m = case
    model = nms_model(*arrays[1].shape, iou_threshold, score_threshold, m)
    onnx.checker.check_model(model, full_check=True)
    wanted = nms(*tensors(arrays), iou_threshold, score_threshold, m)
    for got, x in zip(run(model, arrays), wanted, strict=True):
        np.testing.assert_array_equal(got, x.numpy())


def test_body_takes_any_batch_and_number_of_boxes():
    model = nms_model("b", "n", 0.5, 0.05, 8)
    for b, n in ((1, 8), (3, 50)):
        arrays = random_boxes(b, n, seed=b)
        for got, x in zip(run(model, arrays), nms(*tensors(arrays), 0.5, 0.05, 8), strict=True):
            np.testing.assert_array_equal(got, x.numpy())


def steps_to_the_end(arrays, iou_threshold):
    """How often the body's loop goes round before nothing changes, by its rule in numpy; boxes best first, one id."""
    boxes = arrays[0][0].astype(np.float64)
    low, high = np.maximum(boxes[:, None, :2], boxes[None, :, :2]), np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    rivals = np.triu(shared / (area[:, None] + area[None] - shared) > iou_threshold, 1)
    keep, steps = np.ones(len(boxes), bool), 0
    while True:
        new = ~(rivals & keep[:, None]).any(0)
        steps += 1
        if (new == keep).all():
            return steps
        keep = new


def test_long_chain_takes_a_step_a_box_and_the_loop_takes_them():
    """No fixed number of steps would do: 12 give another result here."""
    arrays = chain_of_boxes(300)
    assert steps_to_the_end(arrays, 0.5) == 300
    rng = np.random.default_rng(0)
    order = rng.permutation(300)
    shuffled = [x[:, order] for x in arrays]
    found = run(nms_model(1, 300, 0.5, -1.0, 300), shuffled)
    assert found[3][0] == 150
    np.testing.assert_array_equal(found[0][0, :150], arrays[0][0, ::2])


def test_random_boxes_take_few_steps():
    steps = []
    for seed in range(20):
        boxes, scores, _ = random_boxes(1, 400, seed)
        order = np.argsort(-scores[0], kind="stable")
        steps.append(steps_to_the_end([boxes[:, order]], 0.5))
    assert np.median(steps) <= 8 and max(steps) <= 14, steps


WRONG = {
    "inputs": (dict(inputs=["boxes"]), "1 inputs and 4 outputs"),
    "outputs": (dict(outputs=["boxes"]), "3 inputs and 1 outputs"),
    "iou_threshold": (dict(iou_threshold=1.5), "iou_threshold 1.5"),
    "score_threshold": (dict(score_threshold=float("-inf")), "score_threshold -inf"),
    "max_outputs": (dict(max_outputs=0), "max_outputs 0"),
}


@pytest.mark.parametrize("change, message", WRONG.values(), ids=WRONG)
def test_wrong_node_is_refused(change, message):
    right = dict(inputs=["a", "b", "c"], outputs=list("defg"), name="nms")
    right |= dict(iou_threshold=0.5, score_threshold=0.05, max_outputs=5)
    with pytest.raises(RmtEdgeError, match=message):
        nms_node(**right | change)
