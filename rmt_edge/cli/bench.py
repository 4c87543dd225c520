"""The commands that measure, and decide from what was measured."""

import argparse
from pathlib import Path

from rmt_edge.cli.options import add_command

PEERS = ("torch", "torch-compile", "torch-max-autotune")  # of latency/bench.py, which a test compares


def bench(args: argparse.Namespace) -> None:
    """Measure the latency of engines on this GPU, or of ONNX files on this CPU."""
    from rmt_edge.latency.bench import bench as run
    from rmt_edge.latency.bench import table
    from rmt_edge.latency.measure import MeasureSettings
    from rmt_edge.latency.record import read_latency_record

    given = {"duration_s": args.duration, "samples": args.samples, "warm_up_s": args.warm_up}
    settings = MeasureSettings(**{key: value for key, value in given.items() if value is not None})
    paths = run(
        args.files, args.batch, settings, args.transfers, args.cuda_graph, args.peers or (), args.checkpoint,
        args.libraries, args.output,
    )  # fmt: skip
    for path in paths:
        print(table(read_latency_record(path)))
    for path in paths:
        print(path)


def verdict(args: argparse.Namespace) -> None:
    """Say for each batch size which precision serves this device best, from what was measured."""
    from rmt_edge.latency.verdict import text
    from rmt_edge.latency.verdict import verdict as run

    found = run(args.folder)
    for x in found:
        print(text(x.content))
    for x in found:
        print(x.path)


def add_commands(commands) -> None:
    """bench, verdict."""
    sub = add_command(commands, bench)
    sub.add_argument("files", type=Path, nargs="+", metavar="FILE", help=".engine on this GPU, .onnx on this CPU")
    sub.add_argument("--batch", type=int, nargs="+", metavar="N", help="batch sizes (an engine's profile's; 1 8)")
    sub.add_argument("--duration", type=float, metavar="S", help="seconds for each line of the table (10)")
    sub.add_argument("--samples", type=int, metavar="N", help="and on until there are so many (64; MLPerf's are 1024)")
    sub.add_argument("--warm-up", type=float, metavar="S", help="seconds before the first sample (2)")
    both = argparse.BooleanOptionalAction
    sub.add_argument("--transfers", action=both, help="with copies of images and logits, or without (both)")
    sub.add_argument("--cuda-graph", action=both, help="as a CUDA graph, or without (both)")
    sub.add_argument("--peers", nargs="+", choices=PEERS, help="also PyTorch, eager or compiled, in the same turns")
    sub.add_argument("--checkpoint", type=Path, help="the weights that --peers runs")
    sub.add_argument("--libraries", type=Path, metavar="FOLDER", help="the plugin libraries (build/plugin)")
    sub.add_argument("--output", type=Path, metavar="FOLDER", help="where to write (beside the file)")
    sub = add_command(commands, verdict)
    sub.add_argument("folder", type=Path, help="with the files, their latency records and their predictions")
