"""Options that several commands share."""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rmt_edge.data.preprocess import Preprocessing
from rmt_edge.errors import RmtEdgeError
from rmt_edge.settings import read_toml

if TYPE_CHECKING:
    from rmt_edge.model.checkpoint import Checkpoint

# Defaults of pipeline.deploy, which the command line must name before it imports what deploy needs (a test compares).
OUTPUT = Path("deployed")
RECIPES = ("fp32", "fp16", "int8")
DEVICE = "rtx-portable"


def add_command(commands, function: Callable[[argparse.Namespace], None], name: str = "") -> argparse.ArgumentParser:
    """A command named after its function, with the first line of its docstring as its help."""
    assert function.__doc__, function
    summary = function.__doc__.splitlines()[0]
    sub = commands.add_parser(name or function.__name__.replace("_", "-"), help=summary, description=summary)
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


def add_torch_device(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--torch-device", metavar="DEVICE", help="where PyTorch computes: cpu, cuda, cuda:1 (a GPU if any)"
    )


def add_data(sub: argparse.ArgumentParser, required: bool = True) -> None:
    sub.add_argument(
        "--data", type=Path, required=required, metavar="IMAGES", help="labelled images: class folders, .npz or IDX"
    )
    sub.add_argument("--labels", type=Path, metavar="FILE", help="labels of a flat folder: lines `name label`")
    sub.add_argument("--images", type=int, metavar="N", help="validate on N of them, drawn evenly over classes (all)")
    sub.add_argument(
        "--workers", type=int, metavar="N", help="processes that decode a folder's images (half the cores)"
    )
    sub.add_argument("--max-drop", type=float, metavar="POINTS", help="of top-1, AP or mIoU that may be lost (0.5)")
    sub.add_argument(
        "--confidence", type=float, metavar="P", help="hold the upper end of the drop's interval to it, e.g. 0.95"
    )


def add_output(sub: argparse.ArgumentParser, default: Path | None) -> None:
    where = f"{default}/" if default else "beside the input"
    sub.add_argument("--output", type=Path, default=default, metavar="FOLDER", help=f"where to write ({where})")


def add_kernels(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--device", default=DEVICE, help=f"a profile of engines/, a path to one, or auto ({DEVICE})")
    sub.add_argument(
        "--kernels",
        metavar="plugin|native|auto",
        help="rmt-edge's fused kernels, TensorRT's own layers, or the faster of both (plugin)",
    )
    sub.add_argument("--libraries", type=Path, metavar="FOLDER", help="the plugin libraries (build/plugin)")


def preprocessing_of(args: argparse.Namespace, checkpoint: "Checkpoint") -> Preprocessing | None:
    """What --preprocessing or --input-size say; None where they say nothing and the checkpoint's own holds."""
    if args.preprocessing is not None and args.input_size is not None:
        raise RmtEdgeError("Both --preprocessing and --input-size are given.", do="Put height and width in the file.")
    if args.preprocessing is not None:
        return Preprocessing.from_dict(read_toml(args.preprocessing))
    if args.input_size is not None:
        height, width = args.input_size
        return replace(checkpoint.model.preprocessing, height=height, width=width)
    return None
