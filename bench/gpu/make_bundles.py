"""Bundles for engines.py: variants with weights drawn from a seed, and the trained reference. Run by pack.sh.

    python bench/gpu/make_bundles.py --variants rmt_t rmt_s --libraries build/plugin --work work --output kit/bundles

Each bundle holds FP16 and INT8, both forms, the plugin library and images with the float32 model's logits. The drawn
weights are not trained: their labels are the float32 model's own first classes, so that its top-1 is 100 % and a drop
is disagreement with it. The checkpoints go beside the bundles, for PyTorch as a peer.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from rmt_edge.bundle.pack import pack
from rmt_edge.data.dataset import open_dataset
from rmt_edge.graph.export import export
from rmt_edge.model.checkpoint import load_checkpoint
from rmt_edge.model.rmt import create_model
from rmt_edge.quantization.quantize import quantize
from rmt_edge.quantization.recipe import load_recipe

REFERENCE = Path(__file__).resolve().parent.parent / "reference"
RECIPES = ("fp16", "int8")
IMAGES, REFERENCE_IMAGES = 64, 1000
SIDE, SQUARES = 256, 16  # pixels a side, and squares of one colour along it: images that differ from each other
SEED = 0


def drawn_checkpoint(variant: str, path: Path) -> Path:
    """A checkpoint of PyTorch's initial weights from SEED, the BatchNorms with drawn statistics."""
    torch.manual_seed(SEED)
    model = create_model(variant)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    save_file(model.state_dict(), path)
    return path


def drawn_images(checkpoint: Path, path: Path) -> Path:
    """Random images, labelled by the float32 model."""
    rng = np.random.default_rng(SEED)
    size = SIDE // SQUARES
    coarse = rng.integers(0, 256, (IMAGES, SQUARES, SQUARES, 3)).repeat(size, 1).repeat(size, 2)
    images = np.clip(coarse + rng.normal(0, 20, coarse.shape), 0, 255).astype(np.uint8)
    np.savez(path, images=images)
    model = load_checkpoint(checkpoint)
    with torch.inference_mode():
        batches = open_dataset(path).batches(model.preprocessing, 8)
        labels = np.concatenate([model(torch.from_numpy(x)).argmax(1).numpy() for x in batches])
    np.savez(path, images=images, labels=labels)
    return path


def make_bundle(checkpoint: Path, calibration: Path, data: Path, images: int, args: argparse.Namespace) -> Path:
    """Quantise, export and pack one checkpoint."""
    folder = args.work / checkpoint.stem
    recipes = [load_recipe(name) for name in RECIPES]
    count = min(len(open_dataset(calibration)), recipes[-1].images)
    onnx_files = [export(quantize(checkpoint, replace(x, images=count), folder, calibration)) for x in recipes]
    output = args.output / f"{checkpoint.stem}.rmtedge"
    return pack(onnx_files, checkpoint, data, args.libraries, output, images, architectures=("x86_64",))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", nargs="*", default=["rmt_t", "rmt_s"], help="with drawn weights")
    parser.add_argument("--libraries", type=Path, required=True, help="folder of the plugin library")
    parser.add_argument("--work", type=Path, required=True, help="folder for what comes before a bundle")
    parser.add_argument("--output", type=Path, required=True, help="folder for the bundles")
    args = parser.parse_args()
    for folder in (args.work, args.output):
        folder.mkdir(parents=True, exist_ok=True)
    for variant in args.variants:
        checkpoint = drawn_checkpoint(variant, args.output / f"{variant}.safetensors")
        images = drawn_images(checkpoint, args.work / f"{variant}.npz")
        print(make_bundle(checkpoint, images, images, IMAGES, args))
    trained = args.output / "rmt_nano_fashion_mnist.safetensors"
    trained.write_bytes((REFERENCE / trained.name).read_bytes())
    print(make_bundle(trained, REFERENCE / "calibration.npz", REFERENCE / "test.npz", REFERENCE_IMAGES, args))


if __name__ == "__main__":
    main()
