"""The kernels on this GPU: right in every form, then timed against what they replace. Run by kernels.sh.

Correctness: every form, type, head dim, real and odd grid, batch 1, 3 and 64; inputs drawn afresh, outputs poisoned
with NaN before. The error may be twice the float16 reference's own against float32, plus one rounding, as
flash-attention tests.

Latency: GPU time of one call between two CUDA events, L2 flushed before each, as a CUDA graph replay so that no form
pays for Python; `eager` is the public sequence launched operation by operation, as a model does. p50 of the raw
samples, which the JSON keeps. Floor: the bytes that must move (retention_contenders.moved_bytes) over what a large copy
on this very card reaches. What the time limit leaves no room for is listed as not measured.

Without a GPU only --dry-run: one small case by Triton's interpreter, marked as such in both files.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

HAS_GPU = torch.cuda.is_available()
if not HAS_GPU:
    os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when it is imported

import triton  # noqa: E402
from record import header  # noqa: E402
from retention_contenders import (  # noqa: E402
    Run,
    Shape,
    fused_attention,
    make_case,
    moved_bytes,
    run_of_library,
    run_of_pytorch,
    run_of_triton,
    softmax_attention,
    stage_shapes,
    tactics_of,
    unfused,
)
from tqdm import tqdm  # noqa: E402

from rmt_edge.ops.retention.op import retention  # noqa: E402
from rmt_edge.plugin import load  # noqa: E402

VARIANTS = ("rmt_t", "rmt_s", "rmt_b", "rmt_l")
BATCHES = (1, 8, 64, 256)
INPUT_SIZE = 224
WARM_UP, ITERATIONS = 5, 30
FLUSH_BYTES = 256 * 2**20  # more than any L2
COPY_BYTES = 2**30
FLOAT32_LIMIT = 2e-5  # tests/ops/retention/test_kernels.py
PEERS = ("eager", "public", "compiled", "sdpa")
PEER_SLACK = 4  # peers must compute the same function; how well they round is theirs
TARGETS = {"eager": 5.0, "sdpa": 1.5, "floor_fraction": 0.6}  # at batch 8 and more


def correctness_shapes(dry_run: bool) -> list[Shape]:
    """The matrix: form x head dim x grid x batch."""
    if dry_run:
        return [Shape(1, 5, 9, 1, 16, True), Shape(3, 3, 5, 1, 32, False)]
    grids = ((56, 56), (28, 28), (14, 14), (7, 7), (1, 1), (5, 9), (13, 7), (1, 70), (17, 24))
    return [
        Shape(b, h, w, n, d, decomposed)
        for decomposed in (True, False)
        for n, d in ((2, 16), (3, 32))
        for h, w in grids
        for b in (1, 3, 64)
        if decomposed or h * w <= 784  # no stage of any variant attends to more at once
    ]


def check(shapes: list[Shape], device: str, library: Path | None, seconds: float) -> dict[str, Any]:
    """Every shape, type and tactic against the reference; what failed, and how many were right."""
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills what torch.empty returns with NaN
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # LePE's convolution has it on
    start, passed, failed, left = time.monotonic(), 0, [], 0
    for shape in tqdm(shapes, "correctness", unit="shape"):
        if time.monotonic() - start > seconds:
            left += 1
            continue
        for dtype in (torch.float16, torch.float32):
            case = make_case(shape, dtype, device)
            wanted, limit = expected(case)
            for name, run in contenders(case, library).items():
                error = float((run().float() - wanted).abs().max())
                if error <= (PEER_SLACK * limit if name in PEERS else limit):  # False for NaN
                    passed += 1
                else:
                    failed.append({"form": name, "shape": shape.name, "dtype": str(dtype), "error": repr(error),
                                   "limit": limit})  # fmt: skip
    torch.use_deterministic_algorithms(False)
    return {"passed": passed, "failed": failed, "shapes_not_reached": left, "seconds": time.monotonic() - start}


def contenders(case: tuple, library: Path | None) -> dict[str, Run]:
    runs = {"public": run_of_pytorch(case, softmax_attention), "sdpa": run_of_pytorch(case, fused_attention)}
    runs |= {f"kernels tactic {t}": run_of_triton(case, t) for t in tactics_of(case)}
    if library is not None:
        runs |= {f"library tactic {t}": run_of_library(library, case, t) for t in tactics_of(case)}
    return runs


def expected(case: tuple) -> tuple[torch.Tensor, float]:
    """The float32 reference and the error that is allowed."""
    wanted = retention(*(x.float() for x in case[:5]), *case[5:])
    if case[0].dtype == torch.float32:
        return wanted, FLOAT32_LIMIT
    own = retention(*case)
    rounding = float((((own + 0.3) - 0.3) - own).abs().max())
    return wanted, 2 * float((own.float() - wanted).abs().max()) + rounding


def as_cuda_graph(run: Run) -> Run:
    """The same call as a CUDA graph replay."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run()

    def replay():
        graph.replay()
        return out

    return replay


