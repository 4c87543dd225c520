"""Faults planted in the CUDA kernels' source: compiled again and run by the machine, each must be found."""

import pytest

from rmt_edge.ops.depthwise.onnx_function import OP_TYPES
from rmt_edge.ops.kernel_variant import CudaVariant
from rmt_edge.plugin import build, compile, nvrtc
from tests.conftest import PLUGIN_SM
from tests.ops.depthwise.test_depthwise import FP16, make_case
from tests.plugin.conftest import CACHE
from tests.plugin.kernel_cases import check_depthwise, check_raw_retention, check_retention
from tests.ptx.parse import GpuError

pytestmark = pytest.mark.slow


def grid(device):
    check_retention(device, (1, 14, 14, 1, 32), True, FP16)


def whole(device):
    check_retention(device, (3, 5, 7, 1, 32), False, FP16)


def raw(device):
    check_raw_retention(device, (1, 8, 4, 1, 32), True, True, 0.0)


def norm(device):
    check_depthwise(
        device, "AddDepthwiseResidualNorm", make_case((1, 5, 3, 272), 3, OP_TYPES["AddDepthwiseResidualNorm"], FP16)
    )


def gelu(device):
    form = OP_TYPES["ScaledGeluDepthwiseResidualInt8"]
    check_depthwise(device, "ScaledGeluDepthwiseResidualInt8", make_case((1, 5, 6, 80), 3, form, FP16, True))


BETWEEN = "    __syncthreads();\n#pragma unroll 1\n    for (int first = 0; first < w;"
FAULTS = [
    ("sign of the sine", "sine[i] ^ MINUS_LOW", "sine[i]", whole),
    ("distance of the whole form", "whole + fabsf(rest)", "whole - fabsf(rest)", whole),
    ("keys beyond the line", "groups ? 0.0F : NEVER", "groups ? 0.0F : 0.0F", whole),
    ("maximum of one lane", "of_lane(maximum, 2)", "of_lane(maximum, 1)", grid),
    ("sum of the weights", "out[r][tile][e] *= inverse[e % 2]", "out[r][tile][e] *= inverse[0]", grid),
    ("tap of LePE", "min(entry / SLOTS, SPAN * SPAN - 1)", "min(entry / SLOTS + 1, SPAN * SPAN - 1)", grid),
    ("column outside the grid", "PASS == WHOLE || is_other ? slots[tile] : 8 * TILES", "slots[tile]", grid),
    ("barrier between the passes", BETWEEN, BETWEEN.replace("__syncthreads();", ""), grid),
    ("bias of the product", "pair_multiply_add(x[i], scale, bias)", "pair_multiply(x[i], scale)", raw),
    ("zeros around a raw product", "is_always_there || is_there ? x[0] : 0", "true ? x[0] : 0", raw),
    ("centre tap", "+= 1.0F; // y itself", "+= 0.0F; // y itself", norm),
    ("row of taps", "taps[SPAN * k + l][j]", "taps[SPAN * k + SPAN - 1 - l][j]", norm),
    ("exchange of moments", "first + j) * COLUMNS", "first) * COLUMNS", norm),
    ("epsilon and channels", "fmaf(squares[i], channels, epsilon)", "fmaf(squares[i], share, epsilon)", norm),
    ("rows outside the grid", "y[i] = is_there ? y[i] : 0.0F;", "", gelu),
    ("power of two in GELU", "#define GELU_1 (-1.05982728e-01F)", "#define GELU_1 0.0F", gelu),
]  # fmt: skip


@pytest.mark.parametrize("name, old, new, check", FAULTS, ids=[x[0] for x in FAULTS])
def test_fault_in_a_kernel_is_found(device, monkeypatch, name, old, new, check):
    assembler = compile.find_cuda_13_assembler()
    source_of, nvrtc_library = nvrtc.source_of, nvrtc.find_nvrtc(CACHE)
    variants = [x for make in build.OPS.values() for x in make() if isinstance(x, CudaVariant) and old in source_of(x)]
    assert variants
    ptx = {compile.image_key(x, PLUGIN_SM, assembler): x for x in variants}
    texts = {(CACHE / "kernels" / f"{key}.ptx").read_text(): x for key, x in ptx.items()}
    monkeypatch.setattr(nvrtc, "source_of", lambda x: source_of(x).replace(old, new))

    def rewrite(text):
        return nvrtc.ptx_of(texts[text], nvrtc_library) if text in texts else text

    device.rewrite = rewrite
    try:
        with pytest.raises((AssertionError, GpuError)):
            check(device)
    finally:
        device.rewrite = str
