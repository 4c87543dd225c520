"""How long RMT-S takes from a checkpoint to engines, on this machine's CPU.

    python bench/deploy_rmt_s.py [--record bench/results/deploy_rmt_s.json]

RMT-S at 224x224 with random weights, 32 random calibration images: quantise, export and build for FP16 and INT8, each
timed from start to written file. A GPU is not used. Native retention, unless --kernels plugin, which needs the
library of `rmt-edge plugin build`. The last line of output is one JSON object: seconds of each step, their sum, and the
FP16 graph's nodes (a Retention counts as one; the public model's export has 2,076).
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from record import header

from rmt_edge.device.profile import load_profile
from rmt_edge.engine.build import build
from rmt_edge.graph.export import export
from rmt_edge.model.rmt import create_model
from rmt_edge.quantization.quantize import quantize
from rmt_edge.quantization.recipe import load_recipe
from rmt_edge.writing import write_json

IMAGES = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="rtx-portable", help="a profile of engines/")
    parser.add_argument("--kernels", choices=("plugin", "native"), default="native")
    parser.add_argument("--libraries", type=Path, help="folder of the plugin libraries (build/plugin)")
    parser.add_argument("--record", type=Path, help="also write the JSON object to this file")
    args = parser.parse_args()
    torch.manual_seed(0)
    seconds, facts = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, images = Path(folder) / "rmt_s.pth", Path(folder) / "images.npz"
        torch.save({"model": create_model("rmt_s").state_dict()}, checkpoint)
        pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, 224, 224, 3), dtype=np.uint8)
        np.savez(images, images=pixels)
        for name in ("fp16", "int8"):
            recipe = load_recipe(name)
            if name == "int8":
                recipe = replace(recipe, images=IMAGES, batch=8)
            quantized = quantize(checkpoint, recipe, Path(folder), images)
            onnx = export(quantized)
            profile = load_profile(args.device)
            engine = build(onnx, profile, kernels=args.kernels, libraries=args.libraries)
            seconds[name] = {
                "quantize": quantized.manifest.seconds,
                "export": onnx.manifest.seconds,
                "build": engine.manifest.seconds,
            }
            details = engine.details
            facts[name] = {key: details[key] for key in ("nodes", "layers", "int8_gemms")}
            facts[name]["engine_mb"] = round(engine.manifest.size_bytes / 1e6, 1)
    record = header("deploy_rmt_s") | {
        "variant": "rmt_s",
        "input": [224, 224],
        "calibration_images": IMAGES,
        "device": args.device,
        "kernels": args.kernels,
        "seconds": seconds,
        "seconds_per_precision": {name: round(sum(steps.values()), 1) for name, steps in seconds.items()},
        "total_seconds": round(sum(sum(steps.values()) for steps in seconds.values()), 1),
        "facts": facts,
    }
    if args.record:
        write_json(args.record, record)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
