"""Whole engines on this GPU: built, validated and timed from the kit's bundles. Run by engines.sh.

For each bundle, FP16 and INT8, plugin and native: the engine is built here, validated against the float32 logits that
the bundle carries, and timed by the code of `rmt-edge bench`, with transfers and without, under a CUDA graph and
without, beside PyTorch eager and torch.compile in the same turns. Power, clocks and temperature are sampled. What fails
is recorded with its message and the rest goes on; what the time limit leaves no room for is listed.

First the probe: does TensorRT-RTX run on this card at all? Where it does not, one level down: the folded form in
PyTorch under a CUDA graph, once with the plugin library's kernels by their C entry points, once with PyTorch's own
operators (folded_in_pytorch.py).

Without a GPU only --dry-run: ONNX Runtime on the CPU in the engine's place, the engines of the smallest bundle built
but not opened; marked as such.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from folded_in_pytorch import compare_ops
from record import header

from rmt_edge.artifact import ONNX, read_artifact, write_json
from rmt_edge.bundle.bundle import LIBRARIES, chosen_models, read_folder, unpack
from rmt_edge.bundle.validate import validate_engine, validate_onnx
from rmt_edge.device.machine import this_machine
from rmt_edge.device.profile import DeviceProfile, load_profile
from rmt_edge.engine.build import build
from rmt_edge.errors import RmtEdgeError
from rmt_edge.latency.bench import Subject, bench_opened
from rmt_edge.latency.measure import MeasureSettings
from rmt_edge.latency.verdict import verdict
from rmt_edge.plugin.load import library_path
from rmt_edge.runtime.onnx_runner import OnnxRunner
from rmt_edge.runtime.open import open_engine
from rmt_edge.runtime.torch_runner import peers_of

HAS_GPU = torch.cuda.is_available()
KERNELS = ("plugin", "native")
BATCHES = (1, 8, 64)
PROBE = Path(__file__).parent / "probe.py"
ACCURACY = ("images", "percent", "drop_points", "drop_interval_points", "agreement_percent",
            "logits_relative_error", "logits_sqnr_db")  # fmt: skip


def probe() -> dict[str, Any]:
    """What probe.py says of TensorRT-RTX on this card."""
    done = subprocess.run([sys.executable, str(PROBE)], capture_output=True, text=True, timeout=180, check=False)
    lines = [json.loads(x) for x in done.stdout.splitlines() if x.startswith("{")]
    return {"ok": done.returncode == 0, "networks": lines, "stderr": done.stderr[-2000:]}


def profile_here() -> DeviceProfile:
    """TensorRT-RTX for the GPU of this machine, whatever it is; without one, the profile that CI builds."""
    if not HAS_GPU:
        return load_profile("rtx-portable")
    gpu = this_machine().gpus[0]
    sm = gpu.compute_capability
    name, memory_gib = f"rtx-sm{sm.replace('.', '')}", gpu.memory_mib / 1024
    return replace(
        load_profile("rtx-portable"), name=name, device=gpu.name, compute_capabilities=(sm,), memory_gib=memory_gib,
        max_batch=max(BATCHES), batches=BATCHES, identified_by=(),
    )  # fmt: skip


def run_bundle(path: Path, args: argparse.Namespace, deadline: float) -> dict[str, Any]:
    """Build, validate and time everything in one bundle."""
    folder = unpack(path, args.work / path.stem)
    index = read_folder(folder)
    found: dict[str, Any] = {"bundle": path.name, "checkpoint": index.checkpoint, "rows": [], "failed": []}
    with contextlib.ExitStack() as stack:
        subjects = []
        for model in chosen_models(index, None):
            for kernels in KERNELS:
                if time.monotonic() > deadline:
                    found["failed"].append({"model": model.onnx, "kernels": kernels, "why": "no time was left"})
                    continue
                row = attempt(folder, model.onnx, kernels, args, stack)
                subjects += [row.pop("subject")] if "subject" in row else []
                found["failed" if "why" in row else "rows"].append(row)
        if subjects:
            found["latency"] = time_all(subjects, path.with_suffix(".safetensors"), args, deadline)
    if HAS_GPU and subjects:
        found["verdicts"] = [x.content for x in verdict(folder)]
    return found


def attempt(folder: Path, onnx: str, kernels: str, args: argparse.Namespace, stack) -> dict[str, Any]:
    """One engine, or why there is none; its subject for the timing stays open on the stack."""
    row: dict[str, Any] = {"model": onnx, "kernels": kernels}
    try:
        profile = load_profile(args.device) if args.device else profile_here()
        model = read_artifact(folder / onnx, ONNX)
        engine = build(model, profile, kernels=kernels, libraries=folder / LIBRARIES)
        row["engine"] = engine.path.name
        if HAS_GPU:
            runner = stack.enter_context(open_engine(engine))
            predictions = validate_engine(engine, runner, folder, max_drop=100)
            subject = Subject(engine, runner, tuple(args.batch))
        else:
            runner = stack.enter_context(OnnxRunner(model.path))
            predictions = validate_onnx(model, runner, folder, max_drop=100)
            subject = Subject(model, runner, tuple(args.batch))
        row["accuracy"] = {key: predictions.details[key] for key in ACCURACY}
        if HAS_GPU or kernels == KERNELS[0]:
            row["subject"] = subject
    except RmtEdgeError as error:
        row["why"] = str(error)
    except Exception:  # a card nobody has tried: whatever breaks is a finding, and must not end the run
        row["why"] = traceback.format_exc(limit=-3)
    return row


def below_engines(bundle: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The folded form in PyTorch with and without the plugin's kernels, or why not."""
    try:
        folder = unpack(bundle, args.work / bundle.stem)
        return compare_ops(bundle.with_suffix(".safetensors"), library_path(folder / LIBRARIES), tuple(args.batch))
    except Exception:  # as in attempt()
        return {"checkpoint": bundle.name, "why": traceback.format_exc(limit=-3)}


