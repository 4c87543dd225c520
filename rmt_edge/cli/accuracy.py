"""The commands that say which layers may run in INT8."""

import argparse
import json
import sys
from pathlib import Path

from rmt_edge.cli.options import OUTPUT, add_checkpoint, add_command, add_output, add_torch_device, preprocessing_of
from rmt_edge.device.profile import load_profile
from rmt_edge.quantization.recipe import load_recipe

RECIPE = "int8"


def sensitivity(args: argparse.Namespace) -> None:
    """Put one group of layers at a time in INT8 and measure what is lost."""
    from rmt_edge.model.checkpoint import open_checkpoint
    from rmt_edge.search.sensitivity import DEFAULT_BY, table
    from rmt_edge.search.sensitivity import sensitivity as run

    checkpoint = open_checkpoint(args.checkpoint, args.weights)
    path = run(
        checkpoint, load_recipe(args.recipe), args.output, args.calibration, args.data, args.images,
        args.by or DEFAULT_BY, preprocessing_of(args, checkpoint), None, args.torch_device,
    )  # fmt: skip
    print(table(json.loads(path.read_text())), file=sys.stderr)
    print(path)


def search(args: argparse.Namespace) -> None:
    """Find the layers to put in INT8 for the lowest latency within a budget of accuracy."""
    from rmt_edge.model.checkpoint import open_checkpoint
    from rmt_edge.search.search import Budget, ImageSets
    from rmt_edge.search.search import search as run

    given = {"metric": args.metric, "confidence": args.confidence}
    budget = Budget(args.budget, **{key: value for key, value in given.items() if value is not None})
    images = ImageSets(args.calibration, args.selection, args.test, args.images)
    checkpoint = open_checkpoint(args.checkpoint, args.weights)
    paths = run(
        checkpoint, load_recipe(args.recipe), args.output, images, budget, load_profile(args.device),
        args.batch, args.measured, preprocessing_of(args, checkpoint), None, args.torch_device,
    )  # fmt: skip
    for path in paths:
        print(path)


def add_commands(commands) -> None:
    """sensitivity, search."""
    sub = add_command(commands, sensitivity)
    add_checkpoint(sub)
    add_torch_device(sub)
    sub.add_argument("--data", type=Path, required=True, metavar="IMAGES", help="images to measure on; labels if any")
    sub.add_argument("--images", type=int, help="how many of them (128)")
    sub.add_argument("--by", nargs="+", metavar="GROUP", help="kind, stage, block, cell (kind stage block)")
    sub.add_argument("--recipe", default=RECIPE, help=f"whose calibration: images, method ({RECIPE})")
    add_output(sub, OUTPUT)
    sub = add_command(commands, search)
    add_checkpoint(sub)
    add_torch_device(sub)
    sub.add_argument("--selection", type=Path, required=True, metavar="IMAGES", help="images to choose on, with labels")
    sub.add_argument("--test", type=Path, metavar="IMAGES", help="the test's images, to be sure that none is shared")
    sub.add_argument("--images", type=int, help="how many of the selection images (all)")
    sub.add_argument("--budget", type=float, required=True, metavar="POINTS", help="how much may be lost")
    sub.add_argument(
        "--metric", metavar="accuracy|agreement", help="of what: top-1, or agreement with float32 (accuracy)"
    )
    sub.add_argument(
        "--confidence",
        type=float,
        help="that no more is lost on further images; 0.5 takes the loss measured (0.5)",
    )
    sub.add_argument("--device", required=True, help="a profile of engines/ with peaks, or a path to one")
    sub.add_argument("--batch", type=int, default=1, help="images at a time (1)")
    sub.add_argument(
        "--measured", type=Path, nargs="+", default=[], metavar="JSON", help="*.latency.json to choose from"
    )
    sub.add_argument("--recipe", default=RECIPE, help=f"whose calibration: images, method ({RECIPE})")
    add_output(sub, OUTPUT)
