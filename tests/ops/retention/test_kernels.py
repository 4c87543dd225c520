"""retention/kernels.py against retention/op.py: on a CPU through Triton's interpreter, on a GPU as compiled.

The class for the CPU runs everywhere without a GPU, the one for CUDA where there is one; the test bodies are the same.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from rmt_edge.errors import RmtEdgeError
from rmt_edge.model.rmt import RelativePosition
from rmt_edge.ops.depthwise.op import quantize_int8
from rmt_edge.ops.retention import kernels, launch
from rmt_edge.ops.retention.cuda_op import RetentionFunction
from rmt_edge.ops.retention.op import retention

FLOAT32_LIMIT = 2e-5  # sums of up to 336 products of magnitude 1 in another order, softmax by 2^x; seen: 6e-6
RAW_LIMIT = 4e-3  # float16 tables, weights and outputs, values up to 4; seen: 2e-3
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
NUDGE = 0.3  # (x + 0.3) - 0.3: what one rounding of the element type costs at this size


def random_case(b, h, w, n, d, dtype, device, seed=0, size=5):
    """Inputs as in a trained block: tables and decay of the model, q and k of magnitude 1, keys scaled."""
    generator = torch.Generator().manual_seed(seed)
    c = n * d
    position = RelativePosition(c, n, 4)
    qkv = torch.randn(b, h, w, 3 * c, generator=generator)
    qkv[..., c : 2 * c] *= d**-0.5
    weight = torch.randn(c, 1, size, size, generator=generator) * 0.2
    bias = torch.randn(c, generator=generator)
    tensors = [x.to(device, dtype) for x in (qkv, *position(h, w), weight, bias)]
    return tensors, (n, position.decay.tolist())


def assert_close(out, wanted, limit):
    """|out - wanted| <= limit everywhere; the failure says how many differ, where the worst is and what both are."""
    error = (out.float() - wanted.float()).abs()
    worst = int(error.argmax())
    index = tuple(int(x) for x in torch.unravel_index(torch.tensor(worst), error.shape))
    assert float(error.max()) <= limit, (
        f"{int((error > limit).sum())} of {error.numel()} above {limit:.3g}; worst at {index}: "
        f"{float(out[index])} for {float(wanted[index])}"
    )


def assert_within_reference_error(out, tensors, attributes, decomposed):
    """At most twice the float16 reference's own error and a rounding, as flash-attention tests; float32 has a limit."""
    wanted = retention(*(x.float() for x in tensors), *attributes, decomposed)
    if out.dtype == torch.float32:
        return assert_close(out, wanted, FLOAT32_LIMIT)
    reference = retention(*tensors, *attributes, decomposed)
    floor = float((((reference + NUDGE) - NUDGE) - reference).abs().max())
    assert_close(out, wanted, 2 * float((reference.float() - wanted).abs().max()) + floor)