def time_all(
    subjects: list[Subject], checkpoint: Path, args: argparse.Namespace, deadline: float
) -> list[dict[str, Any]]:
    """The latency records of everything that runs, PyTorch beside it, in the time that is left."""
    with contextlib.ExitStack() as stack:
        runner = subjects[0].runner
        sha256 = subjects[0].file.details["checkpoint"]["sha256"]
        # On a GPU in FP16 alone: each batch size compiles anew, for half a minute and more.
        found = peers_of(checkpoint, sha256, args.peers, runner.image_shape)
        peers = [stack.enter_context(x) for x in found if not HAS_GPU or x.precision == "fp16"]
        forms = 4 * len(subjects) + 2 * len(peers) if HAS_GPU else len(subjects) + len(peers)
        points = len(args.batch) * forms
        seconds = max(0.2, min(args.seconds, (deadline - time.monotonic()) / points - 0.5))
        settings = MeasureSettings(duration_s=seconds, samples=3 if args.dry_run else 64, warm_up_s=min(0.5, seconds))
        return [json.loads(path.read_text()) for path in bench_opened(subjects, peers, settings)]


def markdown(record: dict[str, Any]) -> str:
    """The page of a record."""
    title = "DRY RUN on a CPU, no engine was run" if record["dry_run"] else record["gpu"]
    lines = [f"# Whole engines: {title}", "", f"TensorRT-RTX runs on this card: {record['probe']}.", ""]
    for bundle in record["bundles"]:
        rows = [[x["model"], x["kernels"], f"{x['accuracy']['drop_points']:+.2f}",
                 f"{x['accuracy']['logits_relative_error']:.1e}"] for x in bundle["rows"]]  # fmt: skip
        lines += [f"## {bundle['bundle']}", ""]
        lines += table(["model", "kernels", "drop, points", "logits, relative error"], rows)
        rows = [[name, run["batch"], *("yes" if run[x] else "no" for x in ("transfers", "cuda_graph")),
                 f"{run['p50_ms']:.3f}", f"{run['p99_ms']:.3f}", f"{run['images_per_s']:.0f}"]
                for name, run in every_run(bundle)]  # fmt: skip
        lines += table(["what", "batch", "transfers", "CUDA graph", "p50, ms", "p99, ms", "images/s"], rows)
        lines += [*(f"- {x['model']}, {x['kernels']}: {x['why'].splitlines()[-1]}" for x in bundle["failed"]), ""]
    for form in record.get("folded_in_pytorch", []):
        lines += [f"## {form['checkpoint']} in PyTorch, FP16, CUDA graph", "", form.get("why", "")]
        rows = [
            [x["ops"], x["batch"], f"{x['p50_ms']:.3f}", f"{x['relative_error']:.1e}"] for x in form.get("rows", [])
        ]
        lines += table(["ops by", "batch", "p50, ms", "relative error"], rows)
    return "\n".join(lines)


