"""Which thread holds which element, written down from the tables of the PTX manual, and products of small integers.

Small integers are exact in float16 and their sums in float32, so that the order of sums does not matter.
"""

import numpy as np
import pytest

from tests.ptx.parse import GpuError
from tests.ptx.snippet import execute, values

RNG = np.random.default_rng(0)
MMA = ("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%r20, %r21, %r22, %r23}, {%r1, %r2, %r3, %r4}, {%r5, %r6}, "
       "{%r7, %r8, %r9, %r10};")  # fmt: skip


def a_place(lane, i):
    """Row and column of a_i, 0 <= i < 8 (manual, figure of A of m16n8k16 for .f16)."""
    row = lane >> 2 if i in (0, 1, 4, 5) else (lane >> 2) + 8
    return row, (lane % 4) * 2 + (i & 1) + (8 if i >= 4 else 0)


def b_place(lane, i):
    """Row and column of b_i, 0 <= i < 4."""
    return (lane % 4) * 2 + (i & 1) + (8 if i >= 2 else 0), lane >> 2


def c_place(lane, i):
    """Row and column of c_i and d_i, 0 <= i < 4."""
    return (lane >> 2) + (8 if i >= 2 else 0), (lane % 4) * 2 + (i & 1)


def test_places_of_one_thread_are_those_of_the_manuals_figures():
    """Lane 13 is thread 1 of group 3."""
    assert [a_place(13, i) for i in (0, 1, 2, 4, 7)] == [(3, 2), (3, 3), (11, 2), (3, 10), (11, 11)]
    assert [b_place(13, i) for i in range(4)] == [(2, 3), (3, 3), (10, 3), (11, 3)]
    assert [c_place(13, i) for i in range(4)] == [(3, 2), (3, 3), (11, 2), (11, 3)]


def integers(*shape):
    return RNG.integers(-8, 9, shape).astype(np.float32)


def pairs(matrix, place, register, lanes=32):
    """Register number `register` of every lane: elements 2·register and 2·register + 1, the first in the low half."""
    low, high = ([matrix[place(lane, 2 * register + j)] for lane in range(lanes)] for j in range(2))
    low, high = (np.float16(x).view(np.uint16).astype(np.uint32) for x in (low, high))
    return high << 16 | low


def test_mma_multiplies_and_adds():
    a, b, c = integers(16, 16), integers(16, 8), integers(16, 8)
    registers = {f"%r{i + 1}": pairs(a, a_place, i) for i in range(4)}
    registers |= {f"%r{i + 5}": pairs(b, b_place, i) for i in range(2)}
    registers |= {f"%r{i + 7}": np.float32([c[c_place(lane, i)] for lane in range(32)]) for i in range(4)}
    state = execute(MMA, registers)
    wanted = a @ b + c
    for i in range(4):
        got = values(state, f"%r{20 + i}", "f4")
        assert got.tolist() == [wanted[c_place(lane, i)] for lane in range(32)]


def test_mma_may_write_over_its_own_operands():
    ones = {f"%r{i}": 0x3C003C00 for i in range(1, 7)} | {f"%r{i}": np.float32(i) for i in range(7, 11)}
    state = execute(MMA.replace("{%r20, %r21, %r22, %r23}", "{%r8, %r7, %r10, %r9}"), ones)
    assert [values(state, f"%r{i}", "f4")[0] for i in (8, 7, 10, 9)] == [16 + 7, 16 + 8, 16 + 9, 16 + 10]


LDMATRIX = "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r20, %r21, %r22, %r23}, [%r9];"
TRANSPOSED = "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%r20, %r21, %r22, %r23}, [%r9];"
FILL = "st.shared.v4.b32 [%r9], {%r1, %r2, %r3, %r4};\nbar.warp.sync -1;\n"
ROWS = RNG.permutation(32)  # row i of matrix m lies anywhere: at 16 bytes times ROWS[8·m + i]


