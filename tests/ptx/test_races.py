"""Races in shared memory, planted one by one: each is found, and what a barrier orders is not taken for one."""

import numpy as np
import pytest

from tests.ptx.parse import GpuError
from tests.ptx.snippet import execute, values

THREADS = 64  # two warps
LANE = np.arange(THREADS)
# Each thread writes its own word, and reads that of a neighbour: %r2 in its own warp, %r3 in the other one.
WRITE, READ_NEAR, READ_FAR = "st.shared.b32 [%r1], %r4;", "ld.shared.b32 %r5, [%r2];", "ld.shared.b32 %r5, [%r3];"
BARRIER, WARP_BARRIER = "bar.sync 0;", "bar.warp.sync -1;"


def run(*lines):
    own = 4 * LANE
    registers = {"%r1": own, "%r2": own ^ 4, "%r3": own ^ 128, "%r4": LANE, "%p1": LANE >= 32}
    return execute("\n".join(lines), registers, threads=THREADS, shared_bytes=4 * THREADS)


RACES = {
    "read of another warp's write": (WRITE, READ_FAR),
    "read of a neighbour's write": (WRITE, READ_NEAR),
    "a warp barrier does not hold for another warp": (WRITE, WARP_BARRIER, READ_FAR),
    "write to what another warp reads": (WRITE, BARRIER, READ_FAR, WRITE),
    "write to what a neighbour reads": (WRITE, BARRIER, READ_NEAR, WRITE),
    "the same behind a warp barrier": (WRITE, BARRIER, READ_FAR, WARP_BARRIER, WRITE),
    "two writes": (WRITE, "st.shared.b32 [%r3], %r4;"),
    "the lowest reader of several": (WRITE, BARRIER, READ_FAR, "ld.shared.b32 %r6, [%r1];", "@%p1 " + WRITE),
    "the highest reader of several": (WRITE, BARRIER, READ_FAR, "ld.shared.b32 %r6, [%r1];", "@!%p1 " + WRITE),
}
ORDERED = {
    "barrier": (WRITE, BARRIER, READ_FAR),
    "warp barrier": (WRITE, WARP_BARRIER, READ_NEAR),
    "its own word": (WRITE, "ld.shared.b32 %r5, [%r1];", WRITE),
    "barrier after the reads": (WRITE, BARRIER, READ_FAR, BARRIER, WRITE),
    "warp barrier after the reads": (WRITE, WARP_BARRIER, READ_NEAR, WARP_BARRIER, WRITE),
    "two readers": (WRITE, BARRIER, READ_FAR, READ_NEAR, "ld.shared.b32 %r6, [global_smem];"),
}


@pytest.mark.parametrize("lines", RACES.values(), ids=RACES)
def test_race_is_found(lines):
    with pytest.raises(GpuError, match="race: "):
        run(*lines)


@pytest.mark.parametrize("lines", ORDERED.values(), ids=ORDERED)
def test_ordered_accesses_are_no_race(lines):
    run(*lines)


def test_barrier_of_some_threads_is_refused():
    with pytest.raises(GpuError, match="not all threads reach"):
        execute(f"@%p1 {BARRIER}", {"%p1": LANE < 32}, threads=THREADS)


# wgmma reads shared memory by itself: what it reads must be fenced, and not be overwritten before the wait.
MULTIPLY = ("wgmma.mma_async.sync.aligned.m64n16k16.f32.f16.f16 {%r10,%r11,%r12,%r13,%r14,%r15,%r16,%r17}, "
            "{%r20,%r21,%r22,%r23}, %rd1, 0, 1, 1, 0;")  # fmt: skip
FILL = "st.shared.v4.b32 [%r1], {%r4, %r4, %r4, %r4};"
FENCE, COMMIT, WAIT = (
    "fence.proxy.async.shared::cta;",
    "wgmma.commit_group.sync.aligned;",
    "wgmma.wait_group.sync.aligned 0;",
)
SUM = "add.f32 %r5, %r10, %r11;"


def run_matrices(*lines):
    """128 threads fill 2 KB with zeros; the operand of 16 rows of 32 bytes, 32-byte swizzle, lies at its start."""
    descriptor = 3 << 62 | (256 >> 4) << 32 | 1 << 16
    registers = {"%r1": 16 * np.arange(128), "%r4": 0, "%rd1": descriptor} | {f"%r{i}": 0 for i in range(20, 24)}
    return execute("\n".join(lines), registers, threads=128, shared_bytes=2048)


def test_fenced_and_awaited_product_is_no_race():
    state = run_matrices(FILL, BARRIER, FENCE, "wgmma.fence.sync.aligned;", MULTIPLY, COMMIT, WAIT, SUM, FILL)
    assert not values(state, "%r5", "f4").any()


MATRIX_RACES = {
    "no barrier": ((FILL, FENCE, MULTIPLY), "written since the last barrier"),
    "no fence": ((FILL, BARRIER, MULTIPLY), r"no fence\.proxy\.async"),
    "fence before the write": ((FENCE, FILL, BARRIER, MULTIPLY), r"no fence\.proxy\.async"),
    "overwritten": ((FILL, BARRIER, FENCE, MULTIPLY, COMMIT, FILL), "not waited for"),
    "result read early": ((FILL, BARRIER, FENCE, MULTIPLY, COMMIT, SUM), "before the wgmma that fills it"),
}


@pytest.mark.parametrize("lines, message", MATRIX_RACES.values(), ids=MATRIX_RACES)
def test_race_with_the_tensor_core_is_found(lines, message):
    with pytest.raises(GpuError, match=message):
        run_matrices(*lines)
