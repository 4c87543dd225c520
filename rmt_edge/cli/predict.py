"""The commands on what models find: in pictures, the check that everyone makes first, and by COCO's own scorer."""

import argparse
import sys
from pathlib import Path

from rmt_edge.cli.options import add_command, add_torch_device


def predict(args: argparse.Namespace) -> None:
    """Draw what a checkpoint, an ONNX file or an engine finds in pictures, and write it as JSON."""
    from rmt_edge.pictures.predict import OUTPUT, summary
    from rmt_edge.pictures.predict import predict as run

    for path in run(args.model, args.images, args.output or OUTPUT, args.score, args.libraries, args.torch_device):
        print(summary(path), file=sys.stderr)
        print(path)


def score(args: argparse.Namespace) -> None:
    """Score a detector's predictions, a device's too, by pycocotools; also writes them as COCO's results."""
    from rmt_edge.accuracy.coco_score import score as run

    for predictions in args.predictions:
        print(run(predictions, args.data, args.annotations, args.output))


def add_commands(commands) -> None:
    """predict, score."""
    sub = add_command(commands, predict)
    sub.add_argument("model", type=Path, help="a checkpoint, or a file that `export` or `build` wrote")
    sub.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="pictures, or folders of them")
    sub.add_argument("--output", type=Path, metavar="FOLDER", help="where to write (predicted/)")
    sub.add_argument("--score", type=float, metavar="P", help="of the boxes to show, at least (0.3)")
    sub.add_argument("--libraries", type=Path, metavar="FOLDER", help="an engine's plugin library (its bundle's)")
    add_torch_device(sub)
    sub = add_command(commands, score)
    sub.add_argument("predictions", type=Path, nargs="+", metavar="NPZ", help="files that `validate` wrote, anywhere")
    sub.add_argument("--data", type=Path, required=True, metavar="IMAGES", help="the folder that they are of")
    sub.add_argument("--annotations", type=Path, required=True, metavar="JSON", help="COCO's file of these images")
    sub.add_argument("--output", type=Path, metavar="FOLDER", help="where to write (beside the predictions)")
