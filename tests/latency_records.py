"""Latency records as `rmt-edge bench` would write them, made up: nothing measured them."""

import numpy as np

from rmt_edge.artifact import ENGINE
from rmt_edge.latency.percentiles import summary
from rmt_edge.latency.record import LatencyRecord, Run, write_latency_record

GPU = {"name": "Orin", "compute_capability": "8.7", "driver_version": "540.4.0", "free_memory_mib": 100}
MACHINE = {
    "processor": "aarch64", "board": "NVIDIA Jetson Orin Nano Developer Kit", "power_mode": "15W", "jetpack": "6.2",
    "tensorrt": {"tensorrt": "10.3.0"}, "gpus": [GPU], "free_memory_mib": 5,
}  # fmt: skip


def make_run(samples_ms=(2.0,), batch=1, runner="tensorrt", precision="fp16", **values) -> Run:
    """A run of these samples, on a GPU without transfers and as a CUDA graph if nothing else is said."""
    samples = [float(x) for x in samples_ms]
    known = {
        "runner": runner, "precision": precision, "clock": "CUDA events", "batch": batch, "transfers": False,
        "cuda_graph": True, "samples_ms": samples, "enqueue_p50_ms": 0.1, "meets_mlperf_minimum": False,
        "telemetry": None, "warnings": [],
    }  # fmt: skip
    return Run(**(known | summary(samples, batch) | values))


def noisy_run(median_ms, noise_ms=0.001, **values) -> Run:
    """A run of 400 samples around a median."""
    return make_run(
        np.maximum(np.random.default_rng(int(1000 * median_ms)).normal(median_ms, noise_ms, 400), 0.01), **values
    )


def write_record(path, name, runs, sha256="ab" * 32, kind=ENGINE, precision="fp16", recipe=None, machine=None):
    """A record at `path` of a file of that name."""
    recipe = recipe or {"name": precision, "precision": precision}
    subject = {"name": name, "sha256": sha256, "kind": kind}
    record = LatencyRecord(
        subject, recipe, precision, "plugin" if kind == ENGINE else None, machine or MACHINE, {"samples": 64},
        list(runs), {"rmt-edge": "fixture"}, "2026-01-01T00:00:00+00:00",
    )  # fmt: skip
    write_latency_record(path, record)
    return path
