"""What the plugins ask of a GPU, seen by a CUDA driver that has none: kernels, grids, parameters, sizes, messages.

A stand-in for libcuda.so.1 writes down what it is told, and a small host walks a plugin through its life in TensorRT
(standin/). Nothing is computed.
"""

import pytest

from tests.plugin.standin_machine import launches

QKV, SIN, COS, WEIGHT, BIAS, OUT, WORKSPACE, DECAY = (0x1000 * i for i in (1, 2, 3, 4, 5, 6, 7, 13))
TABLES = [SIN, COS, DECAY, WEIGHT, BIAS]
VECTORS = [0x8000, 0xA000]  # qkv_scale and qkv_bias: inputs 6 and 7 of host.cpp
NO_VECTORS = [0, 0]
TILES, LINES = "retention_kernel", "retention_lines"  # of kernels.py, of kernels.cu
# DepthwiseResidual: its inputs in order, at most eight, and two outputs.
INPUTS, OUTPUTS = (0x1000, 0x2000, 0x3000, 0x4000, 0x5000, 0x8000, 0xA000, 0xB000), (0x6000, 0x9000)
COLUMNS, DEPTHWISE_TILES = "depthwise_residual_columns", "depthwise_residual_kernel"
INT32, FLOAT32 = 5, 1  # PluginFieldType::kINT32, kFLOAT32


def test_tiles_of_the_decomposed_form_launch_the_w_pass_then_the_h_pass(standin):
    calls, _ = standin.host(tactic=2)
    w_pass, h_pass = launches(calls)
    # 2 images, 4 heads, one tile of 32 queries per line; 14 rows in the W pass, 28 columns in the H pass.
    assert (w_pass["blocks"], w_pass["threads"]) == ([2 * 4 * 14, 1, 1], 64)
    assert (h_pass["blocks"], h_pass["threads"]) == ([2 * 4 * 28, 1, 1], 64)
    inputs = [QKV, WORKSPACE, *TABLES, *NO_VECTORS]
    assert w_pass["pointers"][:10] == [*inputs, WORKSPACE]
    assert h_pass["pointers"][:10] == [*inputs, OUT]
    for call in (w_pass, h_pass):
        assert call["kernel"] == TILES
        assert call["sizes"] == [14, 28, 4]
        assert (call["scale"], call["input_scale"]) == (0, 0)
        assert call["stream"] == 0x77
        assert call["shared"] > 0, "the tiles of a pass go through shared memory"
        assert call["hidden"] == [0, 0], "Triton's two hidden pointers"


def test_lines_launch_the_w_pass_then_the_h_pass(standin):
    calls, _ = standin.host(b=3, tactic=6)
    w_pass, h_pass = launches(calls)
    # Lanes of 4 tokens hold rows of 28, 4 rows a block; lanes of 2 hold columns of 14, 7 columns a block.
    assert (w_pass["blocks"], w_pass["threads"]) == ([3 * 4 * 4, 1, 1], 4 * 32)
    assert (h_pass["blocks"], h_pass["threads"]) == ([3 * 4 * 4, 1, 1], 7 * 32)
    assert w_pass["shared"] == 0 and h_pass["shared"] > 0, "LePE's operands, of the H pass"
    for call in (w_pass, h_pass):
        assert call["kernel"] == LINES
        assert call["pointers"] == [QKV, WORKSPACE, *TABLES, *NO_VECTORS, OUT]
        assert call["sizes"] == [14, 28, 4, 3]
        assert (call["scale"], call["input_scale"]) == (0, 0)
        assert call["stream"] == 0x77


def test_lines_that_do_not_fill_a_block_get_one_all_the_same(standin):
    calls, _ = standin.host(b=1, h=14, w=20, tactic=6)
    assert [x["blocks"] for x in launches(calls)] == [[4 * 4, 1, 1], [4 * 3, 1, 1]]  # 14 rows by 4, 20 columns by 7


# Grid -> bytes of shared memory: LePE's operands, and of each token q, k and what the W pass gives, 80 bytes each.
GRIDS = {(14, 14): 7168 + 3 * 196 * 80, (4, 16): 7168 + 3 * 64 * 80}


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_both_passes_of_a_small_grid_are_one_launch(standin, grid):
    h, w = grid
    calls, _ = standin.host(b=3, h=h, w=w)
    (call,) = launches(calls)
    assert calls[0]["tactics"][0] == 7
    assert (call["kernel"], call["blocks"], call["threads"]) == (LINES, [3 * 4, 1, 1], 7 * 32)
    assert call["pointers"] == [QKV, WORKSPACE, *TABLES, *NO_VECTORS, OUT]
    assert call["sizes"] == [h, w, 4, 3]
    assert call["shared"] == GRIDS[grid]


