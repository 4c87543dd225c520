"""Detectors and segmenters: names and shapes of the public checkpoints, outputs of the public code."""

import numpy as np
import pytest
import torch

from rmt_edge.errors import RmtEdgeError
from rmt_edge.model.boxes import picture_sizes
from rmt_edge.model.heads import MODELS, create_head, spec_of
from rmt_edge.model.rmt import Backbone
from rmt_edge.model.spec import HEADS, ModelSpec
from rmt_edge.model.widths import Widths, classes_in, head_in, widths_in
from tests.downstream import FOLDER, filled_head, golden, head_and_variant, shapes_of

CONFIGS = sorted(path.stem for path in (FOLDER / "state_dict").glob("*.json"))


@pytest.mark.parametrize("config", CONFIGS)
def test_names_and_shapes_are_the_public_ones(config):
    head, variant = head_and_variant(config)
    expected = shapes_of(config)
    classes = classes_in(head, expected)
    assert (head_in(expected), classes) == (head, 150 if head in ("semantic_fpn", "upernet") else 80)
    with torch.device("meta"):
        model = create_head(head, variant, classes, widths_in(head, expected))
    assert {name: tuple(x.shape) for name, x in model.state_dict().items()} == expected
    assert model.widths == create_head(head, "rmt_nano", 2).widths  # the public ones are the default


@pytest.mark.parametrize("file", ["backbone_t_240x310", "backbone_t_250x301", "backbone_s_210x270"])
def test_backbone_maps_are_those_of_the_public_code(file):
    found = golden(file)
    with torch.no_grad():
        maps = found.model.backbone(found.images)
    for level, x in enumerate(maps):
        assert list(x.shape[1:]) == found.case["levels"][level]
        assert np.abs(x[0, ::4].numpy() - found.arrays[f"level_{level}"]).max() < 1e-4


@pytest.mark.parametrize("file", ["semantic_fpn_t_256x320", "semantic_fpn_s_250x331", "upernet_s_256x320"])
def test_segmentation_logits_are_those_of_the_public_code(file):
    found = golden(file)
    with torch.no_grad():
        logits = found.model.logits(found.images)
    assert np.abs(logits[0, ::5].numpy() - found.arrays["logits"]).max() < 1e-3


@pytest.mark.parametrize("file", ["retinanet_t_240x310", "maskrcnn_t_240x310"])
def test_boxes_scores_and_masks_are_those_of_the_public_code(file):
    found = golden(file)
    with torch.no_grad():
        out = found.model(found.images)
    count, arrays = int(out["count"][0]), found.arrays
    assert count == len(arrays["boxes"])
    out = {name: x[0, :count].numpy() for name, x in out.items() if name != "count"}
    assert np.abs(out["boxes"] / found.scale_factor - arrays["boxes"]).max() < 0.02
    assert np.abs(out["scores"] - arrays["scores"]).max() < 1e-4
    assert np.array_equal(out["labels"], arrays["labels"])
    if "masks" in out:
        assert np.abs(out["masks"] - arrays["mask_probabilities"]).max() < 1e-3


def test_sizes_are_fixed_and_boxes_end_where_each_picture_does():
    found = golden("retinanet_t_240x310")
    images = found.images.repeat(2, 1, 1, 1)
    images[1, :, 100:] = images[1, :, :, 90:] = 0
    with torch.no_grad():
        out = found.model(images)
    assert out["boxes"].shape == (2, 100, 4) and out["labels"].dtype == out["count"].dtype == torch.int32
    for image, (h, w) in enumerate([(240, 310), (100, 90)]):
        count = int(out["count"][image])
        assert 0 < count < 100
        for name, filler in (("boxes", 0), ("scores", 0), ("labels", -1)):
            assert (out[name][image, count:] == filler).all() and (out[name][image, :count] != filler).any()
        assert (out["boxes"][image] <= torch.tensor([w, h, w, h])).all()


def test_a_picture_s_size_is_read_off_its_padding():
    images = torch.zeros(3, 3, 40, 60)
    images[0, 0, 32, 0] = images[0, 2, 0, 50] = -1e-3
    images[1, 1, 39, 59] = 2.0
    assert picture_sizes(images).tolist() == [[33, 51], [40, 60], [0, 0]]


@pytest.mark.parametrize("head", MODELS)
def test_a_narrow_model_is_known_by_its_shapes_and_takes_a_batch_of_odd_size(head):
    widths = {name: 16 for name, value in vars(create_head(head, "rmt_nano", 3).widths).items() if value}
    model = filled_head(
        head, "rmt_nano", 3, seed=5, offsets={"retina_cls.bias": -2.0, "fc_cls.bias": 0.0}, widths=Widths(**widths)
    )
    shapes = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    assert (head_in(shapes), classes_in(head, shapes), widths_in(head, shapes)) == (head, 3, Widths(**widths))
    images = torch.randn(2, 3, 65, 97, generator=torch.Generator().manual_seed(0))
    spec = spec_of(model)
    assert (spec.head, spec.variant, spec.classes) == (head, "rmt_nano", 3)
    with torch.no_grad():
        out = model(images)
    assert tuple(out) == spec.outputs
    if spec.task == "segmentation":
        assert out["labels"].shape == (2, 65, 97) and out["labels"].dtype == torch.uint8 and out["labels"].max() < 3
    else:
        assert out["count"].min() > 0
        assert spec.has_masks == ("masks" in out)


def test_extra_norms_have_pytorch_s_epsilon():
    assert {norm.eps for norm in Backbone("rmt_nano").extra_norms} == {1e-5}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fcos", "rmt_t", 80), r"no detector or segmenter 'fcos'.*\n.*retinanet, mask_rcnn"),
        (("retinanet", "rmt_x", 80), "no RMT variant 'rmt_x'"),
        (("retinanet", "rmt_t", 0), "retinanet of 0 classes"),
    ],
)
def test_what_does_not_exist_is_refused(arguments, message):
    with pytest.raises(RmtEdgeError, match=message):
        create_head(*arguments)


def test_a_spec_travels_as_a_dict_and_knows_its_task():
    tasks = {"classification": 1, "detection": 3, "segmentation": 2}
    for head in HEADS:
        spec = ModelSpec("rmt_s", head, 80, 256, 320)
        assert ModelSpec.from_dict(spec.to_dict()) == spec
        tasks[spec.task] -= 1
    assert not any(tasks.values())
    assert ModelSpec("rmt_s", "mask_rcnn", 80, 256, 320).outputs == ("boxes", "scores", "labels", "count", "masks")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variant": "rmt_x"}, "no RMT variant"),
        ({"head": "fcos"}, "no head 'fcos'"),
        ({"classes": 0}, "classes is 0"),
        ({"height": 2.5}, r"height is 2\.5"),
        ({"width": 31}, "cannot take 256x31 images"),
        ({"depth": 1}, "has the keys variant, head, classes, height, width"),
    ],
)
def test_a_spec_checks_itself(change, message):
    values = {"variant": "rmt_s", "head": "upernet", "classes": 150, "height": 256, "width": 320}
    with pytest.raises(RmtEdgeError, match=message):
        ModelSpec.from_dict(values | change)
