"""Retention on tensors of a GPU by the Triton kernel of ops/retention/kernels.py: checks, sizes, launches.

Two launches where it is decomposed (W pass, H pass), one where it is whole.
"""

import functools

import torch
from torch import Tensor

from rmt_edge.errors import RmtEdgeError
from rmt_edge.ops.product import check_product
from rmt_edge.ops.retention.kernels import FORM_TACTICS, HEAD_DIMS, PASSES, TACTICS, retention_kernel


def default_tactic(tactics: tuple[int, ...], line_length: int) -> int:
    """The first tactic whose keys hold a whole line, else the last, as retentionLaunch.cpp in plugin/cpp/ does."""
    return next((x for x in tactics if TACTICS[x].keys >= line_length), tactics[-1])


def _check_launch(
    qkv: Tensor, sin: Tensor, cos: Tensor, lepe_weight: Tensor, lepe_bias: Tensor, num_heads: int, decay: list[float]
) -> None:
    """Refuse what the kernel cannot do, with the numbers."""
    if qkv.dim() != 4 or qkv.shape[3] % 3 or qkv.numel() == 0:
        raise RmtEdgeError(f"qkv has shape {tuple(qkv.shape)}.", "expected (b, h, w, 3c), none of them 0.")
    element = sin.dtype if qkv.dtype == torch.int8 else qkv.dtype
    if element not in (torch.float32, torch.float16):
        raise RmtEdgeError(f"Element type {qkv.dtype} unsupported.", "supported: torch.float32, torch.float16.")
    _, h, w, c3 = qkv.shape
    c, l = c3 // 3, h * w
    if num_heads < 1 or c % num_heads:
        raise RmtEdgeError(f"{num_heads} heads do not divide {c} channels.")
    d = c // num_heads
    if d not in HEAD_DIMS:
        raise RmtEdgeError(f"Head dim {d} unsupported ({c} channels, {num_heads} heads).", "supported: 16, 32.")
    if len(decay) != num_heads or not all(x < 0 for x in decay):
        raise RmtEdgeError(f"decay is {decay}.", f"expected {num_heads} negative numbers, one per head.")
    size = lepe_weight.shape[-1]
    if size % 2 == 0:
        raise RmtEdgeError(f"LePE kernel size {size} unsupported.", "expected an odd size.")
    wanted = {"sin": (sin, (l, d)), "cos": (cos, (l, d)), "lepe_weight": (lepe_weight, (c, 1, size, size)),
              "lepe_bias": (lepe_bias, (c,))}  # fmt: skip
    for name, (x, shape) in wanted.items():
        if tuple(x.shape) != shape or x.dtype != element or x.device != qkv.device:
            raise RmtEdgeError(
                f"{name} is {tuple(x.shape)}, {x.dtype}, on {x.device}.",
                f"expected {shape}, {element}, on {qkv.device}, as qkv.",
            )
    if l * c3 >= 2**31:
        raise RmtEdgeError(
            f"One image of qkv has {l * c3} elements.", "offsets within an image are 32-bit: below 2^31."
        )


@functools.lru_cache(maxsize=64)
def _decay_on(device: torch.device, decay: tuple[float, ...]) -> Tensor:
    return torch.tensor(decay, dtype=torch.float32, device=device)  # (n,)


def launch_retention(
    qkv: Tensor,
    sin: Tensor,
    cos: Tensor,
    lepe_weight: Tensor,
    lepe_bias: Tensor,
    num_heads: int,
    decay: list[float],
    decomposed: bool,
    output_scale: float = 0.0,
    tactic: int = 0,
    qkv_scale: Tensor | None = None,
    qkv_bias: Tensor | None = None,
    input_scale: float = 0.0,
) -> Tensor:
    """ops/retention/op.py's `retention` by the kernel; no gradient.

    Tensors as there, float32 or float16 but for a qkv of int8, on one device.
    output_scale: above 0, the result is INT8 in steps of it.
    tactic: a key of TACTICS, 0 chooses by line length. Returns (b, h, w, c).
    """
    check_product(qkv, qkv_scale, qkv_bias, input_scale, "qkv")
    _check_launch(qkv, sin, cos, lepe_weight, lepe_bias, num_heads, decay)
    if tactic and tactic not in TACTICS:
        raise RmtEdgeError(f"Unknown tactic {tactic}.", f"there are {', '.join(map(str, TACTICS))}; 0 chooses.")
    if not output_scale >= 0:
        raise RmtEdgeError(f"output_scale is {output_scale}.", "expected a positive number, or 0 for no quantisation.")
    tensors = [x.contiguous() for x in (qkv, sin, cos, lepe_weight, lepe_bias)]
    b, h, w, c3 = qkv.shape
    c = c3 // 3
    is_scaled = qkv_scale is not None
    vectors = [sin if x is None else x.contiguous() for x in (qkv_scale, qkv_bias)]  # absent ones are not read
    out = qkv.new_empty((b, h, w, c), dtype=torch.int8 if output_scale else sin.dtype)
    # The W pass's output keeps the element type of the tables: half the traffic in float16, the H pass's product takes
    # that type anyway, and the reference rounds there too.
    w_out = qkv.new_empty((b, h, w, c) if decomposed else (1,), dtype=sin.dtype)
    decay_tensor = _decay_on(qkv.device, tuple(decay))
    passes = {"w": (h, w, w_out), "h": (w, h, out)} if decomposed else {"whole": (1, h * w, out)}
    for name, (lines, length, target) in passes.items():
        tile = TACTICS[tactic or default_tactic(FORM_TACTICS[bool(decomposed), sin.dtype], length)]
        float_out, int8_out = (w_out, target) if target.dtype == torch.int8 else (target, target)
        programs = b * lines * -(-length // tile.queries) * num_heads
        retention_kernel[(programs,)](
            tensors[0], w_out, tensors[1], tensors[2], decay_tensor, tensors[3], tensors[4], *vectors,
            float_out, int8_out,
            float(input_scale), float(output_scale), h, w, num_heads,
            PASS=PASSES[name], HEAD_DIM=c // num_heads, LEPE=lepe_weight.shape[-1], QUERIES=tile.queries,
            KEYS=tile.keys, IS_SCALED=is_scaled, num_warps=tile.num_warps, num_stages=tile.num_stages,
        )  # fmt: skip
    return out
