"""MultiLevelRoiAlign's kernel under Triton's interpreter, or on a GPU, against the op. For its PTX see tests/plugin."""

import pytest
import torch

from rmt_edge.errors import RmtEdgeError
from rmt_edge.ops.roi_align.op import multi_level_roi_align
from tests.boxes import random_features, random_regions, tensors

kernels = pytest.importorskip("rmt_edge.ops.roi_align.kernels", reason="no triton")
# Sums of float32 in another order and positions a rounding apart; one rounding to float16 of values up to 8.
LIMITS = {torch.float32: 1e-5, torch.float16: 2.0**-8}


class TestOnCpu:
    device = "cpu"
    sizes = ((2, 3, 16, 32, 48, 3), (1, 10, 80, 48, 32, 2))  # b, n, c, h, w, s

    @pytest.mark.parametrize("dtype", LIMITS, ids=["fp32", "fp16"])
    def test_kernel_is_the_op(self, dtype):
        for b, n, c, h, w, s in self.sizes:
            features = [x.to(dtype) for x in tensors(random_features(b, c, h, w))]
            rois = torch.from_numpy(random_regions(b, n, h, w))
            found = kernels.launch(*(x.to(self.device) for x in (*features, rois)), s).cpu()
            wanted = multi_level_roi_align(*features, rois, s)
            assert found.dtype == dtype
            torch.testing.assert_close(found, wanted, atol=LIMITS[dtype], rtol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
class TestOnGpu(TestOnCpu):
    device = "cuda"
    sizes = (*TestOnCpu.sizes, (1, 1000, 256, 800, 1344, 7), (2, 100, 256, 800, 1344, 14))


def test_what_the_kernel_cannot_do_is_refused():
    features, rois = tensors(random_features(1, 24, 64, 64)), torch.zeros(1, 2, 4)
    with pytest.raises(RmtEdgeError, match="24 channels are unsupported"):
        kernels.launch(*features, rois, 7)
    with pytest.raises(RmtEdgeError, match=r"rois torch.float16"):
        kernels.launch(*(x[..., :16] for x in features), rois.half(), 7)
