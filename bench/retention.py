"""Retention: the fused kernels against what they replace, per stage of each variant.

    python bench/retention.py                                  the quick check; on a GPU the comparison too
    python bench/retention.py --library build/plugin           check the plugin library's own cubins as well

Compared, all in float16, forward only: `reference` is retention/op.py as the model runs it, the public code's sequence
of operations; `compiled` the same under torch.compile; `sdpa` the same with scaled_dot_product_attention and the decay
as its mask; `kernels` retention/kernels.py, each tactic, the fastest counting (TensorRT's builder chooses alike).

Latency: from before the first kernel to after the last on one stream, by CUDA events, L2 flushed before each run; p50
of the raw samples, which the record keeps. Floor: the bytes of qkv, tables, weights and output, once each, over the
bandwidth that a large copy reaches on this GPU. Without a GPU: the check on the CPU through Triton's interpreter, no
times. Its GPU part has not been run yet.
"""

import argparse
import ctypes
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

HAS_GPU = torch.cuda.is_available()
if not HAS_GPU:
    os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when it is imported

import torch.nn.functional as F  # noqa: E402
from tqdm import tqdm  # noqa: E402

from rmt_edge.model.rmt import RelativePosition, stage_grid  # noqa: E402
from rmt_edge.model.variants import VARIANTS  # noqa: E402
from rmt_edge.plugin import load  # noqa: E402
from rmt_edge.retention import kernels  # noqa: E402
from rmt_edge.retention.op import axis_distance, manhattan_distance, retention, theta_shift  # noqa: E402

COMPARED_VARIANTS = ("rmt_t", "rmt_s", "rmt_b", "rmt_l")
BATCHES = (1, 8, 64)
INPUT_SIZE = 224
WARM_UP, ITERATIONS = 10, 50
FLUSH_BYTES = 256 * 2**20  # more than any L2
RESULTS = Path(__file__).parent / "results"


def make_case(variant: str, stage: int, batch: int, dtype: torch.dtype, device: str) -> tuple:
    """The op's arguments at one stage: q, k, v of magnitude 1, keys scaled, the model's tables and decay."""
    table = VARIANTS[variant]
    c, n = table.dims[stage], table.num_heads[stage]
    h, w = stage_grid(stage, INPUT_SIZE, INPUT_SIZE)
    position = RelativePosition(c, n, table.decay_ranges[stage])
    generator = torch.Generator().manual_seed(stage)
    qkv = torch.randn(batch, h, w, 3 * c, generator=generator)
    qkv[..., c : 2 * c] *= (c // n) ** -0.5
    weight = torch.randn(c, 1, 5, 5, generator=generator) * 0.2
    bias = torch.randn(c, generator=generator)
    tensors = [x.to(device, dtype) for x in (qkv, *position(h, w), weight, bias)]
    return (*tensors, n, position.decay.tolist(), table.decomposed[stage])


def sdpa_form(case: tuple):
    """A function of no arguments: the op with scaled_dot_product_attention; masks are made once, outside the timing."""
    qkv, sin, cos, weight, bias, n, decay, decomposed = case
    b, h, w, c3 = qkv.shape
    c, l, d = c3 // 3, h * w, c3 // 3 // n
    slopes = torch.tensor(decay)[:, None, None]
    distances = (axis_distance(w), axis_distance(h)) if decomposed else (manhattan_distance(h, w),)
    masks = [(slopes * x).to(qkv.device, qkv.dtype) for x in distances]  # (n, length, length)

    def attend(q, k, v, mask):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)

    def run():
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

    return run


