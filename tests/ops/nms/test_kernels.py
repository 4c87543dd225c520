"""Nms's kernels under Triton's interpreter, or on a GPU, against the op: exact. For their PTX see tests/plugin."""

import pytest
import torch

from rmt_edge.errors import RmtEdgeError
from rmt_edge.ops.nms.op import nms
from tests.boxes import cases_of_boxes, random_boxes, tensors

kernels = pytest.importorskip("rmt_edge.ops.nms.kernels", reason="no triton")
FEW = {name: case for name, case in cases_of_boxes().items() if name in ("one word and a bit", "no area", "one box")}


class TestOnCpu:
    device = "cpu"

    @pytest.mark.parametrize("case", FEW.values(), ids=FEW)
    def test_kernels_are_the_op(self, case):
        arrays, *settings = case
        found = kernels.launch(*(x.to(self.device) for x in tensors(arrays)), *settings)
        for got, wanted in zip(found, nms(*tensors(arrays), *settings), strict=True):
            assert torch.equal(got.cpu(), wanted)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
class TestOnGpu(TestOnCpu):
    device = "cuda"

    @pytest.mark.parametrize("case", cases_of_boxes().values(), ids=cases_of_boxes())
    def test_kernels_are_the_op(self, case):
        super().test_kernels_are_the_op(case)

    def test_an_rpns_candidates_are_the_op(self):
        arrays, settings = random_boxes(2, 4819, side=1300), (0.7, -1.0, 1000)
        found = kernels.launch(*(x.cuda() for x in tensors(arrays)), *settings)
        for got, wanted in zip(found, nms(*tensors(arrays), *settings), strict=True):
            assert torch.equal(got.cpu(), wanted)


def test_what_the_kernels_cannot_do_is_refused():
    boxes, scores, ids = tensors(random_boxes(1, 8))
    with pytest.raises(RmtEdgeError, match=r"the kernels take torch.float32"):
        kernels.launch(boxes.half(), scores, ids, 0.5, 0.1, 3)
    many = kernels.MAX_BOXES + 1
    with pytest.raises(RmtEdgeError, match=r"1 images of 8193 boxes are too many"):
        kernels.launch(
            torch.zeros(1, many, 4), torch.zeros(1, many), torch.zeros(1, many, dtype=torch.int32), 0.5, 0, 3
        )
