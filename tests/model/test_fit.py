"""Checkpoints of detectors and segmenters: mmcv's layout, what they are by their shapes, and those to refuse."""

import collections
import json
import logging

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rmt_edge.errors import RmtEdgeError
from rmt_edge.model.checkpoint import load_checkpoint
from rmt_edge.model.heads import MODELS
from rmt_edge.model.widths import PUBLIC_WIDTHS, Widths
from tests.downstream import filled_head

NAMES = ("cat", "dog", "tree")


def narrow(head, classes=3):
    widths = Widths(**{name: 16 for name, value in vars(PUBLIC_WIDTHS[head]).items() if value})
    return filled_head(head, "rmt_nano", classes, 5, widths=widths)


@pytest.fixture(scope="module")
def state():
    return narrow("retinanet").state_dict()


def save(content, tmp_path, name="x.pth"):
    torch.save(content, tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize("head", MODELS)
def test_an_mmcv_checkpoint_says_what_it_is(head, tmp_path):
    model = narrow(head)
    meta = {"mmcv_version": "1.7.2", "epoch": 12, "CLASSES": NAMES, "PALETTE": np.zeros((3, 3), np.uint8)}
    optimizer = torch.optim.AdamW(model.parameters()).state_dict()
    content = {"meta": meta, "state_dict": collections.OrderedDict(model.state_dict()), "optimizer": optimizer}
    loaded = load_checkpoint(save(content, tmp_path))
    assert (loaded.head_name, loaded.variant_name, loaded.num_classes) == (head, "rmt_nano", 3)
    assert loaded.class_names == NAMES and loaded.weights_taken == "state_dict" and not loaded.training
    expected = model.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.module."])
def test_what_wraps_a_detector_in_training_is_dropped(state, prefix, tmp_path):
    loaded = load_checkpoint(save({f"{prefix}{name}": value for name, value in state.items()}, tmp_path))
    assert loaded.head_name == "retinanet"


def test_a_safetensors_file_carries_class_names_and_preprocessing(state, tmp_path):
    path = tmp_path / "x.safetensors"
    save_file(state, path, {"classes": json.dumps(NAMES), "preprocessing": json.dumps({"height": 96, "width": 128})})
    loaded = load_checkpoint(path)
    assert loaded.class_names == NAMES and loaded.preprocessing.width == 128


@pytest.mark.parametrize("names", [("cat", "dog"), ("cat", "dog", 3), "cat"])
def test_class_names_that_do_not_fit_are_left_out_and_that_is_said(state, names, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    loaded = load_checkpoint(save({"meta": {"CLASSES": names}, "state_dict": state}, tmp_path))
    assert loaded.class_names is None
    assert "class names are not 3 plain strings" in caplog.text


def changed(state, **renamed):
    """The state dict with parts of its names renamed."""
    made = dict(state)
    for old, new in renamed.items():
        made = {name.replace(old, new): value for name, value in made.items()}
    return made


def without(state, *parts):
    return {name: value for name, value in state.items() if not any(part in name for part in parts)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: changed(s, retina_cls="conv_cls"),
            r"head that rmt-edge does not know: neck\.\S+.*\n.*mask_rcnn \(",
        ),
        (lambda s: {k: v for k, v in s.items() if k.startswith("backbone.")}, "does not know: a backbone alone"),
        (lambda s: without(s, "extra_norms.3"), r"missing: backbone\.extra_norms\.3\.weight, backbone\.extra_norms\.3"),
        (lambda s: without(s, "reg_convs.2"), r"does not fit retinanet on rmt_nano.*missing: bbox_head\.reg_convs\.2"),
        (
            lambda s: changed(s, cls_convs="cls_layers"),
            r"missing: bbox_head\.cls_convs.*not part of it: bbox_head\.cls",
        ),
        (lambda s: s | {"data_preprocessor.mean": torch.zeros(3, 1, 1)}, r"data_preprocessor\.mean[\s\S]*mmengine"),
        (
            lambda s: s | {"bbox_head.retina_reg.bias": torch.zeros(18)},
            r"wrong shape: .*reg\.bias \(18,\) instead",
        ),
        (
            lambda s: s | {"bbox_head.retina_cls.weight": torch.zeros(26, 16, 3, 3)},
            r"wrong shape: .*cls\.weight",
        ),
        (lambda s: s | {"neck.fpn_convs.0.conv.bias": torch.full((16,), torch.nan)}, "holds NaN"),
    ],
)
def test_what_is_no_public_detector_is_refused_with_what_does_not_fit(state, change, message, tmp_path):
    with pytest.raises(RmtEdgeError, match=message):
        load_checkpoint(save({"meta": {}, "state_dict": change(state)}, tmp_path))


def test_a_backbone_of_another_depth_is_compared_with_the_nearest_variant(state, tmp_path):
    with pytest.raises(RmtEdgeError, match=r"retinanet on rmt_nano with 3.*missing: backbone\.layers\.2\.blocks\.1"):
        load_checkpoint(save(without(state, "layers.2.blocks.1"), tmp_path))


def test_objects_of_mmengine_are_refused_by_that_name(state, tmp_path, monkeypatch):
    module = type(torch)("mmengine")
    history = type("HistoryBuffer", (), {"__module__": "mmengine"})
    module.HistoryBuffer = history
    monkeypatch.setitem(__import__("sys").modules, "mmengine", module)
    with pytest.raises(RmtEdgeError, match=r"asks to run code[\s\S]*mmengine \(mmdet 3\.x, mmseg 1\.x\) saves objects"):
        load_checkpoint(save({"state_dict": state, "message_hub": history()}, tmp_path))