def table(header: list[str], rows: list[list[Any]]) -> list[str]:
    """A Markdown table and an empty line."""
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return [*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows), ""]


def every_run(bundle: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Each run with its name; peers, which stand in every record of one measurement, once."""
    runs, seen = [], set()
    for record in bundle.get("latency", []):
        for run in record["runs"]:
            is_peer = run["runner"].startswith("torch")
            key = (run["runner"], run.get("precision"), run["batch"], run["transfers"], run["cuda_graph"])
            if is_peer and key in seen:
                continue
            seen.add(key)
            runs.append((f"{run['runner']} {run.get('precision', '')}" if is_peer else record["subject"]["name"], run))
    return runs


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kit", type=Path, help="folder with bundles/, of pack.sh")
    parser.add_argument("--device", help="a profile of engines/ (TensorRT-RTX for this very GPU)")
    parser.add_argument("--batch", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--peers", nargs="*", default=["torch", "torch-compile"])
    parser.add_argument("--seconds", type=float, default=1.0, help="a point at most (1)")
    parser.add_argument("--minutes", type=float, default=8.5, help="for all of it (8.5)")
    parser.add_argument("--work", type=Path, required=True, help="folder for engines")
    parser.add_argument("--output", type=Path, default=Path("bench/results"), metavar="FOLDER")
    parser.add_argument("--dry-run", action="store_true", help="on a CPU, to see that the script runs")
    args = parser.parse_args()
    if not HAS_GPU and not args.dry_run:
        parser.error("PyTorch sees no NVIDIA GPU here; --dry-run shows that the script runs")
    return args


def main() -> int:
    args, start = parsed(), time.monotonic()
    bundles = sorted((args.kit / "bundles").glob("*.rmtedge"), key=lambda x: x.stat().st_size)
    if not bundles:
        raise SystemExit(f"No bundle in {args.kit / 'bundles'}: make the kit with bench/gpu/pack.sh.")
    probed = probe() if HAS_GPU else None
    record = header("engines") | {
        "gpu": torch.cuda.get_device_name() if HAS_GPU else None,
        "machine": this_machine().to_dict(),
        "dry_run": not HAS_GPU,
        "probe": "not tried" if probed is None else "yes" if probed["ok"] else "NO",
        "probe_details": probed,
        "bundles": [],
    }
    if HAS_GPU:
        record["folded_in_pytorch"] = [below_engines(x, args) for x in bundles]
    for number, path in enumerate(bundles[:1] if args.dry_run else bundles):
        share = (60 * args.minutes - (time.monotonic() - start)) / (1 if args.dry_run else len(bundles) - number)
        record["bundles"].append(run_bundle(path, args, time.monotonic() + share))
    name = "engines_dry_run" if record["dry_run"] else f"engines_{record['gpu'].lower().replace(' ', '_')}"
    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / f"{name}.json"
    write_json(path, record)
    path.with_suffix(".md").write_text(markdown(record))
    print(markdown(record))
    print(path)
    return 0 if any(x["rows"] for x in record["bundles"]) else 1


if __name__ == "__main__":
    sys.exit(main())
