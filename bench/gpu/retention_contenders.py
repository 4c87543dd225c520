"""All that computes Retention and is compared: cases with fresh inputs, and functions of no arguments that run them.

`public` is the public code's sequence of operations, with its decay masks made once, outside the timing, as that code
makes them once a stage; `compiled` the same under torch.compile; `sdpa` the same with scaled_dot_product_attention and
the decay as its mask; `kernels` ops/retention/kernels.py; `library` the plugin library's own cubins by its C entry
point. What is right is ops/retention/op.py's to say; all of these are held to it.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from rmt_edge.model.rmt import RelativePosition, stage_grid
from rmt_edge.model.variants import VARIANTS
from rmt_edge.ops.retention import kernels, launch
from rmt_edge.ops.retention.op import axis_distance, manhattan_distance, theta_shift
from rmt_edge.plugin import load

DECAY_RANGE = 4
Run = Callable[[], Tensor]


@dataclass(frozen=True)
class Shape:
    """What a case is made of: batch, grid, heads, head dim, form."""

    b: int
    h: int
    w: int
    n: int
    d: int
    decomposed: bool

    @property
    def name(self) -> str:
        form = "decomposed" if self.decomposed else "whole"
        return f"{self.b}x{self.h}x{self.w}, {self.n} heads of {self.d}, {form}"


def stage_shapes(variants: tuple[str, ...], batch: int, input_size: int) -> dict[Shape, list[str]]:
    """The different shapes of the variants' stages, each with the `rmt_s stage 3` that have it."""
    found: dict[Shape, list[str]] = {}
    for name in variants:
        variant = VARIANTS[name]
        for stage in range(4):
            h, w = stage_grid(stage, input_size, input_size)
            n = variant.num_heads[stage]
            shape = Shape(batch, h, w, n, variant.dims[stage] // n, variant.decomposed[stage])
            found.setdefault(shape, []).append(f"{name} stage {stage + 1}")
    return found


def make_case(shape: Shape, dtype: torch.dtype, device: str, seed: int | None = None) -> tuple:
    """The op's arguments: q, k, v of magnitude 1, keys scaled, the model's tables and decay. No seed: drawn afresh."""
    generator = torch.Generator()
    generator.seed() if seed is None else generator.manual_seed(seed)
    b, h, w, n, d = shape.b, shape.h, shape.w, shape.n, shape.d
    c = n * d
    position = RelativePosition(c, n, DECAY_RANGE)
    qkv = torch.randn(b, h, w, 3 * c, generator=generator)
    qkv[..., c : 2 * c] *= d**-0.5
    weight = torch.randn(c, 1, 5, 5, generator=generator) * 0.2
    bias = torch.randn(c, generator=generator)
    tensors = [x.to(device, dtype) for x in (qkv, *position(h, w), weight, bias)]
    return (*tensors, n, position.decay.tolist(), shape.decomposed)


def moved_bytes(case: tuple) -> int:
    """What must be read and written at least: qkv, tables, weights and the output, once each."""
    qkv = case[0]
    return sum(x.numel() * x.element_size() for x in case[:5]) + qkv.numel() // 3 * qkv.element_size()


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """softmax(q·kᵀ + mask)·v, operation by operation."""
    return torch.softmax(q @ k.transpose(-1, -2) + mask, dim=-1) @ v


def fused_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """The same by PyTorch's own fused attention."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)


def unfused(qkv, sin, cos, weight, bias, masks: list[Tensor], n: int, decomposed: bool, attend) -> Tensor:
    """Retention out of PyTorch's operators. masks: (n, length, length) of each pass. Returns (b, h, w, c)."""
    b, h, w, c3 = qkv.shape
    c, l, d = c3 // 3, h * w, c3 // 3 // n
    q, k, v = qkv.view(b, l, 3, n, d).permute(2, 0, 3, 1, 4)  # each (b, n, l, d)
    q, k = theta_shift(q, sin, cos), theta_shift(k, sin, cos)
    if decomposed:
        q, k, v = (x.reshape(b, n, h, w, d).transpose(1, 2) for x in (q, k, v))  # (b, h, n, w, d)
        out = attend(q, k, v, masks[0])
        q, k, out = (x.transpose(1, 3) for x in (q, k, out))  # (b, w, n, h, d)
        out = attend(q, k, out, masks[1]).permute(0, 3, 1, 2, 4).reshape(b, h, w, c)
    else:
        out = attend(q, k, v, masks[0]).transpose(1, 2).reshape(b, h, w, c)
    lepe = F.conv2d(qkv[..., 2 * c :].permute(0, 3, 1, 2), weight, bias, padding=2, groups=c)
    return out + lepe.permute(0, 2, 3, 1)


def run_of_pytorch(case: tuple, attend: Callable, function: Callable = unfused) -> Run:
    """`unfused`, or what torch.compile made of it, with the masks of the case made here."""
    qkv, sin, cos, weight, bias, n, decay, decomposed = case
    _, h, w, _ = qkv.shape
    slopes = torch.tensor(decay)[:, None, None]
    distances = (axis_distance(w), axis_distance(h)) if decomposed else (manhattan_distance(h, w),)
    masks = [(slopes * x).to(qkv.device, qkv.dtype) for x in distances]
    return lambda: function(qkv, sin, cos, weight, bias, masks, n, decomposed, attend)


def run_of_triton(case: tuple, tactic: int) -> Run:
    return lambda: launch.launch_retention(*case, tactic=tactic)


def tactics_of(case: tuple) -> tuple[int, ...]:
    """The tactics that there are for a case's form and type."""
    return tuple(kernels.FORM_TACTICS[case[7], case[0].dtype])


def run_of_library(library: Path, case: tuple, tactic: int = 0) -> Run:
    """The op by the plugin library's C entry point; the output is poisoned once, here."""
    qkv, sin, cos, weight, bias, n, decay, decomposed = case
    b, h, w, c3 = qkv.shape
    opened = load.open_library(library)
    sizes = [b, h, w, n, c3 // 3 // n, int(decomposed), int(qkv.dtype == torch.float16)]
    workspace = torch.empty(opened.rmt_retention_workspace_bytes(*sizes) or 16, dtype=torch.uint8, device=qkv.device)
    decays = torch.tensor(decay, device=qkv.device)
    out = torch.full((b, h, w, c3 // 3), float("nan"), dtype=qkv.dtype, device=qkv.device)
    pointers = [ctypes.c_void_p(x.data_ptr()) for x in (qkv, sin, cos, weight, bias, decays)]
    pointers += [
        None,
        None,
        *(ctypes.c_void_p(x.data_ptr()) for x in (out, workspace)),
    ]  # true values: no scale, no bias

    def run() -> Tensor:
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        if opened.rmt_retention_launch(*pointers, *sizes, ctypes.c_float(0), ctypes.c_float(0), tactic, stream):
            raise RuntimeError(load.take_last_error(library))
        return out

    return run
