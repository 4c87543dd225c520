"""What is shipped of the composed scenes: files that agree with each other, the generator and their scores."""

import json

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from scenes.backgrounds import PHOTOGRAPHS_SHARE, PICTURES
from scenes.compose import CLASSES, SEED, SPLITS
from scenes.score import read_images, scores_of

from rmt_edge.artifact import sha256_of
from rmt_edge.model.checkpoint import load_checkpoint
from rmt_edge.model.spec import RETINANET, SEMANTIC_FPN
from tests.bench.scenes.test_compose import composer_of
from tests.conftest import REFERENCE, ROOT

FOLDER = REFERENCE / "scenes"
TEST = FOLDER / "test"
RECORD_FILE = ROOT / "bench" / "results" / "train_scenes.json"
RECORD = json.loads(RECORD_FILE.read_text()) if RECORD_FILE.is_file() else {"heads": {}}
needs_heads = pytest.mark.skipif(not RECORD["heads"], reason=f"{RECORD_FILE.name}: no head is trained to its end yet")
MOST_BYTES = 9_200_000  # 6.7 MB of it are for three heads
TEST_SCENES, CALIBRATION_SCENES = 320, 64
# Points that another processor or PyTorch may move a score by: a box or two at a threshold.
TOLERANCE = 0.3


@pytest.fixture(scope="module")
def coco():
    return COCO(str(TEST / "annotations.json"))


@needs_heads
def test_the_card_and_the_record_describe_the_files_that_lie_there():
    card = (FOLDER / "README.md").read_text()
    for head, row in RECORD["heads"].items():
        assert row["sha256"] == sha256_of(FOLDER / row["file"]), head
        assert row["sha256"] in card and "Real items, composed scenes" in card
    assert set(RECORD["heads"]) >= {RETINANET, SEMANTIC_FPN}


@needs_heads
@pytest.mark.parametrize("head", RECORD["heads"])
def test_checkpoints_load_with_what_they_were_trained_on(head):
    model = load_checkpoint(FOLDER / RECORD["heads"][head]["file"])
    names = (*CLASSES, "background") if head == SEMANTIC_FPN else CLASSES
    assert (model.head_name, model.variant_name, model.num_classes) == (head, "rmt_pico", len(names))
    assert model.class_names == names
    assert (model.preprocessing.height, model.preprocessing.width) == (128, 128)
    assert all(x.dtype.itemsize == 4 for x in model.parameters())


def test_pictures_annotations_and_label_maps_are_of_the_same_scenes(coco):
    images = coco.loadImgs(coco.getImgIds())
    assert len(images) == TEST_SCENES == len(list((TEST / "labels").iterdir()))
    for image in images:
        label = cv2.imread(str(TEST / "labels" / image["file_name"].replace("jpg", "png")), cv2.IMREAD_UNCHANGED)
        expected = np.full((image["height"], image["width"]), len(CLASSES), np.uint8)
        for x in coco.loadAnns(coco.getAnnIds(imgIds=image["id"])):
            mask = coco.annToMask(x).astype(bool)
            expected[mask] = x["category_id"] - 1
            assert x["area"] == mask.sum()
        assert np.array_equal(label, expected)
    assert len(list((FOLDER / "calibration").iterdir())) == CALIBRATION_SCENES
    assert sum(x.stat().st_size for x in FOLDER.rglob("*") if x.is_file()) < MOST_BYTES


def test_the_licence_of_every_photograph_lies_beside_the_scenes():
    card = (FOLDER / "README.md").read_text()
    for rows in PICTURES.values():
        for name, _, licence in rows:
            assert f"skimage/data/{name} | {licence}" in card
    assert "Real items, composed scenes" in card and (REFERENCE / "LICENSE-fashion-mnist").is_file()


def test_scenes_on_textures_are_what_the_generator_makes(coco):
    # Those on photographs need scikit-image's wheel; an item of either kind lies in test.npz.
    composer, compared = composer_of("test"), 0
    for image in coco.loadImgs(coco.getImgIds()[:40]):
        rng = np.random.default_rng([SEED, SPLITS["test"][1], image["id"]])
        if rng.random() < PHOTOGRAPHS_SHARE:
            continue
        scene = composer.scene(image["id"])
        found = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
        assert [x["category_id"] - 1 for x in found] == scene.labels.tolist()
        assert np.array_equal(np.stack([coco.annToMask(x) for x in found]).astype(bool), scene.masks)
        pixels = read_images(TEST / "images", [image["file_name"]])[0]
        smooth = [cv2.blur(x.astype(np.float32), (7, 7)) for x in (pixels, scene.image)]  # JPEG loses fine noise
        assert np.abs(smooth[0] - smooth[1]).mean() < 3
        compared += 1
    assert compared > 8


@needs_heads
@pytest.mark.slow
@pytest.mark.parametrize("head", RECORD["heads"])
def test_checkpoints_reach_their_recorded_scores_on_the_first_scenes(head):
    row = RECORD["heads"][head]
    found = scores_of(load_checkpoint(FOLDER / row["file"]), TEST, RECORD["scenes"]["first"])
    if head == SEMANTIC_FPN:
        assert found["mIoU"] == pytest.approx(row["first"]["mIoU"], abs=TOLERANCE)
    else:
        for kind, x in row["first"].items():
            assert found[kind]["AP"] == pytest.approx(x["AP"], abs=TOLERANCE), kind
