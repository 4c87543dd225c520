"""The search on the reference checkpoint: what it finds, and what that loses on images that nothing was chosen on.

    python bench/search.py --record bench/results/search_reference.json
    python bench/search.py --rmt-s --record bench/results/search_rmt_s.json

1. `rmt-edge search` on bench/reference/selection.npz: at most --budget points of top-1, lowest estimated latency on
   --device at batch 1.
2. modelopt's own mtq.auto_quantize (gradient scores, INT8_DEFAULT_CFG) on the same selection images and their labels,
   over the same layers: those whose INT8 saves estimated time. Equalised: the estimated latency. Its constraint is
   effective bits, the mean of 16 and 8 over the weights; of 8.0 to 16.0 in steps of 0.05 the largest is taken whose
   assignment is estimated to be no slower than the other side's. Both assignments run under the same ranges, those of
   the 512 calibration images. So it is compared at the latency of every candidate of the search (`equal_latency`).
3. The 10,000 test images, last and once: all FP16, all INT8 (recipe int8), the searched recipe, auto_quantize's at the
   latency of the searched one, and the naive placement (recipe int8-naive, residual additions too, whose rounding the
   estimate does not count). Each is quantised, exported and validated as an ONNX file.

--rmt-s: `rmt-edge sensitivity` and `search` alone, on RMT-S at 224x224 with random weights (seed 0) and 128 images of
noise, for the time that they take. sensitivity's seconds include its calibration, whose ranges search then finds there.
Interrupted, it goes on where it was. The last line of output is the record. --images, --test: a quick look.
"""

import argparse
import contextlib
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import modelopt.torch.quantization as mtq
import numpy as np
import torch
import torch.nn.functional as F
from record import header

from rmt_edge.accuracy.reference import validate_against_checkpoint
from rmt_edge.artifact import CHECKPOINT as TRAINED
from rmt_edge.artifact import PREDICTIONS, Artifact, identity_of, manifest_path, read_artifact, write_json
from rmt_edge.data.dataset import open_dataset
from rmt_edge.device.profile import load_profile
from rmt_edge.graph.export import export
from rmt_edge.latency.roofline import Network, latency_ms
from rmt_edge.metrics import drop_interval_points, drop_points
from rmt_edge.model.checkpoint import load_checkpoint, open_checkpoint
from rmt_edge.model.folded import folded_from_model
from rmt_edge.model.layers import layers_of
from rmt_edge.model.rmt import create_model
from rmt_edge.quantization.quantize import quantize
from rmt_edge.quantization.recipe import QuantizationRecipe, load_recipe
from rmt_edge.search.outcome import calibrated_subject, evaluate, summary
from rmt_edge.search.search import Budget, ImageSets, search
from rmt_edge.search.sensitivity import sensitivity
from rmt_edge.settings import ROOT

REFERENCE = ROOT / "bench" / "reference"
CHECKPOINT = REFERENCE / "rmt_nano_fashion_mnist.safetensors"
BITS = np.arange(8.0, 16.001, 0.05)
SCORE_BATCH = 50
NOISE_IMAGES = 128
KEPT = ("percent", "drop_points", "drop_interval_points", "agreement_percent")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rmt-s", action="store_true", help="time the search on RMT-S instead")
    parser.add_argument("--device", default="jetson-orin-nano-8gb", help="a profile of engines/ with peaks, or a path")
    parser.add_argument("--budget", type=float, default=0.1, help="points of top-1")
    parser.add_argument("--images", type=int, help="how many of the selection images, all by default")
    parser.add_argument("--test", type=Path, default=REFERENCE / "test.npz", help="other images to test on")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "bench-search", help="where files are kept")
    parser.add_argument("--record", type=Path, help="also write the record to this file")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    record = rmt_s_record(args) if args.rmt_s else reference_record(args)
    if args.record:
        write_json(args.record, record)
    print(json.dumps(record))


