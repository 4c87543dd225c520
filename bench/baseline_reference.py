"""The baseline that the reference checkpoint's recipes are held to by tests/test_regression.py.

    python bench/baseline_reference.py --results /tmp/results --baseline bench/reference/baseline.json
    python bench/baseline_reference.py --results /tmp/all --images 10000 --baseline bench/reference/baseline_10000.json

Quantises the reference checkpoint by the recipes fp16 and int8, exports, and validates on the first of the 10,000 test
images. Write the baseline again only where results are meant to change: a worse one hides what was lost. Prints the
folder of results.
"""

import argparse
import struct
from pathlib import Path

import numpy as np

from rmt_edge.accuracy.reference import validate_against_checkpoint
from rmt_edge.data.dataset import open_dataset
from rmt_edge.gate.baseline import write_baseline
from rmt_edge.graph.export import export
from rmt_edge.quantization.quantize import quantize
from rmt_edge.quantization.recipe import load_recipe

REFERENCE = Path(__file__).resolve().parent / "reference"
CHECKPOINT = REFERENCE / "rmt_nano_fashion_mnist.safetensors"
RECIPES = ("fp16", "int8")
IMAGES = 1000


def first_images(folder: Path, count: int) -> Path:
    """The first test images as an IDX file, whose bytes, unlike an archive's, follow from the images alone."""
    if count == len(open_dataset(REFERENCE / "test.npz")):
        return REFERENCE / "test.npz"
    with np.load(REFERENCE / "test.npz") as arrays:
        images, labels = arrays["images"][:count], arrays["labels"][:count].astype(np.uint8)
    path = folder / f"first-{count}-images-idx3-ubyte"
    for array, name in ((images, path.name), (labels, path.name.replace("images-idx3", "labels-idx1"))):
        header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
        (folder / name).write_bytes(header + array.tobytes())
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, required=True, help="folder for what the recipes make")
    parser.add_argument("--images", type=int, default=IMAGES, help=f"test images ({IMAGES})")
    parser.add_argument("--baseline", type=Path, help="where to write the baseline; without it none is written")
    args = parser.parse_args()
    args.results.mkdir(parents=True, exist_ok=True)
    data = first_images(args.results, args.images)
    for name in RECIPES:
        onnx = export(quantize(CHECKPOINT, load_recipe(name), args.results, REFERENCE / "calibration.npz"))
        validate_against_checkpoint(onnx, CHECKPOINT, data, max_drop=100)
    if args.baseline:
        write_baseline(args.results, args.baseline)
    print(args.results)


if __name__ == "__main__":
    main()
