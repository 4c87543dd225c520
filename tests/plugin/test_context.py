"""Which CUDA context the plugins work in: the current one, or else the primary one, retained while it is needed."""

from tests.plugin.standin_machine import launches

NO_CONTEXT = {"FAKE_NO_CONTEXT": "1"}
LOAD = "assert library.rmt_retention_load(32, 0, 1, 0, 0) == 0\n"  # three tactics of the whole form


def primary_counts(calls):
    return [x["primary"] for x in calls if "primary" in x]


def test_current_context_is_used_as_it_is(standin):
    calls, _ = standin.host()
    assert primary_counts(calls) == []


def test_primary_context_is_held_from_attaching_to_the_end(standin):
    calls, _ = standin.host(environment=NO_CONTEXT)
    assert [x["sizes"] for x in launches(calls)] == [[14, 28, 4, 2]] * 2
    first, last = (i for i in (calls.index({"primary": 1}), len(calls) - 1))
    assert first < calls.index({"attached": 1})
    assert calls[last] == {"primary": 0}
    assert 0 not in primary_counts(calls)[:-1], "the kernels would have gone with the context"
    assert {"freed": 0xD000} in calls, "memory is freed before its context goes"


def test_primary_context_is_held_where_enqueue_comes_first(standin):
    calls, _ = standin.host(environment=NO_CONTEXT, attach=0, shapes=0)
    assert len(launches(calls)) == 2
    assert primary_counts(calls)[-1] == 0 and 0 not in primary_counts(calls)[:-1]


def test_depthwise_plugin_holds_it_too(standin):
    calls, _ = standin.host("DepthwiseResidual", environment=NO_CONTEXT)
    assert len(launches(calls)) == 1
    assert primary_counts(calls)[-1] == 0 and 0 not in primary_counts(calls)[:-1]


def test_no_context_at_all_is_refused_with_a_message(standin):
    calls, message = standin.host(environment=NO_CONTEXT | {"FAKE_NO_DEVICE": "1"}, status=6)
    assert not any("load" in x for x in calls)
    assert "no CUDA context is current in this thread, and the primary one of device 0 cannot be had" in message


def test_entry_point_releases_the_primary_context(standin):
    calls, _ = standin.python(LOAD, **NO_CONTEXT)
    assert primary_counts(calls) == [1, 0]


def test_kernels_that_went_with_their_context_are_loaded_again(standin):
    calls, _ = standin.python(LOAD * 2, **NO_CONTEXT)
    assert sum("load" in x for x in calls) == 2 * 3
    calls, _ = standin.python(LOAD * 2)
    assert sum("load" in x for x in calls) == 3, "in a context that stays they are found"


LAUNCH_DEPTHWISE = """
pointers = [ctypes.c_void_p(16 * i) for i in (1, 2, 3, 0, 0, 0, 4, 0)]
numbers = [ctypes.c_int32(x) for x in (1, 7, 7, 64, 1)] + [ctypes.c_float(0), ctypes.c_float(0.5)]
assert library.rmt_depthwise_residual_launch(*pointers, *numbers, ctypes.c_int32(0), ctypes.c_void_p()) == 0
"""


def test_depthwise_entry_point_launches_in_the_primary_context(standin):
    calls, _ = standin.python(LAUNCH_DEPTHWISE, **NO_CONTEXT)
    (call,) = launches(calls)
    assert call["pointers"] == [16, 32, 48, 0, 0, 0, 0, 0, 64, 0]
    assert (call["sizes"], call["scale"]) == ([7, 7, 64], 0.5)
    assert primary_counts(calls) == [1, 0]
