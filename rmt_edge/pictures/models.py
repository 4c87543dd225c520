"""A model to predict with: an engine, an ONNX file or a checkpoint, whichever the file is."""

import contextlib
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmt_edge.accuracy.predictions import Run, padded
from rmt_edge.accuracy.subject import spec_in, subject_of
from rmt_edge.artifact import ENGINE, ONNX, manifest_path, read_manifest
from rmt_edge.data.preprocess import Preprocessing
from rmt_edge.errors import RmtEdgeError
from rmt_edge.model.spec import ModelSpec
from rmt_edge.runtime.open import open_runner


@dataclass(frozen=True)
class Model:
    """A model that is open. source: its file's name and sha256; class_names: None where its file has none."""

    run: Run
    spec: ModelSpec
    preprocessing: Preprocessing
    source: dict[str, str]
    class_names: tuple[str, ...] | None


@contextlib.contextmanager
def open_model(file: Path, libraries: Path | None = None, device: str | None = None) -> Iterator[Model]:
    """The model in a file. libraries: see open_engine; device: where PyTorch computes (torch_device)."""
    if not file.is_file():
        raise RmtEdgeError(f"There is no model {file}.", "a checkpoint, an ONNX file of `export` or an engine.")
    if not manifest_path(file).is_file():
        if file.suffix in (".onnx", ".engine"):
            raise RmtEdgeError(
                f"{file} has no manifest.", f"`export` and `build` leave {manifest_path(file).name} beside it.",
                "Bring both files.",
            )  # fmt: skip
        yield _of_checkpoint(file, device)
        return
    kind = read_manifest(file).kind
    if kind not in (ONNX, ENGINE):
        raise RmtEdgeError(f"{file} is of kind {kind!r}.", "a checkpoint, an ONNX file and an engine predict.")
    subject = subject_of(file)
    details = subject.file.details
    names = details.get("class_names")
    with open_runner(subject.file, libraries) as runner:
        yield Model(
            padded(runner, subject.batches.start), spec_in(details), Preprocessing.from_dict(details["preprocessing"]),
            subject.file.identity, None if names is None else tuple(names),
        )  # fmt: skip


def _of_checkpoint(file: Path, device: str | None) -> Model:
    """PyTorch's, float32. Its modules are imported here by name, as a device has no torch."""
    modules = ("accuracy.reference", "model.checkpoint", "model.heads", "model.torch_device")
    reference, checkpoints, heads, devices = (_module(x) for x in modules)
    opened = checkpoints.open_checkpoint(file)
    model = opened.model
    run = reference.runner_of(model, devices.torch_device(device))
    names = getattr(model, "class_names", None)
    return Model(run, heads.spec_of(model), model.preprocessing, opened.identity, names)


def _module(name: str) -> Any:
    return importlib.import_module(f"rmt_edge.{name}")
