"""Candidates of the search: which layers are in INT8, and how long that takes on the device."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmt_edge.device.profile import DeviceProfile
from rmt_edge.errors import RmtEdgeError
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

    The record's recipe says which layers are in INT8. All records are of one kind of GPU; runs with transfers do not
    count.
    """
    found: list[Candidate] = []
    gpus = {}
    for path in records:
        record = _read(path)
        try:
            recipe = QuantizationRecipe(**record["recipe"])
            runs = [x for x in record["runs"] if x["runner"].startswith("tensorrt") and not x["transfers"]]
            medians = {x["batch"]: x["p50_ms"] for x in runs}
            gpus[path.name] = [gpu["name"] for gpu in record["machine"]["gpus"]]
        except (KeyError, TypeError) as error:
            raise RmtEdgeError(f"{path} is not a record of measured latency: {error!r}.") from error
        if batch not in medians:
            known = ", ".join(str(x) for x in sorted(medians)) or "none"
            raise RmtEdgeError(
                f"{path} has no run of an engine at batch {batch}.", f"it has batches: {known}.", "Pass --batch."
            )
        layers = frozenset(recipe.int8_layers(network.variant))
        estimated = latency_ms(network, profile, batch, set(layers))
        found.append(Candidate(f"recipe {recipe.name} of {path.name}", layers, estimated, medians[batch]))
    if len({str(x) for x in gpus.values()}) > 1:
        raise RmtEdgeError(
            f"The records are of several GPUs: {gpus}.", "latencies are compared on one.", "Pass records of one device."
        )
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RmtEdgeError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(record, dict) or record.get("kind") != "latency":
        raise RmtEdgeError(f"{path} is not a record of measured latency.", "`rmt-edge bench` writes *.latency.json.")
    return record
