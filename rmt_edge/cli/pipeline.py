"""The commands of the workstation: from a checkpoint to the report."""

import argparse
import logging
import time
from pathlib import Path

from rmt_edge.artifact import Manifest, output_folder
from rmt_edge.cli.options import (
    OUTPUT,
    RECIPES,
    add_checkpoint,
    add_command,
    add_data,
    add_output,
    add_retention,
    preprocessing_of,
)
from rmt_edge.device.profile import load_profile
from rmt_edge.errors import RmtEdgeError
from rmt_edge.quantization.recipe import load_recipe

logger = logging.getLogger("rmt_edge")


def quantize(args: argparse.Namespace) -> None:
    """Fold a checkpoint into the form that is deployed and calibrate it."""
    from rmt_edge.quantization.quantize import quantize as run

    recipe = load_recipe(args.recipe)
    print(run(args.checkpoint, recipe, args.output, args.calibration, preprocessing_of(args), args.weights))


def export(args: argparse.Namespace) -> None:
    """Write the ONNX file of a quantised checkpoint and check it against PyTorch."""
    from rmt_edge.graph.export import export as run

    print(run(args.quantized, args.output))


def validate(args: argparse.Namespace) -> None:
    """Measure the accuracy of ONNX files or engines; exit 1 if one loses more than --max-drop points.

    An ONNX file is held to its checkpoint over a data set, or, with --bundle, to the validation subset of a bundle that
    it is in; an engine to the subset of the bundle that it was built from.
    """
    from rmt_edge.accuracy.limits import drop_message

    too_large = []
    for subject in args.subjects:
        path, manifest = (_validate_engine if subject.suffix == ".engine" else _validate_onnx)(subject, args)
        print(path)
        if not manifest.details["within_max_drop"]:
            too_large.append(drop_message(manifest))
    if too_large:
        raise RmtEdgeError("\n".join(too_large))


def _validate_engine(subject: Path, args: argparse.Namespace) -> tuple[Path, Manifest]:
    from rmt_edge.bundle.validate import validate_engine
    from rmt_edge.device.preflight import check_engine
    from rmt_edge.runtime.open import open_engine

    if args.checkpoint or args.data or args.labels:
        raise RmtEdgeError(
            "An engine is validated on the subset in its bundle.", do="Leave --checkpoint, --data and --labels out."
        )
    check_engine(subject, library=args.libraries)
    with open_engine(subject, args.libraries) as runner:
        return validate_engine(subject, runner, args.bundle, args.output, args.max_drop, args.confidence)


def _validate_onnx(subject: Path, args: argparse.Namespace) -> tuple[Path, Manifest]:
    from rmt_edge.accuracy.validate import validate as run
    from rmt_edge.bundle.validate import validate_onnx
    from rmt_edge.runtime.onnx_runner import OnnxRunner

    if args.bundle is not None:
        if args.checkpoint or args.data or args.labels:
            raise RmtEdgeError(
                "--bundle holds the labels and the float32 model's logits.",
                do="Leave --checkpoint, --data and --labels out.",
            )
        runner = OnnxRunner(subject)
        return validate_onnx(subject, runner, args.bundle, args.output, args.max_drop, args.confidence)
    if args.checkpoint is None or args.data is None:
        raise RmtEdgeError(
            f"{subject} is validated against its checkpoint on labelled images.",
            do="Pass --checkpoint and --data, or a bundle that it is in with --bundle.",
        )
    return run(
        subject, args.checkpoint, args.data, args.output, args.max_drop, args.confidence, args.labels, args.workers
    )


def report(args: argparse.Namespace) -> None:
    """Put everything in a folder side by side on one page."""
    from rmt_edge.report.collect import report as run

    page = run(args.folder)
    print(page)
    print(page.with_suffix(".html"))


def deploy(args: argparse.Namespace) -> None:
    """Quantise, export, build, validate, estimate and report, in one go."""
    from rmt_edge.accuracy.limits import checked_confidence, checked_max_drop, drop_message
    from rmt_edge.accuracy.validate import checked_workers, validate
    from rmt_edge.data.dataset import check_labels, open_dataset
    from rmt_edge.device.backend import load_backend
    from rmt_edge.engine.build import build, check_plugin_library
    from rmt_edge.graph.export import export
    from rmt_edge.latency.estimate import estimate_onnx
    from rmt_edge.model.checkpoint import load_checkpoint
    from rmt_edge.quantization.quantize import calibration_set, quantize
    from rmt_edge.report.collect import report

    start = time.monotonic()
    # What can be refused is refused before the first long step.
    checked_max_drop(args.max_drop), checked_confidence(args.confidence), checked_workers(args.workers)
    recipes = [load_recipe(name) for name in args.recipes]
    profile = load_profile(args.device)
    load_backend(profile.backend)
    check_plugin_library(args.retention, args.libraries)
    num_classes = load_checkpoint(args.checkpoint, args.weights).num_classes
    check_labels(open_dataset(args.data, args.labels), num_classes)
    for recipe in recipes:
        if recipe.precision == "int8":
            calibration_set(recipe, args.calibration)
    preprocessing = preprocessing_of(args)
    output_folder(args.output)

    made, too_large = [], []
    for recipe in recipes:
        logger.info("%s: quantize, export, build, validate", recipe.name)
        quantized = quantize(args.checkpoint, recipe, args.output, args.calibration, preprocessing, args.weights)
        onnx = export(quantized)
        engine = build(onnx, profile, retention=args.retention, libraries=args.libraries)
        predictions, manifest = validate(
            onnx, args.checkpoint, args.data, None, args.max_drop, args.confidence, args.labels, args.workers
        )
        made += [quantized, onnx, engine, predictions]
        if profile.bandwidth_gb_s is not None and recipe.precision != "fp32":
            made.append(estimate_onnx(onnx, profile, profile.batches))
        if not manifest.details["within_max_drop"]:
            too_large.append(drop_message(manifest))
    page = report(args.output)
    logger.info("deploy: done in %.0f s", time.monotonic() - start)
    for path in [*made, page.with_suffix(".json"), page, page.with_suffix(".html")]:
        print(path)
    if too_large:
        raise RmtEdgeError("\n".join(too_large))


def add_commands(commands) -> None:
    """deploy, quantize, export, validate, report."""
    sub = add_command(commands, deploy)
    add_checkpoint(sub)
    add_data(sub)
    add_output(sub, OUTPUT)
    sub.add_argument("--recipes", nargs="+", default=RECIPES, help=f"of calib/, or paths ({' '.join(RECIPES)})")
    add_retention(sub)
    sub = add_command(commands, quantize)
    add_checkpoint(sub)
    sub.add_argument("--recipe", required=True, help=f"one of calib/ ({', '.join(RECIPES)}) or a path")
    add_output(sub, OUTPUT)
    sub = add_command(commands, export)
    sub.add_argument("quantized", type=Path, help="a file that `quantize` wrote")
    add_output(sub, None)
    sub = add_command(commands, validate)
    sub.add_argument("subjects", type=Path, nargs="+", metavar="FILE", help="files that `export` or `build` wrote")
    sub.add_argument("--checkpoint", type=Path, help="the checkpoint that an ONNX file was made from")
    add_data(sub, required=False)
    sub.add_argument("--bundle", type=Path, help="the bundle with the validation subset (an engine's own folder)")
    sub.add_argument("--libraries", type=Path, metavar="FOLDER", help="an engine's plugin library (its bundle's)")
    add_output(sub, None)
    sub = add_command(commands, report)
    sub.add_argument("folder", type=Path, help="where the other commands wrote")