def rmt_s_record(args: argparse.Namespace) -> dict[str, Any]:
    """The search on RMT-S: seconds and what it found. Agreement takes the place of top-1, for noise has no labels."""
    torch.manual_seed(0)
    checkpoint = args.folder / "rmt_s.pth"
    if not checkpoint.is_file():
        torch.save({"model": create_model("rmt_s").state_dict()}, checkpoint)
    rng = np.random.default_rng(0)
    for name, count in (("calibration", 32), ("selection", args.images or NOISE_IMAGES)):
        np.savez(args.folder / f"rmt_s.{name}.npz", images=rng.integers(0, 256, (count, 224, 224, 3), dtype=np.uint8))
    sets = ImageSets(args.folder / "rmt_s.calibration.npz", args.folder / "rmt_s.selection.npz")
    recipe = replace(load_recipe("int8"), images=32, batch=8)
    budget = Budget(5.0, "agreement")
    alone = args.folder / "rmt_s.sensitivity.json"
    if not alone.is_file() or json.loads(alone.read_text())["images"] != len(open_dataset(sets.selection)):
        sensitivity(checkpoint, recipe, args.folder, sets.calibration, sets.selection)
    found = searched(checkpoint, recipe, sets, budget, args)
    return header("search_rmt_s") | {
        "variant": "rmt_s",
        "input": [224, 224],
        "calibration_images": 32,
        **{key: found[key] for key in ("images", "budget", "device", "batch", "seconds", "groups", "candidates")},
        "chosen": found["chosen"],
        "sensitivity": {key: json.loads(alone.read_text())[key] for key in ("images", "seconds", "groups")},
    }


def reference_record(args: argparse.Namespace) -> dict[str, Any]:
    """All of it on the reference checkpoint."""
    sets = ImageSets(REFERENCE / "calibration.npz", REFERENCE / "selection.npz", args.test, args.images)
    recipe = load_recipe("int8")
    found = searched(CHECKPOINT, recipe, sets, Budget(args.budget), args)
    chosen = next(x for x in found["candidates"] if x["name"] == found["chosen"])
    rivals, equal_latency = auto_quantized(found, sets, recipe, args)
    recipes = {
        "all FP16": load_recipe("fp16"),
        "all INT8 (recipe int8)": recipe,
        "searched": load_recipe(args.folder / f"{CHECKPOINT.stem}.searched.toml"),
        "auto_quantize at the searched latency": recipe_of("auto_quantize", rivals[found["chosen"]], recipe),
        "naive (recipe int8-naive)": load_recipe("int8-naive"),
    }
    onnx_files = {name: export(quantize(CHECKPOINT, x, args.folder, sets.calibration)) for name, x in recipes.items()}
    test = tested(onnx_files, args.test)
    for name, x in recipes.items():
        layers = set(x.int8_layers("rmt_nano"))
        test[name] |= {"int8_layers": len(layers), "estimated_latency_ms": estimated(layers, args)}
    return header("search_reference") | {
        "checkpoint": identity_of(CHECKPOINT),
        "device": args.device,
        "batch": 1,
        "latency": "estimated by a roofline, not measured",
        "budget": found["budget"],
        "selection_images": found["images"],
        "search_seconds": found["seconds"],
        "searched_recipe": chosen,
        "recipe_int8_on_selection": found["recipe_candidate"],
        "candidates": found["candidates"],
        "groups": found["groups"],
        "equal_latency": equal_latency,
        "test_images": len(open_dataset(args.test)),
        "test": test,
        "searched_against_int8": paired(onnx_files["all INT8 (recipe int8)"], onnx_files["searched"], args.test),
    }


def searched(
    checkpoint: Path, recipe: QuantizationRecipe, sets: ImageSets, budget: Budget, args: argparse.Namespace
) -> dict[str, Any]:
    """The search's record; one of the same question that lies in the folder is not made again."""
    path = args.folder / f"{checkpoint.stem}.search.json"
    question = {
        "checkpoint": identity_of(checkpoint),
        "selection": identity_of(sets.selection),
        "images": sets.count or len(open_dataset(sets.selection)),
        "budget": asdict(budget),
        "device": load_profile(args.device).name,
    }
    known = json.loads(path.read_text()) if path.is_file() else {}
    if any(known.get(key) != value for key, value in question.items()):
        search(checkpoint, recipe, args.folder, sets, budget, load_profile(args.device))
    return json.loads(path.read_text())


def estimated(layers: set[str], args: argparse.Namespace) -> float:
    """The reference's estimated latency on the device at batch 1."""
    return latency_ms(Network("rmt_nano", 10, 64, 64), load_profile(args.device), 1, layers)


