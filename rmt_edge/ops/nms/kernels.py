"""Nms as three Triton kernels, with the exact numbers of ops/nms/op.py: sort, compare, select.

1. `nms_sort_kernel` puts the candidates in order, by counting for each how many come before it: equal scores by index,
   exact, in one launch. It writes them shifted apart by their ids, with their areas.
2. `nms_compare_kernel` compares all pairs of that order: bit k of word (i, w) says that box i suppresses box 32·w + k.
3. `nms_select_kernel` goes through the boxes in order, 32 at a time, one program an image: within 32 boxes one after
   the other, in registers; then all their victims further on at once. It ends at max_outputs, and writes every output.

All arithmetic is float32 as in the reference, each step rounded by itself. A product and a sum must not become one
fused multiply-add, whose result differs in the last bit and so may decide otherwise: what is multiplied goes through a
selection before it is added, and areas through memory. tests/plugin/test_numbers.py looks for one in the PTX.

Compiled ahead of time, `aot_variants` says how. State: right on a CPU, under TRITON_INTERPRET=1 and as PTX executed by
tests/ptx; compiled for SM 8.0 to 12.0 by Triton 3.7.1. Never run on a GPU, nor timed: all sizes of tiles are choices.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from rmt_edge.errors import RmtEdgeError
from rmt_edge.ops.kernel_variant import KernelVariant
from rmt_edge.ops.nms.op import PADDING_ID, check_shapes

SORT_ROWS, SORT_COLUMNS = 32, 128
COMPARE_ROWS = 128
WORD_BITS = 32
MAX_WORDS = 256  # of the boxes that one program of the selection keeps track of, in registers
MAX_BOXES = WORD_BITS * MAX_WORDS
PLANES = 5  # of a sorted box: x1, y1, x2, y2, area
WARPS = {"sort": 4, "compare": 4, "select": 8}
MAX_GRID_Y = 65535  # CUDA C++ Programming Guide, technical specifications: y dimension of a grid
_PADDING_ID = tl.constexpr(PADDING_ID)


@triton.jit
def _extent(low, high):
    """max(high - low, 0)."""
    return tl.maximum(high - low, 0.0)


@triton.jit
def _or(a, b):
    return a | b


@triton.jit
def _bits_set(x):
    """How many bits of an int32 are set. Source: H. Warren, "Hacker's Delight", 5-1."""
    x = x - ((x >> 1) & 0x55555555)
    x = (x & 0x33333333) + ((x >> 2) & 0x33333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F
    return (x * 0x01010101) >> 24


@triton.jit
def nms_sort_kernel(
    # inputs: (b, n, 4), (b, n), (b, n)
    boxes_ptr, scores_ptr, ids_ptr,
    # workspace: (b, 5, n) float32, (b, n) and (b,) int32
    sorted_ptr, order_ptr, candidates_ptr,
    # sizes, int32; float32
    n, score_threshold,
    # compile-time
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """position of box i = how many candidates j have score_j > score_i, or score_j = score_i and j < i.

    Box i goes there, shifted by id · (largest coordinate + 1). Grid: (blocks of ROWS boxes; b; 1).
    """
    image = tl.program_id(1).to(tl.int64)
    boxes_ptr += image * n * 4
    scores_ptr += image * n
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    is_row = row < n
    score = tl.load(scores_ptr + row, is_row, other=0.0)
    before = tl.zeros([ROWS, COLUMNS], tl.int32)
    found = tl.zeros([COLUMNS], tl.int32)
    largest = tl.zeros([COLUMNS], tl.float32)
    for first in range(0, n, COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        other = tl.load(scores_ptr + column, column < n, other=0.0)
        is_candidate = (other > score_threshold) & (column < n)
        found += is_candidate.to(tl.int32)
        for coordinate in tl.static_range(4):
            value = tl.load(boxes_ptr + column * 4 + coordinate, is_candidate, other=0.0)
            largest = tl.maximum(largest, value)
        is_better = other[None, :] > score[:, None]
        is_earlier = (other[None, :] == score[:, None]) & (column[None, :] < row[:, None])
        before += ((is_better | is_earlier) & is_candidate[None, :]).to(tl.int32)

    position = tl.sum(before, axis=1)
    pitch = tl.max(largest, axis=0) + 1.0
    is_given = is_row & (score > score_threshold)
    box_id = tl.load(ids_ptr + image * n + row, is_given, other=0)
    shift = tl.where(box_id == 0, 0.0, box_id.to(tl.float32) * pitch)
    x1 = tl.load(boxes_ptr + row * 4, is_given, other=0.0) + shift
    y1 = tl.load(boxes_ptr + row * 4 + 1, is_given, other=0.0) + shift
    x2 = tl.load(boxes_ptr + row * 4 + 2, is_given, other=0.0) + shift
    y2 = tl.load(boxes_ptr + row * 4 + 3, is_given, other=0.0) + shift
    sorted_ptr += image * n * 5
    tl.store(sorted_ptr + position, x1, is_given)
    tl.store(sorted_ptr + n + position, y1, is_given)
    tl.store(sorted_ptr + n * 2 + position, x2, is_given)
    tl.store(sorted_ptr + n * 3 + position, y2, is_given)
    tl.store(sorted_ptr + n * 4 + position, (x2 - x1) * (y2 - y1), is_given)
    tl.store(order_ptr + image * n + position, row, is_given)
    if tl.program_id(0) == 0:
        tl.store(candidates_ptr + image, tl.sum(found, axis=0))


@triton.jit
def nms_compare_kernel(
    # workspace: (b, 5, n) float32, (b,) int32, (b, n, words) int32
    sorted_ptr, candidates_ptr, victims_ptr,
    # sizes, int32; float32
    n, words, iou_threshold,
    # compile-time
    ROWS: tl.constexpr,
):  # fmt: skip
    """Bit k of victims (i, w) = IoU of boxes i and j > threshold and i < j, where j = 32·w + k, both in sorted order.

    IoU = shared / (area + area - shared). Grid: (words times blocks of ROWS boxes, words fastest; b; 1).
    """
    image = tl.program_id(1).to(tl.int64)
    sorted_ptr += image * n * 5
    candidates = tl.load(candidates_ptr + image)
    word = tl.program_id(0) % words
    row = (tl.program_id(0) // words) * ROWS + tl.arange(0, ROWS)
    lane = tl.arange(0, 32)
    column = word * 32 + lane
    is_row, is_column = row < candidates, column < candidates
    x1 = tl.load(sorted_ptr + row, is_row, other=0.0)
    y1 = tl.load(sorted_ptr + n + row, is_row, other=0.0)
    x2 = tl.load(sorted_ptr + n * 2 + row, is_row, other=0.0)
    y2 = tl.load(sorted_ptr + n * 3 + row, is_row, other=0.0)
    area = tl.load(sorted_ptr + n * 4 + row, is_row, other=0.0)
    other_x1 = tl.load(sorted_ptr + column, is_column, other=0.0)
    other_y1 = tl.load(sorted_ptr + n + column, is_column, other=0.0)
    other_x2 = tl.load(sorted_ptr + n * 2 + column, is_column, other=0.0)
    other_y2 = tl.load(sorted_ptr + n * 3 + column, is_column, other=0.0)
    other_area = tl.load(sorted_ptr + n * 4 + column, is_column, other=0.0)

    w = _extent(tl.maximum(x1[:, None], other_x1[None, :]), tl.minimum(x2[:, None], other_x2[None, :]))
    h = _extent(tl.maximum(y1[:, None], other_y1[None, :]), tl.minimum(y2[:, None], other_y2[None, :]))
    shared = tl.where(h > 0, w * h, 0.0)  # (rows, 32)
    union = area[:, None] + other_area[None, :] - shared
    is_victim = (tl.div_rn(shared, union) > iou_threshold) & (row[:, None] < column[None, :])
    is_victim = is_victim & is_row[:, None] & is_column[None, :]
    bits = tl.sum(is_victim.to(tl.int32) << lane[None, :], axis=1)
    tl.store(victims_ptr + image * n * words + row * words + word, bits, row < n)


@triton.jit
def nms_select_kernel(
    # inputs: (b, n, 4), (b, n), (b, n)
    boxes_ptr, scores_ptr, ids_ptr,
    # workspace of the kernels before
    order_ptr, candidates_ptr, victims_ptr,
    # outputs: (b, m, 4), (b, m), (b, m), (b,)
    out_boxes_ptr, out_scores_ptr, out_ids_ptr, count_ptr,
    # sizes, int32
    n, words, max_outputs,
    # compile-time
    WORDS: tl.constexpr,
):  # fmt: skip
    """Keep box i unless a box kept before it suppresses it; write what is kept, then padding. Grid: (b; 1; 1)."""
    image = tl.program_id(0).to(tl.int64)
    boxes_ptr += image * n * 4
    scores_ptr += image * n
    ids_ptr += image * n
    order_ptr += image * n
    victims_ptr += image * n * words
    out_boxes_ptr += image * max_outputs * 4
    out_scores_ptr += image * max_outputs
    out_ids_ptr += image * max_outputs
    candidates = tl.load(candidates_ptr + image)
    lane = tl.arange(0, 32)
    word = tl.arange(0, WORDS)
    suppressed = tl.zeros([WORDS], tl.int32)  # bit k of word w: box 32·w + k is a victim
    kept = 0
    block = 0
    while (block * 32 < candidates) & (kept < max_outputs):
        row = block * 32 + lane
        alive = ~tl.sum(tl.where(word == block, suppressed, 0), axis=0)
        for k in tl.static_range(32):
            box = block * 32 + k
            is_alive = ((alive >> k) & 1) == 1
            victims = tl.load(victims_ptr + box * words + block, box < candidates, other=0)
            alive = tl.where(is_alive, alive & ~victims, alive)
        is_kept = (((alive >> lane) & 1) == 1) & (row < candidates)
        position = kept + _bits_set(alive & ((1 << lane) - 1))
        is_out = is_kept & (position < max_outputs)
        index = tl.load(order_ptr + row, is_out, other=0)
        for coordinate in tl.static_range(4):
            value = tl.load(boxes_ptr + index * 4 + coordinate, is_out, other=0.0)
            tl.store(out_boxes_ptr + position * 4 + coordinate, value, is_out)
        tl.store(out_scores_ptr + position, tl.load(scores_ptr + index, is_out, other=0.0), is_out)
        tl.store(out_ids_ptr + position, tl.load(ids_ptr + index, is_out, other=0), is_out)
        kept += tl.sum(is_kept.to(tl.int32), axis=0)
        is_further = (word > block) & (word < words)
        tile = tl.load(
            victims_ptr + row[:, None] * words + word[None, :], is_kept[:, None] & is_further[None, :], other=0
        )
        suppressed = suppressed | tl.reduce(tile, 0, _or)
        block += 1

    kept = tl.minimum(kept, max_outputs)
    tl.store(count_ptr + image, kept)
    for first in range(0, max_outputs, 128):
        position = first + tl.arange(0, 128)
        is_padding = (position >= kept) & (position < max_outputs)
        for coordinate in tl.static_range(4):
            tl.store(out_boxes_ptr + position * 4 + coordinate, 0.0, is_padding)
        tl.store(out_scores_ptr + position, 0.0, is_padding)
        tl.store(out_ids_ptr + position, _PADDING_ID, is_padding)


_BOXES = {"boxes_ptr": "*fp32", "scores_ptr": "*fp32", "ids_ptr": "*i32"}
_FOUND = {"order_ptr": "*i32", "candidates_ptr": "*i32"}
_OUT = {"out_boxes_ptr": "*fp32", "out_scores_ptr": "*fp32", "out_ids_ptr": "*i32", "count_ptr": "*i32"}
_SIGNATURES: dict[str, dict[str, str]] = {
    "sort": _BOXES | {"sorted_ptr": "*fp32"} | _FOUND | {"n": "i32", "score_threshold": "fp32"},
    "compare": {
        "sorted_ptr": "*fp32", "candidates_ptr": "*i32", "victims_ptr": "*i32", "n": "i32", "words": "i32",
        "iou_threshold": "fp32",
    },
    "select": _BOXES | _FOUND | {"victims_ptr": "*i32"} | _OUT | dict.fromkeys(("n", "words", "max_outputs"), "i32"),
}  # fmt: skip
_CONSTANTS = {
    "sort": {"ROWS": SORT_ROWS, "COLUMNS": SORT_COLUMNS},
    "compare": {"ROWS": COMPARE_ROWS},
    "select": {"WORDS": MAX_WORDS},
}
_TILES = {"sort": (SORT_ROWS,), "compare": (COMPARE_ROWS,), "select": (WORD_BITS,)}


def aot_variants() -> list[KernelVariant]:
    """The three kernels; plugin/cpp/nms/nmsLaunch.cpp asks for them by these names."""
    return [
        KernelVariant(
            name=f"Nms_{step}",
            kernel=f"rmt_edge.ops.nms.kernels:nms_{step}_kernel",
            signature=(*types.items(), *((name, "constexpr") for name in _CONSTANTS[step])),
            constexprs=tuple(_CONSTANTS[step].items()),
            tile=_TILES[step],
            num_warps=WARPS[step],
            num_stages=1,
        )
        for step, types in _SIGNATURES.items()
    ]


def launch(
    boxes: Tensor, scores: Tensor, ids: Tensor, iou_threshold: float, score_threshold: float, max_outputs: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """nms of op.py by the kernels; all tensors contiguous."""
    check_shapes(boxes, scores, ids, max_outputs)
    b, n = scores.shape
    _check_limits(boxes, scores, b, n)
    words = triton.cdiv(n, WORD_BITS)
    boxes, scores, ids = boxes.contiguous(), scores.contiguous(), ids.contiguous()
    ordered = boxes.new_empty(b, PLANES, n)
    order, candidates, victims = ids.new_empty(b, n), ids.new_empty(b), ids.new_empty(b, n, words)
    out_boxes, out_scores = boxes.new_empty(b, max_outputs, 4), scores.new_empty(b, max_outputs)
    out_ids, count = ids.new_empty(b, max_outputs), ids.new_empty(b)
    nms_sort_kernel[(triton.cdiv(n, SORT_ROWS), b, 1)](
        boxes, scores, ids, ordered, order, candidates, n, float(score_threshold),
        **_CONSTANTS["sort"], num_warps=WARPS["sort"],
    )  # fmt: skip
    nms_compare_kernel[(words * triton.cdiv(n, COMPARE_ROWS), b, 1)](
        ordered, candidates, victims, n, words, float(iou_threshold),
        **_CONSTANTS["compare"], num_warps=WARPS["compare"],
    )  # fmt: skip
    nms_select_kernel[(b, 1, 1)](
        boxes, scores, ids, order, candidates, victims, out_boxes, out_scores, out_ids, count, n, words, max_outputs,
        **_CONSTANTS["select"], num_warps=WARPS["select"],
    )  # fmt: skip
    return out_boxes, out_scores, out_ids, count


def _check_limits(boxes: Tensor, scores: Tensor, b: int, n: int) -> None:
    """Refuse what the kernels cannot do."""
    if boxes.dtype != torch.float32 or scores.dtype != torch.float32:
        raise RmtEdgeError(f"boxes are {boxes.dtype}, scores {scores.dtype}.", "the kernels take torch.float32.")
    if n > MAX_BOXES or b > MAX_GRID_Y:
        raise RmtEdgeError(f"{b} images of {n} boxes are too many.", f"the limits are {MAX_GRID_Y} and {MAX_BOXES}.")
    if not boxes.is_cuda and not triton.knobs.runtime.interpret:
        raise RmtEdgeError(
            f"boxes are on {boxes.device}.", "the kernels run on an NVIDIA GPU, or anywhere under TRITON_INTERPRET=1."
        )
