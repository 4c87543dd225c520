"""The commands that measure, and decide from what was measured."""

import argparse
import contextlib
import json
from pathlib import Path

from rmt_edge.artifact import ENGINE, ONNX, output_folder, read_artifact
from rmt_edge.cli.options import add_command
from rmt_edge.errors import RmtEdgeError

PEERS = ("torch", "torch-compile", "torch-max-autotune")


def bench(args: argparse.Namespace) -> None:
    """Measure the latency of engines on this GPU, or of ONNX files on this CPU."""
    from rmt_edge.latency.bench import bench as run
    from rmt_edge.latency.bench import check_files, table
    from rmt_edge.latency.measure import MeasureSettings

    check_files(args.files, args.batch)
    if args.peers and args.checkpoint is None:
        raise RmtEdgeError("--peers is given without --checkpoint.", "PyTorch needs the weights that the files hold.")
    given = {"duration_s": args.duration, "samples": args.samples, "warm_up_s": args.warm_up}
    settings = MeasureSettings(**{key: value for key, value in given.items() if value is not None})
    output = None if args.output is None else output_folder(args.output)
    with contextlib.ExitStack() as stack:
        subjects = [_open(path, args, stack) for path in args.files]
        peers = [stack.enter_context(x) for x in _peers(subjects, args)]
        paths = run(subjects, peers, settings, args.transfers, args.cuda_graph, output)
    for path in paths:
        print(table(json.loads(path.read_text())))
    for path in paths:
        print(path)


def _open(path: Path, args: argparse.Namespace, stack: contextlib.ExitStack):
    """A file with its runner, open."""
    from rmt_edge.latency.bench import Subject, batches_of
    from rmt_edge.runtime.runner import Runner

    runner: Runner

    if path.suffix == ".engine":
        from rmt_edge.runtime.open import open_engine

        file = read_artifact(path, ENGINE)
        runner = stack.enter_context(open_engine(file, args.libraries))
    else:
        from rmt_edge.runtime.onnx_runner import OnnxRunner

        file = read_artifact(path, ONNX)
        runner = stack.enter_context(OnnxRunner(path, file.recipe["precision"]))
    return Subject(file, runner, batches_of(file, args.batch))


def _peers(subjects: list, args: argparse.Namespace) -> list:
    """PyTorch's runners for the checkpoint and the input size of the files."""
    if not args.peers:
        return []
    from rmt_edge.runtime.torch_runner import peers_of

    checkpoints = {x.file.details["checkpoint"]["sha256"] for x in subjects}
    shapes = {x.runner.image_shape for x in subjects}
    if len(checkpoints) > 1 or len(shapes) > 1:
        raise RmtEdgeError(
            f"The files are of {len(checkpoints)} checkpoints and {len(shapes)} input sizes.",
            "--peers measures one model beside them.",
            "Measure those of one checkpoint and size at a time.",
        )
    return peers_of(args.checkpoint, checkpoints.pop(), list(dict.fromkeys(args.peers)), shapes.pop())


def verdict(args: argparse.Namespace) -> None:
    """Say for each batch size whether FP16 or INT8 serves this device better, from what was measured."""
    from rmt_edge.latency.verdict import NAME, text
    from rmt_edge.latency.verdict import verdict as run

    print(text(run(args.folder)))
    print(args.folder / NAME)


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
