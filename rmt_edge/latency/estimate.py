"""The estimate of an ONNX file as a record, beside every measurement of its engines that lies in the same folder."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx

from rmt_edge.artifact import (
    ENGINE,
    ONNX,
    PLUGIN_ONNX,
    Artifact,
    check_parent,
    manifest_path,
    plugin_form_path,
    read_artifact,
    read_manifest,
    versions,
    write_json,
)
from rmt_edge.device.profile import DeviceProfile
from rmt_edge.errors import RmtEdgeError
from rmt_edge.latency.kernels import kernels_of
from rmt_edge.latency.record import machine_identity, machine_labels, read_latency_records
from rmt_edge.latency.roofline import estimate, is_dequantize_fused

INT8_WEIGHT = ".weight_int8"  # what graph/network.py calls the initialiser of an INT8 layer


def estimate_onnx(
    onnx_file: Path | Artifact, profile: DeviceProfile, batches: tuple[int, ...], output: Path | None = None
) -> Path:
    """Write `<onnx stem>.<profile>.estimate.json` beside the ONNX file or into `output`; returns its path."""
    source = read_artifact(onnx_file, ONNX)
    if source.recipe["precision"] == "fp32":
        raise RmtEdgeError(
            f"{source.path.name} is float32.", "the estimate knows FP16 and INT8; FP32 has no tensor cores."
        )
    form = source.sibling(PLUGIN_ONNX) or read_artifact(plugin_form_path(source.path), PLUGIN_ONNX)
    check_parent(form.manifest, source.manifest)
    model = onnx.load(form.path)
    kernels = kernels_of(model, is_dequantize_fused(profile))
    int8_layers = int8_layers_of(model)
    estimates = []
    for batch in batches:
        if batch < 1:
            raise RmtEdgeError(f"--batch is {batch}.", "it is a whole number of at least 1.")
        found = estimate(kernels, profile, batch)
        total = sum(part.latency_ms for part in found)
        estimates.append({"batch": batch, "latency_ms": total, "parts": [asdict(part) for part in found]})
    folder = output or source.path.parent
    path = folder / f"{source.path.stem}.{profile.name}.estimate.json"
    record = {
        "kind": "estimate",
        "subject": source.identity,
        "recipe": source.recipe,
        "precision": source.recipe["precision"],
        "int8_layers": len(int8_layers),
        "device": profile.to_dict(),
        "estimates": estimates,
        "measured": [x for x in measured_beside(folder, source.sha256, profile) if x["batch"] in batches],
        "versions": versions(),
    }
    for run in record["measured"]:
        expected = next(x["latency_ms"] for x in estimates if x["batch"] == run["batch"])
        run["measured_over_estimated"] = run["p50_ms"] / expected
    write_json(path, record)
    return path


def int8_layers_of(model: onnx.ModelProto) -> set[str]:
    """The names of the INT8 layers in a model that `export` wrote."""
    return {x.name.removesuffix(INT8_WEIGHT) for x in model.graph.initializer if x.name.endswith(INT8_WEIGHT)}


def measured_beside(folder: Path, onnx_sha256: str, profile: DeviceProfile) -> list[dict[str, Any]]:
    """The measured p50 of each engine in the folder that was made from that ONNX file, on the profile's kind of GPU.

    Runs on another GPU, without a CUDA graph or with transfers are left out: the estimate knows neither.
    """
    found = []
    records = read_latency_records(folder)
    labels = machine_labels(x.machine for x in records.values())
    for (path, record), label in zip(records.items(), labels, strict=True):
        engine = folder / record.subject["name"]
        if record.subject["kind"] != ENGINE or not engine.is_file() or not _is_of(engine, onnx_sha256, folder):
            continue
        if machine_identity(record.machine)["compute_capability"] not in profile.compute_capabilities:
            continue
        for run in record.runs:
            if run.is_engine and run.cuda_graph and not run.transfers:
                facts = {"record": path.name, "engine": engine.name, "machine": label}
                found.append(facts | {"batch": run.batch, "p50_ms": run.p50_ms})
    return found


def _is_of(engine: Path, onnx_sha256: str, folder: Path) -> bool:
    """Whether an engine was built from that ONNX file or from its plugin form."""
    source = read_artifact(engine, ENGINE).manifest.source
    if source["sha256"] == onnx_sha256:
        return True
    form = folder / source["name"]
    return manifest_path(form).is_file() and read_manifest(form).source["sha256"] == onnx_sha256
