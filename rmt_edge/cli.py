"""The command line: one function per command, progress on stderr, the path of the result on stdout.

Each command imports what it needs when it runs, so that a device needs neither torch nor modelopt.
"""

import argparse
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

from rmt_edge import __version__
from rmt_edge.artifact import output_folder
from rmt_edge.errors import RmtEdgeError
from rmt_edge.preprocess import Preprocessing
from rmt_edge.recipe import load_profile, load_recipe, read_toml

OUTPUT = Path("deployed")
RECIPES = ("fp32", "fp16", "int8")
DEVICE = "rtx-30"
logger = logging.getLogger("rmt_edge")


def quantize(args: argparse.Namespace) -> None:
    """Fold a checkpoint into its deployment form and calibrate it."""
    from rmt_edge.quantize import quantize as run

    recipe = load_recipe(args.recipe)
    print(run(args.checkpoint, recipe, args.output, args.calibration, _preprocessing(args), args.weights))


def export(args: argparse.Namespace) -> None:
    """Write the ONNX file of a quantised checkpoint and check it against PyTorch."""
    from rmt_edge.export import export as run

    print(run(args.quantized, args.output))


def build(args: argparse.Namespace) -> None:
    """Build the TensorRT engine of an ONNX file for a device."""
    from rmt_edge.engine import build as run

    print(run(args.onnx, load_profile(args.device), args.output, args.retention, args.libraries))


def plugin(args: argparse.Namespace) -> None:
    """Build the library of TensorRT plugins: every GPU and both processors, or those named."""
    from rmt_edge.plugin.build import build_libraries

    for path in build_libraries(args.output, args.sm, args.arch, args.headers):
        print(path)


def validate(args: argparse.Namespace) -> None:
    """Measure the accuracy of an ONNX file against its checkpoint; exit 1 if it loses more than --max-drop points."""
    from rmt_edge.validate import drop_message
    from rmt_edge.validate import validate as run

    path, manifest = run(args.onnx, args.checkpoint, args.data, args.output, args.max_drop)
    print(path)
    if not manifest.details["within_max_drop"]:
        raise RmtEdgeError(drop_message(manifest))


def report(args: argparse.Namespace) -> None:
    """Put everything in a folder side by side on one page."""
    from rmt_edge.report import report as run

    print(run(args.folder))


def deploy(args: argparse.Namespace) -> None:
    """Quantise, export, build, validate and report, in one go."""
    from rmt_edge.data import check_labels, open_dataset
    from rmt_edge.engine import build, check_plugin_library, load_backend
    from rmt_edge.export import export
    from rmt_edge.model.checkpoint import load_checkpoint
    from rmt_edge.quantize import calibration_set, quantize
    from rmt_edge.report import report
    from rmt_edge.validate import drop_message, validate

    start = time.monotonic()
    # What can be refused is refused before the first long step.
    recipes = [load_recipe(name) for name in args.recipes]
    profile = load_profile(args.device)
    load_backend(profile.backend)
    check_plugin_library(args.retention, args.libraries)
    num_classes = load_checkpoint(args.checkpoint, args.weights).num_classes
    check_labels(open_dataset(args.data), num_classes)
    for recipe in recipes:
        if recipe.precision == "int8":
            calibration_set(recipe, args.calibration)
    preprocessing = _preprocessing(args)
    output_folder(args.output)

    made, too_large = [], []
    for recipe in recipes:
        logger.info("%s: quantize, export, build, validate", recipe.name)
        quantized = quantize(args.checkpoint, recipe, args.output, args.calibration, preprocessing, args.weights)
        onnx = export(quantized)
        engine = build(onnx, profile, retention=args.retention, libraries=args.libraries)
        predictions, manifest = validate(onnx, args.checkpoint, args.data, max_drop=args.max_drop)
        made += [quantized, onnx, engine, predictions]
        if not manifest.details["within_max_drop"]:
            too_large.append(drop_message(manifest))
    page = report(args.output)
    logger.info("deploy: done in %.0f s", time.monotonic() - start)
    for path in [*made, page.with_suffix(".json"), page]:
        print(path)
    if too_large:
        raise RmtEdgeError("\n".join(too_large))


