"""What each recipe of calib/ costs in accuracy, on the reference checkpoint, all recipes on the same images.

    python bench/recipes.py --record bench/results/recipes.json

quantises (512 calibration images), exports and validates bench/reference with every recipe; the drop of top-1 is paired
per image against the float32 PyTorch model, with its 95 % interval (metrics.py). Quantising and exporting take seconds
a recipe and are always done. Validating takes most of the time and is skipped for a recipe whose predictions lie in
--folder already and are of the very same ONNX file and images: after an interruption, run it again.
The last line of output is the record. `--images` takes the first ones of the test set alone, for a quick look.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from record import header
from tqdm import tqdm

from rmt_edge.accuracy.reference import validate_against_checkpoint
from rmt_edge.artifact import CHECKPOINT as TRAINED
from rmt_edge.artifact import PREDICTIONS, identity_of, manifest_path, read_artifact, write_json
from rmt_edge.data.dataset import open_dataset
from rmt_edge.graph.export import export
from rmt_edge.model.checkpoint import open_checkpoint
from rmt_edge.quantization.quantize import quantize
from rmt_edge.quantization.recipe import PRECISIONS, QuantizationRecipe, load_recipe
from rmt_edge.settings import ROOT, known_settings

REFERENCE = ROOT / "bench" / "reference"
CHECKPOINT = REFERENCE / "rmt_nano_fashion_mnist.safetensors"
METRICS = ("percent", "drop_points", "drop_interval_points", "agreement_percent")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=known_settings("calib"), help="default: all of calib/")
    parser.add_argument("--images", type=int, help="how many of the 10,000 test images, all by default")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "bench-recipes", help="where files are kept")
    parser.add_argument("--record", type=Path, help="also write the record to this file")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    data = test_images(args.images, args.folder)
    # The baselines first, so that a wrong set-up shows before the rest has run.
    recipes = sorted(
        (load_recipe(name) for name in args.recipes), key=lambda x: (PRECISIONS.index(x.precision), x.name)
    )
    rows = [measured(recipe, data, args.folder) for recipe in tqdm(recipes, "recipes", unit="recipe")]
    record = header("recipes") | {
        "checkpoint": identity_of(CHECKPOINT),
        "data": open_dataset(data).as_parent(),
        "images": len(open_dataset(data)),
        "runtime": "ONNX Runtime, CPU",
        "recipes": rows,
    }
    if args.record:
        write_json(args.record, record)
    print(json.dumps(record))


def test_images(count: int | None, folder: Path) -> Path:
    """The test set, or a file of its first images."""
    whole = REFERENCE / "test.npz"
    if count is None:
        return whole
    path = folder / f"test-{count}.npz"
    with np.load(whole) as arrays:
        np.savez(path, images=arrays["images"][:count], labels=arrays["labels"][:count])
    return path


def measured(recipe: QuantizationRecipe, data: Path, folder: Path) -> dict[str, Any]:
    """One row of the record."""
    onnx = export(quantize(CHECKPOINT, recipe, folder, REFERENCE / "calibration.npz"))
    path = folder / f"{onnx.path.stem}.predictions.npz"
    predictions = read_artifact(path, PREDICTIONS) if path.is_file() and manifest_path(path).is_file() else None
    parents = [onnx.as_parent(), open_checkpoint(CHECKPOINT).as_parent(TRAINED), open_dataset(data).as_parent()]
    if predictions is None or predictions.manifest.parents != parents:
        predictions = validate_against_checkpoint(onnx, CHECKPOINT, data, max_drop=100)
    return {
        "recipe": recipe.to_dict(),
        "int8_layers": len(recipe.int8_layers(onnx.details["variant"])),
        "reference_percent": predictions.details["reference_percent"],
        **{name: predictions.details[name] for name in METRICS},
        "onnx_nodes": onnx.details["nodes"],
        "onnx_relative_error": onnx.details["relative_error"],
        "seconds": {"validate": predictions.manifest.seconds},
    }


if __name__ == "__main__":
    main()
