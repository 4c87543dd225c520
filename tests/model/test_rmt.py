"""The network as published: names, shapes and outputs of the public code."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rmt_edge.errors import RmtEdgeError
from rmt_edge.metrics import relative_error
from rmt_edge.model.rmt import RelativePosition, create_model, stage_grid
from rmt_edge.model.variants import VARIANTS
from tests.conftest import filled
from tests.golden import weights

GOLDEN = Path(__file__).parent.parent / "golden"
PUBLIC_NAMES = {
    "RMT_T3": "rmt_t",
    "RMT_S": "rmt_s",
    "RMT_M2": "rmt_b",
    "RMT_L6": "rmt_l",
    "RMT_S_token_label": "rmt_s_token_label",
}


@pytest.mark.parametrize(("public", "name"), PUBLIC_NAMES.items())
def test_parameter_names_and_shapes_are_the_public_ones(public, name):
    expected = json.loads((GOLDEN / "state_dict_shapes.json").read_text())[public]
    with torch.device("meta"):
        actual = {key: list(value.shape) for key, value in create_model(name).state_dict().items()}
    assert actual == expected


@pytest.mark.parametrize(
    ("file", "name", "seed", "image_seed", "shape"),
    [
        ("rmt_t_224x224", "rmt_t", 1, 11, (2, 3, 224, 224)),
        ("rmt_t_160x224", "rmt_t", 1, 12, (1, 3, 160, 224)),
        ("rmt_s_224x224", "rmt_s", 2, 13, (1, 3, 224, 224)),
    ],
)
def test_outputs_are_those_of_the_public_code(file, name, seed, image_seed, shape):
    model = filled(name, 1000, seed)
    found = {}
    for index, stage in enumerate(model.layers):
        stage.register_forward_pre_hook(
            lambda _, inputs, index=index: found.update({f"stage{index}_input_mean": inputs[0].mean(dim=(1, 2))})
        )
    image = torch.from_numpy(weights.image(shape, image_seed))
    with torch.no_grad():
        found["logits"] = model(image)
        found["last_stage"] = model.forward_features(image)
    with np.load(GOLDEN / f"{file}.npz") as golden:
        assert set(golden.files) == set(found)
        for key in golden.files:
            assert relative_error(found[key].numpy(), golden[key]) < 1e-5, key


@pytest.mark.parametrize(("h", "w"), [(14, 14), (56, 56), (200, 336)])
def test_theta_tables_are_those_of_float32_arithmetic(h, w):
    """As the public code has them: angle, index and their product in float32.

    At the far end of a grid float64 gives another phase, and so a position code that no weight was trained with.
    """
    position = RelativePosition(64, 4, 4)
    exponents = torch.linspace(0, 1, 8, dtype=torch.float32)
    assert torch.equal(position.angle, (1.0 / 10000**exponents).repeat_interleave(2))
    angle = position.angle.numpy()
    phase = np.arange(h * w, dtype=np.float32)[:, None] * angle
    assert phase.dtype == angle.dtype == np.float32
    for table, function in zip(position(h, w), (np.sin, np.cos), strict=True):
        assert table.dtype == torch.float32
        expected = function(phase.astype(np.float64))
        np.testing.assert_allclose(table.numpy(), expected, rtol=0, atol=2e-7)
        exact = function(np.arange(h * w)[:, None] * angle.astype(np.float64))
        assert np.abs(exact - expected).max() > 1e-6  # the test can tell


@pytest.mark.parametrize(
    ("name", "millions"), [("rmt_t", 14.33), ("rmt_s", 26.97), ("rmt_b", 54.15), ("rmt_l", 95.46), ("rmt_nano", 1.47)]
)
def test_parameter_counts(name, millions):
    with torch.device("meta"):
        count = sum(p.numel() for p in create_model(name).parameters())
    assert round(count / 1e6, 2) == millions


def test_nano_has_four_stages_and_both_forms_of_retention():
    variant = VARIANTS["rmt_nano"]
    assert min(variant.depths) >= 1
    assert set(variant.decomposed) == {True, False}
    assert {dim // heads for dim, heads in zip(variant.dims, variant.num_heads, strict=True)} == {16, 32}


def test_token_label_logits_add_half_of_the_largest_token_logit():
    model = filled("rmt_s_token_label", 7)
    image = torch.from_numpy(weights.image((2, 3, 64, 64), 0))
    with torch.no_grad():
        with_aux = model(image)
        tokens = model.forward_features(image).flatten(1, 2)  # (b, l, c)
        aux = tokens @ model.aux_head.weight.T + model.aux_head.bias
        model.aux_head = None
        without = model(image)
    torch.testing.assert_close(with_aux - without, 0.5 * aux.max(dim=1).values)


@pytest.mark.parametrize(("h", "w"), [(32, 32), (33, 50), (63, 97)])
def test_any_size_from_32_pixels_works(nano, h, w):
    with torch.no_grad():
        assert torch.isfinite(nano(torch.zeros(1, 3, h, w))).all()
        tokens = nano.forward_features(torch.zeros(1, 3, h, w))
    assert tuple(tokens.shape[1:3]) == stage_grid(3, h, w)


def test_a_side_under_32_pixels_is_refused(nano):
    with pytest.raises(RmtEdgeError, match=r"cannot take 31x64 images[\s\S]*at least 32 pixels"):
        nano(torch.zeros(1, 3, 31, 64))


def test_an_unknown_variant_is_refused_with_the_known_ones():
    with pytest.raises(RmtEdgeError, match=r"no RMT variant 'rmt_x'[\s\S]*rmt_s_token_label"):
        create_model("rmt_x")


def test_a_classifier_without_classes_is_refused():
    with pytest.raises(RmtEdgeError, match="num_classes is 0"):
        create_model("rmt_nano", 0)
