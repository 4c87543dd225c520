"""Train the small detectors and the small segmenter: rmt_pico with RetinaNet, Mask R-CNN and Semantic FPN heads.

    apt-get install dataset-fashion-mnist
    pip download --no-deps --dest build scikit-image==0.26.0
    python bench/train_scenes.py --wheel build/scikit_image-0.26.0-*.whl     # about 40 minutes of one quiet core

Data: scenes of real Fashion-MNIST items, composed (scenes/compose.py), on public-domain photographs and made textures.
Training scenes have training items, test scenes test items and other backgrounds; 5,000 training items are held out for
choices. The test scenes are touched once, after the last step. Interrupted, the same command goes on; so
it does after --heads HEAD --train-only, which trains heads side by side, a core each.

Leaves in --output: the checkpoints, test scenes with annotations and label maps, calibration scenes of training items,
the model card. The last line of output is one JSON object: the record.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from record import header
from safetensors.torch import save_file
from scenes.card import write_card
from scenes.compose import CLASSES, SEED, Scene, open_composer
from scenes.files import write_annotations, write_labels, write_pictures
from scenes.score import as_shipped, scores_of
from scenes.train import BATCH, POOL, PREPROCESSING, STEPS, VARIANT, is_finished, train
from torch import nn
from tqdm import tqdm

from rmt_edge.artifact import sha256_of
from rmt_edge.model.checkpoint import load_checkpoint
from rmt_edge.model.spec import SEMANTIC_FPN
from rmt_edge.settings import ROOT
from rmt_edge.writing import write_json

CLASSIFIER = ROOT / "bench" / "reference" / "rmt_nano_fashion_mnist.safetensors"
TEST, CALIBRATION, HELD_OUT = 320, 64, 160  # scenes
FIRST = 40  # test scenes whose score the tests look at


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--wheel", type=Path, required=True, help="scikit-image's wheel: the photographs lie in it")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "reference" / "scenes")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "scenes", help="where the state of training is")
    parser.add_argument("--heads", nargs="+", choices=STEPS, default=list(STEPS), help="only these")
    parser.add_argument("--train-only", action="store_true", help="leave only the state of training, in --folder")
    parser.add_argument("--steps-scale", type=float, default=1.0, help="multiply the steps of every head")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--record", type=Path, help="also write the record to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    results = trained(args)
    if args.train_only:
        return
    shipped = {head: ship(args.output, head, result["model"]) for head, result in results.items()}
    write_scenes(args)
    record = header("train_scenes") | {
        "command": f"python bench/train_scenes.py --wheel {args.wheel.name}",
        "seed": SEED,
        "variant": VARIANT,
        "batch": BATCH,
        "scenes": {"training": POOL, "held_out": HELD_OUT, "test": TEST, "calibration": CALIBRATION, "first": FIRST},
        "threads": args.threads,
        "heads": {head: measured(args, path, results[head]) for head, path in shipped.items()},
    }
    write_card(args.output / "README.md", record)
    if args.record:
        write_json(args.record, record)
    print(json.dumps(record))


def trained(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Every head's model, log and time."""
    classifier = load_checkpoint(CLASSIFIER)
    steps = {head: max(1, round(STEPS[head] * args.steps_scale)) for head in args.heads}
    states = {head: args.folder / f"{head}.pt" for head in args.heads}
    scenes: list[Scene] = []
    if not all(is_finished(states[head], steps[head]) for head in args.heads):
        composer = open_composer(args.data, args.wheel, "train")
        scenes = [composer.scene(index) for index in tqdm(range(POOL), "scenes", file=sys.stderr, mininterval=10)]
    return {head: train(head, scenes, steps[head], states[head], classifier) for head in args.heads}


def ship(output: Path, head: str, model: nn.Module) -> Path:
    """Write a checkpoint under the published names, with what the images went through."""
    output.mkdir(parents=True, exist_ok=True)
    path = output / f"{VARIANT}_{head}_scenes.safetensors"
    classes = (*CLASSES, "background") if head == SEMANTIC_FPN else CLASSES
    metadata = {"preprocessing": json.dumps(PREPROCESSING.to_dict()), "classes": json.dumps(classes)}
    save_file(as_shipped(model.state_dict()), path, metadata)
    return path


def write_scenes(args: argparse.Namespace) -> None:
    """The test scenes with their annotations, the held-out ones likewise (not shipped), the calibration scenes."""
    for split, folder, count in (
        ("test", args.output / "test", TEST),
        ("held_out", args.folder / "held_out", HELD_OUT),
    ):
        scenes = write_pictures(folder / "images", open_composer(args.data, args.wheel, split), count)
        write_labels(folder / "labels", scenes)
        write_annotations(folder / "annotations.json", scenes)
    write_pictures(args.output / "calibration", open_composer(args.data, args.wheel, "calibration"), CALIBRATION)


def measured(args: argparse.Namespace, path: Path, result: dict[str, Any]) -> dict[str, Any]:
    """A head's part of the record. The scores are those of the shipped file, read back."""
    model = load_checkpoint(path)
    started = time.monotonic()
    test = scores_of(model, args.output / "test")
    seconds = time.monotonic() - started
    return {
        "file": path.name,
        "sha256": sha256_of(path),
        "parameters": sum(x.numel() for x in model.parameters()),
        "steps": result["log"][-1]["step"],
        "training_cpu_seconds": result["cpu_seconds"],
        "held_out": scores_of(model, args.folder / "held_out"),
        "test": test,
        "first": scores_of(model, args.output / "test", FIRST),
        "test_seconds": round(seconds, 1),
        "log": result["log"],
    }


if __name__ == "__main__":
    main()
