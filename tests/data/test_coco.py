"""COCO's annotations as pycocotools reads them, and files that are none."""

import json

import numpy as np
import pytest
from pycocotools import mask as mask_tool
from pycocotools.coco import COCO

from rmt_edge.data.coco import read_annotations
from rmt_edge.data.dataset import open_dataset
from rmt_edge.data.truth import check_truth
from rmt_edge.errors import RmtEdgeError
from rmt_edge.tasks.annotations import annotations_from_arrays
from rmt_edge.tasks.tasks import DETECTION, TASKS
from tests.coco import SPEC, instances, write_coco


def test_boxes_classes_and_masks_are_pycocotools(tmp_path, capsys):
    """Polygons, run lengths of crowds, classes whose ids have gaps."""
    path, folder = write_coco(instances(), tmp_path)
    found, files, digest = read_annotations(path, folder)
    known = COCO(str(path))
    assert [x.name for x in files] == [known.imgs[i]["file_name"] for i in sorted(known.imgs)] and len(digest) == 64
    assert found.class_names == ("cat", "dog", "owl") and found.is_crowd.any() and not found.is_crowd.all()
    assert len(found.of_image(0)) == 0 and len(found) == 24
    for i, number in enumerate(sorted(known.imgs)):
        expected = known.loadAnns(known.getAnnIds([number]))
        mine = found.of_image(i)
        assert found.class_ids[found.label[mine]].tolist() == [x["category_id"] for x in expected]
        for j, x in zip(mine, expected, strict=True):
            left, top, width, height = x["bbox"]
            assert found.boxes[j].tolist() == [left, top, left + width, top + height]
            np.testing.assert_array_equal(found.mask(j), known.annToMask(x))
    again = annotations_from_arrays(found.arrays())
    np.testing.assert_array_equal(again.mask(5), found.mask(5))
    chosen = found.chosen([7, 2])
    np.testing.assert_array_equal(chosen.mask(0), found.mask(found.of_image(7)[0]))
    assert chosen.ids.tolist() == [found.ids[7], found.ids[2]]


def test_run_lengths_as_a_string_are_read_too(tmp_path):
    content = instances(4)
    mask = np.zeros((90, 120), np.uint8)
    mask[10:40, 20:70] = 1
    runs = mask_tool.encode(np.asfortranarray(mask))
    content["annotations"][0]["segmentation"] = runs | {"counts": runs["counts"].decode()}
    found, _, _ = read_annotations(*write_coco(content, tmp_path))
    np.testing.assert_array_equal(found.mask(0), mask)


def test_without_masks_there_are_boxes(tmp_path):
    content = instances(4)
    for x in content["annotations"]:
        x["segmentation"] = []
    assert not read_annotations(*write_coco(content, tmp_path))[0].has_masks


def twice(content, what):
    content[what].append(dict(content[what][0]))


def entry(content, **changes):
    content["annotations"][3].update(changes)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda x: x.pop("categories"), "is no file of COCO annotations: KeyError 'categories'"),
        (lambda x: x["images"].clear(), r"annotation \d+ is of the picture|names no pictures"),
        (lambda x: twice(x, "images"), "two entries of the picture 100"),
        (lambda x: twice(x, "annotations"), "two entries of the annotation 1"),
        (lambda x: twice(x, "categories"), "two entries of the category 1"),
        (lambda x: entry(x, image_id=9999), "annotation 4 is of the picture 9999, which it does not list"),
        (lambda x: entry(x, category_id=2), "annotation 4 is of category 2"),
        (lambda x: entry(x, bbox=[500, 5, 10, 10]), r"the box \[500, 5, 10, 10\] .* outside its picture, 120x90"),
        (lambda x: entry(x, bbox=[5, 5, -1, 10]), "the box of annotation 4 is"),
        (lambda x: entry(x, bbox=[float("nan"), 5, 1, 10]), "the box of annotation 4 is"),
        (lambda x: entry(x, bbox=[1, 2, 3]), "is no file of COCO annotations: ValueError"),
        (lambda x: entry(x, segmentation={"size": [9, 9], "counts": [81]}), "is of \\[9, 9\\], its picture of"),
        (lambda x: entry(x, segmentation={"size": [90, 120], "counts": [81]}), "does not cover its picture"),
        (
            lambda x: x["images"].append({"id": 7, "file_name": "gone.png", "height": 5, "width": 5}),
            "the first gone.png",
        ),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, change, match):
    content = instances(6)
    path, folder = write_coco(content, tmp_path)
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(RmtEdgeError, match=match):
        read_annotations(path, folder)


def test_a_box_may_reach_beyond_its_picture(tmp_path):
    content = instances(4)
    content["annotations"][0]["bbox"] = [-3, -2, 30, 20]
    found, _, _ = read_annotations(*write_coco(content, tmp_path))
    assert found.boxes[0].tolist() == [-3, -2, 27, 18]


@pytest.mark.parametrize("content", ["no json", "[]", "{}", '{"images": 1, "annotations": 2, "categories": 3}'])
def test_another_file_is_refused(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(RmtEdgeError, match="is no file of COCO annotations"):
        open_dataset(tmp_path, annotations=tmp_path / "x.json")


def test_annotations_without_objects_and_of_other_classes_are_refused(tmp_path):
    content = instances(3)
    content["annotations"] = []
    path, folder = write_coco(content, tmp_path)
    with pytest.raises(RmtEdgeError, match="hold no object"):
        check_truth(open_dataset(folder, annotations=path), TASKS[DETECTION], SPEC)
    content["categories"] = content["categories"][:2]
    path.write_text(json.dumps(content))
    with pytest.raises(RmtEdgeError, match=r"The detector has 3 classes, .* have 2"):
        check_truth(open_dataset(folder, annotations=path), TASKS[DETECTION], SPEC)


def test_a_picture_of_another_size_than_its_annotations_is_refused(tmp_path):
    from rmt_edge.data.preprocess import Preprocessing

    content = instances(3)
    path, folder = write_coco(content, tmp_path)
    content["images"][1]["width"] = 240
    for x in content["annotations"]:
        x["segmentation"] = []
    path.write_text(json.dumps(content))
    dataset = open_dataset(folder, annotations=path)
    with pytest.raises(RmtEdgeError, match=r"001\.png has 120x90 pixels; its annotations say 240x90"):
        list(dataset.batches(Preprocessing(96, 128, within=(128, 96)), 2))


def test_the_identity_is_of_pictures_and_annotations(tmp_path):
    content = instances(5)
    path, folder = write_coco(content, tmp_path)
    first = open_dataset(folder, annotations=path)
    content["annotations"][0]["area"] += 1
    path.write_text(json.dumps(content))
    second = open_dataset(folder, annotations=path)
    assert first.sha256 != second.sha256 != open_dataset(folder).sha256
    drawn = second.drawn(3)
    assert len(drawn.truth) == 3 and drawn.truth.ids.tolist() == [second.truth.ids[i] for i in drawn.chosen.indices]
    assert len(open_dataset(folder)) == 5, "without annotations it calibrates"
