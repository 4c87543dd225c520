"""Build the engines of detectors and segmenters without a GPU: layers, plugins, seconds and sizes.

    python bench/downstream_engines.py --libraries build/plugin-86 [--heads retinanet …] [--size 800 1344]
        [--precisions fp16 int8] [--kernels plugin native] [--record FILE]

The weights are random and the images noise: layers depend on neither. For SM 8.6 alone, by TensorRT-RTX, batches 1 to
--max-batch. What TensorRT refuses is in the record with its message. The last line of output is the record.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from record import header
from safetensors.torch import save_file

from rmt_edge.artifact import Artifact
from rmt_edge.data.preprocess import Preprocessing
from rmt_edge.device.profile import load_profile
from rmt_edge.engine.build import build
from rmt_edge.errors import RmtEdgeError
from rmt_edge.graph.export import export
from rmt_edge.model.heads import MODELS, create_head
from rmt_edge.model.variants import VARIANTS
from rmt_edge.quantization.quantize import quantize
from rmt_edge.quantization.recipe import load_recipe
from rmt_edge.writing import write_json

IMAGES = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=VARIANTS, default="rmt_t")
    parser.add_argument("--heads", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--size", type=int, nargs=2, default=(256, 320), metavar=("H", "W"))
    parser.add_argument("--precisions", nargs="+", default=["fp16"], choices=["fp16", "int8"])
    parser.add_argument("--kernels", nargs="+", default=["plugin"], choices=["plugin", "native"])
    parser.add_argument("--max-batch", type=int, default=1)
    parser.add_argument("--libraries", type=Path, help="folder of the plugin libraries")
    parser.add_argument("--record", type=Path, help="also write the record to this file")
    args = parser.parse_args()
    record = header("downstream_engines") | {"variant": args.variant, "size": list(args.size)}
    record |= {"max_batch": args.max_batch, "engines": []}
    for head in args.heads:
        with tempfile.TemporaryDirectory() as name:
            for precision in args.precisions:
                onnx, seconds = exported(args, head, precision, Path(name))
                for kernels in args.kernels:
                    row = {"head": head, "precision": precision, "kernels": kernels, "export_seconds": seconds}
                    record["engines"].append(row | built(args, onnx, kernels))
                    if args.record:
                        write_json(args.record, record)  # what is done stays if it is ended
    print(json.dumps(record))


def exported(args: argparse.Namespace, head: str, precision: str, folder: Path) -> tuple[Artifact, float]:
    """The ONNX file of a head with random weights, and how long quantising and exporting took."""
    torch.manual_seed(0)
    height, width = args.size
    size = Preprocessing(height, width, crop_ratio=1.0, within=(max(args.size), min(args.size)))
    checkpoint, images = folder / f"{head}.safetensors", folder / "images.npz"
    model = create_head(head, args.variant, 80)
    save_file(model.state_dict(), checkpoint, {"preprocessing": json.dumps(size.to_dict())})
    np.savez(images, images=np.random.default_rng(0).integers(0, 256, (IMAGES, height, width, 3), dtype=np.uint8))
    recipe = load_recipe(precision)
    if precision == "int8":
        recipe = replace(recipe, images=IMAGES, batch=2)
    start = time.monotonic()
    onnx = export(quantize(checkpoint, recipe, folder, images))
    return onnx, round(time.monotonic() - start, 1)


def built(args: argparse.Namespace, onnx: Artifact, kernels: str) -> dict:
    """What the engine of a file has, or what was said against it."""
    profile = replace(
        load_profile("rtx-portable"), compute_capabilities=("8.6",), batches=(1,), max_batch=args.max_batch
    )
    start = time.monotonic()
    try:
        engine = build(onnx, profile, kernels=kernels, libraries=args.libraries)
    except RmtEdgeError as error:
        return {"refused": str(error).splitlines()[:3]}
    details = engine.details
    counts = {x: details.get(x) for x in ("layers", "plugin_layers", "plugin_nodes", "int8_gemms", "layers_by_kind")}
    size = round(engine.manifest.size_bytes / 1e6, 1)
    return {"build_seconds": round(time.monotonic() - start, 1), "engine_mb": size} | counts


if __name__ == "__main__":
    main()