def latencies_ms(run: Run, iterations: int = ITERATIONS) -> list[float]:
    """Raw samples, L2 flushed before each; on a CPU, for the dry run alone, wall time."""
    if not HAS_GPU:
        start = time.perf_counter()
        run()
        return [1e3 * (time.perf_counter() - start)]
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(iterations)]
    for _ in range(WARM_UP):
        run()
    for start, end in events:
        flush.zero_()
        start.record()
        run()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in events]


def copy_gb_s() -> float:
    """What a large copy reads and writes per second on this device."""
    count = COPY_BYTES if HAS_GPU else 2**20
    source = torch.ones(count, dtype=torch.uint8, device="cuda" if HAS_GPU else "cpu")
    target = torch.empty_like(source)
    return 2 * count / statistics.median(latencies_ms(lambda: target.copy_(source))) / 1e6


def empty_launch_ms() -> float:
    """A graph replay of the smallest kernel: the floor under every latency at batch 1."""
    if not HAS_GPU:
        return 0.0
    tiny = torch.zeros(1, device="cuda")
    return statistics.median(latencies_ms(as_cuda_graph(lambda: tiny.add_(1))))


def measure(case: tuple, library: Path | None, with_compile: bool) -> dict[str, list[float]]:
    """Raw samples of every form of one case."""
    graphed = as_cuda_graph if HAS_GPU else lambda run: run
    public = run_of_pytorch(case, softmax_attention)
    samples = {"eager": latencies_ms(public), "public": latencies_ms(graphed(public))}
    samples["sdpa"] = latencies_ms(graphed(run_of_pytorch(case, fused_attention)))
    for tactic in tactics_of(case):
        samples[f"kernels_t{tactic}"] = latencies_ms(graphed(run_of_triton(case, tactic)))
        if library is not None:
            samples[f"library_t{tactic}"] = latencies_ms(graphed(run_of_library(library, case, tactic)))
    if with_compile:
        torch._dynamo.reset()
        compiled = torch.compile(unfused, dynamic=False)
        samples["compiled"] = latencies_ms(graphed(run_of_pytorch(case, softmax_attention, compiled)))
    return samples


def compare(batches: tuple[int, ...], library: Path | None, seconds: float, dry_run: bool) -> dict[str, Any]:
    """Every stage of every variant at every batch, largest gain of knowledge first; shapes that variants share once."""
    start, device = time.monotonic(), "cuda" if HAS_GPU else "cpu"
    bandwidth, launch = copy_gb_s(), empty_launch_ms()
    variants, size = (("rmt_nano",), 32) if dry_run else (VARIANTS, INPUT_SIZE)
    todo = [(batch, shape, of) for batch in batches for shape, of in stage_shapes(variants, batch, size).items()]
    rows, left = [], []
    for batch, shape, of in tqdm(todo, "latency", unit="shape"):
        spent = time.monotonic() - start
        if spent > seconds:
            left.append({"stages": of, "batch": batch})
            continue
        case = make_case(shape, torch.float16, device)
        samples = measure(case, library, with_compile=HAS_GPU and spent < 0.8 * seconds)
        p50 = {name: statistics.median(x) for name, x in samples.items()}
        best = min((p50[x], x) for x in p50 if x.startswith(("kernels", "library")))
        floor = moved_bytes(case) / bandwidth / 1e6
        rows.append({
            "stages": of, "batch": batch, "shape": shape.name, "floor_bytes": moved_bytes(case), "floor_ms": floor,
            "p50_ms": p50, "best": best[1], "best_ms": best[0], "floor_fraction": floor / best[0],
            "faster_than": {name: p50[name] / best[0] for name in PEERS if name in p50},
            "samples_ms": samples,
        })  # fmt: skip
    return {"copy_gb_s": bandwidth, "empty_launch_ms": launch, "rows": rows, "not_measured": left,
            "seconds": time.monotonic() - start}  # fmt: skip