def library_form(library: Path, case: tuple, tactic: int = 0):
    """A function of no arguments: the op by the plugin library's C entry point, cubins and all."""
    qkv, sin, cos, weight, bias, n, decay, decomposed = case
    b, h, w, c3 = qkv.shape
    opened = load.open_library(library)
    sizes = [b, h, w, n, c3 // 3 // n, int(decomposed), int(qkv.dtype == torch.float16)]
    workspace = torch.empty(opened.rmt_retention_workspace_bytes(*sizes) or 16, dtype=torch.uint8, device=qkv.device)
    decays = torch.tensor(decay, device=qkv.device)
    out = torch.empty(b, h, w, c3 // 3, dtype=qkv.dtype, device=qkv.device)
    pointers = [ctypes.c_void_p(x.data_ptr()) for x in (qkv, sin, cos, weight, bias, decays, out, workspace)]

    def run():
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        if opened.rmt_retention_launch(*pointers, *sizes, ctypes.c_float(0), tactic, stream):
            raise RuntimeError(load.take_last_error(library))
        return out

    return run


def relative_error(out: torch.Tensor, case: tuple) -> tuple[float, float]:
    """max|out - float32 reference|, and the same of the reference in the case's own type."""
    wanted = retention(*(x.float() for x in case[:5]), *case[5:])
    own = retention(*case)
    return float((out.float() - wanted).abs().max()), float((own.float() - wanted).abs().max())


def check(device: str, library: Path | None) -> None:
    """Every stage, type and form against the reference; raises where the error is above twice the reference's own."""
    variants = COMPARED_VARIANTS if HAS_GPU else ("rmt_nano",)
    types = (torch.float16, torch.float32)
    # The interpreter runs one program at a time, and stage 1 has a hundred: only the others, both forms among them.
    stages = range(4) if HAS_GPU else (1, 2, 3)
    todo = [(v, s, t) for v in variants for s in stages for t in types]
    for variant, stage, dtype in tqdm(todo, desc="check", unit="case"):
        case = make_case(variant, stage, 3 if HAS_GPU else 1, dtype, device)
        runs = {"kernels": lambda case=case: kernels.launch_retention(*case)}
        if library is not None:
            runs["library"] = library_form(library, case)
        for name, run in runs.items():
            error, own = relative_error(run(), case)
            limit = 2e-5 if dtype == torch.float32 else 2 * own
            if not error <= limit:
                raise SystemExit(f"{name}, {variant} stage {stage + 1}, {dtype}: error {error:.3g} above {limit:.3g}.")
    print(f"{len(todo)} cases on the {device.upper()}: errors within limits.", file=sys.stderr)


def latencies_ms(run) -> list[float]:
    """Raw samples, L2 flushed before each."""
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(ITERATIONS)]
    for _ in range(WARM_UP):
        run()
    for start, end in events:
        flush.zero_()
        start.record()
        run()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in events]


def p50(samples: list[float]) -> float:
    return sorted(samples)[len(samples) // 2]


def copy_bandwidth_gbs() -> float:
    """What a copy of 1 GiB reads and writes per second on this GPU."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / p50(latencies_ms(lambda: target.copy_(source))) / 1e6


def compare(library: Path | None) -> dict:
    """Times of every form, stage, variant and batch; one record."""
    bandwidth, rows = copy_bandwidth_gbs(), []
    todo = [(v, s, b) for v in COMPARED_VARIANTS for s in range(4) for b in BATCHES]
    for variant, stage, batch in tqdm(todo, desc="compare", unit="case"):
        case = make_case(variant, stage, batch, torch.float16, "cuda")
        qkv = case[0]
        compiled = torch.compile(retention, dynamic=False)
        tactics = kernels.FORM_TACTICS[case[7], torch.float16]
        runs = {"reference": lambda c=case: retention(*c), "compiled": lambda c=case, f=compiled: f(*c)}
        runs["sdpa"] = sdpa_form(case)
        runs |= {f"kernels_t{t}": lambda c=case, t=t: kernels.launch_retention(*c, tactic=t) for t in tactics}
        if library is not None:
            runs |= {f"library_t{t}": library_form(library, case, t) for t in tactics}
        samples = {name: latencies_ms(run) for name, run in runs.items()}
        floor_bytes = sum(x.numel() * x.element_size() for x in case[:5]) + qkv.numel() // 3 * qkv.element_size()
        row = {"variant": variant, "stage": stage + 1, "batch": batch, "floor_bytes": floor_bytes}
        row |= {"p50_ms": {name: p50(x) for name, x in samples.items()}, "samples_ms": samples}
        best = min(v for k, v in row["p50_ms"].items() if k.startswith("kernels"))
        row |= {"kernels_gbs": floor_bytes / best / 1e6, "kernels_floor_fraction": floor_bytes / best / 1e6 / bandwidth}
        rows.append(row)
    git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    return {
        "bench": "retention", "commit": git, "device": torch.cuda.get_device_name(), "torch": torch.__version__,
        "cuda": torch.version.cuda, "precision": "fp16", "input_size": INPUT_SIZE, "warm_up": WARM_UP,
        "iterations": ITERATIONS, "copy_bandwidth_gbs": bandwidth,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "library": load.library_info(library) if library else None, "rows": rows,
    }  # fmt: skip


def print_table(record: dict) -> None:
    print("| variant | stage | batch | reference ms | compiled | sdpa | kernels | GB/s | of the floor |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in record["rows"]:
        ms = row["p50_ms"]
        best = min(v for k, v in ms.items() if k.startswith("kernels"))
        times = " | ".join(f"{x:.4f}" for x in (ms["reference"], ms["compiled"], ms["sdpa"], best))
        place = f"{row['variant']} | {row['stage']} | {row['batch']}"
        print(f"| {place} | {times} | {row['kernels_gbs']:.0f} | {row['kernels_floor_fraction']:.2f} |")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", type=Path, help="folder of the plugin library: check and time its cubins too")
    arguments = parser.parse_args()
    if not HAS_GPU:
        print("No NVIDIA GPU: checking the kernels on the CPU, measuring nothing.", file=sys.stderr)
        check("cpu", None)
        return 0
    library = load.library_path(arguments.library) if arguments.library else None
    check("cuda", library)
    record = compare(library)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"retention_{record['time'].replace(':', '')}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print_table(record)
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
