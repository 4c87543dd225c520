"""Calibration: which layers, which ranges, and what stops it."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from rmt_edge.artifact import QUANTIZED, read_artifact
from rmt_edge.data.dataset import open_dataset
from rmt_edge.data.decoding import read_image
from rmt_edge.errors import RmtEdgeError
from rmt_edge.metrics import relative_error
from rmt_edge.model.folded import folded_from_model
from rmt_edge.quantization.calibrate import calibrate, smoothed
from rmt_edge.quantization.quantize import check_fp16, quantize
from tests.conftest import SMALL


def test_the_recipe_s_linear_layers_have_ranges_and_no_others(quantized, nano):
    state = load_file(quantized["int8"])
    layers = {name.removesuffix(".input_amax") for name in state if name.endswith(".input_amax")}
    blocks = [f"stages.{i}.blocks.{j}" for i, stage in enumerate(nano.layers) for j in range(len(stage.blocks))]
    assert layers == {f"{block}.{x}" for block in blocks for x in ("qkv", "out_proj", "fc1", "fc2")} | {"proj"}
    assert read_artifact(quantized["int8"], QUANTIZED).details["quantized_layers"] == len(layers)
    assert not [x for x in load_file(quantized["fp16"]) if x.endswith("_amax")]


def test_ranges_are_the_largest_magnitudes(quantized, nano, images, recipes):
    state = load_file(quantized["int8"])
    weight = state["stages.1.blocks.0.fc1.weight"]
    torch.testing.assert_close(state["stages.1.blocks.0.fc1.weight_amax"], weight.abs().amax(dim=1))
    folded = folded_from_model(nano, SMALL.height, SMALL.width)
    seen = []
    folded.stages[1].blocks[0].fc1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].abs().max()))
    with torch.no_grad():
        for batch in open_dataset(images).drawn(recipes["int8"].images).batches(SMALL, recipes["int8"].batch):
            folded(torch.from_numpy(batch))
    torch.testing.assert_close(state["stages.1.blocks.0.fc1.input_amax"], max(seen), rtol=1e-5, atol=0)


def test_weights_stay_what_they_were(quantized, nano):
    expected = folded_from_model(nano, SMALL.height, SMALL.width).state_dict()
    for path in quantized.values():
        state = load_file(path)
        assert all(torch.equal(state[name], value) for name, value in expected.items())


def test_per_tensor_weights_have_one_range(nano, images, recipes):
    recipe = dataclasses.replace(recipes["int8"], weights="per_tensor", int8=("fc1",))
    ranges = calibrate(folded_from_model(nano, 40, 48), recipe, open_dataset(images), SMALL)
    assert len(ranges) == 2 * 6
    assert ranges["stages.0.blocks.0.fc1.weight_amax"].shape == (1,)


def test_calibration_images_are_drawn_evenly_and_recorded(checkpoint, recipes, tmp_path, monkeypatch):
    """Images lie class by class: the first 16 of 60 would be of three classes."""
    rng = np.random.default_rng(3)
    for i in range(60):
        (tmp_path / "set" / f"c{i % 10}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(tmp_path / "set" / f"c{i % 10}" / f"{i}.png")
    read = []
    monkeypatch.setattr(
        "rmt_edge.data.dataset.read_image", lambda x, of=read_image: read.append(x.parent.name) or of(x)
    )
    found = quantize(checkpoint, recipes["int8"], tmp_path, tmp_path / "set", device="cpu")
    assert sorted(read.count(f"c{i}") for i in range(10)) == [1] * 4 + [2] * 6
    drawn = found.details["calibration_images"]
    assert drawn == open_dataset(tmp_path / "set").drawn(16).drawing()
    assert (drawn["images"], drawn["of"], drawn["evenly_over"]) == (16, 60, "classes")
    assert found.details["calibrated_on"] == "CPU"


@pytest.mark.parametrize("method", ["max", "smoothquant"])
def test_a_whole_set_is_calibrated_on_as_what_is_drawn_of_it(nano, images, recipes, method):
    recipe = dataclasses.replace(recipes["int8"], method=method, int8=("fc1",), images=3)
    work = smoothed if method == "smoothquant" else calibrate
    folded, whole = folded_from_model(nano, 40, 48), open_dataset(images)
    found, expected, other = (work(folded, recipe, x, SMALL) for x in (whole, whole.drawn(3), first_images(whole, 3)))
    found, expected, other = (x if isinstance(x, dict) else x.state_dict() for x in (found, expected, other))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert not all(torch.equal(other[name], value) for name, value in expected.items())


def first_images(dataset, count):
    return dataclasses.replace(dataset, count=count, labels=dataset.labels[:count])


def test_a_large_input_is_calibrated_on_a_few_at_a_time(nano, images, recipes, monkeypatch):
    monkeypatch.setattr("rmt_edge.quantization.calibrate.images_at_a_time", lambda preprocessing, most: 3)
    folded, seen = folded_from_model(nano, 40, 48), []
    folded.stem[0].register_forward_pre_hook(lambda _, x: seen.append(len(x[0])))
    calibrate(
        folded, dataclasses.replace(recipes["int8"], int8=("head", "proj"), images=8), open_dataset(images), SMALL
    )
    assert seen == [3, 3, 2]


def test_a_torch_device_that_is_none_is_refused_before_anything(checkpoint, recipes, images, tmp_path):
    with pytest.raises(RmtEdgeError, match="--torch-device is 'tpu'"):
        quantize(checkpoint, recipes["int8"], tmp_path, images, device="tpu")
    assert not list(tmp_path.iterdir())


def test_int8_without_images_is_refused(checkpoint, recipes, tmp_path):
    with pytest.raises(RmtEdgeError, match=r"needs calibration images[\s\S]*--calibration"):
        quantize(checkpoint, recipes["int8"], tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_data_set_smaller_than_asked_is_named(checkpoint, images, recipes, tmp_path):
    recipe = dataclasses.replace(recipes["int8"], images=61)
    with pytest.raises(RmtEdgeError, match=r"noise\.npz holds 60 images[\s\S]*calibrates on 61"):
        quantize(checkpoint, recipe, tmp_path, images)


def calibrated(nano, images, recipes, **settings):
    recipe = dataclasses.replace(recipes["int8"], **settings)
    return calibrate(folded_from_model(nano, 40, 48), recipe, open_dataset(images), SMALL)


def calibrated_with(folded, images, recipes, **settings):
    return calibrate(folded, dataclasses.replace(recipes["int8"], **settings), open_dataset(images), SMALL)


@pytest.mark.parametrize("method", ["entropy", "percentile", "mse"])
def test_histogram_methods_clip_inputs_and_leave_weights(nano, images, recipes, method):
    largest = calibrated(nano, images, recipes)
    found = calibrated(nano, images, recipes, method=method, percentile=99.9)
    assert found.keys() == largest.keys()
    inputs = [x for x in found if x.endswith(".input_amax")]
    for name in inputs:
        assert 0 < found[name] <= largest[name] * (1 + 1 / 1024), name  # a bin is 1/2048 of the first batch's largest
    assert any(found[name] < 0.999 * largest[name] for name in inputs)
    # mse chooses weights' ranges too. With one per channel of under 1,000 weights, clipping the largest hardly pays.
    for name in found.keys() - set(inputs):
        torch.testing.assert_close(found[name], largest[name], rtol=0.05 if method == "mse" else 1e-6, atol=0)


def test_the_hundredth_percentile_is_the_largest_magnitude(nano, images, recipes):
    settings = {"int8": ("stages.2.*.fc2",)}
    largest = calibrated(nano, images, recipes, **settings)
    found = calibrated(nano, images, recipes, method="percentile", percentile=100, **settings)
    for name, value in largest.items():
        torch.testing.assert_close(found[name], value, rtol=1 / 1024, atol=0)


def test_a_percentile_is_the_magnitude_below_which_that_part_lies(nano, images, recipes):
    """Of what was collected, to a bin of 1/2048 of the first batch's largest; a lower one gives a smaller range."""
    folded, name = folded_from_model(nano, 40, 48), "stages.2.blocks.0.fc2"
    seen = []
    hook = folded.get_submodule(name).register_forward_pre_hook(lambda _, x: seen.append(x[0].abs().flatten()))
    calibrated_with(folded, images, recipes, int8=(name,))
    hook.remove()
    values, first = torch.cat(seen).double().numpy(), seen[0].max().item()
    for percentile in (91, 95, 99, 99.9):
        found = calibrated_with(folded, images, recipes, int8=(name,), method="percentile", percentile=percentile)
        expected = np.quantile(values, percentile / 100)
        assert abs(found[f"{name}.input_amax"].item() - expected) < 2 * first / 2048, percentile
        # Below 100, and so told from the largest magnitude and from each other.
        assert expected < values.max() - 4 * first / 2048, percentile


