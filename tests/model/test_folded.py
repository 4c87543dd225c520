"""The folded form equals the published form."""

import pytest
import torch
from torch import nn

from rmt_edge.errors import RmtEdgeError
from rmt_edge.metrics import relative_error
from rmt_edge.model.folded import folded_from_model
from rmt_edge.model.heads import MODELS
from rmt_edge.model.rmt import stage_grid
from rmt_edge.model.variants import VARIANTS
from rmt_edge.model.widths import PUBLIC_WIDTHS, Widths
from tests.conftest import filled
from tests.downstream import filled_head
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


@pytest.mark.parametrize("head", MODELS)
def test_a_folded_head_is_the_same_function_without_batch_norms(head):
    widths = Widths(**{name: 16 for name, value in vars(PUBLIC_WIDTHS[head]).items() if value})
    model = filled_head(head, "rmt_nano", 3, 5, {"retina_cls.bias": -2.0, "fc_cls.bias": 0.0}, widths)
    images = torch.randn(1, 3, 65, 97, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        folded = folded_from_model(model, 65, 97)
        assert not any(isinstance(x, nn.BatchNorm2d) for x in folded.modules())
        for found, expected in zip(folded.backbone(images), model.backbone(images), strict=True):
            assert torch.allclose(found, expected, atol=1e-5)
        if head in ("semantic_fpn", "upernet"):
            assert torch.allclose(folded.logits(images), model.logits(images), atol=1e-4)
        found, expected = folded(images), model(images)
    if "count" in expected:
        assert torch.equal(found["count"], expected["count"]) and torch.equal(found["labels"], expected["labels"])
        for name in set(expected) - {"count", "labels"}:
            assert torch.allclose(found[name], expected[name], atol=2e-3), name


def test_layer_scale_of_a_backbone_is_folded():
    model = filled_head("semantic_fpn", "rmt_b", 2, 5, widths=Widths(neck=16, head=16))
    image = torch.randn(1, 3, 32, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, expected = folded_from_model(model, 32, 64).logits(image), model.logits(image)
    assert torch.allclose(found, expected, atol=1e-4)
