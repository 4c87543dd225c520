"""What the plugins ask of a GPU, seen by a CUDA driver that has none: kernels, grids, parameters, sizes, messages.

A stand-in for libcuda.so.1 writes down what it is told, and a small host walks a plugin through its life in TensorRT
(standin/). Nothing is computed.
"""

import pytest

from tests.plugin.standin_machine import launches

QKV, SIN, COS, WEIGHT, BIAS, OUT, WORKSPACE, DECAY = (0x1000 * i for i in (1, 2, 3, 4, 5, 6, 7, 13))
# DepthwiseResidual: its inputs in order, at most six, and two outputs.
INPUTS, OUTPUTS = (0x1000, 0x2000, 0x3000, 0x4000, 0x5000, 0x8000), (0x6000, 0x9000)
INT32, FLOAT32 = 5, 1  # PluginFieldType::kINT32, kFLOAT32


def test_decomposed_form_launches_the_w_pass_then_the_h_pass(standin):
    calls, _ = standin.host(tactic=2)
    w_pass, h_pass = launches(calls)
    # 2 images, 4 heads, one tile of 32 queries per line; 14 rows in the W pass, 28 columns in the H pass.
    assert (w_pass["blocks"], w_pass["threads"]) == ([2 * 4 * 14, 1, 1], 64)
    assert (h_pass["blocks"], h_pass["threads"]) == ([2 * 4 * 28, 1, 1], 64)
    tables = [QKV, WORKSPACE, SIN, COS, DECAY, WEIGHT, BIAS]
    assert w_pass["pointers"][:8] == [*tables, WORKSPACE]
    assert h_pass["pointers"][:8] == [*tables, OUT]
    assert h_pass["pointers"][9:] == [0, 0], "Triton's two hidden pointers"
    for call in (w_pass, h_pass):
        assert call["sizes"] == [14, 28, 4]
        assert call["scale"] == 0
        assert call["stream"] == 0x77
        assert call["shared"] > 0, "the tiles of a pass go through shared memory"


def test_lines_longer_than_a_tile_take_several(standin):
    calls, _ = standin.host(tactic=2, h=33, w=70)  # tiles of 32 queries
    assert [x["blocks"][0] for x in launches(calls)] == [2 * 4 * 33 * 3, 2 * 4 * 70 * 2]


def test_whole_form_launches_once(standin):
    calls, _ = standin.host(decomposed=0, tactic=5)
    (call,) = launches(calls)
    assert (call["blocks"], call["threads"]) == ([2 * 4 * 4, 1, 1], 128)  # 392 tokens in tiles of 128
    assert call["pointers"][0] == QKV and call["pointers"][7] == OUT
    assert calls[0]["workspace"] == 0


def test_int8_output_gets_its_scale_and_pointer(standin):
    calls, _ = standin.host(scale=0.125)
    w_pass, h_pass = launches(calls)
    assert h_pass["scale"] == 0.125 and h_pass["pointers"][8] == OUT
    assert w_pass["pointers"][7] == WORKSPACE


def test_serialised_fields_are_those_of_earlier_engines(standin):
    calls, _ = standin.host(scale=0.125)
    (fields,) = (x["fields"] for x in calls if "fields" in x)
    assert fields == {
        "num_heads": [INT32, 1], "decay": [FLOAT32, 4], "decomposed": [INT32, 1], "channels": [INT32, 1],
        "output_scale": [FLOAT32, 1], "element_type": [INT32, 1],
    }  # fmt: skip


def test_kernels_and_decay_are_on_the_gpu_before_the_first_launch(standin):
    calls, _ = standin.host()
    attached = calls.index({"attached": 1})
    # The driver copies when the stream is synchronised, and refuses a launch before that.
    assert {"copied": 16, "first": -0.5} in calls[:attached]
    assert sum("load" in x for x in calls[:attached]) == 6  # three tactics, two passes
    assert not any("load" in x or "copied" in x for x in calls[attached:])
    assert calls[-1] == {"freed": DECAY}


@pytest.mark.parametrize("numbers", [dict(attach=0), dict(attach=0, shapes=0), dict(shapes=0)], ids=str)
def test_skipped_steps_are_caught_up_by_enqueue(standin, numbers):
    calls, _ = standin.host(**numbers)
    assert [x["sizes"] for x in launches(calls)] == [[14, 28, 4]] * 2
    assert {"copied": 16, "first": -0.5} in calls


def test_enqueue_takes_its_own_batch_not_that_of_the_last_shape_change(standin):
    calls, _ = standin.host(tactic=2, b=2, enqueue_b=5)
    assert [x["blocks"][0] for x in launches(calls)] == [5 * 4 * 14, 5 * 4 * 28]


def test_enqueue_takes_its_own_element_type(standin):
    half, single = (launches(standin.host(fp16=x)[0]) for x in (1, 0))
    calls, _ = standin.host(fp16=1, enqueue_fp16=0)
    assert [x["threads"] for x in launches(calls)] == [x["threads"] for x in single]
    assert [x["threads"] for x in half] != [x["threads"] for x in single]


def test_enqueue_checks_a_batch_that_no_shape_change_announced(standin):
    _, message = standin.host(enqueue_b=-1, status=8)
    assert "Retention: a size is negative" in message


