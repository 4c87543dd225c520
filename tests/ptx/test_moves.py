"""Loads, stores and asynchronous copies: what they move, and every access that they must refuse."""

import numpy as np
import pytest

from tests.ptx.memory import READ, WRITE, Memory
from tests.ptx.parse import GpuError
from tests.ptx.snippet import execute, values

LANE = np.arange(32)


@pytest.fixture
def memory():
    return Memory(1 << 16)


def addresses(pointer, step):
    """One address a thread."""
    return [pointer + step * i for i in range(32)]


def test_parameters_are_read_by_their_bytes():
    body = "ld.param.b64 %rd1, [snippet_param_0];\nld.param.b32 %r1, [snippet_param_1];"
    state = execute(body, arguments=((2**40 + 5).to_bytes(8, "little"), np.float32(1.5).tobytes()))
    assert values(state, "%rd1", "u8")[0] == 2**40 + 5
    assert values(state, "%r1", "f4")[0] == 1.5


def test_global_loads(memory):
    pointer = memory.put(np.arange(128, dtype=np.uint32))
    registers = {"%rd1": addresses(pointer, 16), "%rd2": addresses(pointer, 2)}
    body = """ld.global.v4.b32 {%r1, %r2, %r3, %r4}, [ %rd1 + 0 ];
        ld.global.b32 %r5, [ %rd1 + 8 ];
        ld.global.b16 %rs1, [ %rd2 + 0 ];"""
    state = execute(body, registers, memory=memory)
    for i in range(4):
        assert values(state, f"%r{i + 1}", "u4").tolist() == (4 * LANE + i).tolist()
    assert values(state, "%r5", "u4").tolist() == (4 * LANE + 2).tolist()
    assert values(state, "%rs1", "u2").tolist() == [i // 2 if i % 2 == 0 else 0 for i in range(32)]  # little endian


def test_parameters_are_read_as_nvrtc_writes_it():
    body = """ld.param.u64 %rd1, [snippet_param_0];
        ld.param.u32 %r1, [snippet_param_1];
        ld.param.f32 %r2, [snippet_param_1];"""
    state = execute(body, arguments=((2**40 + 5).to_bytes(8, "little"), np.float32(1.5).tobytes()))
    assert values(state, "%rd1", "u8")[0] == 2**40 + 5
    assert values(state, "%r1", "f4")[0] == values(state, "%r2", "f4")[0] == 1.5


@pytest.mark.parametrize("line, step, register", [
    ("ld.global.f32 %r1, [%rd1];", 4, "%r1"), ("ld.global.nc.b32 %r1, [%rd1];", 4, "%r1"),
    ("ld.global.nc.b16 %rs1, [%rd1];", 2, "%rs1"), ("ld.global.v2.b32 {%r2, %r1}, [%rd1+0];", 8, "%r1"),
    ("ld.global.nc.v2.b32 {%r2, %r1}, [%rd1+0];", 8, "%r1"),
    ("ld.global.nc.v4.b32 {%r2, %r3, %r4, %r1}, [%rd1];", 16, "%r1"),
])  # fmt: skip
def test_global_loads_as_nvrtc_writes_them(memory, line, step, register):
    """The last element that each thread loads, of consecutive ones."""
    width = 2 if register == "%rs1" else 4
    content = np.arange(1, 32 * step // width + 1, dtype=f"u{width}")
    state = execute(line, {"%rd1": addresses(memory.put(content), step)}, memory=memory)
    per_thread = step // width
    assert values(state, register, f"u{width}").tolist() == content[per_thread - 1 :: per_thread].tolist()


@pytest.mark.parametrize("line, width", [("st.global.b32 [%rd1], %r1;", 4), ("st.global.b16 [%rd1], %rs1;", 2)])
def test_global_stores_as_nvrtc_writes_them(memory, line, width):
    pointer = memory.allocate(32 * width, WRITE)
    execute(line, {"%rd1": addresses(pointer, width), "%r1": LANE + 70000, "%rs1": LANE + 7}, memory=memory)
    assert memory.get(pointer, (32,), f"u{width}").tolist() == (LANE + (70000 if width == 4 else 7)).tolist()


def test_four_words_go_through_shared_memory():
    registers = {"%r1": 16 * LANE, "%r9": 16 * (31 - LANE), "%r2": LANE, "%r3": LANE + 50}
    body = """st.shared.v4.u32 [%r1], {%r2, %r3, %r3, %r2};
        bar.sync 0;
        ld.shared.v4.u32 {%r4, %r5, %r6, %r7}, [%r9];"""
    state = execute(body, registers, shared_bytes=512)
    assert values(state, "%r4", "u4").tolist() == values(state, "%r7", "u4").tolist() == (31 - LANE).tolist()
    assert values(state, "%r5", "u4").tolist() == values(state, "%r6", "u4").tolist() == (81 - LANE).tolist()


def test_load_of_some_threads_leaves_the_others(memory):
    pointer = memory.put(np.full(4, 9, np.uint32))
    state = execute(
        "mov.u32 %r1, 1;\n@%p1 ld.global.b32 %r1, [%rd1];", {"%p1": LANE < 4, "%rd1": addresses(pointer, 4)},
        memory=memory,
    )  # fmt: skip
    assert values(state, "%r1", "u4").tolist() == [9] * 4 + [1] * 28


def test_global_stores(memory):
    four, two = memory.allocate(512, WRITE), memory.allocate(256, WRITE)
    registers = {"%rd1": addresses(four, 16), "%rd2": addresses(two, 8), "%r1": LANE, "%r2": LANE + 100}
    body = "st.global.v4.b32 [ %rd1 + 0 ], {%r1, %r2, %r1, %r2};\nst.global.v2.b32 [ %rd2 + 0 ], {%r2, %r1};"
    execute(body, registers, memory=memory)
    assert memory.get(four, (32, 4), np.uint32).tolist() == [[i, i + 100, i, i + 100] for i in range(32)]
    assert memory.get(two, (32, 2), np.uint32).tolist() == [[i + 100, i] for i in range(32)]


def test_shared_words():
    body = """shl.b32 %r9, %r1, 4;
        st.shared.v4.b32 [ %r9 + 0 ], {%r1, %r2, %r1, %r2};
        ld.shared.v4.b32 {%r3, %r4, %r5, %r6}, [%r9];
        ld.shared.v2.b32 {%r7, %r8}, [%r9+8];
        ld.shared.b32 %r10, [%r9+4];
        st.shared.v2.b32 [%r9], {%r2, %r2};
        st.shared.b32 [%r9+8], %r2;
        ld.shared.v4.b32 {%r11, %r12, %r13, %r14}, [%r9];"""
    state = execute(body, {"%r1": LANE, "%r2": LANE + 50}, shared_bytes=512)
    assert values(state, "%r6", "u4").tolist() == values(state, "%r10", "u4").tolist() == (LANE + 50).tolist()
    assert values(state, "%r5", "u4").tolist() == values(state, "%r7", "u4").tolist() == LANE.tolist()
    got = [values(state, f"%r{i}", "u4")[3] for i in range(11, 15)]
    assert got == [53, 53, 53, 53]


def test_shared_bytes_and_halves():
    body = """shl.b32 %r9, %r1, 3;
        st.shared.v4.b16 [%r9], {%rs1, %rs2, %rs1, %rs2};
        st.shared.v2.b16 [%r9+4], {%rs2, %rs2};
        st.shared.b16 [%r9+2], %rs1;
        ld.shared.v4.b16 {%rs3, %rs4, %rs5, %rs6}, [%r9];
        st.shared.v4.b8 [%r9], {%rs1, %rs2, %rs1, %rs2};
        ld.shared.b32 %r2, [%r9];
        st.shared.v2.b8 [%r9+4], {%rs2, %rs1};
        ld.shared.v2.b8 {%rs7, %rs8}, [%r9+4];"""
    state = execute(body, {"%r1": LANE, "%rs1": 0x1122, "%rs2": 0x33F4}, shared_bytes=256)
    got = [values(state, f"%rs{i}", "u2")[5] for i in range(3, 9)]
    assert got == [0x1122, 0x1122, 0x33F4, 0x33F4, 0xF4, 0x22]  # a byte comes without its sign
    assert values(state, "%r2", "u4")[5] == 0xF422F422


def test_blocks_have_shared_memory_of_their_own():
    body = "shl.b32 %r9, %r1, 2;\nst.shared.b32 [%r9], %r2;\nbar.sync 0;\nld.shared.b32 %r3, [global_smem];"
    state = execute(body, {"%r1": [*LANE, *LANE], "%r2": range(64)}, shared_bytes=128, blocks=2)
    assert values(state, "%r3", "u4").tolist() == [0] * 32 + [32] * 32


REFUSED = {
    "misaligned": ("ld.global.v4.b32 {%r1, %r2, %r3, %r4}, [%rd1];", 8, "misaligned 16-byte access"),
    "before": ("ld.global.b32 %r1, [%rd1];", -4, "out of bounds at"),
    "behind": ("ld.global.b32 %r1, [%rd1];", 64, "out of bounds at"),
    "far": ("ld.global.b32 %r1, [%rd1];", 1 << 40, "is not device memory"),
    "input": ("st.global.v2.b32 [%rd1], {%r1, %r1};", 0, "a write to what may only be read"),
}  # fmt: skip


@pytest.mark.parametrize("line, offset, message", REFUSED.values(), ids=REFUSED)
def test_access_that_no_kernel_may_make_is_refused(memory, line, offset, message):
    pointer = memory.put(np.zeros(16, np.uint32))
    with pytest.raises(GpuError, match=message):
        execute(line, {"%rd1": pointer + offset, "%r1": 0}, memory=memory)


@pytest.mark.parametrize("access, message", [(READ | WRITE, "nobody wrote"), (WRITE, "a read of an output")])
def test_read_of_what_holds_nothing_is_refused(memory, access, message):
    with pytest.raises(GpuError, match=message):
        execute("ld.global.b32 %r1, [%rd1];", {"%rd1": memory.allocate(16, access)}, memory=memory)


def test_output_that_is_not_whole_is_refused(memory):
    pointer = memory.allocate(64 * 4, WRITE)
    execute(
        "st.global.v2.b32 [%rd1], {%r1, %r1};",
        {"%rd1": [*addresses(pointer, 8)[:31], pointer], "%r1": 0},
        memory=memory,
    )
    with pytest.raises(GpuError, match="8 of 256 bytes of an output were never written"):
        memory.get(pointer, (64,), np.uint32)


def test_two_values_at_one_address_are_refused(memory):
    pointer = memory.allocate(64, WRITE)
    body = "st.global.v2.b32 [%rd1], {%r1, %r1};"
    execute(body, {"%rd1": pointer, "%r1": 5}, memory=memory)
    with pytest.raises(GpuError, match="two threads write different values"):
        execute(body, {"%rd1": pointer, "%r1": LANE}, memory=memory)


SHARED_REFUSED = {
    "too little": ("st.shared.b32 [%r1], %r1;", 4 * LANE + 4, "shared byte 128 of 128"),
    "negative": ("st.shared.b32 [%r1+-4], %r1;", 4 * LANE, "shared byte -4 of 128"),
    "misaligned": ("st.shared.b32 [%r1], %r1;", 4 * LANE + 2, "misaligned 4-byte access"),
    "empty": ("ld.shared.b32 %r2, [%r1];", 4 * LANE, "shared memory that nobody wrote"),
}  # fmt: skip


@pytest.mark.parametrize("line, address, message", SHARED_REFUSED.values(), ids=SHARED_REFUSED)
def test_shared_access_that_no_kernel_may_make_is_refused(line, address, message):
    with pytest.raises(GpuError, match=message):
        execute(line, {"%r1": address}, shared_bytes=128)


COPY = "cp.async.cg.shared.global [ %r1 + 0 ], [ %rd1 + 0 ], 0x10, %r2;"
READ_BACK = "ld.shared.b32 %r3, [%r1];"


def copy(memory, *lines, size=16):
    pointer = memory.put(np.arange(1, 129, dtype=np.uint32))
    registers = {"%rd1": addresses(pointer, 16), "%r1": 16 * LANE, "%r2": size}
    return execute("\n".join(lines), registers, shared_bytes=1024, memory=memory)


def test_copy_arrives_when_its_group_is_waited_for(memory):
    state = copy(memory, COPY, "cp.async.commit_group;", "cp.async.wait_group 0;", READ_BACK)
    assert values(state, "%r3", "u4").tolist() == (4 * LANE + 1).tolist()


def test_copy_of_size_0_fills_with_zeros_and_reads_nothing(memory):
    lines = (COPY, "cp.async.commit_group;", "cp.async.wait_group 0;", READ_BACK)
    assert not values(copy(memory, *lines, size=0), "%r3", "u4").any()


SECOND = COPY.replace("%r1 + 0", "%r1 + 512")
EARLY = {
    "no wait": (COPY, "cp.async.commit_group;", READ_BACK),
    "not committed": (COPY, "cp.async.wait_group 0;", READ_BACK),
    "one group too few": (COPY, "cp.async.commit_group;", "cp.async.wait_group 1;", READ_BACK),
}  # fmt: skip


@pytest.mark.parametrize("lines", EARLY.values(), ids=EARLY)
def test_read_of_a_copy_before_its_wait_is_seen(memory, lines):
    with pytest.raises(GpuError, match=r"before the cp\.async that fills it was waited for"):
        copy(memory, *lines)


def test_wait_for_all_but_the_latest_group_lets_the_first_be_read(memory):
    groups = (COPY, "cp.async.commit_group;", SECOND, "cp.async.commit_group;", "cp.async.wait_group 1;")
    assert values(copy(memory, *groups, READ_BACK), "%r3", "u4")[1] == 5
    with pytest.raises(GpuError, match="was waited for"):
        copy(memory, *groups, "ld.shared.b32 %r3, [%r1+512];")
