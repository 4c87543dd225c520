"""Recipes and device profiles."""

import json

import pytest

from rmt_edge.errors import RmtEdgeError
from rmt_edge.model.layers import layers_of
from rmt_edge.quantization.recipe import QuantizationRecipe, load_recipe
from rmt_edge.settings import ROOT


@pytest.mark.parametrize("path", sorted((ROOT / "calib").glob("*.toml")), ids=lambda x: x.stem)
def test_every_recipe_in_the_repository_loads(path):
    assert load_recipe(path.stem) == load_recipe(path)
    assert load_recipe(path).name == path.stem


def test_the_default_int8_recipe_is_the_one_documented():
    recipe = load_recipe("int8")
    layers = ("qkv", "out_proj", "fc1", "fc2")
    assert recipe.int8 == (*(x for layer in layers for x in (layer, f"{layer}_output")), "proj")
    assert (recipe.weights, recipe.method, recipe.images) == ("per_channel", "max", 512)
    assert not recipe.fp16 and not recipe.residual_adds
    assert load_recipe("int8-linear").int8 == (*layers, "proj")


def test_an_output_goes_with_its_layer_and_not_without_it():
    names = int8_layers(["fc1", "fc1_output", "qkv"], ["stages.0.*.fc1"])
    assert "stages.1.blocks.0.fc1_output" in names
    assert "stages.0.blocks.0.fc1_output" not in names and "stages.0.blocks.0.qkv" in names
    assert not [x for x in int8_layers(["*"], ["*_output"]) if x.endswith("_output")]
    with pytest.raises(RmtEdgeError, match=r"has stages\.0\.blocks\.0\.qkv_output in int8, and not [\s\S]*too: qkv"):
        int8_layers(["fc1", "qkv_output"])
    with pytest.raises(RmtEdgeError, match=r"pattern 'proj_output'[\s\S]*near it:"):
        int8_layers(["proj", "proj_output"])


def int8_layers(int8, fp16=(), variant="rmt_nano"):
    return QuantizationRecipe("mine", "int8", int8=int8, fp16=fp16).int8_layers(variant)


def test_patterns_name_layers_kinds_and_stages():
    everything = [layer.name for layer in layers_of("rmt_nano")]
    assert int8_layers(["*"]) == everything
    assert int8_layers(["stages.3.blocks.0.fc1", "stem.2"]) == ["stem.2", "stages.3.blocks.0.fc1"]
    assert int8_layers(["stages.2.*"]) == [name for name in everything if name.startswith("stages.2.")]
    assert int8_layers(["fc1"]) == int8_layers(["*.fc1"]) == [name for name in everything if name.endswith(".fc1")]
    assert int8_layers(["depthwise"]) == int8_layers(["*.pos", "*.dwconv"])
    assert int8_layers(["head"], variant="rmt_s_token_label") == ["head", "aux_head"]
    assert int8_layers(everything) == everything


def test_fp16_takes_layers_out_again():
    kept = int8_layers(["*"], ["stages.0.*", "stem", "head"])
    assert kept and not [name for name in kept if name.startswith(("stages.0", "stem", "head"))]
    assert set(kept) < set(int8_layers(["*"]))


def test_an_unquantised_recipe_has_no_int8_layers():
    assert load_recipe("fp16").int8_layers("rmt_s") == []


@pytest.mark.parametrize(
    ("int8", "fp16", "match"),
    [
        (["*.fc3"], [], r"pattern '\*\.fc3' of the recipe mine on rmt_nano matches no layer[\s\S]*near it: fc\d"),
        (["qkv", "downsmaple"], [], r"'downsmaple'[\s\S]*near it: downsample"),
        (["stages.2.blocks.7.fc1"], [], r"near it: stages\.2\.blocks\.\d\.fc1"),
        (["fc1"], ["stages.4.*"], r"'stages\.4\.\*'"),
        (["zzz"], [], r"kinds: stem, downsample"),
        (["*.lepe"], [], "LePE runs inside Retention"),
        (["stages.2.blocks.1.lepe"], [], "LePE runs inside Retention"),
        (["fc1"], ["*.lepe"], "LePE runs inside Retention"),
        (["fc1"], ["*.fc1"], r"mine leaves no layer of rmt_nano in INT8[\s\S]*takes all of that out"),
    ],
)
def test_a_pattern_in_vain_is_an_error_that_names_it(int8, fp16, match):
    with pytest.raises(RmtEdgeError, match=match):
        int8_layers(int8, fp16)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('precision = "int4"', r"precision is 'int4'[\s\S]*allowed: fp32, fp16, int8"),
        ('precision = "int8"\nint8 = []', "int8 is empty"),
        ('precision = "int8"\nint8 = "fc1"', r"int8 is 'fc1'[\s\S]*list of patterns"),
        ('precision = "int8"\nfp16 = [1]', r"fp16 is \[1\]"),
        ('precision = "int8"\nfp16 = 1', r"fp16 is 1"),
        ('precision = "int8"\nlayers = ["fc1"]', r"unknown layers[\s\S]*known: name, precision, int8, fp16"),
        ('precision = "int8"\nimages = 0', "images is 0"),
        ('precision = "int8"\nbatch = 1.5', "batch is 1.5"),
        ('precision = "int8"\nmethod = "guess"', r"method is 'guess'[\s\S]*max, entropy, percentile, mse, smoothquant"),
        ('precision = "int8"\npercentile = 90', r"percentile is 90[\s\S]*above 90"),
        ('precision = "int8"\npercentile = 100.1', "percentile is 100.1"),
        ('precision = "int8"\npercentile = "all"', "percentile is 'all'"),
        ('precision = "int8"\nalpha = 1.5', r"alpha is 1\.5[\s\S]*from 0 to 1"),
        ('precision = "int8"\nalpha = -0.1', r"alpha is -0\.1"),
        ('precision = "int8"\nresidual_adds = 1', "residual_adds is 1"),
        ('precision = "int8"\nimagse = 3', r"unknown imagse[\s\S]*known: name, precision"),
        ("", "missing 1 required"),
        ("precision = ", "not readable as TOML"),
    ],
)
def test_wrong_recipes_are_refused_with_their_path(tmp_path, text, match):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(RmtEdgeError, match=match) as error:
        load_recipe(path)
    assert "mine.toml" in str(error.value)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(RmtEdgeError, match=r"no recipe int3[\s\S]*fp16, fp32, int8"):
        load_recipe("int3")


def test_an_unquantised_recipe_records_only_what_it_uses():
    assert QuantizationRecipe("fp16", "fp16").to_dict() == {"name": "fp16", "precision": "fp16"}
    recorded = QuantizationRecipe("int8", "int8").to_dict()
    assert recorded["int8"] and not {"percentile", "alpha"} & set(recorded)
    assert QuantizationRecipe("x", "int8", method="percentile").to_dict()["percentile"] == 99.99
    assert QuantizationRecipe("x", "int8", method="smoothquant").to_dict()["alpha"] == 0.5


def test_a_recorded_recipe_is_the_recipe_again():
    for path in (ROOT / "calib").glob("*.toml"):
        recipe = load_recipe(path)
        assert QuantizationRecipe(**json.loads(json.dumps(recipe.to_dict()))) == recipe
