"""Input sizes that no memory holds are refused with numbers, before anything is allocated."""

import pytest

from rmt_edge.errors import RmtEdgeError
from rmt_edge.model import memory
from rmt_edge.model.folded import folded_from_model
from rmt_edge.model.memory import check_memory, image_bytes, machine_bytes


def test_the_largest_holder_is_the_whole_attention_of_a_large_image():
    found = image_bytes("rmt_t", 1024, 1024)
    # Stage 3 of RMT-T is whole: 64x64 positions, 8 heads, three tensors of (8, 4096, 4096) floats.
    assert max(found, key=found.get) == "the attention of stage 3, 64x64 positions"
    assert max(found.values()) == 3 * 8 * 4096**2 * 4
    assert found["the position tables"] == sum(
        2 * (1024 // s) ** 2 * d * 4 for s, d in ((4, 16), (8, 32), (16, 32), (32, 32))
    )


def test_a_size_that_no_memory_holds_is_refused_with_numbers(nano, monkeypatch):
    monkeypatch.setattr(memory, "machine_bytes", lambda: 16 * 2**30)
    with pytest.raises(RmtEdgeError) as error:
        folded_from_model(nano, 200_000, 200_000)
    message = str(error.value)
    assert "rmt_nano cannot take 200000x200000 images on this machine" in message
    assert "the attention of stage 3, 12500x12500 positions; this machine has 16" in message
    assert "Choose a smaller input size" in message


def test_the_limit_is_the_memory_of_the_machine(monkeypatch):
    needed = max(image_bytes("rmt_s", 2048, 1024).values())
    monkeypatch.setattr(memory, "machine_bytes", lambda: needed)
    check_memory("rmt_s", 2048, 1024)
    monkeypatch.setattr(memory, "machine_bytes", lambda: needed - 1)
    with pytest.raises(RmtEdgeError, match="rmt_s cannot take 2048x1024"):
        check_memory("rmt_s", 2048, 1024)
    monkeypatch.setattr(memory, "machine_bytes", lambda: None)
    check_memory("rmt_s", 10**6, 10**6)


def test_the_system_says_how_much_memory_there_is():
    assert 2**28 < machine_bytes() < 2**50


def test_the_arithmetic_is_a_lower_bound_of_what_is_really_taken(run_python):
    """The attention of a size that takes over 128 MiB, in a process of its own."""
    code = """
import pathlib, re, torch
from rmt_edge.model.memory import image_bytes
from rmt_edge.model.rmt import create_model
model = create_model("rmt_nano", 10)
torch.set_num_threads(1)
# Not getrusage's ru_maxrss: Linux hands the parent's peak on to it.
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1]) * 1024
with torch.inference_mode():
    model(torch.zeros(1, 3, 64, 64))
    before = peak()
    model(torch.zeros(1, 3, 704, 640))
taken, said = peak() - before, max(image_bytes("rmt_nano", 704, 640).values())
print(taken, said)
assert said > 2**27 and said <= taken <= 3 * said, (taken, said)
"""
    done = run_python("-c", code)
    assert done.returncode == 0, done.stdout + done.stderr
