"""What the plugins compute: every kernel of the library, launched by the compiled C++ plugins, held to ops/*/op.py.

No GPU: the library finds a stand-in driver, and the PTX that its kernels were assembled from is executed on the CPU
(tests/ptx). Every launch also passes the checks of memory, launch limits and shared-memory races there.
"""

import pytest
import torch

from rmt_edge.ops.depthwise.onnx_function import OP_TYPES
from rmt_edge.plugin import cxx, load
from tests.conftest import PLUGIN_SM, ROOT
from tests.ops.depthwise.test_depthwise import FP16, FP32, make_case, make_faint_case
from tests.plugin.kernel_cases import check_depthwise, check_retention, check_retention_int8
from tests.ptx.device import Device

CACHE = ROOT / "build" / "plugin-cache"
HOPPER = 90  # its kernels use wgmma, as no other's do
DTYPES = pytest.mark.parametrize("dtype", [FP16, FP32], ids=["fp16", "fp32"])
FORMS = pytest.mark.parametrize("decomposed", [True, False], ids=["decomposed", "whole"])
# Grids of no tile's size, one that needs two tiles of the smallest tactic, and the smallest there is.
ODD_SHAPES = [(1, 1, 1, 1, 16), (3, 5, 9, 2, 16), (2, 13, 7, 1, 32), (1, 3, 19, 2, 32), (1, 18, 4, 1, 16)]
# RMT-S at 224 px: stages 1 to 4, as b, h, w, heads, head dim; the last one is not decomposed.
REAL_SHAPES = [((1, 56, 56, 4, 16), True), ((1, 28, 28, 4, 32), True), ((1, 14, 14, 8, 32), True),
               ((2, 7, 7, 16, 32), False)]  # fmt: skip
ROWS = (64, 80, 128, 256, 272, 512, 640, 1024)  # channels: every size of row that the LayerNorm kernels come in


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_device(library, sm, folder):
    return Device(library, sm, folder, cxx.find_headers(CACHE, None), CACHE / "kernels")


@pytest.fixture(scope="module")
def device(library_folder, tmp_path_factory):
    return make_device(load.library_path(library_folder), PLUGIN_SM, tmp_path_factory.mktemp("device"))


class TestSm86:
    @pytest.mark.parametrize("shape", ODD_SHAPES, ids=str)
    @FORMS
    @DTYPES
    def test_retention_is_the_reference(self, device, shape, decomposed, dtype):
        check_retention(device, shape, decomposed, dtype)

    @pytest.mark.parametrize("shape", [(2, 5, 9, 2, 16), (1, 6, 19, 1, 32)], ids=str)
    @FORMS
    @DTYPES
    def test_retention_quantises_its_output(self, device, shape, decomposed, dtype):
        check_retention_int8(device, shape, decomposed, dtype)

    @pytest.mark.parametrize("op_type", OP_TYPES)
    @DTYPES
    def test_depthwise_is_the_reference(self, device, op_type, dtype):
        check_depthwise(device, op_type, make_case((2, 5, 9, 80), 3, OP_TYPES[op_type], dtype))

    @pytest.mark.parametrize("op_type", [x for x, (_, has_norm, _) in OP_TYPES.items() if has_norm])
    @pytest.mark.parametrize("c", ROWS)
    @DTYPES
    def test_layer_norm_of_every_row_size_is_the_reference(self, device, op_type, c, dtype):
        check_depthwise(device, op_type, make_case((1, 3, 2, c), 3, OP_TYPES[op_type], dtype))

    def test_epsilon_is_in_the_layer_norm(self, device):
        check_depthwise(device, "AddDepthwiseResidualNorm", make_faint_case())

    def test_every_kernel_of_the_library_was_executed(self, device):
        kernels = device.info()["kernels"]
        assert len({x.image for x in device.launches}) == kernels
