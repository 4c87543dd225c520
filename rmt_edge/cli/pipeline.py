"""The commands of the workstation: from a checkpoint to the report."""

import argparse
from pathlib import Path

from rmt_edge.artifact import ENGINE, Artifact, read_artifact
from rmt_edge.cli.options import (
    OUTPUT,
    RECIPES,
    add_checkpoint,
    add_command,
    add_data,
    add_kernels,
    add_output,
    add_torch_device,
    preprocessing_of,
)
from rmt_edge.errors import CheckFailedError, RmtEdgeError
from rmt_edge.quantization.recipe import load_recipe


def quantize(args: argparse.Namespace) -> None:
    """Fold a checkpoint into the form that is deployed and calibrate it."""
    from rmt_edge.model.checkpoint import open_checkpoint
    from rmt_edge.quantization.quantize import quantize as run

    recipe, checkpoint = load_recipe(args.recipe), open_checkpoint(args.checkpoint, args.weights)
    preprocessing = preprocessing_of(args, checkpoint)
    print(run(checkpoint, recipe, args.output, args.calibration, preprocessing, device=args.torch_device).path)


def export(args: argparse.Namespace) -> None:
    """Write the ONNX file of a quantised checkpoint and check it against PyTorch."""
    from rmt_edge.graph.export import export as run

    print(run(args.quantized, args.output).path)


def validate(args: argparse.Namespace) -> None:
    """Measure the accuracy of ONNX files or engines; exit 1 if one loses more than --max-drop points.

    An ONNX file is held to its checkpoint over a data set, or, with --bundle, to the validation subset of a bundle that
    it is in; an engine to the subset of the bundle that it was built from, or, with --data, to the predictions of the
    float32 model (--reference) that validating an ONNX file left beside it.
    """
    from rmt_edge.accuracy.limits import drop_message

    too_large = []
    for subject in args.subjects:
        way = _validate_engine if subject.suffix == ".engine" else _validate_onnx
        predictions = (_validate_with_reference if args.reference is not None else way)(subject, args)
        print(predictions.path)
        if not predictions.details["within_max_drop"]:
            too_large.append(drop_message(predictions))
    if too_large:
        raise CheckFailedError("\n".join(too_large))


def _validate_engine(subject: Path, args: argparse.Namespace) -> Artifact:
    from rmt_edge.bundle.validate import validate_engine
    from rmt_edge.runtime.open import open_engine

    if args.data is not None:
        return _validate_with_reference(subject, args)
    if args.checkpoint or args.labels or args.images:
        raise RmtEdgeError(
            "An engine is validated on the subset in its bundle, or with --data and --reference.",
            do="Leave --checkpoint, --labels and --images out, or pass --data IMAGES and --reference FILE.",
        )
    engine = read_artifact(subject, ENGINE)
    with open_engine(engine, args.libraries) as runner:
        return validate_engine(engine, runner, args.bundle, args.output, args.max_drop, args.confidence)


def _validate_with_reference(subject: Path, args: argparse.Namespace) -> Artifact:
    """An engine or an ONNX file, by the predictions of the float32 model that a workstation wrote."""
    if args.data is None or args.reference is None or args.checkpoint or args.bundle or args.images:
        raise RmtEdgeError(
            "--data and --reference go together, without --checkpoint, --bundle and --images.",
            "--reference holds the float32 model's predictions, a file *.reference.predictions.npz that `validate` "
            "writes on a workstation beside those of an ONNX file; it says which images of --data they are of.",
            "rmt-edge validate FILE --data IMAGES --reference FILE.reference.predictions.npz",
        )
    try:
        from rmt_edge.accuracy.validate import validate as run
    except ModuleNotFoundError as error:
        if error.name != "PIL":
            raise
        raise RmtEdgeError(
            "pillow is not installed.", "--data is decoded and resized with it.", "pip install pillow"
        ) from error
    return run(
        subject, args.data, args.reference, args.output, args.max_drop, args.confidence, args.labels, args.workers,
        None, args.libraries, args.annotations,
    )  # fmt: skip


