"""Composed scenes: made again from the seed, boxes, masks and labels agree, training and test share nothing."""

import zipfile

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from scenes.backgrounds import PICTURES, TEXTURES, background, load_pictures
from scenes.compose import (
    CLASSES,
    MIN_VISIBLE_PIXELS,
    OUTLINE_GREY,
    SIDE,
    SPLITS,
    Composer,
    box_of,
    outline,
    pool_of,
)

from tests.conftest import REFERENCE


def composer_of(split, pool=None, side=SIDE):
    """Scenes of the shipped test items on noise, whatever the split."""
    with np.load(REFERENCE / "test.npz") as arrays:
        grey, labels = arrays["images"], arrays["labels"]
    pictures = [np.random.default_rng(i).integers(0, 256, (120, 150, 3), np.uint8) for i in range(2)]
    return Composer(split, grey, labels, np.arange(len(grey)) if pool is None else pool, pictures, side)


@pytest.fixture(scope="module")
def composer():
    return composer_of("test")


@pytest.fixture(scope="module")
def scenes(composer):
    return [composer.scene(index) for index in range(40)]


def test_a_scene_depends_on_its_split_and_number_alone(composer, scenes):
    again = composer_of("test")
    for index in (7, 3):
        for name in ("image", "labels", "masks", "items"):
            assert np.array_equal(getattr(again.scene(index), name), getattr(scenes[index], name))
    assert not np.array_equal(scenes[3].image, scenes[7].image)
    others = {split: composer_of(split).scene(3).image.tobytes() for split in SPLITS}
    assert len(set(others.values())) == len(SPLITS)


def test_boxes_and_areas_are_those_that_pycocotools_finds(scenes):
    for scene in scenes:
        for box, mask in zip(scene.boxes, scene.masks, strict=True):
            encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            x, y, w, h = coco_mask.toBbox(encoded)
            assert box.tolist() == [x, y, x + w, y + h]
            assert coco_mask.area(encoded) == mask.sum() >= MIN_VISIBLE_PIXELS


def test_masks_lie_beside_one_another_and_make_up_the_label_of_every_pixel(scenes):
    for scene in scenes:
        assert scene.masks.sum(axis=0).max() <= 1
        semantic = scene.semantic
        assert np.array_equal(semantic != len(CLASSES), scene.masks.any(axis=0))
        for label, mask in zip(scene.labels, scene.masks, strict=True):
            assert (semantic[mask] == label).all()


def test_labels_are_those_of_the_items_and_items_come_from_the_pool(composer, scenes):
    for scene in scenes:
        assert np.array_equal(scene.labels, composer.labels[scene.items])
    pool = np.array([11, 5, 8, 900, 42, 77, 3])
    some = composer_of("test", pool)
    assert {int(x) for index in range(10) for x in some.scene(index).items} <= set(pool.tolist())


def test_scenes_are_varied(scenes):
    assert len({int(x) for scene in scenes for x in scene.labels}) == len(CLASSES)
    counts = [len(scene.labels) for scene in scenes]
    assert min(counts) == 1 and max(counts) >= 5
    sides = np.sqrt(np.concatenate([(x.boxes[:, 2:] - x.boxes[:, :2]).prod(1) for x in scenes]))
    assert np.percentile(sides, 5) < 25 and np.percentile(sides, 95) > 70
    assert any(len(box) > 1 and _overlap(box) for box in (scene.boxes for scene in scenes))


def _overlap(boxes):
    a, b = boxes[0], boxes[1]
    return bool((np.minimum(a[2:], b[2:]) > np.maximum(a[:2], b[:2])).all())


def test_an_item_is_seen_where_its_mask_is(composer):
    # The same scene without its items differs from it there, and hardly anywhere else.
    index = next(i for i in range(40) if len(composer.scene(i).labels) == 1)
    scene, blank = composer.scene(index), Composer(**{**vars(composer), "grey": np.zeros_like(composer.grey)})
    with pytest.raises(IndexError):  # no outline, no box: nothing of an item comes from anywhere but its picture
        blank.scene(index)
    assert 0 < scene.masks.mean() < 0.8


def test_outline_fills_holes_and_leaves_dirt_out():
    item = np.zeros((28, 28), np.uint8)
    item[5:20, 6:21] = 200
    item[9:12, 9:12] = 0  # a hole
    item[4, 6:21] = OUTLINE_GREY  # dirt at the edge
    item[25, 25] = 255  # a speck
    item[5:20, 21:24] = 255
    item[10, 22] = 0  # dark within
    expected = np.zeros((28, 28), bool)
    expected[5:20, 6:24] = True
    assert np.array_equal(outline(item), expected)
    assert box_of(expected).tolist() == [6, 5, 24, 20]


def test_training_and_test_share_no_item_and_no_background():
    pools = {split: set(pool_of(split, 60_000).tolist()) for split in ("train", "calibration", "held_out")}
    assert pools["train"] == pools["calibration"] and not pools["train"] & pools["held_out"]
    assert len(pools["train"]) == 55_000 and len(pools["held_out"]) == 5_000
    assert [SPLITS[x][0] for x in ("train", "calibration", "held_out", "test")] == ["train"] * 3 + ["test"]
    assert len({number for _, number in SPLITS.values()}) == len(SPLITS)
    for kind in (0, 1):
        assert not {x[kind] for x in PICTURES["train"]} & {x[kind] for x in PICTURES["test"]}
    assert not set(TEXTURES["train"]) & set(TEXTURES["test"])
    assert all("CC0" in x[2] or "public domain" in x[2] for rows in PICTURES.values() for x in rows)


@pytest.mark.parametrize("texture", [x for group in TEXTURES.values() for x in group])
def test_textures_are_grey_values_from_0_to_1_that_vary(texture):
    values = [texture(np.random.default_rng(seed), 64) for seed in (1, 2, 1)]
    for x in values:
        assert x.shape == (64, 64) and x.min() >= 0 and x.max() <= 1 and np.ptp(x) > 0.2
    assert np.array_equal(values[0], values[2]) and not np.array_equal(values[0], values[1])


def test_a_background_takes_photographs_and_textures():
    white = [np.full((100, 130, 3), 255, np.uint8)]
    found = [background(np.random.default_rng(seed), white, "test", 64) for seed in range(30)]
    assert all(x.shape == (64, 64, 3) and x.dtype == np.float32 and 0 <= x.min() and x.max() <= 255 for x in found)
    flat = sum(np.ptp(x) < 64 and (np.ptp(x, axis=(0, 1)) == 0).all() for x in found)  # crops of white stay flat
    assert 10 <= flat <= 25


def test_another_picture_than_the_scenes_were_composed_on_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as archive:
        for name, *_ in PICTURES["test"]:
            archive.writestr(f"skimage/data/{name}", b"another picture")
    with pytest.raises(SystemExit, match=r"grass\.png is another picture"):
        load_pictures(tmp_path / "x.whl", "test")
