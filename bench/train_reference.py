"""Train the reference checkpoint: rmt_nano on Fashion-MNIST, 28x28 images enlarged to 64x64.

    python bench/train_reference.py                     # CPU, about an hour on 2 cores
    python bench/train_reference.py --device cuda --epochs-scale 8

Data: Debian's package dataset-fashion-mnist (Xiao, Rasul, Vollgraf, arXiv 1708.07747; MIT licence). 5,000 of the 60,000
training images are held out for choices; the 10,000 test images are touched once, after the last epoch. Method: AdamW,
cosine learning rate, label smoothing, flips and shifts, an exponential moving average of the weights, and progressive
resizing (most epochs at 32 and 48 pixels: an RMT takes any size, and small images train four times faster).

Leaves in --output: the checkpoint, its model card, 512 calibration images out of the training part, the test images.
The last line of output is one JSON object: the record. Interrupted, it goes on with --resume.
"""

import argparse
import hashlib
import json
import platform
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from rmt_edge.data.dataset import Dataset, open_dataset
from rmt_edge.data.preprocess import Preprocessing, normalise
from rmt_edge.model.rmt import create_model

SEED = 20260922
SIDE = 64
# (side in pixels, epochs): small images first, the deployed side last.
SCHEDULE = ((32, 6), (48, 3), (SIDE, 7))
# On the CPUs tried, bfloat16 pays in the forward pass of larger images and costs in the backward pass of small ones.
BFLOAT16_FROM_SIDE = 48
HELD_OUT = 5_000
CALIBRATION = 512
BATCH = 256
PEAK_LEARNING_RATE = 3e-3
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.1
EMA_DECAY = 0.998
# Mean and deviation of Fashion-MNIST's training pixels, over 255.
PIXEL_MEAN, PIXEL_STD = (0.2860,) * 3, (0.3530,) * 3


def preprocessing_at(side: int) -> Preprocessing:
    return Preprocessing(side, side, crop_ratio=1.0, mean=PIXEL_MEAN, std=PIXEL_STD)


def pixels_at(dataset: Dataset, indices: np.ndarray, side: int) -> np.ndarray:
    """Grey pixels at a side. (n, side, side) uint8; the three channels are equal."""
    preprocessing = preprocessing_at(side)
    return np.concatenate([dataset.pixels(part, preprocessing)[..., 0] for part in np.array_split(indices, 64)])


def to_input(pixels: np.ndarray, side: int, device: str) -> torch.Tensor:
    """(b, side, side) uint8 -> (b, 3, side, side) float32."""
    rgb = np.repeat(pixels[..., None], 3, axis=-1)
    return torch.from_numpy(normalise(rgb, preprocessing_at(side))).to(device)


