"""The geometry and pixel scaling before the network."""

import numpy as np
import pytest
from PIL import Image

from rmt_edge.data.dataset import fit
from rmt_edge.data.decoding import decode
from rmt_edge.data.preprocess import PUBLIC, Preprocessing, images_at_a_time, normalise
from rmt_edge.errors import RmtEdgeError
from tests.downstream import FOLDER as GOLDEN
from tests.golden.downstream.weights_downstream import picture


def test_pixels_become_standardised_channels_first():
    preprocessing = Preprocessing(32, 32, mean=(0.5, 0.0, 0.2), std=(0.5, 1.0, 0.1))
    pixels = np.zeros((2, 32, 32, 3), np.uint8)
    pixels[1] = 255
    out = normalise(pixels, preprocessing)
    assert out.shape == (2, 3, 32, 32) and out.dtype == np.float32
    np.testing.assert_allclose(out[0, :, 0, 0], [-1.0, 0.0, -2.0], rtol=1e-6)
    np.testing.assert_allclose(out[1, :, 0, 0], [1.0, 1.0, 8.0], rtol=1e-6)


def test_the_public_evaluation_resizes_to_256_and_crops_224():
    # A vertical line at column 128 of 512 must land at 128/2 - (256 - 224)/2 = 48.
    image = np.zeros((512, 512), np.uint8)
    image[:, 128:130] = 255
    out = fit(Image.fromarray(image), Preprocessing())
    assert out.shape == (224, 224, 3)
    assert out[100, :, 0].argmax() == 48


@pytest.mark.parametrize("size", [(300, 100), (100, 300), (37, 41), (224, 224)])
def test_any_image_becomes_the_size_asked_for(size):
    out = fit(Image.new("L", size, 7), Preprocessing(96, 160))
    assert out.shape == (96, 160, 3)
    assert (out == 7).all()


def test_an_image_of_the_right_size_is_left_alone():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    assert np.array_equal(fit(Image.fromarray(pixels), Preprocessing(40, 48, crop_ratio=1.0)), pixels)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"height": 31}, "cannot take 31x224"),
        ({"crop_ratio": 0.0}, "crop_ratio is 0.0"),
        ({"std": (1.0, 0.0, 1.0)}, "each deviation is above 0"),
        ({"mean": (1.0,)}, "one finite number for each"),
        ({"mean": (1.0, float("nan"), 0.0)}, "one finite number for each"),
        ({"colour": 1}, r"Unknown preprocessing colour[\s\S]*known: height"),
    ],
)
def test_wrong_settings_are_refused(values, match):
    with pytest.raises(RmtEdgeError, match=match):
        Preprocessing.from_dict(values)


def test_a_manifest_brings_it_back():
    preprocessing = Preprocessing(40, 48, 1.0)
    assert Preprocessing.from_dict(preprocessing.to_dict()) == preprocessing


@pytest.mark.parametrize(
    ("height", "width", "most", "expected"),
    [
        (224, 224, 50, 50), (40, 48, 50, 50), (224, 224, 32, 32), (224, 224, 64, 64), (224, 224, 65, 64),
        (448, 448, 50, 16), (1024, 1024, 50, 3), (4096, 4096, 50, 1),
    ],
)  # fmt: skip
def test_large_inputs_go_through_a_few_at_a_time(height, width, most, expected):
    assert images_at_a_time(Preprocessing(height, width), most) == expected


def test_a_caller_may_ask_for_fewer_pixels():
    assert images_at_a_time(Preprocessing(224, 224), 64, 4 * 224 * 224) == 4
    assert images_at_a_time(Preprocessing(40, 48), 64, 4 * 224 * 224) == 64


def test_a_picture_that_is_kept_whole_is_the_public_pipelines(tmp_path):
    """Golden: cv2's resize on whole numbers, normalised, padded to whole 32s (tests/golden/downstream/README.md)."""
    whole = Preprocessing(224, 288, within=(333, 200))
    frame = whole.frame(120, 163)
    assert (frame.height, frame.width) == (200, 272)
    Image.fromarray(picture(120, 163, 71)).save(tmp_path / "x.png")
    pixels = decode([tmp_path / "x.png"], whole)
    with np.load(GOLDEN / "preprocess_120x163.npz") as golden:
        np.testing.assert_array_equal(pixels[0, :200, :272], golden["resized"])
        inputs = normalise(pixels, whole, [frame])
        np.testing.assert_allclose(inputs[0, :, -40:, -40:], golden["normalised_corner"], atol=2.5e-7)
    assert not inputs[0, :, 200:].any() and not inputs[0, :, :, 272:].any() and inputs[0, :, 199, 271].all()


@pytest.mark.parametrize(
    ("size", "expected"),
    [((480, 640), (800, 1067)), ((427, 640), (800, 1199)), ((300, 900), (444, 1333)), ((640, 480), (800, 600))],
)
def test_sides_are_rounded_as_mmcv_has_them(size, expected):
    """Factor = min(1333/long, 800/short), int(side · factor + 0.5); a picture that stands must fit 800 rows."""
    frame = PUBLIC["detection"].frame(*size)
    assert (frame.height, frame.width) == expected


def test_preprocessing_that_keeps_a_picture_whole_travels_in_json():
    assert Preprocessing.from_dict(PUBLIC["detection"].to_dict()) == PUBLIC["detection"]
    assert "within" not in PUBLIC["classification"].to_dict(), "a classifier's records stay as they were"
    for within in ((800, 1333), (0, 0), (5,), (10.5, 3)):
        with pytest.raises(RmtEdgeError, match="within is"):
            Preprocessing(within=within)
