"""Records as devices and long commands would leave them, made up for the tests of the report: nothing measured them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rmt_edge.artifact import DATA, manifest_path, parent_of, plugin_form_path, sha256_of
from rmt_edge.latency.record import Run, machine_name, machine_slug, read_latency_record
from rmt_edge.model.layers import layers_of
from tests.latency_records import make_run, write_record

HOSTILE = '<script>alert("x")</script>&$a$'
MACHINE = {
    "platform": "Linux fixture", "processor": "aarch64", "board": "Fixture Board", "jetpack": "0.0",
    "power_mode": "MAXN",
    "gpus": [{"name": "Fixture GPU", "compute_capability": "8.7", "memory_mib": 30000}], "memory_mib": 30000,
    "free_memory_mib": 20000, "python": "3.10.12", "tensorrt": {"tensorrt": "10.3.0"}, "packages": {"numpy": "1.26.4"},
}  # fmt: skip


def copy_candidates(folder: Path, quantized: dict[str, Path], onnx_files: dict[str, Path], names: list[str]) -> None:
    """The real artefacts of the nano model (conftest.py) into a folder of a test's own."""
    for name in names:
        for path in (quantized[name], onnx_files[name], plugin_form_path(onnx_files[name])):
            shutil.copy(path, folder)
            shutil.copy(manifest_path(path), folder)


def write_records(folder: Path, variant: str, checkpoint: dict[str, str], recipes: list[str], stem: str) -> None:
    """Records of every kind for the candidates `<stem>.<recipe>.onnx` of a folder."""
    rng = np.random.default_rng(0)
    for i, recipe in enumerate(recipes):
        write_latency(folder, stem, recipe, 1.9 - 0.45 * i, rng)
        found = [{"batch": batch, "latency_ms": (1.7 - 0.5 * i) * batch**0.8, "parts": []} for batch in (1, 8)]
        onnx = folder / f"{stem}.{recipe}.onnx"
        _write(
            folder / f"{stem}.{recipe}.fixture-device.estimate.json",
            {"kind": "estimate", "subject": {"name": onnx.name, "sha256": sha256_of(onnx)}, "recipe": {"name": recipe}}
            | {"precision": recipe, "device": {"name": "fixture-device"}, "estimates": found, "measured": []},
        )
    _write(folder / f"{stem}.sensitivity.json", sensitivity(variant, checkpoint))
    _write(folder / f"{stem}.search.json", search(checkpoint))


def write_latency(folder: Path, stem: str, recipe: str, median_ms: float, rng: np.random.Generator) -> None:
    """The latency of an engine that was built on the device, and so does not lie in the folder; and PyTorch's."""
    runs = []
    for batch in (1, 8):
        for cuda_graph in (False, True):
            samples = median_ms * batch**0.7 * (0.9 if cuda_graph else 1) * rng.lognormal(0, 0.02, 300)
            runs.append(_run("tensorrt", recipe, batch, samples, cuda_graph))
    if recipe == "fp16":
        for peer, median in (("torch eager", 9.0), ("torch.compile", 3.0)):
            runs.append(_run(peer, "fp16", 1, median * rng.lognormal(0, 0.05, 300)))
    seen = {
        "sensor": "fixture", "readings": 12, "seconds": 3.0, "clock_mhz": {"min": 306.0, "mean": 1200.0, "max": 1300.0},
        "power_w": 22.5, "energy_per_image_j": 0.031, "temperature_c": None, "throttled_share": {"power cap": 0.25},
        "load_average": 0.4, "other_cpu_load": None,
    }  # fmt: skip
    warnings = [f"The coefficient of variation is 3.1 % (over 2.5 %). {HOSTILE}"]
    runs[0] = replace(runs[0], telemetry=seen, warnings=warnings)
    name = f"{stem}.{recipe}.fixture.plugin.engine"
    path = folder / f"{stem}.{recipe}.fixture.plugin.latency.json"
    write_record(path, name, runs, engine_sha256(recipe), precision=recipe, machine=MACHINE)


def write_verdict(folder: Path, stem: str, machine: dict[str, Any] = MACHINE) -> Path:
    """A verdict on the latencies that lie in a folder, as of that machine; returns its path."""
    rows = []
    for batch in (1, 8):
        compared = {}
        for precision, key in (("fp16", "fp16"), ("int8", "reduced")):
            record = read_latency_record(folder / f"{stem}.{precision}.fixture.plugin.latency.json")
            run = next(x for x in record.runs if x.batch == batch and x.cuda_graph)
            compared[key] = {"file": record.subject["name"], "precision": precision, "p50_ms": run.p50_ms}
        speedup = compared["fp16"]["p50_ms"] / compared["reduced"]["p50_ms"]
        rows.append(
            {"runner": "tensorrt", "batch": batch, "transfers": False, "cuda_graph": True, "verdict": "int8", "do": ""}
            | {"reason": f"INT8 is {speedup:.3f} times as fast; fixture.", "speedup": speedup, "warnings": 1}
            | {"speedup_interval": [speedup - 0.02, speedup + 0.02]}
            | compared
        )
    name = machine_name(machine)
    value = {"kind": "verdict", "rule": {}, "name": name, "machine": machine, "rows": rows, "created": "2026"}
    path = folder / f"{machine_slug(name)}.verdict.json"
    _write(path, value | {"versions": {}})
    return path


