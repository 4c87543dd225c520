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

SHAPE = (1, 5, 30, 2, 16)  # b, h, w, heads, head dim: several tiles of queries and of keys
FOUND = 0.7  # of the places, at least


@pytest.fixture
def findings(device):
    """A function that takes each instruction of a kind out by itself, and returns what the machine says to each."""

    def run(decomposed, tactic, opcode):
        tensors, (heads, decay) = random_case(*SHAPE, FP16, "cpu")
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


@pytest.mark.parametrize("opcode", ["bar.sync", "bar.warp.sync"])
def test_missing_barrier_is_found(findings, opcode):
    said = findings(True, 2, opcode)
    assert said and all(x.startswith("race: ") for x in said if x)
    assert sum(map(bool, said)) >= FOUND * len(said)


def test_missing_wait_for_a_copy_is_found(findings):
    said = findings(False, 5, "cp.async.wait_group")
    assert any("before the cp.async that fills it was waited for" in x for x in said)
