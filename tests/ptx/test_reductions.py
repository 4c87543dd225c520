"""The warp's sum against a loop, and ldmatrix.x1 against the manual's picture of which lane holds what."""

import numpy as np
import pytest

from tests.ptx.parse import GpuError
from tests.ptx.snippet import execute, values


def test_every_lane_gets_the_sum_of_its_warp_which_wraps_around():
    rng = np.random.default_rng(0)
    x = rng.integers(-(2**31), 2**31, 64)
    state = execute("redux.sync.add.s32 %r2, %r1, -1;", {"%r1": x}, threads=64)
    for warp in range(2):
        total = sum(int(v) for v in x[32 * warp : 32 * warp + 32])
        wanted = (total + 2**31) % 2**32 - 2**31
        assert (values(state, "%r2", "i4")[32 * warp : 32 * warp + 32] == wanted).all()


def test_sum_of_a_part_of_the_warp_is_refused():
    with pytest.raises(GpuError, match="a reduction without all lanes"):
        execute("redux.sync.add.s32 %r2, %r1, 255;", {"%r1": 1})


def test_one_matrix_is_dealt_out_by_rows_of_eight():
    """Lane k holds elements 2·(k mod 4) and the next of row k / 4; here an element of shared memory is its number."""
    body = """
    mov.u32 %r9, %tid.x;
    shl.b32 %r1, %r9, 2;
    st.shared.b32 [%r1], %r3;
    bar.sync 0;
    and.b32 %r4, %r9, 7;
    shl.b32 %r5, %r4, 4;
    ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r6}, [%r5];
    """
    lane = np.arange(32)
    state = execute(body, {"%r3": 2 * lane | (2 * lane + 1) << 16}, shared_bytes=128)
    got = values(state, "%r6", "u4")
    first = lane // 4 * 8 + lane % 4 * 2
    assert (got == (first | (first + 1) << 16)).all()