def test_lines_longer_than_a_tile_take_several(standin):
    calls, _ = standin.host(tactic=2, h=33, w=70)  # tiles of 32 queries
    assert [x["blocks"][0] for x in launches(calls)] == [2 * 4 * 33 * 3, 2 * 4 * 70 * 2]


def test_whole_form_launches_once(standin):
    calls, _ = standin.host(decomposed=0, tactic=3)
    (call,) = launches(calls)
    assert (call["kernel"], call["blocks"], call["threads"]) == (TILES, [2 * 4 * 7, 1, 1], 128)  # 392 tokens by 64
    assert call["pointers"] == [QKV, OUT, *TABLES, *NO_VECTORS, OUT, OUT]
    assert calls[0]["workspace"] == 0


def test_whole_form_of_lines_takes_four_images_a_block(standin):
    calls, _ = standin.host(decomposed=0, b=5, h=5, w=7)
    (call,) = launches(calls)
    assert (call["kernel"], call["blocks"], call["threads"]) == (LINES, [2 * 4, 1, 1], 4 * 32)
    assert call["pointers"] == [QKV, WORKSPACE, *TABLES, *NO_VECTORS, OUT]  # the host gives one all the same
    assert call["sizes"] == [5, 7, 4, 5]
    assert calls[0]["workspace"] == 0


@pytest.mark.parametrize("tactic", [2, 6])
def test_int8_output_gets_its_scale_and_pointer(standin, tactic):
    calls, _ = standin.host(scale=0.125, tactic=tactic)
    w_pass, h_pass = launches(calls)
    assert h_pass["scale"] == 0.125 and h_pass["pointers"][-1] == OUT
    assert w_pass["pointers"][1] == WORKSPACE
    if tactic == 2:
        assert w_pass["pointers"][9] == WORKSPACE, "the W pass writes for the H pass, in the element type"


@pytest.mark.parametrize("input_scale", [0, 0.25])
@pytest.mark.parametrize("tactic", [2, 6])
def test_raw_product_comes_with_its_vectors_and_step(standin, input_scale, tactic):
    calls, _ = standin.host(raw=1, input_scale=input_scale, scale=0.125, tactic=tactic)
    for call in launches(calls):
        assert call["kernel"] == {2: TILES, 6: LINES}[tactic]
        assert call["pointers"][7:9] == VECTORS
        assert (call["input_scale"], call["scale"]) == (input_scale, 0.125)
    (fields,) = (x["fields"] for x in calls if "fields" in x)
    assert fields["input_scale"] == [FLOAT32, 1]


# Of inputs of 40 x 48, 64 x 64 (the trained reference), 20 x 24, and odd ones.
RAW_GRIDS = [(10, 12), (16, 16), (5, 6), (1, 1), (13, 57)]


@pytest.mark.parametrize("grid", RAW_GRIDS, ids=str)
@pytest.mark.parametrize("numbers", [dict(channels=64), dict(channels=128), dict(decomposed=0)], ids=str)
@pytest.mark.parametrize("input_scale", [0, 0.25])
def test_raw_product_of_any_grid_has_a_kernel(standin, grid, numbers, input_scale):
    calls, _ = standin.host(raw=1, input_scale=input_scale, h=grid[0], w=grid[1], **numbers)
    assert calls[0]["tactics"] and launches(calls)


@pytest.mark.parametrize("input_scale", [0, 0.25])
def test_raw_product_beside_float32_is_refused_with_a_message(standin, input_scale):
    _, message = standin.host(raw=1, input_scale=input_scale, fp16=0, status=4)
    assert "raw products beside 1 alone, which rmt-edge export writes" in message


def test_every_attribute_is_serialised_under_the_name_that_a_node_gives_it(standin):
    calls, _ = standin.host(scale=0.125)
    (fields,) = (x["fields"] for x in calls if "fields" in x)
    assert fields == {
        "num_heads": [INT32, 1], "decay": [FLOAT32, 4], "decomposed": [INT32, 1], "channels": [INT32, 1],
        "input_scale": [FLOAT32, 1], "output_scale": [FLOAT32, 1], "element_type": [INT32, 1],
    }  # fmt: skip


