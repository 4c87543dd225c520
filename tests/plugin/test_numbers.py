"""What the plugins compute: every kernel of the library, launched by the compiled C++ plugins, held to ops/*/op.py.

No GPU: the library finds a stand-in driver, and the PTX that its kernels were assembled from is executed on the CPU
(tests/ptx). Every launch also passes the checks of memory, launch limits and shared-memory races there.
"""

import numpy as np
import pytest

from rmt_edge.artifact import sha256_of
from rmt_edge.ops.depthwise.onnx_function import OP_TYPES
from tests.boxes import cases_of_boxes, random_boxes
from tests.conftest import PLUGIN_SM
from tests.ops.depthwise.test_depthwise import FP16, FP32, make_case, make_faint_case
from tests.plugin.box_cases import check_nms, check_roi_align
from tests.plugin.conftest import HOPPER_SM, cached_ptx
from tests.plugin.kernel_cases import check_depthwise, check_raw_retention, check_retention, check_retention_int8
from tests.ptx import floats
from tests.ptx.parse import parse_kernel

pytestmark = pytest.mark.usefixtures("one_thread")
DTYPES = pytest.mark.parametrize("dtype", [FP16, FP32], ids=["fp16", "fp32"])
FORMS = pytest.mark.parametrize("decomposed", [True, False], ids=["decomposed", "whole"])
# Grids of no tile's size, one that needs two tiles of the smallest tactic, and the smallest there is.
ODD_SHAPES = [(1, 1, 1, 1, 16), (3, 5, 9, 2, 16), (2, 13, 7, 1, 32), (1, 3, 19, 2, 32), (1, 18, 4, 1, 16)]
# Grids of which lanes hold whole lines: every CUDA kernel.
LINE_SHAPES = [
    ((1, 4, 14, 1, 32), True),
    ((1, 28, 8, 1, 32), True),
    ((1, 3, 28, 1, 32), True),
    ((1, 4, 28, 1, 32), True),
    ((5, 5, 7, 1, 32), False),
    ((1, 7, 14, 1, 16), True),
]
# Of raw products, by the Triton kernels alone.
RAW_SHAPES = [(1, 5, 9, 2, 32), (1, 5, 34, 2, 16)]
# RMT-S at 224 px: stages 1 to 4, as b, h, w, heads, head dim; the last one is not decomposed.
REAL_SHAPES = [((1, 56, 56, 4, 16), True), ((1, 28, 28, 4, 32), True), ((1, 14, 14, 8, 32), True),
               ((2, 7, 7, 16, 32), False)]  # fmt: skip
# b, n, c, picture, s: several blocks of bins and of channels, all special regions, every level.
REGIONS = [(2, 4, 16, 64, 96, 7), (1, 10, 80, 40, 48, 3), (1, 1, 16, 480, 480, 1)]
ROWS = (64, 80, 128, 256, 272, 512, 640, 1024)  # channels: every size of row that the LayerNorm kernels come in


def assert_every_kernel_was_executed(device, sm, run_python):
    """By the PTX that the build's cache keeps of each kernel, so that one that was not run has a name."""
    texts, executed = cached_ptx(run_python, sm), {x.image for x in device.launches}
    missing = [name for name, path in texts.items() if sha256_of(path) not in executed]
    assert missing == [] and len(texts) == device.info()["kernels"]