def test_mse_rounds_with_less_error_than_any_other_part_of_the_range(nano, images, recipes):
    folded, name = folded_from_model(nano, 40, 48), "stages.2.blocks.0.fc1"
    layer = folded.get_submodule(name)
    # Normally distributed, as trained weights: the largest of 49,152 is 4.3 deviations, where clipping at 3.9 is best.
    layer.weight.data = torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(0)) / 10
    seen = []
    layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    dataset, recipe = open_dataset(images), dataclasses.replace(recipes["int8"], int8=(name,), weights="per_tensor")
    largest = calibrate(folded, recipe, dataset, SMALL)
    found = calibrate(folded, dataclasses.replace(recipe, method="mse"), dataset, SMALL)
    for which, x in {"weight": layer.weight.detach(), "input": torch.cat(seen)}.items():

        def error(amax, x=x):
            return ((x / amax * 127).round().clamp(-127, 127) * amax / 127 - x).square().mean().item()

        key = f"{name}.{which}_amax"
        assert found[key] < (0.97 if which == "weight" else 1.001) * largest[key]
        for part in (0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0):
            assert error(found[key]) < error(largest[key] * part) * 1.02, (which, part)


def test_convolutions_have_a_range_per_output_channel(nano, images, recipes):
    ranges = calibrated(nano, images, recipes, int8=("stem.0", "stages.0.downsample", "*.pos"))
    assert ranges["stem.0.weight_amax"].shape == (16,)
    assert ranges["stages.0.downsample.weight_amax"].shape == (64,)
    assert ranges["stages.0.blocks.0.pos.weight_amax"].shape == (32,)
    pixels = np.concatenate(list(open_dataset(images).drawn(16).batches(SMALL, 8)))
    assert ranges["stem.0.input_amax"].item() == pytest.approx(np.abs(pixels).max())
    assert len(ranges) == 2 * (2 + 6)


