"""Deploy: every step in order, from a checkpoint to a page. Read this file first.

    checkpoint ── quantize ──► export ──► build ──► validate ──► estimate ──► report
                                            └─ on the engine's own GPU ─► validate ──► bench ──► verdict ─┘

Each step takes the checked file that the one before it returns (artifact.Artifact) and leaves a file with its manifest.
The checkpoint is read once, each data set is opened once, and no file is hashed twice.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rmt_edge.accuracy.limits import checked_confidence, checked_max_drop, drop_message
from rmt_edge.accuracy.reference import reference_predictions
from rmt_edge.accuracy.validate import checked_workers, validate
from rmt_edge.artifact import Artifact
from rmt_edge.data.dataset import Dataset, image_count, open_dataset
from rmt_edge.data.preprocess import Preprocessing
from rmt_edge.data.truth import check_truth
from rmt_edge.device.backend import load_backend
from rmt_edge.device.machine import has_gpu
from rmt_edge.device.preflight import check_engine
from rmt_edge.device.profile import DeviceProfile, load_profile
from rmt_edge.engine.build import build, check_plugin_library
from rmt_edge.errors import RmtEdgeError
from rmt_edge.graph.export import export
from rmt_edge.latency.bench import bench
from rmt_edge.latency.estimate import estimate_onnx
from rmt_edge.latency.verdict import verdict
from rmt_edge.model.checkpoint import Checkpoint, open_checkpoint
from rmt_edge.model.heads import spec_of
from rmt_edge.model.torch_device import torch_device as torch_device_of
from rmt_edge.quantization.quantize import calibration_set, quantize
from rmt_edge.quantization.recipe import QuantizationRecipe, load_recipe
from rmt_edge.report.collect import write_report
from rmt_edge.runtime.engine_runner import load_cuda
from rmt_edge.tasks.tasks import TASKS
from rmt_edge.writing import output_folder

OUTPUT = Path("deployed")
RECIPES = ("fp32", "fp16", "int8")
DEVICE = "rtx-portable"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DeployedModel:
    """What one recipe became.

    predictions: of the ONNX file; engine_predictions: of the engine itself, where this machine has its GPU. estimate:
    its record, where the profile has the device's peaks; FP32 has none.
    """

    recipe: QuantizationRecipe
    quantized: Artifact
    onnx: Artifact
    engine: Artifact
    predictions: Artifact
    estimate: Path | None = None
    engine_predictions: Artifact | None = None

    @property
    def files(self) -> list[Artifact]:
        """What has a manifest, in the order in which it was made."""
        made = [self.quantized, self.onnx, self.engine, self.predictions]
        return [*made, *([self.engine_predictions] if self.engine_predictions else [])]

    @property
    def paths(self) -> list[Path]:
        """The files, in the order in which they were made."""
        return [*(x.path for x in self.files), *([self.estimate] if self.estimate else [])]


@dataclass(frozen=True)
class Deployment:
    """What `deploy` made: models by their recipe's name, the page, and a sentence for each drop above the limit.

    measured: latency records and verdicts, where this machine has the engines' GPU.
    """

    models: dict[str, DeployedModel]
    page: Path
    measured: list[Path] = field(default_factory=list)
    too_large_drops: list[str] = field(default_factory=list)

    @property
    def paths(self) -> list[Path]:
        """All files, the page last."""
        made = [path for model in self.models.values() for path in model.paths]
        return [*made, *self.measured, self.page.with_suffix(".json"), self.page, self.page.with_suffix(".html")]


def deploy(
    checkpoint: Path | str | Checkpoint,
    data: Path | str | Dataset,
    calibration: Path | str | Dataset | None = None,
    output: Path | str = OUTPUT,
    recipes: Sequence[str | QuantizationRecipe] = RECIPES,
    device: str | Path | DeviceProfile = DEVICE,
    kernels: str | None = None,
    libraries: Path | None = None,
    labels: Path | None = None,
    preprocessing: Preprocessing | None = None,
    weights: str | None = None,
    max_drop: float | None = None,
    confidence: float | None = None,
    workers: int | None = None,
    images: int | None = None,
    torch_device: str | None = None,
    trust_libraries: bool = False,
    annotations: Path | str | None = None,
) -> Deployment:
    """Quantise, export, build and validate by each recipe, and report; returns what was made.

    checkpoint, weights: see load_checkpoint. data, labels, annotations: images and what is in them (open_dataset);
    calibration: images for the INT8 recipes. output: the folder for everything. recipes: names of calib/, paths or
    recipes. device: a profile of engines/, a path, `auto` or a profile. kernels, libraries, trust_libraries: see build.
    preprocessing: replaces the checkpoint's. max_drop, confidence: see limits.judgement. images: how many of `data` to
    validate on, all by default. torch_device: where PyTorch computes (model/torch_device.py). What can be refused is
    refused before the first long step.
    """
    start = time.monotonic()
    checked_max_drop(max_drop), checked_confidence(confidence), checked_workers(workers), torch_device_of(torch_device)
    chosen = [x if isinstance(x, QuantizationRecipe) else load_recipe(x) for x in recipes]
    profile = device if isinstance(device, DeviceProfile) else load_profile(device)
    load_backend(profile.backend)
    check_plugin_library(kernels, libraries, trust_libraries)
    opened = open_checkpoint(checkpoint, weights)
    spec = spec_of(opened.model, preprocessing)
    dataset = open_dataset(data, labels, annotations)
    check_truth(dataset, TASKS[spec.task], spec)
    dataset = dataset.drawn(image_count(dataset, images))
    calibration_images = None if calibration is None else open_dataset(calibration)
    for recipe in chosen:
        if recipe.precision == "int8":
            calibration_set(recipe, calibration_images)
    folder = output_folder(Path(output))

    models: dict[str, DeployedModel] = {}
    reference = None
    for recipe in chosen:
        logger.info("%s: quantize, export, build, validate", recipe.name)
        quantized = quantize(opened, recipe, folder, calibration_images, preprocessing, device=torch_device)
        onnx = export(quantized)
        engine = build(onnx, profile, kernels=kernels, libraries=libraries, trust_libraries=trust_libraries)
        size = Preprocessing.from_dict(onnx.details["preprocessing"])
        reference = reference or reference_predictions(
            opened, dataset, folder, size, workers=workers, device=torch_device
        )
        predictions = validate(onnx, dataset, reference, None, max_drop, confidence, workers=workers)
        estimate = None
        if profile.bandwidth_gb_s is not None and recipe.precision != "fp32":
            estimate = estimate_onnx(onnx, profile, profile.batches)
        of_engine = None
        if runs_here(engine, libraries):
            of_engine = validate(engine, dataset, reference, None, max_drop, confidence, None, workers, None, libraries)
        models[recipe.name] = DeployedModel(recipe, quantized, onnx, engine, predictions, estimate, of_engine)
    measured = _measured([x.engine for x in models.values() if x.engine_predictions], libraries, folder)
    made = [x for model in models.values() for x in (*model.files, *model.onnx.siblings)]
    page = write_report(folder, [*made, *([reference] if reference else [])])
    logger.info("deploy: done in %.0f s", time.monotonic() - start)
    validated = [x for model in models.values() for x in (model.predictions, model.engine_predictions) if x]
    drops = [drop_message(x) for x in validated if not x.details["within_max_drop"]]
    return Deployment(models, page, measured, drops)


def runs_here(engine: Artifact, libraries: Path | None = None) -> bool:
    """Whether this machine has the GPU that an engine is for, and all else that opens it; what it lacks is logged."""
    if not has_gpu():
        return False
    try:
        check_engine(engine, library=libraries)
        load_cuda()
    except RmtEdgeError as error:
        logger.warning("deploy: the engine is built, but neither validated nor measured here.\n%s", error)
        return False
    return True


def _measured(engines: list[Artifact], libraries: Path | None, folder: Path) -> list[Path]:
    """The latency records of engines, measured in turns, and the verdict on them; nothing without engines."""
    if not engines:
        return []
    return [*bench(engines, libraries=libraries), *(x.path for x in verdict(folder))]