def _preprocessing(args: argparse.Namespace) -> Preprocessing | None:
    """What --preprocessing or --input-size say; None where they say nothing and the checkpoint's own holds."""
    if args.preprocessing is not None and args.input_size is not None:
        raise RmtEdgeError("Both --preprocessing and --input-size are given.", do="Put height and width in the file.")
    if args.preprocessing is not None:
        return Preprocessing.from_dict(read_toml(args.preprocessing))
    if args.input_size is not None:
        from rmt_edge.model.checkpoint import load_checkpoint

        height, width = args.input_size
        return replace(load_checkpoint(args.checkpoint, args.weights).preprocessing, height=height, width=width)
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rmt-edge",
        description="Takes a trained RMT to the device it will run on: quantise, export, build, validate, report.",
        epilog="Start with: rmt-edge deploy CHECKPOINT --calibration IMAGES --data IMAGES. README.md has the rest.",
    )
    parser.add_argument("--version", action="version", version=f"rmt-edge {__version__}")
    parser.add_argument("--verbose", action="store_true", help="also log what the TensorRT builder warns of")
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(function) -> argparse.ArgumentParser:
        summary = function.__doc__.splitlines()[0]
        sub = commands.add_parser(function.__name__, help=summary, description=summary)
        sub.set_defaults(run=function)
        return sub

    def add_checkpoint(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("checkpoint", type=Path, help="a public RMT .pth, a state dict or a .safetensors")
        sub.add_argument("--calibration", type=Path, metavar="IMAGES", help="images to calibrate INT8 with (no labels)")
        sub.add_argument("--weights", choices=("model", "model_ema"), help="which weights of a .pth that holds both")
        sub.add_argument("--input-size", type=int, nargs=2, metavar=("H", "W"), help="another input size")
        sub.add_argument(
            "--preprocessing", type=Path, metavar="TOML", help="size, crop, mean, std instead of the checkpoint's"
        )

    def add_data(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--data", type=Path, required=True, metavar="IMAGES", help="labelled images: class folders, .npz or IDX"
        )
        sub.add_argument("--max-drop", type=float, metavar="POINTS", help="top-1 that may be lost (0.5)")

    def add_output(sub: argparse.ArgumentParser, default: Path | None) -> None:
        where = f"{default}/" if default else "beside the input"
        sub.add_argument("--output", type=Path, default=default, metavar="FOLDER", help=f"where to write ({where})")

    def add_retention(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--device", default=DEVICE, help=f"a profile of engines/ or a path to one ({DEVICE})")
        sub.add_argument(
            "--retention",
            metavar="plugin|native|auto",
            help="rmt-edge's fused kernels, TensorRT's own layers, or the faster of both (plugin)",
        )
        sub.add_argument("--libraries", type=Path, metavar="FOLDER", help="the plugin libraries (build/plugin)")

    sub = command(deploy)
    add_checkpoint(sub)
    add_data(sub)
    add_output(sub, OUTPUT)
    sub.add_argument("--recipes", nargs="+", default=RECIPES, help=f"of calib/, or paths ({' '.join(RECIPES)})")
    add_retention(sub)
    sub = command(quantize)
    add_checkpoint(sub)
    sub.add_argument("--recipe", required=True, help=f"one of calib/ ({', '.join(RECIPES)}) or a path")
    add_output(sub, OUTPUT)
    sub = command(export)
    sub.add_argument("quantized", type=Path, help="a file that `quantize` wrote")
    add_output(sub, None)
    sub = command(build)
    sub.add_argument("onnx", type=Path, help="a file that `export` wrote")
    add_retention(sub)
    add_output(sub, None)
    sub = command(plugin)
    sub.add_argument("action", choices=("build",), help="build: compile the kernels and link the libraries")
    sub.add_argument("--sm", type=int, action="append", help="GPU generation, 87 for SM 8.7; repeat for several")
    sub.add_argument("--arch", choices=("x86_64", "aarch64"), action="append", help="processor; repeat for both")
    sub.add_argument("--headers", type=Path, help="a folder with NvInfer.h of TensorRT 10.3 or later")
    sub.add_argument("--output", type=Path, default=Path("build/plugin"), metavar="FOLDER", help="build/plugin")
    sub = command(validate)
    sub.add_argument("onnx", type=Path, help="a file that `export` wrote")
    sub.add_argument("--checkpoint", type=Path, required=True, help="the checkpoint it was made from")
    add_data(sub)
    add_output(sub, None)
    sub = command(report)
    sub.add_argument("folder", type=Path, help="where the other commands wrote")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status: 0, 1 for an error, 130 for Ctrl-C."""
    args = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logger.setLevel(logging.DEBUG if args.verbose else logging.INFO)
    interrupted = threading.Event()
    with _noticing_ctrl_c(interrupted):
        try:
            args.run(args)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except (Exception, KeyboardInterrupt) as error:
            if interrupted.is_set() or isinstance(error, KeyboardInterrupt):
                print("\nrmt-edge: interrupted. What was finished is whole; the rest was not written.", file=sys.stderr)
                return 130
            if isinstance(error, RmtEdgeError) and not args.traceback:
                print(f"rmt-edge: {error}", file=sys.stderr)
                return 1
            raise
    return 0


@contextmanager
def _noticing_ctrl_c(interrupted: threading.Event) -> Iterator[None]:
    """Set the event at Ctrl-C, then raise KeyboardInterrupt as usual.

    A library may turn that exception into one of its own (safetensors does); the event tells it from a fault.
    """

    def stop(signum: int, frame: FrameType | None) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


if __name__ == "__main__":
    sys.exit(main())
