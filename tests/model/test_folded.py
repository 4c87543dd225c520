"""The folded form equals the published form."""

import pytest
import torch

from rmt_edge.errors import RmtEdgeError
from rmt_edge.metrics import relative_error
from rmt_edge.model.folded import folded_from_model
from rmt_edge.model.rmt import stage_grid
from rmt_edge.model.variants import VARIANTS
from tests.conftest import filled
from tests.golden import weights


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_keeps_its_outputs(name):
    model = filled(name, 17, seed=3)
    h, w = 64, 70
    image = torch.from_numpy(weights.image((2, 3, h, w), 5))
    with torch.no_grad():
        expected, actual = model(image), folded_from_model(model, h, w)(image)
    assert relative_error(actual.numpy(), expected.numpy()) < 1e-5


def test_theta_tables_are_bit_for_bit_the_published_model_s(nano):
    """Folding is done in float64, these tables are not: see test_rmt.py."""
    folded = folded_from_model(nano, 224, 320)
    for index, (stage, source) in enumerate(zip(folded.stages, nano.layers, strict=True)):
        for table, expected in zip((stage.sin, stage.cos), source.Relpos(*stage_grid(index, 224, 320)), strict=True):
            assert table.dtype == torch.float32 and torch.equal(table, expected)


def test_no_norm_scale_or_separate_projection_is_left(nano):
    names = dict(folded_from_model(nano, 64, 64).named_parameters())
    assert not [x for x in names if "running" in x or "gamma" in x or "q_proj" in x]
    assert "stages.0.blocks.0.qkv.weight" in names


def test_the_source_model_is_left_as_it_was(nano):
    before = {name: value.clone() for name, value in nano.state_dict().items()}
    folded_from_model(nano, 64, 64)
    assert all(torch.equal(before[name], value) for name, value in nano.state_dict().items())


def test_too_small_a_size_is_refused(nano):
    with pytest.raises(RmtEdgeError, match="cannot take 16x64 images"):
        folded_from_model(nano, 16, 64)
