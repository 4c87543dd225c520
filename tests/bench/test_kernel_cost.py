"""The count of executed instructions: on listings made by hand, and on PTX, which the machine itself counts."""

import pytest

from bench import sass
from rmt_edge.errors import RmtEdgeError
from tests.conftest import PLUGIN_SM
from tests.ops.depthwise.test_depthwise import FP16, make_case
from tests.ops.retention.test_kernels import random_case
from tests.plugin.conftest import make_device
from tests.plugin.kernel_cases import depthwise_plugin, retention_plugin
from tests.ptx.parse import Kernel, parse_kernel


def rows_of(text: str) -> tuple[sass.Row, ...]:
    """Lines `guard opcode operands`, a guard of - for none; the address is the line's number."""
    parts = (line.split(maxsplit=2) for line in text.strip().splitlines())
    return tuple(
        sass.Row(i, "" if x[0] == "-" else x[0], x[1], x[2] if len(x) > 2 else "") for i, x in enumerate(parts)
    )


LOOP = """
- MOV
- FFMA
@P0 BRA 0x1
@!P1 BRA 0x5
- STG
- EXIT
"""


@pytest.mark.parametrize(
    "trips, taken, wanted", [((5,), (False,), 1 + 2 * 5 + 3), ((5,), (True,), 1 + 2 * 5 + 2), ((1,), (False,), 6)]
)
def test_loops_count_as_often_as_they_are_gone_round(trips, taken, wanted):
    assert sass.executed(rows_of(LOOP), sass.PtxFlow(trips, taken)) == wanted


def test_loops_that_do_not_match_are_refused():
    with pytest.raises(RmtEdgeError, match=r"The SASS has 1 loops \(0x2\), the PTX 2"):
        sass.executed(rows_of(LOOP), sass.PtxFlow((5, 2), (False,)))


def test_code_around_a_call_is_for_rare_cases():
    rows = rows_of("- MOV\n@P0 BRA 0x4\n- MOV\n- CALL.REL 0x6\n- STG\n- EXIT\n- MUFU\n- RET")
    assert sass.executed(rows, sass.PtxFlow((), ())) == 4


def test_code_that_is_jumped_over_does_not_count():
    """The body of an empty loop, apart from the loop: `@P0 BRA` leads past it, and so does the jump behind the loop."""
    rows = rows_of("@P0 BRA 0x2\n- BRA 0x4\n- MOV\n- BRA 0x6\n- STG\n- STG\n- EXIT")
    assert sass.executed(rows, sass.PtxFlow((), (True,))) == 4
    assert sass.executed(rows, sass.PtxFlow((), (False,))) == 5


def as_rows(kernel: Kernel) -> tuple[sass.Row, ...]:
    """PTX in the form of a listing: labels become addresses."""
    rows = []
    for i, x in enumerate(kernel.instructions):
        if x.opcode.startswith("bra"):
            rows.append(sass.Row(i, x.guard, "BRA", f"{kernel.labels[x.operands[0]]:#x}"))
        else:
            rows.append(sass.Row(i, x.guard, "EXIT" if x.opcode == "ret" else "X", ""))
    return tuple(rows)


def test_count_of_the_ptx_is_the_machines_own(library_folder, tmp_path):
    """The W and H pass with loops of LePE, both passes in one launch with loops in loops, rows down the columns."""
    device = make_device(library_folder, PLUGIN_SM, tmp_path)
    texts: dict[str, str] = {}
    device.rewrite = lambda ptx: texts.setdefault(ptx, ptx)
    device.launches.clear()
    tensors, (heads, decay) = random_case(1, 8, 8, 1, 32, FP16, "cpu")
    plugin, arrays = retention_plugin(device, tensors, heads, decay, True, max_batch=1, opt_batch=1)
    for tactic in (2, 6, 7):
        plugin(arrays, tactic)
    other, columns = depthwise_plugin(
        device, "AddDepthwiseResidualNorm", make_case((1, 5, 4, 64), 3, (True, True, False), FP16)
    )
    other(columns, 2)
    device.rewrite = str
    launches = device.launches[:]
    assert len(launches) == 6
    for launch, text in zip(launches, texts, strict=True):
        kernel = parse_kernel(text)
        counted = sass.executed(as_rows(kernel), sass.flow_of(kernel, launch.visits))
        assert abs(counted - launch.executed) <= 0.01 * launch.executed, kernel.name
    plugin.close()
    other.close()
