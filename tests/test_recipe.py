"""Recipes and device profiles."""

import pytest

from rmt_edge.errors import RmtEdgeError
from rmt_edge.recipe import QuantizationRecipe, load_recipe
from rmt_edge.settings import ROOT


@pytest.mark.parametrize("path", sorted((ROOT / "calib").glob("*.toml")), ids=lambda x: x.stem)
def test_every_recipe_in_the_repository_loads(path):
    assert load_recipe(path.stem) == load_recipe(path)
    assert load_recipe(path).name == path.stem


def test_the_default_int8_recipe_is_the_one_documented():
    recipe = load_recipe("int8")
    assert recipe.layers == ("qkv", "out_proj", "fc1", "fc2", "proj")
    assert (recipe.weights, recipe.method, recipe.images) == ("per_channel", "max", 512)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('precision = "int4"', r"precision is 'int4'[\s\S]*allowed: fp32, fp16, int8"),
        ('precision = "int8"\nlayers = ["conv"]', r"layers is 'conv'[\s\S]*out_proj"),
        ('precision = "int8"\nlayers = []', "layers is empty"),
        ('precision = "int8"\nimages = 0', "images is 0"),
        ('precision = "int8"\nbatch = 1.5', "batch is 1.5"),
        ('precision = "int8"\nmethod = "guess"', "method is 'guess'"),
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
    assert "layers" in QuantizationRecipe("int8", "int8").to_dict()