def test_kernels_and_decay_are_on_the_gpu_before_the_first_launch(standin):
    calls, _ = standin.host()
    attached = calls.index({"attached": 1})
    # The driver copies when the stream is synchronised, and refuses a launch before that.
    assert {"copied": 16, "first": -0.5} in calls[:attached]
    # Of either pass two tiles and lines in lanes of two sizes, and one kernel of both passes.
    assert sum("load" in x for x in calls[:attached]) == 2 * (2 + 2) + 1
    assert not any("load" in x or "copied" in x for x in calls[attached:])
    assert calls[-1] == {"freed": DECAY}


@pytest.mark.parametrize("numbers", [dict(attach=0), dict(attach=0, shapes=0), dict(shapes=0)], ids=str)
def test_skipped_steps_are_caught_up_by_enqueue(standin, numbers):
    calls, _ = standin.host(**numbers)
    assert [x["sizes"] for x in launches(calls)] == [[14, 28, 4, 2]] * 2
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


# b, h, w, channels, decomposed -> the tactics, the best first: both passes at once, lines, then the tile for the line.
TACTICS = {
    (1, 14, 14, 128, 1): [7, 2, 3, 6], (1, 14, 28, 128, 1): [6, 2, 3], (1, 56, 56, 64, 1): [6, 2, 3],
    (1, 14, 14, 64, 1): [6, 2, 3], (1, 7, 9, 128, 1): [2, 3], (1, 33, 9, 128, 1): [3, 2], (1, 9, 70, 64, 1): [3, 2],
    (1, 7, 7, 128, 0): [6, 4, 3], (1, 5, 9, 128, 0): [4, 3], (1, 9, 9, 128, 0): [3, 4],
}  # fmt: skip


@pytest.mark.parametrize("sizes", TACTICS, ids=str)
def test_tactic_for_the_size_comes_first(standin, sizes):
    names = ("b", "h", "w", "channels", "decomposed")
    calls, _ = standin.host(**dict(zip(names, sizes, strict=True)))
    first, *others = calls[0]["tactics"]
    assert first == TACTICS[sizes][0]
    assert sorted(others) == sorted(TACTICS[sizes][1:])


def test_tactic_zero_chooses_a_tile_per_pass(standin):
    calls, _ = standin.host(tactic=0, b=1, h=13, w=57)
    w_pass, h_pass = launches(calls)
    assert (w_pass["blocks"][0], w_pass["threads"]) == (4 * 13, 128)  # 57 tokens: tile of 64
    assert (h_pass["blocks"][0], h_pass["threads"]) == (4 * 57, 64)  # 13 tokens: tile of 32


def test_tactic_that_does_not_take_the_sizes_of_enqueue_gives_way(standin):
    """Tactic 7 was timed for one grid of a profile; another may be too long for it."""
    calls, _ = standin.host(tactic=7, h=14, w=28)
    assert [x["kernel"] for x in launches(calls)] == [LINES] * 2
    calls, _ = standin.host(tactic=6, h=13, w=28)
    assert [x["kernel"] for x in launches(calls)] == [TILES] * 2


def test_tactic_goes_over_to_the_plugin_that_is_attached(standin):
    calls, _ = standin.host(tactic=3, early=1)
    assert [x["threads"] for x in launches(calls)] == [128, 128]  # tactic 3 is of 4 warps; 0 would take smaller ones


def test_unknown_tactic_is_refused_with_a_message(standin):
    _, message = standin.host(tactic=9, status=8)
    assert "no tactic 9" in message


def test_empty_batch_is_refused_with_a_message(standin):
    _, message = standin.host(b=0, status=4)
    assert "Retention: batch 0, grid 14 x 28, 4 heads is out of range" in message


# Op type -> the eight inputs and two outputs as the kernel takes them (0: absent), scale, step of x, epsilon.
DEPTHWISE = {
    "DepthwiseResidual": ([*INPUTS[:3], 0, 0, 0, 0, 0, OUTPUTS[0], 0], 0, 0, 0),
    "AddDepthwiseResidualInt8": ([*INPUTS[:4], 0, 0, 0, 0, OUTPUTS[0], 0], 0.125, 0, 0),
    "DepthwiseResidualNorm": ([*INPUTS[:3], 0, *INPUTS[3:5], 0, 0, *OUTPUTS], 0, 0, 0.25),
    "AddDepthwiseResidualNormInt8": ([*INPUTS[:6], 0, 0, *OUTPUTS], 0.125, 0, 0.25),
    "ScaledGeluDepthwiseResidual": ([*INPUTS[:3], 0, 0, 0, *INPUTS[3:5], OUTPUTS[0], 0], 0, 0, 0),
    "ScaledAddDepthwiseResidualNormInt8": ([*INPUTS, *OUTPUTS], 0.125, 0.5, 0.25),
}


