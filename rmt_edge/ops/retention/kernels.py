"""Retention on a GPU: one Triton kernel, launched twice (W pass, H pass) or once (whole).

Source: written for this project after "RMT", CVPR 2024, https://arxiv.org/abs/2309.11523, sections 3.2 to 3.4; the
online softmax is that of Milakov and Gimelshein, https://arxiv.org/abs/1805.02867. The reference is
ops/retention/op.py; retention/launch.py launches the kernel on tensors, and retention/cuda_op.py makes that the CUDA
path of `torch.ops.rmt_edge.retention`.

The plugin library carries it for float32 and for lines that the kernels in CUDA C++ (kernels.cu) do not take; those are
listed in cuda_variants.py.

Triton 3.7.1. Checked on a CPU with TRITON_INTERPRET=1 (tests/ops/retention/test_kernels.py), and compiled for every GPU
of plugin/build.py. Never run on a GPU so far.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from rmt_edge.ops.kernel_variant import KernelVariant

MIN_HEAD_DIM = 16
HEAD_DIMS = (MIN_HEAD_DIM, 32)  # every public variant: 16 in stage 1 of most, 32 elsewhere
LEPE_SIZE = 5  # LePE is a 5x5 convolution in every public variant; the plugin library is compiled for it
LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)  # exp(x) = 2^(x·log2 e)
ROUND_TO_INTEGER: tl.constexpr = tl.constexpr(12582912.0)  # 1.5·2^23: adding it leaves no fraction bits in float32
PASSES = {"w": 0, "h": 1, "whole": 2}
W_PASS: tl.constexpr = tl.constexpr(PASSES["w"])
H_PASS: tl.constexpr = tl.constexpr(PASSES["h"])
WHOLE: tl.constexpr = tl.constexpr(PASSES["whole"])


@dataclass(frozen=True)
class Tile:
    """Queries and keys of one step, and how the compiler may spread them."""

    queries: int
    keys: int
    num_warps: int
    num_stages: int


# Tactic number -> tile. TensorRT's builder times them; where nothing is timed, `default_tactic` takes one. Lines are
# 56, 28 and 14 tokens long at 224 px, up to 336 in detection; the whole form has 49 tokens, or thousands in detection.
TACTICS = {
    1: Tile(queries=16, keys=16, num_warps=1, num_stages=1),
    2: Tile(queries=32, keys=32, num_warps=2, num_stages=1),
    3: Tile(queries=64, keys=64, num_warps=4, num_stages=1),
    4: Tile(queries=16, keys=64, num_warps=1, num_stages=1),
    5: Tile(queries=128, keys=64, num_warps=4, num_stages=2),
}
# float32 runs on the plain FMA units whatever the tile is, so one tactic is enough and the library stays small.
FORM_TACTICS = {
    (True, torch.float16): (2, 3),
    (False, torch.float16): (4, 3),
    (True, torch.float32): (2,),
    (False, torch.float32): (2,),
}
# Of raw products, which are float16 in the library: what the CUDA kernels do not take (cuda_variants.py).
RAW_TACTICS = {True: 2, False: 3}


@triton.jit
def _theta_shift(x, sin, cos):
    """x·cos + (-x1, x0, -x3, x2, …)·sin. x, sin, cos: (rows, d), float32."""
    pairs = tl.reshape(x, (x.shape[0], x.shape[1] // 2, 2))  # (rows, d/2, 2)
    even, odd = tl.split(pairs)
    rotated = tl.reshape(tl.join(-odd, even), (x.shape[0], x.shape[1]))  # (rows, d)
    return x * cos + rotated * sin


@triton.jit
def _true_values(x, mask, scale_ptr, bias_ptr, channel, input_scale):
    """What ops/product.py makes of a raw product, zeros beyond the mask. (rows, HEAD_DIM), float32.

    channel: those of the columns, in qkv; input_scale: the step of an int8 qkv, else 1.
    """
    scale = tl.load(scale_ptr + channel).to(tl.float32) * input_scale  # (HEAD_DIM,)
    bias = tl.load(bias_ptr + channel).to(tl.float32)
    return tl.where(mask, x.to(tl.float32) * scale[None, :] + bias[None, :], 0.0)


@triton.jit
def _load_true(x_ptr, offset, mask, scale_ptr, bias_ptr, channel, input_scale, IS_SCALED: tl.constexpr):
    """True values of qkv, zeros beyond the mask. (rows, HEAD_DIM)."""
    x = tl.load(x_ptr + offset, mask=mask, other=0.0)
    if IS_SCALED:
        x = _true_values(x, mask, scale_ptr, bias_ptr, channel, input_scale)
    return x


@triton.jit
def _load_int8(x_ptr, row, mask, HEAD_DIM: tl.constexpr):
    """HEAD_DIM values of int8 from `row` on, loaded as pairs. (rows, HEAD_DIM), int16.

    Triton 3.7.1 lays an operand of tl.dot that comes from a load of 8 bits out for 32 columns or more; with a head dim
    of 16 it multiplies other rows then. Of 16 bits it does not.
    """
    pairs_ptr = (x_ptr + row).to(tl.pointer_type(tl.int16), bitcast=True)  # (rows,)
    pairs = tl.load(pairs_ptr[:, None] + tl.arange(0, HEAD_DIM // 2)[None, :], mask=mask, other=0)
    return tl.reshape(tl.join((pairs << 8) >> 8, pairs >> 8), (row.shape[0], HEAD_DIM))


@triton.jit
def _load_shifted(
    x_ptr, sin_ptr, cos_ptr, position, row_stride, valid, columns, scale_ptr, bias_ptr, channel, input_scale,
    HEAD_DIM: tl.constexpr, IS_SCALED: tl.constexpr,
):  # fmt: skip
    """θ(x) of the tokens at `position`, float32. (rows, HEAD_DIM)."""
    mask = valid[:, None]
    table = position[:, None] * HEAD_DIM + columns[None, :]
    if x_ptr.dtype.element_ty == tl.int8:
        x = _load_int8(x_ptr, position * row_stride, mask, HEAD_DIM)
        x = _true_values(x, mask, scale_ptr, bias_ptr, channel, input_scale)
    else:
        offset = position[:, None] * row_stride + columns[None, :]
        x = _load_true(x_ptr, offset, mask, scale_ptr, bias_ptr, channel, input_scale, IS_SCALED).to(tl.float32)
    sin = tl.load(sin_ptr + table, mask=mask, other=0.0).to(tl.float32)
    cos = tl.load(cos_ptr + table, mask=mask, other=0.0).to(tl.float32)
    return _theta_shift(x, sin, cos)


@triton.jit
def _lepe(
    v_ptr, weight_ptr, bias_ptr, y, x, valid, columns, channel, row_stride, h, w, v_scale_ptr, v_bias_ptr, input_scale,
    SIZE: tl.constexpr, IS_SCALED: tl.constexpr,
):  # fmt: skip
    """Depthwise SIZE x SIZE convolution of v at the tokens (y, x), zeros around the grid. (rows, HEAD_DIM), float32."""
    bias = tl.load(bias_ptr + channel).to(tl.float32)  # (HEAD_DIM,)
    total = tl.full((y.shape[0], columns.shape[0]), 0.0, dtype=tl.float32) + bias[None, :]
    # Rows of the window in a loop, its columns unrolled: unrolling both takes three times as long to compile.
    for row in tl.range(0, SIZE, num_stages=1):
        y_tap = y + (row - SIZE // 2)
        is_row = valid & (y_tap >= 0) & (y_tap < h)
        for column in tl.static_range(SIZE):
            x_tap = x + (column - SIZE // 2)
            inside = is_row & (x_tap >= 0) & (x_tap < w)
            v_row = (y_tap * w + x_tap)[:, None] * row_stride
            offset = v_row + columns[None, :]
            v = _load_true(v_ptr, offset, inside[:, None], v_scale_ptr, v_bias_ptr, channel, input_scale, IS_SCALED).to(
                tl.float32
            )
            weight = tl.load(weight_ptr + channel * (SIZE * SIZE) + row * SIZE + column).to(tl.float32)  # (HEAD_DIM,)
            total += v * weight[None, :]
    return total


@triton.jit
def _quantize(x, scale):
    """round(x / scale), halves to even, saturated to [-128, 127]. Same as ONNX QuantizeLinear with zero point 0."""
    scaled = tl.minimum(tl.maximum(tl.div_rn(x, scale), -128.0), 127.0)
    return ((scaled + ROUND_TO_INTEGER) - ROUND_TO_INTEGER).to(tl.int8)


@triton.jit(do_not_specialize=["h", "w", "num_heads"])
def retention_kernel(
    # pointers
    qkv_ptr,  # (b, h, w, 3c)
    w_out_ptr,  # (b, h, w, c): what the W pass wrote; read by the H pass only
    sin_ptr,  # (h·w, d)
    cos_ptr,  # (h·w, d)
    decay_ptr,  # (n,), float32
    lepe_weight_ptr,  # (c, 1, k, k)
    lepe_bias_ptr,  # (c,)
    qkv_scale_ptr,  # (3c,), of a raw product, as is the next
    qkv_bias_ptr,
    out_ptr,  # (b, h, w, c), where output_scale is 0
    out_int8_ptr,  # (b, h, w, c), where it is not: one kernel writes either, the library holds half as many
    # what one INT8 step stands for
    input_scale,
    output_scale,
    # sizes
    h,
    w,
    num_heads,
    # compile-time
    PASS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    LEPE: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    IS_SCALED: tl.constexpr,
):
    """out_i = Σ_j softmax_j(θ(q_i)·θ(k_j) + decay·distance(i, j)) v_j, plus LePE(v)_i unless this is the W pass.

    One program: QUERIES tokens of one line of one head. A line is a row of the grid (W pass), a column (H pass, its v
    is the W pass's output) or all h·w tokens (whole, Manhattan distance). Scores, softmax, sums and LePE in float32;
    the products of the score and value matrices take the element type of qkv and accumulate in float32.

    References: 1. ops/retention/op.py. 2. RMT, sections 3.2 to 3.4. 3. Online softmax, arXiv 1805.02867.
    """
    lines = 1
    length = h * w
    step = 1
    if PASS == W_PASS:
        lines = h
        length = w
    elif PASS == H_PASS:
        lines = w
        length = h
        step = w
    tiles = (length + QUERIES - 1) // QUERIES
    # Heads are innermost: neighbours in the launch read neighbours in memory.
    program = tl.program_id(0)
    head = program % num_heads
    tile = (program // num_heads) % tiles
    line = (program // num_heads // tiles) % lines
    image = (program // num_heads // tiles // lines).to(tl.int64)  # a batch of qkv passes 2^31 elements

    c = num_heads * HEAD_DIM
    row_stride = 3 * c
    columns = tl.arange(0, HEAD_DIM)
    channel = head * HEAD_DIM + columns
    qkv_ptr += image * (h * w) * row_stride + head * HEAD_DIM
    start = 0
    if PASS == W_PASS:
        start = line * w
    elif PASS == H_PASS:
        start = line
    if PASS == H_PASS:
        v_ptr = w_out_ptr + image * (h * w) * c + head * HEAD_DIM
        v_stride = c
    else:
        v_ptr = qkv_ptr + 2 * c
        v_stride = row_stride
    element = sin_ptr.dtype.element_ty
    input_step = 1.0
    if qkv_ptr.dtype.element_ty == tl.int8:  # as the graph holds it
        input_step = tl.cast(tl.cast(input_scale, element), tl.float32)
    decay = tl.load(decay_ptr + head) * LOG2_E

    query = tile * QUERIES + tl.arange(0, QUERIES)
    is_query = query < length
    position = start + query * step
    q = _load_shifted(
        qkv_ptr, sin_ptr, cos_ptr, position, row_stride, is_query, columns, qkv_scale_ptr, qkv_bias_ptr, channel,
        input_step, HEAD_DIM, IS_SCALED,
    ).to(element)  # fmt: skip

    maximum = tl.full((QUERIES,), float("-inf"), dtype=tl.float32)
    total = tl.full((QUERIES,), 0.0, dtype=tl.float32)
    out = tl.full((QUERIES, HEAD_DIM), 0.0, dtype=tl.float32)
    for first_key in range(0, length, KEYS):
        key = first_key + tl.arange(0, KEYS)
        is_key = key < length
        key_position = start + key * step
        k = _load_shifted(
            qkv_ptr + c, sin_ptr, cos_ptr, key_position, row_stride, is_key, columns, qkv_scale_ptr, qkv_bias_ptr,
            c + channel, input_step, HEAD_DIM, IS_SCALED,
        )  # fmt: skip
        v_offset = key_position[:, None] * v_stride + columns[None, :]
        v = _load_true(
            v_ptr, v_offset, is_key[:, None], qkv_scale_ptr, qkv_bias_ptr, 2 * c + channel, input_step,
            IS_SCALED and PASS != H_PASS,
        ).to(element)  # fmt: skip
        if PASS == WHOLE:
            distance = tl.abs(query[:, None] // w - key[None, :] // w) + tl.abs(query[:, None] % w - key[None, :] % w)
        else:
            distance = tl.abs(query[:, None] - key[None, :])
        scores = tl.dot(q, tl.trans(k.to(element)), input_precision="ieee") * LOG2_E  # (QUERIES, KEYS)
        scores = tl.where(is_key[None, :], scores + decay * distance.to(tl.float32), float("-inf"))
        new_maximum = tl.maximum(maximum, tl.max(scores, 1))
        weights = tl.exp2(scores - new_maximum[:, None])
        rescale = tl.exp2(maximum - new_maximum)
        total = total * rescale + tl.sum(weights, 1)
        out = out * rescale[:, None] + tl.dot(weights.to(element), v, input_precision="ieee")
        maximum = new_maximum
    out = out / total[:, None]

    if PASS != W_PASS:
        out += _lepe(
            qkv_ptr + 2 * c, lepe_weight_ptr, lepe_bias_ptr, position // w, position % w, is_query, columns, channel,
            row_stride, h, w, qkv_scale_ptr + 2 * c, qkv_bias_ptr + 2 * c, input_step,
            LEPE, IS_SCALED,
        )  # fmt: skip
    offset = image * (h * w) * c + position[:, None] * c + channel[None, :]  # (QUERIES, HEAD_DIM)
    if PASS == W_PASS:
        tl.store(out_ptr + offset, out.to(element), mask=is_query[:, None])
    else:
        if output_scale > 0.0:
            tl.store(out_int8_ptr + offset, _quantize(out, output_scale), mask=is_query[:, None])
        else:
            tl.store(out_ptr + offset, out.to(element), mask=is_query[:, None])


def aot_variants() -> list[KernelVariant]:
    """Every kernel that the plugin library carries; retentionLaunch.cpp in plugin/cpp/ asks for them by name.

    In float16 they are for lines that the CUDA kernels do not take (cuda_variants.py).
    """
    variants = []
    types = {torch.float16: "fp16", torch.float32: "fp32"}
    for (decomposed, dtype), tactics in FORM_TACTICS.items():
        for name in ("w", "h") if decomposed else ("whole",):
            for d in HEAD_DIMS:
                variants += [_aot_variant(name, d, types[dtype], tactic) for tactic in tactics]
                for given in ("raw", "raw8") if dtype == torch.float16 else ():
                    variants.append(_aot_variant(name, d, types[dtype], RAW_TACTICS[decomposed], given))
    return variants


def _aot_variant(pass_name: str, d: int, dtype: str, tactic: int, given: str = "") -> KernelVariant:
    """given: empty for true values, else "raw" or, in int8, "raw8"."""
    tile = TACTICS[tactic]
    constexprs = {
        "PASS": PASSES[pass_name],
        "HEAD_DIM": d,
        "LEPE": LEPE_SIZE,
        "QUERIES": tile.queries,
        "KEYS": tile.keys,
        "IS_SCALED": bool(given),
    }
    types = {"decay_ptr": "*fp32", "out_int8_ptr": "*i8", "input_scale": "fp32", "output_scale": "fp32"}
    types |= {"qkv_ptr": "*i8"} if given == "raw8" else {}
    signature = [
        (x, "constexpr" if x in constexprs else types.get(x, f"*{dtype}" if x.endswith("_ptr") else "i32"))
        for x in retention_kernel.arg_names
    ]
    return KernelVariant(
        name=f"retention_{pass_name}_d{d}_" + (f"{given}_" if given else "") + f"{dtype}_t{tactic}",
        kernel="rmt_edge.ops.retention.kernels:retention_kernel",
        signature=tuple(signature),
        constexprs=tuple(constexprs.items()),
        tile=(tile.queries, tile.keys),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )
