"""The machine's memory by itself: allocations, what is given back, copies of the host, far ranges."""

import numpy as np
import pytest

from tests.ptx.memory import ALIGNMENT, READ, WRITE, AddressMemory, Memory
from tests.ptx.parse import GpuError


def addresses(*values):
    return np.array(values, np.uint64)


def test_allocations_are_aligned_and_apart():
    memory = Memory(1 << 16)
    first, second = memory.allocate(10), memory.allocate(10, offset=16)
    assert first % ALIGNMENT == 0 and second % ALIGNMENT == 16
    assert second - first >= 4096


def test_what_was_given_back_may_not_be_touched():
    memory = Memory(1 << 16)
    mark = memory.mark()
    pointer = memory.put(np.arange(4, dtype=np.uint32))
    assert memory.read(addresses(pointer + 4), 4, "here").tolist() == [1]
    memory.free_from(mark)
    with pytest.raises(GpuError, match="out of bounds at"):
        memory.read(addresses(pointer + 4), 4, "here")
    assert memory.allocate(16) == pointer


def test_memory_that_is_full_is_refused():
    with pytest.raises(GpuError, match="memory of 65536 bytes is full"):
        Memory(1 << 16).allocate(1 << 16)


def test_copy_beyond_its_allocation_is_refused():
    memory = Memory(1 << 16)
    with pytest.raises(GpuError, match="a copy of 12 bytes"):
        memory.copy_in(memory.allocate(8), np.zeros(12, np.uint8))


def test_access_that_leaves_its_allocation_in_part_is_refused():
    memory = Memory(1 << 16)
    pointer = memory.put(np.zeros(12, np.uint8))
    with pytest.raises(GpuError, match="out of bounds at"):
        memory.read(addresses(pointer), 16, "here")


def test_every_width_is_written_and_read_as_it_is():
    memory = Memory(1 << 16)
    for width in (1, 2, 4, 8, 16):
        pointer = memory.allocate(64)
        values = np.arange(200, 200 + 2 * width, dtype=np.uint8).view(f"V{width}").tobytes()
        carriers = np.frombuffer(values, {1: "u1", 2: "u2", 4: "u4", 8: "u8", 16: "c16"}[width])
        memory.write(addresses(pointer, pointer + width), carriers, "here")
        assert memory.get(pointer, (2 * width,), np.uint8).tobytes() == values
        assert memory.read(addresses(pointer, pointer + width), width, "here").tobytes() == values


@pytest.mark.parametrize("address, width, message", [
    (1 << 40, 4, None), ((1 << 40) + 92, 4, None), ((1 << 40) + 96, 8, "lies in no tensor"),
    ((1 << 40) - 4, 4, "lies in no tensor"), ((1 << 40) + 2, 4, "misaligned 4-byte access"),
    (1 << 41, 4, "out must not be read"),
])  # fmt: skip
def test_far_ranges_know_their_ends_and_what_may_be_done(address, width, message):
    memory = AddressMemory({"x": (1 << 40, 96, READ), "out": (1 << 41, 96, WRITE)})
    if message is None:
        assert memory.read(addresses(address), width, "here").tolist() == [0]
        assert memory.seen["x"] == (address - (1 << 40), address - (1 << 40) + width)
        return
    with pytest.raises(GpuError, match=message):
        memory.read(addresses(address), width, "here")