def assert_depthwise_parameters(standin, op, kernel, **numbers):
    pointers, scale, input_scale, epsilon = DEPTHWISE[op]
    calls, _ = standin.host(op, scale=scale, input_scale=input_scale, h=14, w=27, channels=96, **numbers)
    (call,) = launches(calls)
    assert call["kernel"] == kernel
    assert call["pointers"] == pointers
    assert (call["scale"], call["input_scale"], call["epsilon"]) == (scale, input_scale, epsilon)
    assert call["sizes"] == [14, 27, 96]
    assert (call["stream"], call["hidden"]) == (0x77, [0, 0])
    assert calls[0]["workspace"] == 0
    (fields,) = (x["fields"] for x in calls if "fields" in x)
    given = {"output_scale": scale, "input_scale": input_scale, "epsilon": epsilon}
    assert set(fields) == {"channels", "element_type"} | {name for name, value in given.items() if value} | (
        {"input_scale"} if op.startswith("Scaled") else set()
    )


@pytest.mark.parametrize("op", DEPTHWISE)
def test_depthwise_kernel_gets_its_parameters(standin, op):
    assert_depthwise_parameters(standin, op, COLUMNS)


@pytest.mark.parametrize("op", [x for x in DEPTHWISE if not x.startswith("Scaled")])
def test_depthwise_kernel_of_float32_gets_its_parameters(standin, op):
    assert_depthwise_parameters(standin, op, DEPTHWISE_TILES, fp16=0)


def test_depthwise_of_a_raw_product_beside_float32_is_refused_with_a_message(standin):
    _, message = standin.host("ScaledGeluDepthwiseResidual", fp16=0, status=4)
    assert "raw products beside 1 alone, which rmt-edge export writes" in message


# At 14 x 27, 3 images, tactic 1 of float16 (2 rows a thread), 2 of float32: blocks, threads, rows.
DEPTHWISE_GRIDS = {
    # 7 tiles of rows, 14 of columns (2 a thread), 24 fours of channels: threads, in blocks of 128.
    ("DepthwiseResidual", 96, 1): ([19, 3, 1], 128, 2),
    ("ScaledGeluDepthwiseResidual", 96, 1): ([10, 3, 1], 128, 2),  # 4 columns a thread: 7 tiles of them
    # 98 tiles, of which a block of 128 threads takes as many as rows of 128 or 512 channels leave: 4 and 1.
    ("AddDepthwiseResidualNorm", 96, 1): ([25, 3, 1], 128, 2),
    ("AddDepthwiseResidualNorm", 512, 1): ([98, 3, 1], 128, 2),
    ("AddDepthwiseResidualNorm", 1024, 1): ([98, 3, 1], 256, 2),
    ("DepthwiseResidual", 96, 0): ([14 * 4 * 1, 3, 1], 128, 0),  # CHANNEL_TILES[1]: (1, 8, 128), 4 warps
}


@pytest.mark.parametrize("op, channels, fp16", DEPTHWISE_GRIDS)
def test_depthwise_grid_covers_the_image(standin, op, channels, fp16):
    tactic = 1 if fp16 else 2
    calls, _ = standin.host(op, tactic=tactic, b=2, enqueue_b=3, h=14, w=27, channels=channels, fp16=fp16)
    (call,) = launches(calls)
    assert (call["blocks"], call["threads"], call["rows"]) == DEPTHWISE_GRIDS[op, channels, fp16]
    assert sorted(calls[0]["tactics"]) == ([1, 2, 3] if fp16 else [2])


# Tactic -> rows a thread of an image of 15: at most 2, 7 and 14, and no tile much lower than the others.
@pytest.mark.parametrize("tactic, rows", [(1, 2), (2, 5), (3, 8)])
def test_depthwise_rows_are_spread_evenly(standin, tactic, rows):
    calls, _ = standin.host("DepthwiseResidual", tactic=tactic, h=15, w=27, channels=128)
    (call,) = launches(calls)
    tiles = -(-15 // rows) * 14
    assert (call["rows"], call["blocks"]) == (rows, [-(-tiles * 32 // 128), 2, 1])


def test_depthwise_batch_beyond_the_grid_is_refused_in_enqueue(standin):
    _, message = standin.host("DepthwiseResidual", b=2, enqueue_b=65536, status=8)
    assert "batch 65536" in message and "out of range" in message