def _validate_onnx(subject: Path, args: argparse.Namespace) -> Artifact:
    from rmt_edge.accuracy.reference import validate_against_checkpoint
    from rmt_edge.bundle.validate import validate_onnx
    from rmt_edge.runtime.onnx_runner import open_onnx

    if args.bundle is not None:
        if args.checkpoint or args.data or args.labels or args.annotations:
            raise RmtEdgeError(
                "--bundle holds the labels and the float32 model's logits.",
                do="Leave --checkpoint, --data and --labels out.",
            )
        runner = open_onnx(subject)
        return validate_onnx(subject, runner, args.bundle, args.output, args.max_drop, args.confidence)
    if args.checkpoint is None or args.data is None:
        raise RmtEdgeError(
            f"{subject} is validated against its checkpoint on labelled images.",
            do="Pass --checkpoint and --data, or a bundle that it is in with --bundle.",
        )
    return validate_against_checkpoint(
        subject, args.checkpoint, args.data, args.output, args.max_drop, args.confidence, args.labels, args.workers,
        args.images, args.torch_device, args.annotations,
    )  # fmt: skip


def report(args: argparse.Namespace) -> None:
    """Put everything in a folder side by side on one page."""
    from rmt_edge.report.collect import write_report

    page = write_report(args.folder)
    print(page)
    print(page.with_suffix(".html"))


def deploy(args: argparse.Namespace) -> None:
    """Quantise, export, build, validate, estimate and report, in one go; exit 1 if too much accuracy is lost."""
    from rmt_edge.model.checkpoint import open_checkpoint
    from rmt_edge.pipeline import deploy as run

    checkpoint = open_checkpoint(args.checkpoint, args.weights)
    deployment = run(
        checkpoint, args.data, args.calibration, args.output, args.recipes, args.device, args.kernels, args.libraries,
        args.labels, preprocessing_of(args, checkpoint), None, args.max_drop, args.confidence, args.workers,
        args.images, args.torch_device, args.trust_libraries, args.annotations,
    )  # fmt: skip
    for path in deployment.paths:
        print(path)
    if deployment.too_large_drops:
        raise CheckFailedError("\n".join(deployment.too_large_drops))


def add_commands(commands) -> None:
    """deploy, quantize, export, validate, report."""
    sub = add_command(commands, deploy)
    add_checkpoint(sub)
    add_data(sub)
    add_torch_device(sub)
    add_output(sub, OUTPUT)
    sub.add_argument("--recipes", nargs="+", default=RECIPES, help=f"of calib/, or paths ({' '.join(RECIPES)})")
    add_kernels(sub)
    sub = add_command(commands, quantize)
    add_checkpoint(sub)
    add_torch_device(sub)
    sub.add_argument("--recipe", required=True, help=f"one of calib/ ({', '.join(RECIPES)}) or a path")
    add_output(sub, OUTPUT)
    sub = add_command(commands, export)
    sub.add_argument("quantized", type=Path, help="a file that `quantize` wrote")
    add_output(sub, None)
    sub = add_command(commands, validate)
    sub.add_argument("subjects", type=Path, nargs="+", metavar="FILE", help="files that `export` or `build` wrote")
    sub.add_argument("--checkpoint", type=Path, help="the checkpoint that an ONNX file was made from")
    add_data(sub, required=False)
    sub.add_argument(
        "--reference", type=Path, metavar="NPZ", help="the float32 model's predictions on --data, from a workstation"
    )
    add_torch_device(sub)
    sub.add_argument("--bundle", type=Path, help="the bundle with the validation subset (an engine's own folder)")
    sub.add_argument("--libraries", type=Path, metavar="FOLDER", help="an engine's plugin library (its bundle's)")
    add_output(sub, None)
    sub = add_command(commands, report)
    sub.add_argument("folder", type=Path, help="where the other commands wrote")
