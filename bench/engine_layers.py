"""Count the layers of an engine, from the builder's own list.

    python bench/engine_layers.py --variant rmt_s --precision fp16 --kernels plugin [--record bench/results/X.json]

The variant at 224x224 with random weights (layers do not depend on them), quantised, exported and built on the CPU.
Without --libraries, plugin retention first builds the plugin library for the device's GPU alone, in about a minute.
The last line of output is one JSON object: `layers`, all that the builder lists; `plugin_layers`, those that are
plugins, of which `retention_layers` are attention; `by_kind`.
"""

import argparse
import json
import platform
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from record import header

from rmt_edge.device.profile import load_profile
from rmt_edge.engine.build import KERNELS, build, layers_path
from rmt_edge.engine.layers import PLUGIN_KINDS
from rmt_edge.graph.export import export
from rmt_edge.model.rmt import create_model
from rmt_edge.model.variants import VARIANTS
from rmt_edge.plugin.build import build_libraries
from rmt_edge.quantization.quantize import quantize
from rmt_edge.quantization.recipe import PRECISIONS, load_recipe
from rmt_edge.writing import write_json

IMAGES = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=VARIANTS, default="rmt_s")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp16")
    parser.add_argument("--kernels", choices=KERNELS, default="plugin")
    parser.add_argument("--device", default="rtx-portable", help="a profile of engines/")
    parser.add_argument("--libraries", type=Path, help="folder of the plugin libraries")
    parser.add_argument("--record", type=Path, help="also write the JSON object to this file")
    args = parser.parse_args()
    profile = load_profile(args.device)
    if args.libraries is None and args.kernels != "native":
        args.libraries = Path("build/bench-plugin")
        build_libraries(
            args.libraries, [int(x.replace(".", "")) for x in profile.compute_capabilities], [platform.machine()]
        )
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.save(create_model(args.variant).state_dict(), folder / "model.pth")
        pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, 224, 224, 3), dtype=np.uint8)
        np.savez(folder / "images.npz", images=pixels)
        recipe = load_recipe(args.precision)
        if args.precision == "int8":
            recipe = replace(recipe, images=IMAGES, batch=4)
        onnx = export(quantize(folder / "model.pth", recipe, folder, folder / "images.npz"))
        engine = build(onnx, profile, kernels=args.kernels, libraries=args.libraries)
        details = engine.details
        layers = json.loads(layers_path(engine.path).read_text())["layers"]
        size = engine.manifest.size_bytes
    plugins = [layer["name"] for layer in layers if layer["kind"] in PLUGIN_KINDS]
    record = header("engine_layers") | {
        "variant": args.variant,
        "precision": args.precision,
        "kernels": details["kernels"],
        "device": details["profile"]["device"],
        "compute_capabilities": details["profile"]["compute_capabilities"],
        "blocks": sum(VARIANTS[args.variant].depths),
        "layers": details["layers"],
        "plugin_layers": len(plugins),
        "retention_layers": sum("retention" in name for name in plugins),
        "int8_gemms": details["int8_gemms"],
        "by_kind": details["layers_by_kind"],
        "engine_mb": round(size / 1e6, 1),
    }
    if args.record:
        write_json(args.record, record)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