def test_residual_additions_have_a_range_for_each_operand(nano, images, recipes):
    plain = calibrated(nano, images, recipes)
    ranges = calibrated(nano, images, recipes, residual_adds=True)
    assert all(torch.equal(ranges[name], value) for name, value in plain.items())
    added = {name.rpartition(".") for name in ranges.keys() - plain.keys()}
    assert {side for _, _, side in added} == {"left_amax", "right_amax"}
    sums = ("pos_sum", "out_proj_sum", "dwconv_sum", "fc2_sum")
    blocks = {name.rpartition(".")[0] for name in plain if ".blocks." in name}
    assert {name for name, _, _ in added} == {f"{x.rpartition('.')[0]}.{y}" for x in blocks for y in sums}
    # fc2 reads what the addition of dwconv makes.
    block = "stages.0.blocks.0"
    most = ranges[f"{block}.dwconv_sum.left_amax"] + ranges[f"{block}.dwconv_sum.right_amax"]
    assert ranges[f"{block}.fc2.input_amax"] <= most


def test_calibration_leaves_the_model_as_it_was(nano, images, recipes):
    folded = folded_from_model(nano, 40, 48)
    before = {name: value.clone() for name, value in folded.state_dict().items()}
    calibrate(folded, recipes["int8"], open_dataset(images), SMALL)
    assert folded.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in folded.state_dict().items())
    assert not [x for x in folded.modules() if x._forward_pre_hooks]