@pytest.mark.parametrize("fp16, element_bytes", [(1, 2), (0, 4)])
def test_workspace_holds_the_w_pass(standin, fp16, element_bytes):
    calls, _ = standin.host(fp16=fp16)
    assert calls[0]["workspace"] == 2 * 14 * 28 * 128 * element_bytes


def test_workspace_is_for_the_largest_batch_of_the_profile(standin):
    calls, _ = standin.host(b=2, max_b=7)
    assert calls[0]["workspace"] == 7 * 14 * 28 * 128 * 2


BEYOND_THE_LIMITS = [
    ("Retention", dict(h=46341, w=46341)),
    ("DepthwiseResidual", dict(h=46341, w=46341)),
    ("DepthwiseResidual", dict(max_b=65536)),  # the best batch would do
]


@pytest.mark.parametrize("op, numbers", BEYOND_THE_LIMITS)
def test_profile_beyond_the_kernels_limits_is_refused_when_building(standin, op, numbers):
    _, message = standin.host(op, status=4, **numbers)
    assert f"{op}: " in message and "out of range" in message


@pytest.mark.parametrize("sizes, decomposed, best", [((1, 7, 7), 1, 1), ((1, 14, 28), 1, 2), ((1, 56, 56), 1, 3),
                                                     ((1, 7, 7), 0, 4), ((1, 14, 14), 0, 5)])  # fmt: skip
def test_tactic_for_the_size_comes_first(standin, sizes, decomposed, best):
    calls, _ = standin.host(decomposed=decomposed, **dict(zip("bhw", sizes, strict=True)))
    assert calls[0]["tactics"][0] == best
    assert sorted(calls[0]["tactics"]) == ([1, 2, 3] if decomposed else [3, 4, 5])


def test_tactic_zero_chooses_per_pass(standin):
    calls, _ = standin.host(tactic=0, b=1, h=14, w=56)
    w_pass, h_pass = launches(calls)
    assert (w_pass["blocks"][0], w_pass["threads"]) == (4 * 14, 128)  # 56 tokens: tile of 64
    assert (h_pass["blocks"][0], h_pass["threads"]) == (4 * 56, 32)  # 14 tokens: tile of 16


def test_unknown_tactic_is_refused_with_a_message(standin):
    _, message = standin.host(tactic=9, status=8)
    assert "no tactic 9" in message


def test_empty_batch_is_refused_with_a_message(standin):
    _, message = standin.host(b=0, status=4)
    assert "Retention: batch 0, grid 14 x 28, 4 heads is out of range" in message


# Op type -> the six inputs and two outputs as the kernel takes them (0: absent), scale, epsilon.
DEPTHWISE = {
    "DepthwiseResidual": ([*INPUTS[:3], 0, 0, 0, OUTPUTS[0], 0], 0, 0),
    "AddDepthwiseResidualInt8": ([*INPUTS[:4], 0, 0, OUTPUTS[0], 0], 0.125, 0),
    "DepthwiseResidualNorm": ([*INPUTS[:3], 0, *INPUTS[3:5], *OUTPUTS], 0, 0.25),
    "AddDepthwiseResidualNormInt8": ([*INPUTS, *OUTPUTS], 0.125, 0.25),
}


@pytest.mark.parametrize("op", DEPTHWISE)
def test_depthwise_kernel_gets_its_parameters(standin, op):
    pointers, scale, epsilon = DEPTHWISE[op]
    calls, _ = standin.host(op, scale=scale, h=14, w=27, channels=96)
    (call,) = launches(calls)
    assert call["pointers"] == [*pointers, 0, 0]
    assert (call["scale"], call["epsilon"]) == (scale, epsilon)
    assert call["sizes"] == [14, 27, 96]
    assert call["stream"] == 0x77
    assert calls[0]["workspace"] == 0
    (fields,) = (x["fields"] for x in calls if "fields" in x)
    assert set(fields) == {"channels", "element_type"} | ({"output_scale"} if scale else set()) | (
        {"epsilon"} if epsilon else set()
    )


# Tactic 1 of depthwise/kernels.py at 14 x 27, 3 images: tiles of rows, of columns and of channels, and threads.
DEPTHWISE_GRIDS = {
    ("DepthwiseResidual", 96): ([14 * 4 * 2, 3, 1], 64),  # CHANNEL_TILES[0]: (1, 8, 64), 2 warps
    ("AddDepthwiseResidualNorm", 96): ([14 * 7 * 1, 3, 1], 64),  # ROW_TILES[128][0]: (1, 4, 128), 2 warps
    ("AddDepthwiseResidualNorm", 512): ([14 * 27 * 1, 3, 1], 64),  # ROW_TILES[512][0]: (1, 1, 512), 2 warps
}


@pytest.mark.parametrize("op, channels", DEPTHWISE_GRIDS)
def test_depthwise_grid_covers_the_image(standin, op, channels):
    calls, _ = standin.host(op, tactic=1, b=2, enqueue_b=3, h=14, w=27, channels=channels)
    (call,) = launches(calls)
    assert (call["blocks"], call["threads"]) == DEPTHWISE_GRIDS[op, channels]
    assert calls[0]["tactics"] == [1, 3]


def test_depthwise_batch_beyond_the_grid_is_refused_in_enqueue(standin):
    _, message = standin.host("DepthwiseResidual", b=2, enqueue_b=65536, status=8)
    assert "batch 65536" in message and "out of range" in message
