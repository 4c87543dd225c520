"""Which blocks' products stay in FP16 for want of a kernel."""

import pytest

from rmt_edge.ops.retention import kernels
from rmt_edge.ops.retention.cuda_variants import MIN_HEAD_DIM, reads_int8_product


@pytest.mark.parametrize("side, expected", [(56, True), (28, True), (7, True), (63, False), (32, False), (64, False)])
def test_8_bits_of_the_least_head_dim_are_read_on_lines_of_sevens_up_to_56(side, expected):
    assert reads_int8_product(16, True, side, side) is expected
    assert reads_int8_product(16, True, side, 56) is reads_int8_product(16, True, 56, side) is expected
    assert not reads_int8_product(16, False, side, side)
    assert reads_int8_product(32, True, side, side)


def test_what_is_said_of_triton_s_kernels_is_what_the_library_carries():
    assert MIN_HEAD_DIM == kernels.MIN_HEAD_DIM
    raw8 = [x.name for x in kernels.aot_variants() if "_raw8_" in x.name]
    assert raw8 and all("_d32_" in x for x in raw8)
