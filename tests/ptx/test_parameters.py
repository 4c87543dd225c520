"""Parameters by name, by an address in a register, and with a sign."""

import numpy as np
import pytest

from tests.ptx.parse import GpuError
from tests.ptx.snippet import execute, values

ARGUMENTS = ((0x1122334455667788).to_bytes(8, "little"), (-3).to_bytes(4, "little", signed=True))


def test_parameter_is_read_at_the_address_that_was_selected():
    body = """
    mov.b64 %rd1, snippet_param_0;
    mov.b64 %rd2, snippet_param_1;
    selp.b64 %rd3, %rd1, %rd2, %p1;
    ld.param.b32 %r1, [%rd3];
    ld.param.b32 %r2, [snippet_param_0+4];
    ld.param.b32 %r3, [%rd1+4];
    ld.param.b64 %rd4, [%rd1];
    """
    for chosen, wanted in ((True, 0x55667788), (False, 0xFFFFFFFD)):
        state = execute(body, {"%p1": chosen}, arguments=ARGUMENTS)
        assert values(state, "%r1", "u4")[0] == wanted
        assert values(state, "%r2", "u4")[0] == values(state, "%r3", "u4")[0] == 0x11223344
        assert values(state, "%rd4", "u8")[0] == 0x1122334455667788


def test_signed_parameter_keeps_its_sign_in_a_wider_register():
    state = execute("ld.param.s32 %rd1, [snippet_param_1];", arguments=ARGUMENTS)
    assert values(state, "%rd1", "i8")[0] == -3


def test_mov_of_a_register_and_a_number_is_as_it_was():
    state = execute("mov.b64 %rd1, 77; \n mov.b64 %rd2, %rd1;")
    assert values(state, "%rd2", "u8")[0] == 77


@pytest.mark.parametrize("body, message", [
    ("ld.param.b32 %r1, [%rd1];", "is no parameter"),
    ("mov.b64 %rd2, snippet_param_1; \n ld.param.b64 %rd3, [%rd2];", "a read beyond the parameter"),
])  # fmt: skip
def test_address_of_no_parameter_is_a_fault(body, message):
    with pytest.raises(GpuError, match=message):
        execute(body, {"%rd1": np.array([99], np.uint64)}, arguments=ARGUMENTS)
