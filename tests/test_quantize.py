"""Calibration: which layers, which ranges, and what stops it."""

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rmt_edge.artifact import QUANTIZED, read_manifest
from rmt_edge.calibrate import calibrate
from rmt_edge.data import open_dataset
from rmt_edge.errors import RmtEdgeError
from rmt_edge.model.deploy import deployed_from_model
from rmt_edge.quantize import check_fp16, quantize
from tests.conftest import SMALL


def test_the_recipe_s_linear_layers_have_ranges_and_no_others(quantized, nano):
    state = load_file(quantized["int8"])
    layers = {name.removesuffix(".input_amax") for name in state if name.endswith(".input_amax")}
    blocks = [f"stages.{i}.blocks.{j}" for i, stage in enumerate(nano.layers) for j in range(len(stage.blocks))]
    assert layers == {f"{block}.{x}" for block in blocks for x in ("qkv", "out_proj", "fc1", "fc2")} | {"proj"}
    assert read_manifest(quantized["int8"], QUANTIZED).details["quantized_layers"] == len(layers)
    assert not [x for x in load_file(quantized["fp16"]) if x.endswith("_amax")]


def test_ranges_are_the_largest_magnitudes(quantized, nano, images, recipes):
    state = load_file(quantized["int8"])
    weight = state["stages.1.blocks.0.fc1.weight"]
    torch.testing.assert_close(state["stages.1.blocks.0.fc1.weight_amax"], weight.abs().amax(dim=1))
    deployed = deployed_from_model(nano, SMALL.height, SMALL.width)
    seen = []
    deployed.stages[1].blocks[0].fc1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].abs().max()))
    with torch.no_grad():
        for batch, _ in open_dataset(images).batches(SMALL, recipes["int8"].batch, limit=recipes["int8"].images):
            deployed(torch.from_numpy(batch))
    torch.testing.assert_close(state["stages.1.blocks.0.fc1.input_amax"], max(seen), rtol=1e-5, atol=0)


def test_weights_stay_what_they_were(quantized, nano):
    expected = deployed_from_model(nano, SMALL.height, SMALL.width).state_dict()
    for path in quantized.values():
        state = load_file(path)
        assert all(torch.equal(state[name], value) for name, value in expected.items())


def test_per_tensor_weights_have_one_range(nano, images, recipes):
    recipe = dataclasses.replace(recipes["int8"], weights="per_tensor", int8=("fc1",))
    ranges = calibrate(deployed_from_model(nano, 40, 48), recipe, open_dataset(images), SMALL)
    assert len(ranges) == 2 * 6
    assert ranges["stages.0.blocks.0.fc1.weight_amax"].shape == (1,)


def test_int8_without_images_is_refused(checkpoint, recipes, tmp_path):
    with pytest.raises(RmtEdgeError, match=r"needs calibration images[\s\S]*--calibration"):
        quantize(checkpoint, recipes["int8"], tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_data_set_smaller_than_asked_is_named(checkpoint, images, recipes, tmp_path):
    recipe = dataclasses.replace(recipes["int8"], images=61)
    with pytest.raises(RmtEdgeError, match=r"noise\.npz holds 60 images[\s\S]*calibrates on 61"):
        quantize(checkpoint, recipe, tmp_path, images)


def test_a_range_of_zero_names_the_layer(nano, images, recipes):
    deployed = deployed_from_model(nano, 40, 48)
    deployed.stages[2].blocks[1].fc1.weight.data.zero_()
    with pytest.raises(RmtEdgeError, match=r"range of stages\.2\.blocks\.1\.fc1\.weight is 0 to 0"):
        calibrate(deployed, recipes["int8"], open_dataset(images), SMALL)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_nan_or_infinite_range_names_the_layer(nano, images, recipes, value):
    deployed = deployed_from_model(nano, 40, 48)
    deployed.stages[0].blocks[0].retention_layer_norm.bias.data[0] = value
    with pytest.raises(RmtEdgeError, match=r"input of stages\.0\.blocks\.0\.qkv holds NaN or infinite"):
        calibrate(deployed, recipes["int8"], open_dataset(images), SMALL)


def test_a_dead_channel_is_no_fault(nano, images, recipes):
    deployed = deployed_from_model(nano, 40, 48)
    deployed.stages[2].blocks[1].fc1.weight.data[5] = 0
    ranges = calibrate(deployed, recipes["int8"], open_dataset(images), SMALL)
    assert ranges["stages.2.blocks.1.fc1.weight_amax"][5] == 0


def test_a_weight_beyond_fp16_is_named():
    check_fp16({"a": torch.tensor([65504.0])})
    with pytest.raises(RmtEdgeError, match=r"head\.weight reaches 70000"):
        check_fp16({"a": torch.zeros(1), "head.weight": torch.tensor([1.0, -70000.0])})


def test_another_input_size_is_recorded(checkpoint, recipes, tmp_path):
    other = dataclasses.replace(SMALL, height=33, width=65)
    manifest = read_manifest(quantize(checkpoint, recipes["fp16"], tmp_path, preprocessing=other), QUANTIZED)
    assert manifest.details["preprocessing"]["height"] == 33
    assert manifest.parents[0]["name"] == checkpoint.name
    assert np.isfinite(manifest.seconds)
