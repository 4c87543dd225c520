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
    sizes = ((2, 2, 80, 32, 40, 3),)  # b, n, c, h, w, s

    @pytest.mark.parametrize("dtype", LIMITS, ids=["fp32", "fp16"])
    def test_kernel_is_the_op(self, dtype):
        for b, n, c, h, w, s in self.sizes:
            features = [x.to(dtype) for x in tensors(random_features(b, c, h, w))]
            rois = torch.from_numpy(random_regions(b, n, h, w))
            found = kernels.launch(*(x.to(self.device) for x in (*features, rois)), s).cpu()
            wanted = multi_level_roi_align(*features, rois, s)
            assert found.dtype == dtype
            torch.testing.assert_close(found, wanted, atol=LIMITS[dtype], rtol=0)


def test_gradient_of_the_cuda_op_is_the_references():
    """Run on CPU tensors under the interpreter, where the dispatcher would not take this path by itself."""
    function = pytest.importorskip("rmt_edge.ops.roi_align.cuda_op").RoiAlignFunction
    features = [x.requires_grad_() for x in tensors(random_features(1, 16, 32, 40))]
    rois = torch.tensor([[[4.0, 5, 20, 30]]])  # of the finest level: the others have no gradient
    out = function.apply(*features, rois, 2)
    wanted = multi_level_roi_align(*features, rois, 2)
    torch.testing.assert_close(out, wanted, atol=LIMITS[torch.float32], rtol=0)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(0))
    found = torch.autograd.grad(out, features, upstream, allow_unused=True)
    (expected,) = torch.autograd.grad(wanted, features[:1], upstream)
    torch.testing.assert_close(found[0], expected)
    assert expected.any() and found[1:] == (None, None, None)


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
