"""AP against pycocotools, and against faster-coco-eval; drops, intervals and resamples."""

import faster_coco_eval
import numpy as np
import pytest
from pycocotools import mask as mask_tool
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rmt_edge.data.coco import read_annotations
from rmt_edge.tasks import detection
from rmt_edge.tasks.average_precision import Matches, box_overlaps, matches_from_dict
from rmt_edge.tasks.task import Named
from tests.coco import coco_eval, instances, results_of, rows_near, write_coco

TOOLS = {
    "pycocotools": (COCO, COCOeval),
    "faster-coco-eval": (faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster),
}
SEEDS = range(3)


def judged(content, folder, **options):
    truth, _, _ = read_annotations(*write_coco(content, folder))
    rows = rows_near(content, **options)
    return rows | detection.kept_beside(rows, truth), truth


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("tool", TOOLS)
def test_ap_of_boxes_and_masks_is_the_published_scorers(tool, seed, tmp_path):
    content = instances(seed=seed, height=150, width=220)
    rows, truth = judged(content, tmp_path, seed=seed + 10)
    tallies = detection.tallies_in(rows)
    assert list(tallies) == ["mask AP", "box AP"]
    facts = detection.facts(rows, rows, Named())["detection"]
    for kind, tally in zip(("segm", "bbox"), tallies.values(), strict=True):
        expected = coco_eval(TOOLS[tool], content, results_of(rows, truth, kind == "segm"), kind, tmp_path)
        whole = np.ones((1, len(tally)))
        own = [float(tally.percents(whole, area)[0]) / 100 for area in range(4)]
        np.testing.assert_allclose(own, np.where(expected[[0, 3, 4, 5]] < 0, np.nan, expected[[0, 3, 4, 5]]), atol=1e-9)
        assert 0.01 < own[0] < 0.9, "neither nothing nor everything"
        if kind == "segm":
            for key, at in (("ap50_percent", 1), ("ap75_percent", 2), ("ap_small_percent", 3)):
                assert facts[key]["own"] == pytest.approx(100 * expected[at], abs=1e-4), key


def test_a_perfect_detector_has_all_of_it(tmp_path):
    content = instances(8)
    for x in content["annotations"]:
        x["iscrowd"] = 0
        x["segmentation"] = [[0, 0, 5, 0, 5, 5]]
    truth, _, _ = read_annotations(*write_coco(content, tmp_path))
    rows = rows_near(content, seed=0)
    for i in range(len(truth)):
        mine = truth.of_image(i)
        rows["count"][i] = len(mine)
        rows["boxes"][i][: len(mine)], rows["labels"][i][: len(mine)] = truth.boxes[mine], truth.label[mine]
    assert detection.matches_of(rows, truth, False).percent() == pytest.approx(100)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_weighted_image_counts_as_often_as_its_copies(seed, tmp_path):
    """What makes resamples cheap: AP of a drawn set is that of the set which really holds these images."""
    content = instances(12, seed=seed)
    rows, truth = judged(content, tmp_path)
    drawn = np.sort(np.random.default_rng(seed).integers(0, 12, 12))
    copies = {name: rows[name][drawn] for name in ("boxes", "scores", "labels", "count", "masks")}
    # No two boxes of one score: their order would be that of the images, and copies lie side by side.
    tally = detection.matches_of(rows | {"scores": rows["scores"] + tiny(rows)}, truth, False)
    real = detection.matches_of(copies | {"scores": copies["scores"] + tiny(rows)[drawn]}, truth.chosen(drawn), False)
    weights = np.bincount(drawn, minlength=12)[None].astype(float)
    assert tally.percents(weights)[0] == pytest.approx(real.percent(), abs=1e-9)
    assert tally.percents(weights)[0] != pytest.approx(tally.percent(), abs=1e-3)


def tiny(rows):
    return (np.arange(rows["scores"].size) * 1e-6).reshape(rows["scores"].shape).astype(np.float32)


def test_the_drop_is_paired_and_its_interval_holds_it(tmp_path):
    content = instances(30)
    before, truth = judged(content, tmp_path)
    after = {name: before[name].copy() for name in ("boxes", "scores", "labels", "count", "masks")}
    after["boxes"] += 2.5
    other = after | detection.kept_beside(after, truth)
    same = detection.tallies_in(before)["box AP"].drop_to(detection.tallies_in(before)["box AP"])
    assert same.points == 0 and same.interval_points() == (0, 0) and same.is_within(0)
    drop = detection.tallies_in(before)["box AP"].drop_to(detection.tallies_in(other)["box AP"])
    low, high = drop.interval_points()
    assert low < drop.points < high and drop.points > 0.5
    alone = np.diff(detection.tallies_in(other)["box AP"].drop_to(same_tally(before)).interval_points())
    assert alone == pytest.approx(high - low, rel=1e-6), "the same resamples, whichever way"
    assert drop.upper_points(0.975) == pytest.approx(high) and drop.upper_points(0.5) < high
    assert drop.is_within(drop.points) and not drop.is_within(drop.points - 0.01)


def same_tally(rows):
    return detection.tallies_in(rows)["box AP"]


def test_a_tally_survives_json_and_a_file_of_predictions(tmp_path):
    rows, _ = judged(instances(10), tmp_path)
    tally = same_tally(rows)
    again = matches_from_dict(tally.to_dict(), len(tally))
    assert isinstance(again, Matches) and again.percent() == tally.percent() and len(again) == 10
    np.savez(tmp_path / "x.npz", **rows)
    with np.load(tmp_path / "x.npz") as arrays:
        assert (
            detection.tallies_in(dict(arrays))["mask AP"].percent() == detection.tallies_in(rows)["mask AP"].percent()
        )


def test_overlaps_are_the_published_ones(tmp_path):
    rng = np.random.default_rng(0)
    boxes, others = (np.concatenate([x := rng.random((9, 2)) * 50, x + rng.random((9, 2)) * 60], 1) for _ in range(2))
    crowd = rng.random(9) < 0.4

    def xywh(x):
        return np.concatenate([x[:, :2], x[:, 2:] - x[:, :2]], axis=1)

    expected = mask_tool.iou(xywh(boxes), xywh(others), crowd.astype(np.uint8).tolist())
    np.testing.assert_allclose(box_overlaps(boxes, others, crowd), expected, atol=1e-12)