def test_smoothquant_is_the_same_function_with_inputs_easier_to_round(nano, images, recipes):
    recipe = dataclasses.replace(recipes["int8"], method="smoothquant")
    folded = folded_from_model(nano, 40, 48)
    # Two channels stick out, as in trained transformers.
    folded.stages[1].blocks[0].final_layer_norm.weight.data[:2] *= 50
    before = {name: value.clone() for name, value in folded.state_dict().items()}
    made = smoothed(folded, recipe, open_dataset(images), SMALL)
    assert all(torch.equal(value, before[name]) for name, value in folded.state_dict().items())
    changed = {name for name, value in made.state_dict().items() if not torch.equal(value, before[name])}
    parts = {name.split(".", 4)[-1] for name in changed}
    norms = {f"{x}_layer_norm.{y}" for x in ("retention", "final") for y in ("weight", "bias")}
    assert parts == {"qkv.weight", "fc1.weight"} | norms
    batch = torch.from_numpy(next(open_dataset(images).batches(SMALL, 8)))
    with torch.no_grad():
        expected, actual = folded(batch), made(batch)
    assert relative_error(actual.numpy(), expected.numpy()) < 1e-5
    name = "stages.1.blocks.0.fc1.input_amax"
    largest = calibrate(folded, recipe, open_dataset(images), SMALL)[name]
    assert calibrate(made, recipe, open_dataset(images), SMALL)[name] < largest / 5


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_alpha_says_how_much_of_the_spread_goes_into_the_weights(nano, images, recipes, alpha):
    """SmoothQuant's scale of a channel: the input is divided by largest input^alpha / largest weight^(1 - alpha)."""
    recipe = dataclasses.replace(recipes["int8"], method="smoothquant", alpha=alpha, int8=("fc1",))
    folded, name = folded_from_model(nano, 40, 48), "stages.1.blocks.0.fc1"
    seen = []
    hook = folded.get_submodule(name).register_forward_pre_hook(lambda _, x: seen.append(x[0].flatten(0, -2).abs()))
    dataset = open_dataset(images)
    calibrate(folded, recipe, dataset, SMALL)
    hook.remove()
    inputs, weights = torch.cat(seen).amax(0), folded.get_submodule(name).weight.abs().amax(0)  # (in,)
    expected = inputs**alpha / weights ** (1 - alpha)
    made = smoothed(folded, recipe, dataset, SMALL).get_submodule(name).weight
    found = (made / folded.get_submodule(name).weight).median(0).values
    # Up to one factor for all channels, which changes no rounding.
    torch.testing.assert_close(found / found.mean(), expected / expected.mean(), rtol=1e-3, atol=1e-4)


def test_the_file_of_smoothquant_holds_the_smoothed_weights(checkpoint, nano, images, recipes, tmp_path):
    recipe = dataclasses.replace(recipes["int8"], method="smoothquant", int8=("*.fc1",))
    state = load_file(quantize(checkpoint, recipe, tmp_path, images).path)
    plain = folded_from_model(nano, SMALL.height, SMALL.width).state_dict()
    weight = state["stages.0.blocks.0.fc1.weight"]
    assert not torch.allclose(weight, plain["stages.0.blocks.0.fc1.weight"])
    torch.testing.assert_close(state["stages.0.blocks.0.fc1.weight_amax"], weight.abs().amax(dim=1))
    torch.testing.assert_close(state["stages.0.blocks.0.qkv.weight"], plain["stages.0.blocks.0.qkv.weight"])


