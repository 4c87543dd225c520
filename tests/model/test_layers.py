"""The list of layers names modules that exist, and all of those that can be quantised."""

import pytest
from torch import nn

from rmt_edge.model.folded import FoldedRMT, Output
from rmt_edge.model.layers import KINDS, is_product, layers_of


@pytest.mark.parametrize("variant", ["rmt_nano", "rmt_t"])
def test_every_weighted_layer_but_lepe_is_listed_once(variant):
    model = FoldedRMT(variant, 10, 64, 64)
    modules = {name for name, x in model.named_modules() if isinstance(x, nn.Linear | nn.Conv2d)}
    listed = [layer.name for layer in layers_of(variant) if layer.source is None]
    assert len(listed) == len(set(listed))
    assert set(listed) == {name for name in modules if not name.endswith(".lepe")}
    assert {layer.kind for layer in layers_of(variant)} == set(KINDS)


def test_every_linear_layer_of_a_block_has_an_output_listed_behind_it():
    modules = dict(FoldedRMT("rmt_nano", 10, 64, 64).named_modules())
    layers = layers_of("rmt_nano")
    outputs = [layer for layer in layers if layer.source is not None]
    assert {x.name for x in outputs} == {name for name, x in modules.items() if isinstance(x, Output)}
    assert {x.source for x in outputs} == {
        name for name, x in modules.items() if isinstance(x, nn.Linear) and ".blocks." in name
    }
    for layer in layers:
        behind = layers[layers.index(layer) + 1] if layer.name in {x.source for x in outputs} else None
        assert is_product(layer.name) == (behind is not None)
        if behind is not None:
            assert (behind.source, behind.kind) == (layer.name, f"{layer.kind}_output")
            assert (behind.stage, behind.block) == (layer.stage, layer.block)
