"""Accuracy regression: the shipped checkpoint keeps its accuracy in every precision, over all 10,000 test images."""

import json
import re

import numpy as np
import pytest

from rmt_edge.accuracy.reference import validate_against_checkpoint
from rmt_edge.artifact import sha256_of
from rmt_edge.data.dataset import open_dataset
from rmt_edge.graph.export import export
from rmt_edge.model.checkpoint import load_checkpoint
from rmt_edge.quantization.quantize import quantize
from rmt_edge.quantization.recipe import load_recipe
from tests.conftest import REFERENCE, ROOT

CHECKPOINT = REFERENCE / "rmt_nano_fashion_mnist.safetensors"
# The most top-1 that each precision may lose, in points.
MAX_DROP = {"fp32": 0.0, "fp16": 0.1, "int8": 0.5}


def test_the_model_card_describes_the_file_that_lies_there():
    card = (REFERENCE / "README.md").read_text()
    assert sha256_of(CHECKPOINT) in card
    record = json.loads((ROOT / "bench" / "results" / "train_reference.json").read_text())
    assert record["sha256"] == sha256_of(CHECKPOINT)
    assert float(re.search(r"\*\*top-1 ([\d.]+) %\*\*", card)[1]) == round(record["test_top1_percent"], 2) >= 92.0


def test_the_checkpoint_loads_with_its_preprocessing():
    model = load_checkpoint(CHECKPOINT)
    assert (model.variant_name, model.num_classes) == ("rmt_nano", 10)
    assert (model.preprocessing.height, model.preprocessing.crop_ratio) == (64, 1.0)


def test_the_data_is_whole():
    test, calibration = open_dataset(REFERENCE / "test.npz"), open_dataset(REFERENCE / "calibration.npz")
    assert (len(test), len(calibration)) == (10_000, 512)
    assert np.bincount(test.labels).tolist() == [1000] * 10


@pytest.mark.slow
def test_no_precision_loses_more_than_it_may(tmp_path):
    for name, limit in MAX_DROP.items():
        onnx = export(quantize(CHECKPOINT, load_recipe(name), tmp_path, REFERENCE / "calibration.npz"))
        found = validate_against_checkpoint(onnx, CHECKPOINT, REFERENCE / "test.npz", max_drop=limit)
        assert found.details["reference_percent"] >= 92.0
        assert found.details["within_max_drop"], (name, found.details)
