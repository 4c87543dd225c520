"""The Nms op against ONNX Runtime's NonMaxSuppression, and against what the public code made of an RPN's outputs."""

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from rmt_edge.errors import RmtEdgeError
from rmt_edge.ops.nms.op import nms
from tests.boxes import IDS, cases_of_boxes, chain_of_boxes, random_boxes, tensors
from tests.conftest import ROOT

GOLDEN = ROOT / "tests" / "golden" / "downstream" / "maskrcnn_t_240x310.npz"
STRIDES = (4, 8, 16, 32, 64)  # of the RPN's levels
PICTURE = (310, 240)  # w, h before the padding


def runtime_nms(boxes, scores, ids, iou_threshold, score_threshold):
    """Indices that ONNX Runtime's own operator keeps of one image, class by class: it knows no shift. Best first."""
    info = helper.make_tensor_value_info
    names = ["boxes", "scores", "most", "iou", "least"]
    graph = helper.make_graph(
        [helper.make_node("NonMaxSuppression", names, ["found"])], "nms",
        [info("boxes", TensorProto.FLOAT, [1, None, 4]), info("scores", TensorProto.FLOAT, [1, None, None]),
         info("most", TensorProto.INT64, [1]), info("iou", TensorProto.FLOAT, [1]),
         info("least", TensorProto.FLOAT, [1])],
        [info("found", TensorProto.INT64, [None, 3])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    by_id = np.where(ids[None] == np.arange(IDS)[:, None], scores[None], np.float32(-1e9))[None]
    numbers = [np.array([x], kind) for x, kind in ((10**6, np.int64), (iou_threshold, np.float32),
                                                   (score_threshold, np.float32))]  # fmt: skip
    (found,) = session.run(None, dict(zip(names, [boxes[None], by_id, *numbers], strict=True)))
    kept = found[:, 2]
    return kept[np.lexsort((kept, -scores[kept]))]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("iou_threshold", [0.3, 0.5, 0.7])
def test_op_keeps_what_onnx_runtime_keeps(seed, iou_threshold):
    boxes, scores, ids = random_boxes(1, 250, seed)
    wanted = runtime_nms(boxes[0], scores[0], ids[0], iou_threshold, 0.05)
    assert 0 < len(wanted) < 250
    found = nms(*tensors((boxes, scores, ids)), iou_threshold, 0.05, 250)
    assert int(found[3]) == len(wanted)
    for got, given in zip(found, (boxes, scores, ids), strict=False):
        np.testing.assert_array_equal(got[0, : len(wanted)].numpy(), given[0, wanted])


def decoded_level(golden, level):
    """Scores and clipped boxes of all anchors of a level, cells row by row, by mmdet's anchors and coding."""
    logits, deltas = (golden[f"rpn_{x}_{level}"].astype(np.float64) for x in ("logits", "deltas"))
    (_, h, w), stride = logits.shape, STRIDES[level]
    ratios = np.array([0.5, 1.0, 2.0])
    centre = np.stack(np.broadcast_arrays(*np.ix_(np.arange(h) * stride, np.arange(w) * stride)), -1)[:, :, None, ::-1]
    size = 8 * stride * np.stack([1 / np.sqrt(ratios), np.sqrt(ratios)], -1)  # (3, w and h)
    moved = deltas.reshape(3, 4, h, w).transpose(2, 3, 0, 1)  # (h, w, 3, 4)
    middle = centre + moved[..., :2] * size
    half = size * np.exp(np.clip(moved[..., 2:], np.log(16 / 1000), -np.log(16 / 1000))) / 2
    boxes = np.concatenate([middle - half, middle + half], -1).reshape(-1, 4)
    scores = 1 / (1 + np.exp(-logits.transpose(1, 2, 0).reshape(-1)))
    return scores.astype(np.float32), np.clip(boxes, 0, PICTURE * 2).astype(np.float32)


def test_op_gives_the_proposals_of_the_public_code():
    """Levels 1 to 4, whose deltas the golden file holds in full; one level has no say in what another keeps."""
    golden = np.load(GOLDEN)
    scores, boxes = zip(*(decoded_level(golden, level) for level in range(1, 5)), strict=True)
    best = [np.argsort(-x, kind="stable")[:1000] for x in scores]
    ids = np.concatenate([np.full(len(x), level, np.int32) for level, x in enumerate(best, 1)])
    boxes, scores = (np.concatenate([x[i] for x, i in zip(of, best, strict=True)]) for of in (boxes, scores))
    found, best_scores, _, count = nms(*tensors((boxes[None], scores[None], ids[None])), 0.7, -1.0, len(ids))
    proposals = golden["proposals"]
    assert len(proposals) == 1000
    worst = proposals[-1, 4]
    among_best = int((best_scores[0] > worst + 1e-6).sum())
    assert 200 < among_best < int(count) < len(ids)
    wanted, got = proposals[None], torch.cat([found[0], best_scores[0, :, None]], 1)[:among_best, None].numpy()
    distance = np.abs(wanted - got).max(-1)  # (ours, theirs)
    assert (distance.min(1) < 0.02).all()  # pixels: compared as a set, as near-ties change the order
    # The rest of theirs is of level 0; none of it may be a box of levels 1 to 4 that was suppressed here.
    theirs = proposals[:, 4] > worst + 1e-6
    theirs[distance.argmin(1)] = False
    suppressed = np.concatenate([boxes, scores[:, None]], 1)[None]
    assert np.abs(proposals[theirs][:, None] - suppressed).max(-1).min() > 1e-3


@pytest.mark.parametrize("case", cases_of_boxes().values(), ids=cases_of_boxes())
def test_result_is_greedy_by_its_definition(case):
    """No kept box overlaps a better one of its id too much; every box left out overlaps a kept, better one."""
    (boxes, scores, ids), iou_threshold, score_threshold, m = case
    found = [x.numpy() for x in nms(*tensors((boxes, scores, ids)), iou_threshold, score_threshold, m)]
    for image, count in enumerate(found[3]):
        _, kept_scores, kept_ids, _ = (x[image] for x in found)
        assert (np.diff(kept_scores[:count]) <= 0).all() and (kept_scores[:count] > score_threshold).all()
        assert (kept_ids[count:] == -1).all() and not kept_scores[count:].any() and not found[0][image, count:].any()
        assert count <= (scores[image] > score_threshold).sum()


def test_row_of_boxes_is_kept_one_by_one():
    """Each is suppressed by the one before, unless that one is suppressed itself."""
    boxes, scores, ids = tensors(chain_of_boxes(101))
    found, _, _, count = nms(boxes, scores, ids, 0.5, -1.0, 101)
    assert int(count) == 51
    assert torch.equal(found[0, :51], boxes[0, ::2])


def test_equal_scores_keep_the_order_of_their_indices():
    boxes = torch.tensor([[[0.0, 0, 10, 10], [50, 0, 60, 10], [0, 1, 10, 11]]])
    scores, ids = torch.full((1, 3), 0.5), torch.zeros(1, 3, dtype=torch.int32)
    found, _, _, count = nms(boxes, scores, ids, 0.5, 0.0, 3)
    assert int(count) == 2
    assert torch.equal(found[0, :2], boxes[0, :2])


def test_overlap_of_exactly_the_threshold_is_kept_and_other_ids_do_not_meet():
    boxes = torch.tensor([[[0.0, 0, 8, 8], [0, 4, 8, 12], [0, 0, 8, 8]]])  # the first two: 32 / 96
    scores, ids = torch.tensor([[0.9, 0.8, 0.7]]), torch.tensor([[0, 0, 1]], dtype=torch.int32)
    third = float(np.float32(1 / 3))
    assert int(nms(boxes, scores, ids, third, 0.0, 3)[3]) == 3
    assert int(nms(boxes, scores, ids, third - 1e-6, 0.0, 3)[3]) == 2


def test_boxes_are_shifted_in_float32_as_the_public_code_does():
    """With id 79, beyond 2^16, coordinates are multiples of 2^-7: an IoU of 0.6667 becomes 853/128 / 10 = 0.66641."""
    boxes = torch.tensor([[[1000.0, 0, 1010, 10], [1000.0, 0, 1010, 6.667]]])
    scores, ids = torch.tensor([[0.9, 0.8]]), torch.zeros(1, 2, dtype=torch.int32)
    assert int(nms(boxes, scores, ids, 0.6665, 0.0, 2)[3]) == 1
    assert int(nms(boxes, scores, ids + 79, 0.6665, 0.0, 2)[3]) == 2
    assert int(nms(boxes, scores, ids + 79, 0.6664, 0.0, 2)[3]) == 1


def test_op_is_registered_and_has_shapes_without_values():
    boxes, scores, ids = tensors(random_boxes(2, 30))
    found = torch.ops.rmt_edge.nms(boxes, scores, ids, 0.5, 0.1, 7)
    for x, y in zip(found, nms(boxes, scores, ids, 0.5, 0.1, 7), strict=True):
        assert torch.equal(x, y)
    shapes = torch.ops.rmt_edge.nms(boxes.to("meta"), scores.to("meta"), ids.to("meta"), 0.5, 0.1, 7)
    assert [(x.shape, x.dtype) for x in shapes] == [(x.shape, x.dtype) for x in found]


def test_what_the_op_does_not_take_is_refused():
    boxes, scores, ids = tensors(random_boxes(1, 30))
    with pytest.raises(RmtEdgeError, match=r"max_outputs is 1 to the number of boxes"):
        nms(boxes, scores, ids, 0.5, 0.1, 31)
    with pytest.raises(RmtEdgeError, match=r"they are \(b, n, 4\), \(b, n\) and \(b, n\)"):
        nms(boxes, scores[:, 1:], ids, 0.5, 0.1, 3)
    with pytest.raises(RmtEdgeError, match=r"ids of torch.int64"):
        nms(boxes, scores, ids.long(), 0.5, 0.1, 3)