def eight_by_eight(lines):
    """Lane 8·m + i writes row i of matrix m, whose elements are 100·(8·m + i) + column, and names it to ldmatrix."""
    row = (100 * np.arange(32)[:, None] + np.arange(8)).astype(np.uint16).view(np.uint32)
    registers = {f"%r{j + 1}": row[:, j] for j in range(4)} | {"%r9": 16 * ROWS}
    return execute(FILL + lines, registers, shared_bytes=512)


def test_ldmatrix_gives_thread_t_two_elements_of_row_t_over_4():
    state = eight_by_eight(LDMATRIX)
    for matrix in range(4):
        got = values(state, f"%r{20 + matrix}", "u4")
        for lane in range(32):
            first = 100 * (8 * matrix + lane // 4) + 2 * (lane % 4)
            assert got[lane] == (first + 1) << 16 | first


def test_transposed_ldmatrix_gives_thread_t_two_elements_of_column_t_over_4():
    state = eight_by_eight(TRANSPOSED)
    for matrix in range(4):
        got = values(state, f"%r{20 + matrix}", "u4")
        for lane in range(32):
            upper, lower = (100 * (8 * matrix + 2 * (lane % 4) + i) + lane // 4 for i in range(2))
            assert got[lane] == lower << 16 | upper


def test_stmatrix_stores_what_ldmatrix_loads():
    """Thread t's register m goes to row t / 4 of matrix m, at byte 4·(t % 4); lane 8·m + t / 4 names the row."""
    body = """stmatrix.sync.aligned.m8n8.x4.shared.b16 [%r9], {%r1, %r2, %r3, %r4};
        bar.warp.sync -1;
        ld.shared.v4.b32 {%r20, %r21, %r22, %r23}, [%r9];"""
    registers = {f"%r{m + 1}": 1000 * m + np.arange(32) for m in range(4)} | {"%r9": 16 * ROWS}
    state = execute(body, registers, shared_bytes=512)
    for lane in range(32):
        matrix, row = divmod(lane, 8)
        got = [values(state, f"%r{20 + j}", "u4")[lane] for j in range(4)]
        assert got == [1000 * matrix + 4 * row + j for j in range(4)]


# -- wgmma ---------------------------------------------------------------------------------------------------------

LOAD = "st.shared.v4.b32 [%r1], {%r2, %r3, %r4, %r5};"
SYNC = "bar.sync 0;\nfence.proxy.async.shared::cta;\nwgmma.fence.sync.aligned;"
DONE = "wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;"
OPCODES = {
    16: "wgmma.mma_async.sync.aligned.m64n16k16.f32.f16.f16",
    32: "wgmma.mma_async.sync.aligned.m64n32k16.f32.f16.f16",
    64: "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16",
}
SWIZZLE_BITS = {128: 1, 64: 2, 32: 3}  # bits 62-63 of the descriptor, by bytes
MEMORY = 8192


def swizzled(row, byte, row_bytes):
    """Byte offset in a tile of eight rows: their 16-byte pieces are exchanged in each row in another way.

    128 bytes: by the row's number; 64: every two rows another way; 32: every four (manual, "Swizzling modes").
    """
    turn = {128: row, 64: row // 2, 32: row // 4}[row_bytes]
    return row * row_bytes + (byte // 16 ^ turn) * 16 + byte % 16


def descriptor(start, leading, stride, row_bytes):
    return start >> 4 | leading >> 4 << 16 | stride >> 4 << 32 | SWIZZLE_BITS[row_bytes] << 62


def product(memory, described, a, columns, is_transposed, before=None):
    """D of one wgmma as (64, columns). memory: what shared memory holds, float16; before: D as it was, or None."""
    words = np.ascontiguousarray(memory).view(np.uint32).reshape(-1, 128, 4)
    body, registers = [], {"%rd1": described, "%r1": 16 * np.arange(128), "%p1": before is not None}
    for i, chunk in enumerate(words):  # 2048 bytes at a time
        registers |= {f"%r{100 + 4 * i + j}": chunk[:, j] for j in range(4)}
        body.append(LOAD.replace("[%r1]", f"[%r1+{2048 * i}]").replace(
            "%r2, %r3, %r4, %r5", ", ".join(f"%r{100 + 4 * i + j}" for j in range(4))
        ))  # fmt: skip
    for i in range(4):
        registers[f"%r{10 + i}"] = pairs(
            a, lambda t, e: (16 * (t // 32) + a_place(t % 32, e)[0], a_place(t % 32, e)[1]), i, 128
        )
    held = [f"%r{20 + i}" for i in range(columns // 2)]
    if before is not None:
        registers |= {name: np.float32([before[d_place(t, i)] for t in range(128)]) for i, name in enumerate(held)}
    sources = "{%r10,%r11,%r12,%r13}"
    body += [SYNC, f"{OPCODES[columns]} {{{','.join(held)}}}, {sources}, %rd1, %p1, 1, 1, {int(is_transposed)};", DONE]
    state = execute("\n".join(body), registers, threads=128, shared_bytes=MEMORY)
    result = np.full((64, columns), np.nan, np.float32)
    for i, name in enumerate(held):
        for t, value in enumerate(values(state, name, "f4")):
            result[d_place(t, i)] = value
    return result


def d_place(thread, i):
    """Row and column of d_i (manual, D of m64nNk16): a warp has 16 rows, a thread four elements every eight columns."""
    warp, lane = divmod(thread, 32)
    return 16 * warp + lane // 4 + 8 * (i % 4 // 2), 8 * (i // 4) + 2 * (lane % 4) + i % 2


def test_places_of_one_thread_of_wgmma():
    """Thread 77 is lane 13 of warp 2."""
    assert [d_place(77, i) for i in (0, 1, 2, 4, 7)] == [(35, 2), (35, 3), (43, 2), (35, 10), (43, 11)]


@pytest.mark.parametrize("row_bytes", [32, 64, 128])
def test_wgmma_reads_b_by_rows_of_k(row_bytes):
    """B (k, 64) with k along the rows; one row holds several steps of 16 k, each begun at its own address."""
    columns, depth = 64, row_bytes // 2
    b, memory = integers(depth, columns), np.zeros(MEMORY // 2, np.float16)
    stride = 8 * row_bytes
    for k in range(depth):
        for n in range(columns):
            memory[(n // 8 * stride + swizzled(n % 8, 2 * k, row_bytes)) // 2] = b[k, n]
    for step in range(depth // 16):
        a = integers(64, 16)
        got = product(memory, descriptor(32 * step, 16, stride, row_bytes), a, columns, False)
        assert np.array_equal(got, a @ b[16 * step : 16 * step + 16])


@pytest.mark.parametrize("columns, row_bytes", [(16, 32), (32, 64), (64, 128), (64, 64), (32, 32)])
def test_wgmma_reads_b_by_rows_of_n(columns, row_bytes):
    """B (16, n) with n along the rows: eight k a tile, the next eight a stride on, further columns a leading offset."""
    b, before, a = integers(16, columns), integers(64, columns), integers(64, 16)
    memory = np.zeros(MEMORY // 2, np.float16)
    per_row, stride = row_bytes // 2, 8 * row_bytes
    leading = 2 * stride
    for k in range(16):
        for n in range(columns):
            tile = n // per_row * leading + k // 8 * stride
            memory[(tile + swizzled(k % 8, n % per_row * 2, row_bytes)) // 2] = b[k, n]
    got = product(memory, descriptor(0, leading, stride, row_bytes), a, columns, True, before)
    assert np.array_equal(got, a @ b + before)


def test_threads_that_disagree_about_the_descriptor_are_refused():
    described = [descriptor(16 * (t % 2), 16, 256, 32) for t in range(128)]
    with pytest.raises(GpuError, match="differs between threads that must agree"):
        product(np.zeros(MEMORY // 2, np.float16), described, integers(64, 16), 16, True)