def markdown(record: dict[str, Any]) -> str:
    """The page of a record."""
    title = "DRY RUN on a CPU: no number below is a measurement" if record["dry_run"] else record["gpu"]
    right, times = record["correctness"], record["latency"]
    used = record["versions_used"]
    lines = [
        f"# Retention kernels: {title}",
        "",
        f"{right['passed']} checks right, {len(right['failed'])} wrong, {right['shapes_not_reached']} shapes left out.",
        f"Copy: {times['copy_gb_s']:.0f} GB/s. Smallest kernel: {1e3 * times['empty_launch_ms']:.1f} us.",
        f"FP16, p50, CUDA graphs but for `eager`, L2 flushed. triton {used['triton']}, torch {used['torch']}.",
        "",
        *(
            f"- WRONG: {x['form']}, {x['shape']}, {x['dtype']}: {x['error']} above {x['limit']:.3g}"
            for x in right["failed"]
        ),
        "",
        "| stages | batch | best, us | which | of the floor | eager / best | SDPA / best | compiled / best |",
        "|---|---:|---:|---|---:|---:|---:|---:|",
    ]
    for row in times["rows"]:
        ratio = {name: f"{x:.2f}" for name, x in row["faster_than"].items()}
        lines.append(
            f"| {', '.join(row['stages'])} | {row['batch']} | {1e3 * row['best_ms']:.1f} | {row['best']} | "
            f"{row['floor_fraction']:.0%} | {ratio['eager']} | {ratio['sdpa']} | {ratio.get('compiled', '–')} |"
        )
    lines += ["", *(f"- not measured for want of time: {', '.join(x['stages'])}, batch {x['batch']}"
                    for x in times["not_measured"])]  # fmt: skip
    return "\n".join([*lines, "", *verdicts(record)]) + "\n"


def verdicts(record: dict[str, Any]) -> list[str]:
    """Which rows at batch 8 and more miss a target."""
    rows = [x for x in record["latency"]["rows"] if x["batch"] >= 8]
    if not rows:
        return ["No row at batch 8 or more: nothing to hold against the targets."]
    missed = []
    for row in rows:
        where = f"{', '.join(row['stages'])}, batch {row['batch']}"
        for name, target in TARGETS.items():
            value = (row["faster_than"] | {"floor_fraction": row["floor_fraction"]})[name]
            if value < target:
                missed.append(f"- below target: {where}: {name} {value:.2f}, target {target:g}")
    return missed or [f"All {len(rows)} rows at batch 8 and more meet {TARGETS}."]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--libraries", type=Path, metavar="FOLDER", help="check and time the plugin library's cubins too"
    )
    parser.add_argument("--minutes", type=float, default=7.5, help="for all of it (7.5)")
    parser.add_argument("--output", type=Path, default=Path("bench/results"), metavar="FOLDER")
    parser.add_argument("--dry-run", action="store_true", help="a small case on the CPU, to see that the script runs")
    args = parser.parse_args()
    if not HAS_GPU and not args.dry_run:
        parser.error("PyTorch sees no NVIDIA GPU here; --dry-run shows that the script runs")
    library = load.library_path(args.libraries) if args.libraries and HAS_GPU else None
    device, seconds = "cuda" if HAS_GPU else "cpu", 60 * args.minutes
    right = check(correctness_shapes(args.dry_run), device, library, 0.4 * seconds)
    left = seconds - right["seconds"]
    record = header("kernels") | {
        "gpu": torch.cuda.get_device_name() if HAS_GPU else None,
        "compute_capability": ".".join(map(str, torch.cuda.get_device_capability())) if HAS_GPU else None,
        "versions_used": {"torch": torch.__version__, "triton": triton.__version__, "cuda": torch.version.cuda},
        "dry_run": args.dry_run or not HAS_GPU,
        "library": load.library_info(library) if library else None,
        "warm_up": WARM_UP,
        "iterations": ITERATIONS,
        "correctness": right,
        "latency": compare((1,) if args.dry_run else BATCHES, library, left, args.dry_run),
    }
    name = "kernels_dry_run" if record["dry_run"] else f"kernels_{record['gpu'].lower().replace(' ', '_')}"
    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / f"{name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    page = markdown(record)
    path.with_suffix(".md").write_text(page)
    print(page)
    print(path)
    return 1 if right["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