def engine_sha256(recipe: str) -> str:
    """Of an engine that never was."""
    return recipe.encode().hex().ljust(64, "0")


def write_device_accuracy(folder: Path, stem: str, recipe: str, drop: float = 0.2) -> None:
    """The manifest alone of an engine's predictions, as a device sends it back."""
    details = {
        "metric": "top-1", "percent": 92.0 - drop, "reference_percent": 92.0, "drop_points": drop,
        "drop_interval_points": [drop - 0.5, drop + 0.5], "agreement_percent": 98.0, "images": 500, "machine": MACHINE,
        "max_drop_points": 0.5, "within_max_drop": drop <= 0.5,
    }  # fmt: skip
    name = f"{stem}.{recipe}.fixture.plugin"
    parents = [parent_of(f"{name}.engine", engine_sha256(recipe)), parent_of("set.npz", "cd" * 32, DATA)]
    _write(
        folder / f"{name}.predictions.npz.json",
        {"name": f"{name}.predictions.npz", "kind": "predictions", "sha256": "ef" * 32, "size_bytes": 1, "seconds": 1.0}
        | {"parents": parents, "recipe": {"name": recipe}, "details": details, "versions": {}, "created": "2026"},
    )


def sensitivity(variant: str, checkpoint: dict[str, str]) -> dict[str, Any]:
    """Every kind, stage and block of a variant, the later the worse."""
    layers = [x for x in layers_of(variant) if x.stage is not None and x.kind != "downsample"]
    groups = []
    for by, key in (
        ("kind", lambda x: x.kind), ("stage", lambda x: f"stage {x.stage}"),
        ("block", lambda x: f"stages.{x.stage}.blocks.{x.block}"), ("cell", lambda x: f"{x.kind} stage {x.stage}"),
    ):  # fmt: skip
        for i, group in enumerate(dict.fromkeys(map(key, layers))):
            drop = 0.05 * i - 0.1
            groups.append(
                {"group": group, "by": by, "layers": [x.name for x in layers if key(x) == group]}
                | {
                    "metric": "top-1",
                    "percent": 92.0 - drop,
                    "drop_points": drop,
                    "drop_interval_points": [drop - 0.1, drop + 0.1],
                }
                | {"agreement_percent": 99.5, "kl_nats": 1e-4 * 1.3**i, "sqnr_db": 40.0 - i}
            )
    return {"kind": "sensitivity", "checkpoint": checkpoint, "images": 1000, "seconds": 9.0, "groups": groups} | {
        "reference_percent": 92.0, "versions": {}, "created": "2026-01-01T00:00:00+00:00"
    }  # fmt: skip


def search(checkpoint: dict[str, str]) -> dict[str, Any]:
    """Candidates of growing INT8 share; the last was predicted alone."""
    candidates: list[dict[str, Any]] = [
        {"name": f"{i} groups, {4 * i} layers", "int8_layers": [], "estimated_latency_ms": 1.4 - 0.08 * i}
        | {"measured_latency_ms": None, "drop_points": 0.06 * i, "predicted_drop_points": 0.05 * i}
        | {"drop_interval_points": [0.06 * i - 0.1, 0.06 * i + 0.1], "is_within_budget": i < 4}
        for i in range(6)
    ]
    alone = {"name": "6 groups, 24 layers", "int8_layers": [], "estimated_latency_ms": 0.8, "drop_points": None}
    return {
        "kind": "search", "checkpoint": checkpoint, "budget": {"metric": "accuracy", "points": 0.2}, "images": 1000,
        "batch": 1, "device": "fixture-device", "candidates": [*candidates, alone | {"predicted_drop_points": 0.5}],
        "recipe_candidate": candidates[5] | {"name": "recipe int8"}, "chosen": "3 groups, 12 layers",
    }  # fmt: skip


def _run(runner: str, precision: str, batch: int, samples: np.ndarray, cuda_graph: bool = False) -> Run:
    rounded = [round(float(x), 5) for x in samples]
    return make_run(rounded, batch, runner, precision, cuda_graph=cuda_graph)


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value))


def checkpoint_of(path: Path) -> dict[str, str]:
    """A checkpoint as a record names it."""
    return {"name": path.name, "sha256": sha256_of(path)}