def augment(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Flip each image left to right with probability 1/2 and shift it by up to a sixteenth of its side."""
    side = pixels.shape[1]
    reach = side // 16
    padded = np.pad(pixels, ((0, 0), (reach, reach), (reach, reach)))
    out = np.empty_like(pixels)
    shifts = rng.integers(0, 2 * reach + 1, (len(pixels), 2))
    flips = rng.random(len(pixels)) < 0.5
    for i, (dy, dx) in enumerate(shifts):
        image = padded[i, dy : dy + side, dx : dx + side]
        out[i] = image[:, ::-1] if flips[i] else image
    return out


def moving_average(averaged: torch.Tensor, current: torch.Tensor, updates: torch.Tensor) -> torch.Tensor:
    """EMA whose decay grows to EMA_DECAY, so that the initial BatchNorm statistics do not linger in it."""
    decay = min(EMA_DECAY, (1 + int(updates)) / (10 + int(updates)))
    return torch.lerp(current, averaged, decay) if averaged.is_floating_point() else current


@torch.no_grad()
def top1_percent(model: torch.nn.Module, pixels: np.ndarray, labels: np.ndarray, device: str) -> float:
    """Float32 accuracy in percent."""
    model.eval()
    side, correct = pixels.shape[1], 0
    for start in range(0, len(pixels), 500):
        logits = model(to_input(pixels[start : start + 500], side, device))
        correct += int((logits.argmax(1).cpu().numpy() == labels[start : start + 500]).sum())
    return 100 * correct / len(pixels)


def train(args: argparse.Namespace, dataset: Dataset, fit_part: np.ndarray, held_out: np.ndarray) -> dict:
    """Train by SCHEDULE; returns the averaged model, the log and the seconds it took."""
    torch.manual_seed(SEED)
    model = create_model("rmt_nano", 10).to(args.device)
    average = AveragedModel(model, avg_fn=moving_average, use_buffers=True)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}], lr=1e-3
    )
    sides = [side for side, epochs in SCHEDULE for _ in range(max(1, round(epochs * args.epochs_scale)))]
    steps = len(fit_part) // BATCH
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_LEARNING_RATE, total_steps=len(sides) * steps, pct_start=0.15, cycle_momentum=False
    )
    state_path = args.output / "training_state.pt"
    log, seconds, first_epoch = [], 0.0, 0
    parts = {"model": model, "average": average, "optimizer": optimizer, "scheduler": scheduler}
    if args.resume:
        state = torch.load(state_path, weights_only=True, map_location=args.device)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        log, seconds, first_epoch = state["log"], state["seconds"], len(state["log"])

    pixels, side_now = np.empty(0), 0
    for epoch in range(first_epoch, len(sides)):
        start, side = time.monotonic(), sides[epoch]
        if side != side_now:
            pixels, side_now = pixels_at(dataset, fit_part, side), side
            held_pixels = pixels_at(dataset, held_out, side)
        rng = np.random.default_rng([SEED, epoch])
        order = rng.permutation(len(fit_part))
        labels = dataset.labels[fit_part]
        model.train()
        losses = []
        for step in tqdm(range(steps), desc=f"epoch {epoch + 1}/{len(sides)} at {side} px", file=sys.stderr):
            chosen = order[step * BATCH : (step + 1) * BATCH]
            image = to_input(augment(pixels[chosen], rng), side, args.device)
            with torch.autocast(args.device, torch.bfloat16, enabled=side >= BFLOAT16_FROM_SIDE):
                logits = model(image)
            target = torch.from_numpy(labels[chosen]).to(args.device)
            loss = F.cross_entropy(logits.float(), target, label_smoothing=LABEL_SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            scheduler.step()
            average.update_parameters(model)
            losses.append(loss.item())
        seconds += time.monotonic() - start
        log.append(
            {
                "epoch": epoch + 1,
                "side": side,
                "loss": round(float(np.mean(losses)), 4),
                "held_out_top1_percent": top1_percent(
                    average.module, held_pixels, dataset.labels[held_out], args.device
                ),
                "seconds": round(seconds, 1),
            }
        )
        tqdm.write(json.dumps(log[-1]), file=sys.stderr)
        torch.save(
            {name: part.state_dict() for name, part in parts.items()} | {"log": log, "seconds": seconds}, state_path
        )
    state_path.unlink(missing_ok=True)
    return {"model": average.module.eval(), "log": log, "seconds": seconds}


def write_card(path: Path, record: dict) -> None:
    """The model card beside the checkpoint."""
    epochs = ", ".join(f"{sum(x['side'] == side for x in record['log'])} at {side} px" for side, _ in SCHEDULE)
    path.write_text(f"""# rmt_nano on Fashion-MNIST

The reference checkpoint of rmt-edge: small, really trained, for the demo, the tests and accuracy regressions.

| | |
|---|---|
| network | `rmt_nano`, {record["parameters"]:,} parameters, float32 |
| data | Fashion-MNIST (Xiao, Rasul, Vollgraf, arXiv 1708.07747), Debian's dataset-fashion-mnist |
| licence of the data | MIT, (c) 2017 Zalando SE (LICENSE-fashion-mnist) |
| input | 28x28 grey, bicubic to 64x64, three equal channels, mean {PIXEL_MEAN[0]}, deviation {PIXEL_STD[0]} |
| training part | {record["training_images"]:,} of the 60,000 training images |
| held out for choices | {HELD_OUT:,} training images, top-1 {record["held_out_top1_percent"]:.2f} % |
| **test** | **top-1 {record["test_top1_percent"]:.2f} %** of the 10,000 test images, touched once |
| epochs | {epochs} |
| seed | {SEED} |
| command | `{record["command"]}` |
| took | {record["seconds"] / 60:.0f} min, {record["device"]}, {record["threads"]} threads, torch {record["torch"]} |
| sha256 | `{record["sha256"]}` |

Beside it: `calibration.npz`, {CALIBRATION} images of the training part; `test.npz`, the 10,000 test images with labels;
`selection.npz`, 2,000 of the held-out images with labels, to choose quantisation on (`bench/selection.py`).
Not for any use beyond this: it has seen clothes in 28x28 grey pixels and nothing else.
""")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "reference")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--epochs-scale", type=float, default=1.0, help="multiply the epochs of the schedule")
    parser.add_argument("--resume", action="store_true", help="go on after the last whole epoch")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    training = open_dataset(args.data / "train-images-idx3-ubyte.gz")
    order = np.random.default_rng(SEED).permutation(len(training))
    held_out, fit_part = order[:HELD_OUT], order[HELD_OUT:]

    result = train(args, training, fit_part, held_out)

    test = open_dataset(args.data / "t10k-images-idx3-ubyte.gz")
    everything = np.arange(len(test))
    accuracy = top1_percent(result["model"], pixels_at(test, everything, SIDE), test.labels, args.device)

    checkpoint = args.output / "rmt_nano_fashion_mnist.safetensors"
    weights = {name: value.contiguous().cpu() for name, value in result["model"].state_dict().items()}
    metadata = {"preprocessing": json.dumps(preprocessing_at(SIDE).to_dict())}
    save_file(weights, checkpoint, metadata)
    for name, dataset, indices in (("calibration", training, fit_part[:CALIBRATION]), ("test", test, everything)):
        images = np.stack([np.asarray(dataset.read(int(i))) for i in indices])
        np.savez_compressed(args.output / f"{name}.npz", images=images, labels=dataset.labels[indices].astype(np.uint8))
    record = {
        "benchmark": "train_reference",
        "command": " ".join(["python", *sys.argv]),
        "seed": SEED,
        "parameters": sum(p.numel() for p in result["model"].parameters()),
        "training_images": len(fit_part),
        "held_out_top1_percent": result["log"][-1]["held_out_top1_percent"],
        "test_top1_percent": accuracy,
        "test_images": len(test),
        "sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        "seconds": round(result["seconds"], 1),
        "device": args.device if args.device == "cpu" else torch.cuda.get_device_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "log": result["log"],
    }
    write_card(args.output / "README.md", record)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
