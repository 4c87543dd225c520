"""The command that says what to expect before owning the device."""

import argparse
import json
import sys
from pathlib import Path

from rmt_edge.cli.options import add_command, add_output
from rmt_edge.device.profile import load_profile


def estimate(args: argparse.Namespace) -> None:
    """Estimate the latency of an ONNX file on a device by a roofline: an estimate, no measurement."""
    from rmt_edge.latency.estimate import estimate_onnx

    profile = load_profile(args.device)
    path = estimate_onnx(args.onnx, profile, tuple(args.batch or profile.batches), args.output)
    print(path)
    record = json.loads(path.read_text())
    print(f"ESTIMATE of the engine's GPU time on {profile.device}, no measurement:", file=sys.stderr)
    for run in record["estimates"]:
        bounds = {bound: 0.0 for bound in ("memory", "compute", "issue", "launch")}
        for part in run["parts"]:
            bounds[part["bound_by"]] += part["latency_ms"]
        shares = ", ".join(
            f"{100 * x / run['latency_ms']:.0f} % in parts bound by {bound}" for bound, x in bounds.items()
        )
        rate = 1e3 * run["batch"] / run["latency_ms"]
        print(f"  batch {run['batch']}: {run['latency_ms']:.3f} ms, {rate:.0f} images/s ({shares})", file=sys.stderr)
    for run in record["measured"]:
        what = (
            f"batch {run['batch']} {run['p50_ms']:.3f} ms p50, {run['measured_over_estimated']:.2f} times the estimate"
        )
        print(f"  measured: {what} ({run['record']})", file=sys.stderr)
    if not record["measured"]:
        print("  No measured record of its engines lies beside it: nothing says how far this is off.", file=sys.stderr)


def add_commands(commands) -> None:
    """estimate."""
    sub = add_command(commands, estimate)
    sub.add_argument("onnx", type=Path, help="a file that `export` wrote, FP16 or INT8")
    sub.add_argument("--device", required=True, help="a profile of engines/ with peaks, or a path to one")
    sub.add_argument("--batch", type=int, nargs="+", help="images at a time (those of the profile)")
    add_output(sub, None)
