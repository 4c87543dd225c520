"""Training of the small heads: the batches, the losses of each, and an interruption that changes nothing."""

import numpy as np
import pytest
import torch
from scenes import train as train_module
from scenes.compose import CLASSES, box_of
from scenes.train import STEPS, batch_of, begin_from, losses, new_model, train

from rmt_edge.model.checkpoint import load_checkpoint
from rmt_edge.model.spec import MASK_RCNN, RETINANET, SEMANTIC_FPN
from tests.bench.scenes.test_compose import composer_of
from tests.conftest import REFERENCE

EXPECTED = {
    RETINANET: {"classes", "boxes"},
    MASK_RCNN: {"rpn_items", "rpn_boxes", "roi_classes", "roi_boxes", "masks"},
    SEMANTIC_FPN: {"pixels"},
}


@pytest.fixture(scope="module")
def scenes():
    composer = composer_of("train", side=64)
    return [composer.scene(index) for index in range(6)]


def test_mirrored_scenes_have_mirrored_boxes_masks_and_labels(scenes):
    plain, mirrored = (batch_of(scenes[:2], np.array([False, flip])) for flip in (False, True))
    assert torch.equal(plain.images[0], mirrored.images[0])
    assert torch.equal(plain.images[1].flip(-1), mirrored.images[1])
    assert torch.equal(plain.semantic[1].flip(-1), mirrored.semantic[1])
    for batch in (plain, mirrored):
        for boxes, masks, labels, semantic in zip(batch.boxes, batch.masks, batch.labels, batch.semantic, strict=True):
            assert np.array_equal(boxes.numpy(), [box_of(x.numpy()) for x in masks])
            assert all((semantic[mask] == label).all() for mask, label in zip(masks, labels, strict=True))


@pytest.mark.parametrize("head", STEPS)
def test_every_head_has_its_losses_and_every_parameter_a_gradient(head, scenes):
    model = new_model(head).train()
    found = losses(model, head, batch_of(scenes[:2], np.array([False, True])), torch.Generator().manual_seed(0))
    assert set(found) == EXPECTED[head] and all(x.isfinite() and x > 0 for x in found.values())
    sum(found.values()).backward()
    # The finest map of RetinaNet's backbone is read by nothing, and its norm learns nothing.
    unused = {"backbone.extra_norms.0.weight", "backbone.extra_norms.0.bias"} if head == RETINANET else set()
    assert {name for name, x in model.named_parameters() if x.grad is None} == unused
    if head == RETINANET:  # as many anchors, nearly all of them background: the prior keeps the first loss small
        assert found["classes"] < 2.5


def test_an_interruption_changes_nothing(scenes, tmp_path, monkeypatch):
    monkeypatch.setattr(train_module, "BATCH", 2)
    monkeypatch.setattr(train_module, "LOG_EVERY", 2)
    monkeypatch.setattr(train_module, "SAVE_EVERY_SECONDS", 0)
    whole = train(SEMANTIC_FPN, scenes, 4, tmp_path / "whole.pt", None)
    step = train_module._step

    def interrupted(parts, head, scenes, number):
        if number == 3:
            raise KeyboardInterrupt
        return step(parts, head, scenes, number)

    monkeypatch.setattr(train_module, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(SEMANTIC_FPN, scenes, 4, tmp_path / "parts.pt", None)
    monkeypatch.setattr(train_module, "_step", step)
    resumed = train(SEMANTIC_FPN, scenes, 4, tmp_path / "parts.pt", None)
    assert [x["step"] for x in resumed["log"]] == [2, 4]
    assert [x["pixels"] for x in resumed["log"]] == [x["pixels"] for x in whole["log"]]
    for name, x in whole["model"].state_dict().items():
        assert torch.equal(x, resumed["model"].state_dict()[name]), name
    again = train(SEMANTIC_FPN, scenes, 4, tmp_path / "parts.pt", None)  # nothing is left to do
    assert again["log"] == resumed["log"]
    assert resumed["model"].num_classes == len(CLASSES) + 1


def test_a_head_begins_from_all_of_the_classifier_that_fits():
    model, classifier = new_model(RETINANET), load_checkpoint(REFERENCE / "rmt_nano_fashion_mnist.safetensors")
    own = {name: x.clone() for name, x in model.state_dict().items()}
    left = begin_from(model, classifier)
    for name, x in model.state_dict().items():
        short = name.removeprefix("backbone.")
        is_own = short in left or not name.startswith("backbone.")
        assert torch.equal(x, own[name] if is_own else classifier.state_dict()[short]), name
    # The last stage is narrower, and a classifier's maps have no norms of their own.
    assert all(x.startswith(("layers.3.", "layers.2.downsample.", "extra_norms.")) for x in left)
    assert any(x.startswith("layers.3.blocks.0.ffn") for x in left)
