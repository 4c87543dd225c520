"""Candidates of the search: which layers are in INT8, and how long that takes on the device."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmt_edge.device.profile import DeviceProfile
from rmt_edge.errors import RmtEdgeError
from rmt_edge.latency.record import (
    SETTINGS,
    LatencyRecord,
    identity_differences,
    machine_identity,
    read_latency_record,
    same_machine,
)
from rmt_edge.latency.roofline import Network, latency_ms
from rmt_edge.quantization.recipe import QuantizationRecipe


@dataclass(frozen=True)
class Candidate:
    """One assignment. predicted_kl_nats, predicted_points: sums of its groups'; None where it is not made of groups."""

    name: str
    layers: frozenset[str]
    estimated_ms: float
    measured_ms: float | None = None
    predicted_kl_nats: float | None = None
    predicted_points: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As the search's record holds it."""
        return {
            "name": self.name,
            "int8_layers": sorted(self.layers),
            "estimated_latency_ms": self.estimated_ms,
            "measured_latency_ms": self.measured_ms,
            "predicted_kl_nats": self.predicted_kl_nats,
            "predicted_drop_points": self.predicted_points,
        }


def measured_candidates(
    records: Sequence[Path], network: Network, profile: DeviceProfile, batch: int
) -> list[Candidate]:
    """One candidate for each record of `rmt-edge bench` of an engine, with its median latency at that batch.

    The record's recipe says which layers are in INT8. All records are of one machine, and all medians of one setting:
    with a CUDA graph, if every engine was measured so, else without; runs with transfers do not count.
    """
    read = {path: read_latency_record(path) for path in records}
    first = records[0]
    for path, record in read.items():
        if not same_machine(record.machine, read[first].machine):
            ours, theirs = (machine_identity(read[x].machine) for x in (first, path))
            facts = "; ".join(f"{key}: {x} and {y}" for key, (x, y) in identity_differences(ours, theirs).items())
            raise RmtEdgeError(
                f"{first.name} and {path.name} are of different machines ({facts}).",
                "latencies are compared on one machine, in one power mode and with one TensorRT.",
                "Pass records of one device, measured in one command: rmt-edge bench FILE FILE.",
            )
    medians = _medians(read, batch)
    found: list[Candidate] = []
    for path, record in read.items():
        try:
            recipe = QuantizationRecipe(**record.recipe)
        except TypeError as error:
            raise RmtEdgeError(f"{path} holds no recipe of rmt-edge: {error}.", do="Measure again.") from error
        layers = frozenset(recipe.int8_layers(network.variant))
        estimated = latency_ms(network, profile, batch, set(layers))
        found.append(Candidate(f"recipe {recipe.name} of {path.name}", layers, estimated, medians[path]))
    return found


def _medians(read: dict[Path, LatencyRecord], batch: int) -> dict[Path, float]:
    """The median of each record's engine at that batch, all in the same setting."""
    settings = [x for x in SETTINGS if not x[0]]
    runs = {path: [x for x in record.runs if x.is_engine and x.setting in settings] for path, record in read.items()}
    for path, some in runs.items():
        if batch not in {x.batch for x in some}:
            known = ", ".join(str(x) for x in sorted({x.batch for x in some})) or "none"
            raise RmtEdgeError(
                f"{path} has no run of an engine at batch {batch}.", f"it has batches: {known}.", "Pass --batch."
            )
    for setting in settings:
        alike = {p: [x.p50_ms for x in some if (x.batch, x.setting) == (batch, setting)] for p, some in runs.items()}
        if all(alike.values()):
            return {path: times[0] for path, times in alike.items()}
    raise RmtEdgeError(
        f"The engines were not measured alike at batch {batch}: some only as a CUDA graph, others only without.",
        do="Measure them again with one setting: rmt-edge bench FILE FILE --cuda-graph.",
    )
