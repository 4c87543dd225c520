"""The machine around its instructions: what it knows, how it branches, that no opcode of the library is untested."""

import re
from pathlib import Path

import numpy as np
import pytest

from rmt_edge.plugin import load
from tests.conftest import PLUGIN_SM
from tests.plugin.conftest import cached_ptx
from tests.ptx import machine
from tests.ptx.memory import Memory
from tests.ptx.parse import GpuError, parse_kernel, split_operands
from tests.ptx.snippet import MODULE, execute, values

LANE = np.arange(32)


def opcodes(ptx):
    return {x.opcode for x in parse_kernel(ptx).instructions}


def assert_all_tested(used):
    """Every opcode stands in a line of PTX of a test in this folder."""
    sources = "\n".join(x.read_text().replace("\\n", "\n") for x in Path(__file__).parent.glob("test_*.py"))
    untested = {x for x in used if not re.search(rf'(?<![\w.]){re.escape(x)}[ ;"]', sources)}
    assert not untested


def test_every_opcode_of_the_library_has_a_test_here(library_folder, run_python):
    texts = [x.read_text() for x in cached_ptx(run_python, PLUGIN_SM).values()]
    assert len(texts) == load.library_info(load.library_path(library_folder))["kernels"]
    assert_all_tested(set().union(*map(opcodes, texts)))


def test_every_opcode_of_the_machine_has_a_test_here():
    """SM 9.0's among them, whose library is built by slow tests only."""
    assert_all_tested(set(machine.INSTRUCTIONS) | set(machine.BRANCHES))


def test_unknown_instruction_is_named_before_anything_runs():
    body = "bra $L1;\nadd.rz.f32 %r1, %r2, %r3;\n$L1:"
    with pytest.raises(GpuError, match=r"unknown instruction add\.rz\.f32: add\.rz\.f32 %r1, %r2, %r3;"):
        execute(body)


def test_loop_ends_when_its_guard_does():
    body = (
        "mov.u32 %r1, 0;\n$L1:\nadd.s32 %r1, %r1, 3;\nsetp.lt.s32 %p1, %r1, 20;\n@%p1 bra $L1;\nadd.s32 %r1, %r1, 100;"
    )
    assert values(execute(body), "%r1", "u4").tolist() == [121] * 32


def test_branch_around_is_taken():
    body = "mov.u32 %r1, 1;\nbra.uni $L1;\nmov.u32 %r1, 2;\n$L1:"
    assert values(execute(body), "%r1", "u4")[0] == 1


@pytest.mark.parametrize("line", ["@%p1 bra $L1;", "@%p1 ret;"])
def test_threads_that_part_ways_are_refused(line):
    with pytest.raises(GpuError, match="threads part ways"):
        execute(f"{line}\n$L1:", {"%p1": LANE < 4})


def test_endless_loop_is_refused(monkeypatch):
    monkeypatch.setattr(machine, "LONGEST_RUN", 1000)
    with pytest.raises(GpuError, match="does not end"):
        execute("$L1:\nbra.uni $L1;")


def test_register_that_holds_nothing_is_refused():
    with pytest.raises(GpuError, match="%r2 is read before it is written"):
        execute("neg.s32 %r1, %r2;")


def test_register_of_another_size_is_refused():
    with pytest.raises(GpuError, match="not its size"):
        execute("neg.s32 %r1, %rd2;", {"%rd2": 1})
    with pytest.raises(GpuError, match="not its size"):
        execute("neg.s32 %rd1, %r2;", {"%r2": 1})


def test_register_that_was_not_declared_is_refused():
    with pytest.raises(GpuError, match="%f1 is not declared"):
        execute("mov.b32 %f1, 1;")


def test_wrong_block_size_is_refused():
    kernel = parse_kernel(MODULE.format(threads=64, body=""))
    with pytest.raises(GpuError, match="launched with 32 threads, compiled for 64"):
        machine.launch(kernel, Memory(1 << 16), [bytes(8), bytes(4)], (1, 1, 1), 32, 0)


def test_every_block_of_the_grid_runs():
    """More threads than run at once; each block writes its own word."""
    body = """ld.param.b64 %rd1, [snippet_param_0];
        mov.u32 %r1, %ctaid.x;
        mov.u32 %r2, %ctaid.y;
        mad.lo.s32 %r3, %r2, 700, %r1;
        mad.wide.u32 %rd2, %r3, 8, %rd1;
        st.global.v2.b32 [%rd2], {%r1, %r2};"""
    memory = Memory(1 << 20)
    pointer = memory.allocate(1400 * 8)
    kernel = parse_kernel(MODULE.format(threads=32, body=body))
    machine.launch(kernel, memory, [pointer.to_bytes(8, "little"), bytes(4)], (700, 2, 1), 32, 0)
    assert memory.get(pointer, (2, 700, 2), np.uint32).tolist() == [[[x, y] for x in range(700)] for y in range(2)]


def test_line_that_is_no_ptx_is_refused():
    with pytest.raises(GpuError, match=r"cannot read this line of PTX: \? what"):
        execute("? what")


def test_operands_keep_their_braces_and_brackets():
    assert split_operands("{%r1, %r2}, [ %rd1 + 8 ], 0x10") == ("{%r1, %r2}", "[ %rd1 + 8 ]", "0x10")