class TestSm86:
    SM = PLUGIN_SM

    @pytest.mark.parametrize("shape", ODD_SHAPES, ids=str)
    @FORMS
    @DTYPES
    def test_retention_is_the_reference(self, device, shape, decomposed, dtype):
        check_retention(device, shape, decomposed, dtype)

    @pytest.mark.parametrize("shape, decomposed", LINE_SHAPES, ids=str)
    @pytest.mark.parametrize("check", [check_retention, check_retention_int8])
    def test_retention_of_whole_lines_is_the_reference(self, device, shape, decomposed, check):
        check(device, shape, decomposed, FP16)

    @pytest.mark.parametrize(
        "shape, decomposed", [*LINE_SHAPES, *((x, form) for x in RAW_SHAPES for form in (True, False))], ids=str
    )
    @pytest.mark.parametrize("is_int8_input", [False, True])
    @pytest.mark.parametrize("scale", [0.0, 0.0125])
    def test_retention_of_a_raw_product_is_the_reference(self, device, shape, decomposed, is_int8_input, scale):
        check_raw_retention(device, shape, decomposed, is_int8_input, scale)

    @pytest.mark.parametrize("shape", [(2, 5, 9, 2, 16), (1, 6, 19, 1, 32)], ids=str)
    @FORMS
    @DTYPES
    def test_retention_quantises_its_output(self, device, shape, decomposed, dtype):
        check_retention_int8(device, shape, decomposed, dtype)

    @pytest.mark.parametrize("op_type", [x for x, form in OP_TYPES.items() if form.is_scaled])
    @pytest.mark.parametrize("is_int8_input", [False, True])
    @pytest.mark.parametrize("c", [80, 272])
    def test_depthwise_of_a_raw_product_is_the_reference(self, device, op_type, is_int8_input, c):
        check_depthwise(device, op_type, make_case((2, 5, 3, c), 3, OP_TYPES[op_type], FP16, is_int8_input))

    @pytest.mark.parametrize("op_type", [x for x, form in OP_TYPES.items() if form.has_norm and form.is_scaled])
    @pytest.mark.parametrize("is_int8_input", [False, True])
    @pytest.mark.parametrize("c", [x for x in ROWS if x not in (80, 272)])
    def test_layer_norm_of_a_raw_product_is_the_reference(self, device, op_type, is_int8_input, c):
        check_depthwise(device, op_type, make_case((1, 3, 2, c), 3, OP_TYPES[op_type], FP16, is_int8_input))

    @pytest.mark.parametrize("op_type", [x for x, form in OP_TYPES.items() if not form.is_scaled])
    @DTYPES
    def test_depthwise_is_the_reference(self, device, op_type, dtype):
        check_depthwise(device, op_type, make_case((2, 5, 9, 80), 3, OP_TYPES[op_type], dtype))

    @pytest.mark.parametrize("op_type", [x for x, form in OP_TYPES.items() if not form.has_norm and not form.is_scaled])
    def test_depthwise_of_several_tiles_of_channels_is_the_reference(self, device, op_type):
        check_depthwise(device, op_type, make_case((1, 9, 5, 272), 3, OP_TYPES[op_type], FP16))

    @pytest.mark.parametrize("op_type", [x for x, form in OP_TYPES.items() if form.has_norm and not form.is_scaled])
    @pytest.mark.parametrize("c", ROWS)
    @DTYPES
    def test_layer_norm_of_every_row_size_is_the_reference(self, device, op_type, c, dtype):
        check_depthwise(device, op_type, make_case((1, 3, 2, c), 3, OP_TYPES[op_type], dtype))

    def test_epsilon_is_in_the_layer_norm(self, device):
        check_depthwise(device, "AddDepthwiseResidualNorm", make_faint_case())

    @pytest.mark.parametrize("ulps", [2, -2])
    def test_results_hold_with_the_approximate_instructions_at_their_limits(self, device, monkeypatch, ulps):
        """What a GPU's exponential, root and division may be off by."""
        monkeypatch.setattr(floats, "off_by_ulps", ulps)
        check_retention(device, (1, 3, 19, 1, 32), True, FP16)
        check_retention(device, (1, 3, 19, 1, 16), False, FP32)
        check_depthwise(device, "AddDepthwiseResidualNorm", make_case((1, 3, 5, 80), 3, (True, True, False), FP16))

    @pytest.mark.parametrize("case", cases_of_boxes().values(), ids=cases_of_boxes())
    def test_nms_is_the_reference(self, device, case):
        check_nms(device, case)

    def test_nms_multiplies_and_adds_in_two_steps(self, device):
        """A fused multiply-add rounds once and may decide otherwise; a division must be rounded to the nearest."""
        texts = []
        device.rewrite = lambda ptx: texts.append(ptx) or ptx
        try:
            check_nms(device, (random_boxes(1, 8), 0.5, -1.0, 8))
        finally:
            device.rewrite = str
        opcodes = {x.opcode for text in texts for x in parse_kernel(text).instructions}
        assert len(texts) == 3 and "div.rn.f32" in opcodes
        assert not [x for x in opcodes if x.startswith(("fma", "mad.f32", "div.full", "div.approx"))]

    @pytest.mark.parametrize("regions", REGIONS, ids=str)
    @pytest.mark.parametrize("dtype", [np.float16, np.float32], ids=["fp16", "fp32"])
    def test_roi_align_is_the_reference(self, device, regions, dtype):
        check_roi_align(device, regions, dtype)

    def test_every_kernel_of_the_library_was_executed(self, device, run_python):
        assert_every_kernel_was_executed(device, self.SM, run_python)


@pytest.mark.slow
class TestRealGrids:
    @pytest.mark.parametrize("shape, decomposed", REAL_SHAPES, ids=str)
    @pytest.mark.parametrize("check", [check_retention, check_retention_int8])
    def test_retention_is_the_reference(self, device, shape, decomposed, check):
        check(device, shape, decomposed, FP16)

    @pytest.mark.parametrize("op_type", OP_TYPES)
    @pytest.mark.parametrize("shape", [(1, 56, 56, 64), (1, 28, 28, 128), (2, 14, 14, 256), (3, 7, 7, 512)], ids=str)
    def test_depthwise_is_the_reference(self, device, op_type, shape):
        check_depthwise(device, op_type, make_case(shape, 3, OP_TYPES[op_type], FP16))


@pytest.mark.slow
class TestManyBoxes:
    def test_nms_is_the_reference(self, device):
        check_nms(device, (random_boxes(1, 1100, side=600), 0.7, -1.0, 500))

    def test_roi_align_is_the_reference(self, device):
        check_roi_align(device, (1, 14, 256, 200, 304, 7), np.float16)


@pytest.mark.slow
class TestSm90(TestSm86):
    SM = HOPPER_SM

    @pytest.fixture
    def device(self, hopper_device):
        return hopper_device

    def test_real_grid_is_the_reference(self, device):
        check_retention(device, (1, 14, 14, 8, 32), True, FP16)
        check_retention(device, (1, 28, 28, 2, 32), True, FP16)
