"""What is validated: an ONNX file or an engine, as its manifest describes it. For workstation and device alike."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmt_edge.accuracy.predictions import BATCH
from rmt_edge.artifact import ENGINE, ONNX, Artifact, read_artifact, read_manifest
from rmt_edge.data.preprocess import Preprocessing, images_at_a_time
from rmt_edge.device.machine import this_machine
from rmt_edge.model.spec import CLASSIFIER, ModelSpec


def spec_in(details: dict[str, Any]) -> ModelSpec:
    """What a model is, by the details of its manifest; those of the first version are of classifiers."""
    if "spec" in details:
        return ModelSpec.from_dict(details["spec"])
    size = details["preprocessing"]
    return ModelSpec(details["variant"], CLASSIFIER, details["num_classes"], size["height"], size["width"])


@dataclass(frozen=True)
class Subject:
    """A file that predicts.

    onnx_sha256: of the ONNX file that it is or was built from. batches: the sizes that its runner takes. facts: how it
    is run, for the record.
    """

    file: Artifact
    onnx_sha256: str
    batches: range
    facts: dict[str, Any]

    @property
    def is_engine(self) -> bool:
        return self.file.manifest.kind == ENGINE

    def batch_of(self, preprocessing: Preprocessing) -> int:
        """Images at a time: no more than the runner takes, nor than memory does, unless the runner takes no fewer."""
        batch = images_at_a_time(preprocessing, BATCH)
        return max(self.batches.start, min(batch, self.batches.stop - 1))


def opened_subject(file: Path | Artifact) -> Artifact:
    """An ONNX file or an engine, checked; its manifest says which it is, whatever its name."""
    known = file.manifest if isinstance(file, Artifact) else None
    if known is None and isinstance(file, Path) and file.is_file():
        known = read_manifest(file)
    return read_artifact(file, ENGINE if known is not None and known.kind == ENGINE else ONNX)


def subject_of(file: Path | Artifact) -> Subject:
    """What is known of a file that is to be validated."""
    opened = opened_subject(file)
    if opened.manifest.kind == ONNX:
        return Subject(opened, opened.sha256, range(1, BATCH + 1), {"runtime": "ONNX Runtime, CPU"})
    profile, machine, backend = opened.details["profile"], this_machine().to_dict(), opened.details["backend"]
    runtime = ", ".join([f"{backend['name']} {backend['version']}", *(gpu["name"] for gpu in machine["gpus"])])
    batches = range(profile["min_batch"], profile["max_batch"] + 1)
    return Subject(opened, opened.manifest.source["sha256"], batches, {"runtime": runtime, "machine": machine})
