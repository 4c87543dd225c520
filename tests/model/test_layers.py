"""The list of layers names modules that exist, and all of those that can be quantised."""

import pytest
from torch import nn

from rmt_edge.model.folded import FoldedRMT
from rmt_edge.model.layers import KINDS, layers_of


@pytest.mark.parametrize("variant", ["rmt_nano", "rmt_t"])
def test_every_weighted_layer_but_lepe_is_listed_once(variant):
    model = FoldedRMT(variant, 10, 64, 64)
    modules = {name for name, x in model.named_modules() if isinstance(x, nn.Linear | nn.Conv2d)}
    listed = [layer.name for layer in layers_of(variant)]
    assert len(listed) == len(set(listed))
    assert set(listed) == {name for name in modules if not name.endswith(".lepe")}
    assert {layer.kind for layer in layers_of(variant)} == set(KINDS)