# Batch, grid, heads and head dim. The real grids of 224 px and odd ones; few heads, because the interpreter is slow.
SHAPES = [
    (1, 1, 1, 1, 16), (3, 1, 1, 2, 32), (1, 5, 9, 2, 16), (3, 5, 9, 1, 32), (1, 13, 7, 1, 32), (3, 13, 7, 1, 16),
    (1, 7, 7, 2, 32), (3, 7, 7, 1, 16), (1, 14, 14, 1, 32),
]  # fmt: skip


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is present: the CUDA class runs the same bodies compiled")
class TestOnCpu:
    device = "cpu"

    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    @pytest.mark.parametrize("decomposed", [True, False], ids=["decomposed", "whole"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
    def test_kernel_equals_reference(self, shape, decomposed, dtype):
        tensors, attributes = random_case(*shape, dtype, self.device)
        out = launch.launch_retention(*tensors, *attributes, decomposed)
        assert_within_reference_error(out, tensors, attributes, decomposed)

    @pytest.mark.parametrize("shape", [(1, 28, 28, 1, 32), (1, 56, 56, 1, 16)], ids=str)
    def test_grid_of_the_first_stages_equals_reference(self, shape):
        tensors, attributes = random_case(*shape, torch.float16, self.device)
        out = launch.launch_retention(*tensors, *attributes, True)
        assert_within_reference_error(out, tensors, attributes, True)

    @pytest.mark.parametrize("decomposed", [True, False], ids=["decomposed", "whole"])
    def test_line_longer_than_every_tile_equals_reference(self, decomposed):
        h, w = (1, 70) if decomposed else (11, 30)
        tensors, attributes = random_case(1, h, w, 1, 32, torch.float16, self.device)
        out = launch.launch_retention(*tensors, *attributes, decomposed)
        assert_within_reference_error(out, tensors, attributes, decomposed)

    @pytest.mark.parametrize("tactic", sorted(kernels.TACTICS))
    @pytest.mark.parametrize("decomposed", [True, False], ids=["decomposed", "whole"])
    def test_every_tactic_gives_the_same_result(self, tactic, decomposed):
        tensors, attributes = random_case(1, 3, 19, 1, 16, torch.float16, self.device)
        out = launch.launch_retention(*tensors, *attributes, decomposed, tactic=tactic)
        assert_within_reference_error(out, tensors, attributes, decomposed)

    @pytest.mark.parametrize("decomposed", [True, False], ids=["decomposed", "whole"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
    def test_int8_output_is_the_rounded_and_saturated_result(self, decomposed, dtype):
        tensors, attributes = random_case(1, 5, 9, 1, 16, dtype, self.device)
        scale = 0.01  # saturates: values reach 3, 127 steps are 1.27
        out = launch.launch_retention(*tensors, *attributes, decomposed, output_scale=scale)
        values = launch.launch_retention(*(x.float() for x in tensors), *attributes, decomposed)
        wanted = torch.round(values / scale).clamp(-128, 127)
        assert out.dtype == torch.int8
        assert (wanted == 127).any() and (wanted == -128).any()
        # A float16 W pass moves values by a tenth of a step; in float32 another order of sums may turn a tie.
        assert float((out.float() - wanted).abs().max()) <= 1
        assert float((out.float() != wanted).float().mean()) <= (0.1 if dtype == torch.float16 else 0.002)

    @pytest.mark.parametrize("d", kernels.HEAD_DIMS)
    @pytest.mark.parametrize("decomposed", [True, False], ids=["decomposed", "whole"])
    @pytest.mark.parametrize("input_scale", [0.0, 2.0**-5], ids=["raw", "raw8"])
    def test_raw_product_equals_reference(self, d, decomposed, input_scale):
        tensors, attributes = random_case(1, 3, 5, 2, d, torch.float16, self.device)
        generator = torch.Generator().manual_seed(1)
        vectors = [0.2 + torch.rand(6 * d, generator=generator), 0.3 * torch.randn(6 * d, generator=generator)]
        vectors = [x.to(self.device, torch.float16) for x in vectors]
        qkv = quantize_int8(tensors[0], input_scale) if input_scale else tensors[0]
        how = dict(qkv_scale=vectors[0], qkv_bias=vectors[1], input_scale=input_scale)
        out = launch.launch_retention(qkv, *tensors[1:], *attributes, decomposed, **how)
        wide = [x.float() for x in tensors[1:]]
        true = (qkv.float() * (vectors[0].float() * (input_scale or 1.0))) + vectors[1].float()
        assert out.dtype == torch.float16
        assert_close(out, retention(true, *wide, *attributes, decomposed), RAW_LIMIT)

    def test_int8_ties_round_to_even(self):
        # One token, no neighbours: out = v·(1 + centre weight) + bias, exact here. Halves in steps of 1.
        d = 16
        tensors, attributes = random_case(1, 1, 1, 1, d, torch.float32, self.device)
        tensors[0][..., 2 * d :] = torch.arange(d, device=self.device) - 7.5
        tensors[3].zero_()
        tensors[4].zero_()
        out = launch.launch_retention(*tensors, *attributes, True, output_scale=1.0)
        wanted = [-8, -6, -6, -4, -4, -2, -2, 0, 0, 2, 2, 4, 4, 6, 6, 8]
        assert out.flatten().tolist() == wanted

    def test_lepe_of_another_size_equals_reference(self):
        tensors, attributes = random_case(1, 5, 6, 1, 16, torch.float32, self.device, size=3)
        out = launch.launch_retention(*tensors, *attributes, True)
        assert_within_reference_error(out, tensors, attributes, True)

    def test_gradient_is_the_reference_gradient(self):
        tensors, attributes = random_case(2, 3, 4, 1, 16, torch.float32, self.device)
        leaves = [[x.clone().requires_grad_(i != 1) for i, x in enumerate(tensors)] for _ in range(2)]
        out = RetentionFunction.apply(*leaves[0], *attributes, True, launch.launch_retention)
        wanted = retention(*leaves[1], *attributes, True)
        upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(self.device)
        out.backward(upstream)
        wanted.backward(upstream)
        assert leaves[0][1].grad is None
        for got, reference in zip(leaves[0], leaves[1], strict=True):
            if reference.grad is not None:
                torch.testing.assert_close(got.grad, reference.grad)


@pytest.mark.gpu
@NEEDS_GPU
class TestOnCuda(TestOnCpu):
    device = "cuda"

    def test_registered_op_takes_the_kernel(self):
        tensors, attributes = random_case(64, 56, 56, 4, 16, torch.float16, self.device)
        out = torch.ops.rmt_edge.retention(*tensors, *attributes, True)
        assert_within_reference_error(out, tensors, attributes, True)


def test_cpu_path_of_the_registered_op_stays_the_differentiable_reference():
    tensors, attributes = random_case(2, 3, 4, 1, 16, torch.float32, "cpu")
    tensors[0].requires_grad_()
    out = torch.ops.rmt_edge.retention(*tensors, *attributes, True)
    assert torch.equal(out, retention(*tensors, *attributes, True))
    out.sum().backward()
    assert tensors[0].grad.abs().sum() > 0


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_GPU)])  # faking CUDA takes a CUDA build
def test_fake_tensors_of_the_registered_op_have_the_output_shape(device):
    n, d, c = 2, 16, 32
    with FakeTensorMode(allow_non_fake_inputs=True):
        qkv = torch.empty(3, 5, 7, 3 * c, device=device, dtype=torch.float16)
        tables = [torch.empty(35, d, device=device, dtype=torch.float16) for _ in range(2)]
        weight = torch.empty(c, 1, 5, 5, device=device, dtype=torch.float16)
        bias = torch.empty(c, device=device, dtype=torch.float16)
        out = torch.ops.rmt_edge.retention(qkv, *tables, weight, bias, n, [-0.5, -0.1], True)
    assert out.shape == (3, 5, 7, c)
    assert out.dtype == torch.float16
    assert out.device.type == device


BAD_LAUNCHES = {
    "heads": (dict(num_heads=3), "3 heads do not divide 32 channels"),
    "head dim": (dict(num_heads=4), r"Head dim 8 unsupported \(32 channels, 4 heads\)"),
    "positive decay": (dict(decay=[-0.5, 0.1]), "expected 2 negative numbers"),
    "too few decays": (dict(decay=[-0.5]), "expected 2 negative numbers"),
    "sin": (dict(sin=torch.zeros(5, 16)), r"sin is \(5, 16\).*\n.*expected \(6, 16\)"),
    "weight type": (dict(lepe_weight=torch.zeros(32, 1, 5, 5).half()), "lepe_weight is .*float16"),
    "even LePE": (dict(lepe_weight=torch.zeros(32, 1, 4, 4)), "LePE kernel size 4 unsupported"),
    "qkv type": (dict(qkv=torch.zeros(1, 2, 3, 96, dtype=torch.float64)), "torch.float64 unsupported"),
    "qkv shape": (dict(qkv=torch.zeros(2, 3, 96)), r"qkv has shape \(2, 3, 96\)"),
    "scale": (dict(output_scale=-1.0), "output_scale is -1.0"),
    "tactic": (dict(tactic=9), "Unknown tactic 9"),
}


@pytest.mark.parametrize("change, message", BAD_LAUNCHES.values(), ids=BAD_LAUNCHES)
def test_unsupported_launch_is_refused_with_numbers(change, message):
    arguments = dict(
        qkv=torch.zeros(1, 2, 3, 96), sin=torch.zeros(6, 16), cos=torch.zeros(6, 16),
        lepe_weight=torch.zeros(32, 1, 5, 5), lepe_bias=torch.zeros(32), num_heads=2, decay=[-0.5, -0.1],
        decomposed=True,
    )  # fmt: skip
    with pytest.raises(RmtEdgeError, match=message):
        launch.launch_retention(**arguments | change)
