"""Synchronisation taken out of the library's own kernels, one instruction at a time: the machine finds the race.

On a GPU such a kernel gives right numbers most of the time; in lockstep it gives them always. What is not found stands
between accesses that do not meet in this launch: the INT8 way out, or a barrier before anything was written.
"""

import re

import pytest

from tests.ops.depthwise.test_depthwise import FP16
from tests.ops.retention.test_kernels import random_case
from tests.plugin.kernel_cases import retention_plugin
from tests.ptx.parse import GpuError

# b, h, w, heads, head dim: several tiles of queries and of keys; several lines a block, of lanes that hold some.
SHAPES = {2: (1, 5, 40, 2, 16), 6: (1, 14, 28, 2, 16), 7: (1, 14, 8, 1, 32)}
FOUND = 0.7  # of the places, at least


@pytest.fixture
def findings(device):
    """A function that takes each instruction of a kind out by itself, and returns what the machine says to each."""

    def run(decomposed, tactic, opcode):
        tensors, (heads, decay) = random_case(*SHAPES[tactic], FP16, "cpu")
        plugin, arrays = retention_plugin(device, tensors, heads, decay, decomposed)
        kernels = []
        device.rewrite = lambda ptx: kernels.append(ptx) or ptx
        plugin(arrays, tactic)
        whole = kernels[-1]  # of the H pass, or the only one
        said = []
        for place in re.finditer(rf"^\s*{re.escape(opcode)}\s.*;", whole, re.M):
            device.rewrite = lambda ptx: ptx if ptx != whole else whole[: place.start()] + whole[place.end() :]  # noqa: B023
            try:
                plugin(arrays, tactic)
                said.append("")
            except GpuError as error:
                said.append(str(error))
        return said

    yield run
    device.rewrite = str


# Lanes of the CUDA kernels hand over in registers alone, so they wait for blocks and never for warps.
PLACES = [(2, "bar.sync"), (2, "bar.warp.sync"), (6, "bar.sync"), (7, "bar.sync")]


@pytest.mark.parametrize("tactic, opcode", PLACES)
def test_missing_barrier_is_found(findings, tactic, opcode):
    said = findings(True, tactic, opcode)
    assert said and all(x.startswith("race: ") for x in said if x)
    assert sum(map(bool, said)) >= FOUND * len(said)


def test_no_kernel_waits_for_copies(device):
    """Were there one, its waits would have to be taken out above. The machine itself: tests/ptx/test_moves.py."""
    texts = []
    device.rewrite = lambda ptx: texts.append(ptx) or ptx
    try:
        for shape, decomposed in ((SHAPES[7], True), ((1, 5, 7, 2, 32), False)):
            tensors, (heads, decay) = random_case(*shape, FP16, "cpu")
            plugin, arrays = retention_plugin(device, tensors, heads, decay, decomposed)
            for tactic in plugin.tactics:
                plugin(arrays, tactic)
    finally:
        device.rewrite = str
    assert len(set(texts)) == 2 * 3 + 1 + 3, "tiles and lines in two passes, both passes, the whole form"
    assert not any("cp.async" in x for x in texts)
