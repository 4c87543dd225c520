"""The command that looks at pictures: the check that everyone makes first."""

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


def add_commands(commands) -> None:
    """predict."""
    sub = add_command(commands, predict)
    sub.add_argument("model", type=Path, help="a checkpoint, or a file that `export` or `build` wrote")
    sub.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="pictures, or folders of them")
    sub.add_argument("--output", type=Path, metavar="FOLDER", help="where to write (predicted/)")
    sub.add_argument("--score", type=float, metavar="P", help="of the boxes to show, at least (0.3)")
    sub.add_argument("--libraries", type=Path, metavar="FOLDER", help="an engine's plugin library (its bundle's)")
    add_torch_device(sub)