def test_smoothquant_of_nothing_is_refused(nano, images, recipes):
    recipe = dataclasses.replace(recipes["int8"], method="smoothquant", int8=("fc2", "stem"))
    with pytest.raises(RmtEdgeError, match=r"smooths no layer[\s\S]*qkv and fc1"):
        smoothed(folded_from_model(nano, 40, 48), recipe, open_dataset(images), SMALL)


@pytest.mark.parametrize("method", ["max", "entropy", "percentile", "mse"])
def test_an_input_of_zeros_names_the_layer(nano, images, recipes, method):
    folded = folded_from_model(nano, 40, 48)
    norm = folded.stages[2].blocks[1].final_layer_norm
    norm.weight.data.zero_()
    norm.bias.data.zero_()
    recipe = dataclasses.replace(recipes["int8"], method=method, int8=("stages.2.blocks.1.fc1",))
    with pytest.raises(RmtEdgeError, match=r"range of stages\.2\.blocks\.1\.fc1\.input is 0 to 0"):
        calibrate(folded, recipe, open_dataset(images), SMALL)


def test_a_range_of_zero_names_the_layer(nano, images, recipes):
    folded = folded_from_model(nano, 40, 48)
    folded.stages[2].blocks[1].fc1.weight.data.zero_()
    with pytest.raises(RmtEdgeError, match=r"range of stages\.2\.blocks\.1\.fc1\.weight is 0 to 0"):
        calibrate(folded, recipes["int8"], open_dataset(images), SMALL)


def test_a_weight_of_nan_names_the_layer(nano, images, recipes):
    folded = folded_from_model(nano, 40, 48)
    folded.stages[2].blocks[1].fc2.weight.data[0, 0] = float("nan")
    with pytest.raises(RmtEdgeError, match=r"range of stages\.2\.blocks\.1\.fc2\.weight is nan"):
        calibrate(folded, recipes["int8"], open_dataset(images), SMALL)


@pytest.mark.parametrize("method", ["max", "entropy", "smoothquant"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_nan_or_infinite_input_names_the_layer(nano, images, recipes, value, method):
    folded = folded_from_model(nano, 40, 48)
    folded.stages[0].blocks[0].retention_layer_norm.bias.data[0] = value
    recipe = dataclasses.replace(recipes["int8"], method=method)
    with pytest.raises(RmtEdgeError, match=r"input of stages\.0\.blocks\.0\.qkv holds NaN or infinite"):
        (smoothed if method == "smoothquant" else calibrate)(folded, recipe, open_dataset(images), SMALL)


@pytest.mark.parametrize("method", ["max", "mse"])
def test_a_dead_channel_is_no_fault(nano, images, recipes, method):
    folded = folded_from_model(nano, 40, 48)
    folded.stages[2].blocks[1].fc1.weight.data[5] = 0
    ranges = calibrate(folded, dataclasses.replace(recipes["int8"], method=method), open_dataset(images), SMALL)
    assert ranges["stages.2.blocks.1.fc1.weight_amax"][5] == 0


def test_a_weight_beyond_fp16_is_named():
    check_fp16({"a": torch.tensor([65504.0])})
    with pytest.raises(RmtEdgeError, match=r"head\.weight reaches 70000"):
        check_fp16({"a": torch.zeros(1), "head.weight": torch.tensor([1.0, -70000.0])})


def test_another_input_size_is_recorded(checkpoint, recipes, tmp_path):
    other = dataclasses.replace(SMALL, height=33, width=65)
    manifest = quantize(checkpoint, recipes["fp16"], tmp_path, preprocessing=other).manifest
    assert manifest.details["preprocessing"]["height"] == 33
    assert manifest.source["name"] == checkpoint.name
    assert np.isfinite(manifest.seconds)
