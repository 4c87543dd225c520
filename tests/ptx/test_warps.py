"""Shuffles against the manual's definition, and what may not be done with some threads only."""

import numpy as np
import pytest

from tests.ptx.parse import GpuError
from tests.ptx.snippet import execute, values

LANE = np.arange(32)


def shuffled(line, **registers):
    state = execute(line, {"%r1": LANE + 100} | {f"%{k}": v for k, v in registers.items()})
    return (values(state, "%r2", "u4") - 100).tolist()


@pytest.mark.parametrize("distance", [1, 2, 4, 8, 16])
def test_butterfly_exchanges_lanes_that_differ_in_one_bit(distance):
    wanted = [i - distance if i // distance % 2 else i + distance for i in range(32)]
    assert shuffled(f"shfl.sync.bfly.b32 %r2, %r1, {distance}, 31, -1;") == wanted


def test_index_takes_the_lane_that_each_names():
    assert shuffled("shfl.sync.idx.b32 %r2, %r1, %r3, 31, -1;", r3=31 - LANE) == list(range(31, -1, -1))
    assert shuffled("shfl.sync.idx.b32 %r2, %r1, %r3, 31, -1;", r3=LANE + 32) == list(range(32))  # modulo the warp


def test_index_within_segments_of_eight():
    """c as CUDA's __shfl_sync(…, width=8) makes it: (32 - 8) << 8 | 31."""
    assert shuffled("shfl.sync.idx.b32 %r2, %r1, 3, 0x181F, -1;") == [i // 8 * 8 + 3 for i in range(32)]


def test_lane_beyond_the_clamp_is_the_threads_own():
    assert shuffled("shfl.sync.idx.b32 %r2, %r1, 9, 7, -1;") == list(range(32))
    assert shuffled("shfl.sync.bfly.b32 %r2, %r1, 4, 3, -1;") == [i - 4 if i in (4, 5, 6, 7) else i for i in range(32)]


def test_warps_shuffle_by_themselves():
    state = execute("shfl.sync.bfly.b32 %r2, %r1, 1, 31, -1;", {"%r1": np.arange(64)}, threads=64)
    assert values(state, "%r2", "u4").tolist() == [i ^ 1 for i in range(64)]


REFUSED = {
    "shfl members": ("shfl.sync.idx.b32 %r2, %r1, 0, 31, 0x0F;", "a shuffle without all lanes"),
    "shfl guard": ("@%p1 shfl.sync.idx.b32 %r2, %r1, 0, 31, -1;", "not all threads reach"),
    "warp barrier members": ("bar.warp.sync 0x0F;", "a warp barrier without all lanes"),
    "other barrier": ("bar.sync 1;", "a barrier other than 0"),
    "barrier of some": ("bar.sync 0, 64;", "a barrier other than 0"),
}  # fmt: skip


@pytest.mark.parametrize("line, message", REFUSED.values(), ids=REFUSED)
def test_what_some_threads_alone_would_do_is_refused(line, message):
    with pytest.raises(GpuError, match=message):
        execute(line, {"%r1": 0, "%p1": LANE < 4})