def auto_quantized(
    found: dict[str, Any], sets: ImageSets, recipe: QuantizationRecipe, args: argparse.Namespace
) -> tuple[dict[str, list[str]], list[dict[str, Any]]]:
    """auto_quantize's layers at each candidate's latency, and both sides on the selection images."""
    saving = {x for group in found["groups"] if group["saved_ms"] > 0 for x in group["layers"]}
    state = auto_quantize_state(saving, sets, found["images"], args.folder)
    choices = {bits: layers_at(state, float(bits)) for bits in BITS}
    by_bits = sorted(choices, reverse=True)
    rivals, rows = {}, []
    for candidate in found["candidates"]:
        limit = candidate["estimated_latency_ms"] + 1e-9
        bits = next((x for x in by_bits if estimated(choices[x], args) <= limit), by_bits[-1])
        rivals[candidate["name"]] = sorted(choices[bits])
        rows.append({"candidate": candidate["name"], "effective_bits": round(float(bits), 2)})
    subject = calibrated_subject(open_checkpoint(CHECKPOINT), recipe, sets.calibration, args.folder)
    dataset = open_dataset(sets.selection).drawn(found["images"])
    layer_sets = {name: frozenset(layers) for name, layers in rivals.items()}
    outcomes = evaluate(subject, layer_sets, dataset, args.folder / "auto_quantize", "auto_quantize")
    for row, (candidate, entry) in enumerate(zip(found["candidates"], rows, strict=True)):
        layers = rivals[candidate["name"]]
        entry["searched"] = {key: candidate[key] for key in ("estimated_latency_ms", "kl_nats", *KEPT)}
        entry["auto_quantize"] = {"estimated_latency_ms": estimated(set(layers), args)}
        measured = summary(outcomes, row, dataset.labels)
        entry["auto_quantize"] |= {key: measured[key] for key in ("kl_nats", *KEPT)} | {"int8_layers": layers}
        entry["is_same_assignment"] = layers == candidate["int8_layers"]
    return rivals, rows


def auto_quantize_state(saving: set[str], sets: ImageSets, images: int, folder: Path) -> dict[str, Any]:
    """modelopt's scores of each layer, from which an assignment follows for any number of effective bits."""
    model = load_checkpoint(CHECKPOINT)
    folded = folded_from_model(model, model.preprocessing.height, model.preprocessing.width)
    others = [x.name for x in layers_of("rmt_nano") if x.name not in saving]
    chosen = open_dataset(sets.selection).drawn(images)
    labels = torch.from_numpy(chosen.labels).split(SCORE_BATCH)
    pixels = (torch.from_numpy(x) for x in chosen.batches(model.preprocessing, SCORE_BATCH))
    batches = list(zip(pixels, labels, strict=True))
    with contextlib.redirect_stdout(sys.stderr):
        _, state = mtq.auto_quantize(
            folded,
            constraints={"effective_bits": 12.0},
            quantization_formats=[mtq.INT8_DEFAULT_CFG],
            data_loader=batches,
            forward_step=lambda network, batch: network(batch[0]),
            loss_func=lambda logits, batch: F.cross_entropy(logits, batch[1]),
            disabled_layers=[*others, "*.lepe"],
            num_calib_steps=len(batches),
            num_score_steps=len(batches),
            verbose=False,
        )
    return state


def layers_at(state: dict[str, Any], effective_bits: float) -> set[str]:
    """The layers that auto_quantize puts in INT8 for a number of effective bits."""
    with contextlib.redirect_stdout(sys.stderr):
        config = mtq.get_auto_quantize_config(state, {"effective_bits": effective_bits})
    suffix = ".weight_quantizer"
    named = [x for x in config["quant_cfg"] if x["quantizer_name"].endswith(suffix) and x.get("enable", True)]
    return {x["quantizer_name"].removesuffix(suffix) for x in named}


def recipe_of(name: str, layers: list[str], like: QuantizationRecipe) -> QuantizationRecipe:
    """A recipe with these layers in INT8."""
    return replace(like, name=name, int8=tuple(layers)) if layers else QuantizationRecipe(name, "fp16")


def tested(onnx_files: dict[str, Artifact], test: Path) -> dict[str, dict[str, Any]]:
    """Every file on the test images; predictions of the same file and images are not made again."""
    rows = {}
    for name, onnx in onnx_files.items():
        path = predictions_of(onnx)
        known = read_artifact(path, PREDICTIONS) if path.is_file() and manifest_path(path).is_file() else None
        parents = [onnx.as_parent(), open_checkpoint(CHECKPOINT).as_parent(TRAINED), open_dataset(test).as_parent()]
        if known is None or known.manifest.parents != parents:
            known = validate_against_checkpoint(onnx, CHECKPOINT, test, max_drop=100)
        rows[name] = {key: known.details[key] for key in ("reference_percent", *KEPT)}
    return rows


def predictions_of(onnx: Artifact) -> Path:
    return onnx.path.with_name(f"{onnx.path.stem}.predictions.npz")


def paired(first: Artifact, second: Artifact, test: Path) -> dict[str, Any]:
    """What the second file loses against the first, per image."""
    labels = open_dataset(test).labels
    hits = [np.load(predictions_of(x))["classes"][:, 0] == labels for x in (first, second)]
    return {"drop_points": drop_points(*hits), "drop_interval_points": list(drop_interval_points(*hits))}


if __name__ == "__main__":
    main()
