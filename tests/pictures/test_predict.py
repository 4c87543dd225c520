"""What is written of pictures, by checkpoints of every task and by an ONNX file; wrong calls."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as mask_tool

from rmt_edge.data.dataset import read_images
from rmt_edge.errors import RmtEdgeError
from rmt_edge.model.checkpoint import load_checkpoint
from rmt_edge.pictures import predict as predict_module
from rmt_edge.pictures.predict import image_files, predict
from rmt_edge.runtime.onnx_runner import open_onnx
from tests.commands import call
from tests.conftest import SMALL
from tests.pictured import NAMES, SIZE, write_checkpoint


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name, (h, w) in {"a": (60, 90), "b": (120, 50)}.items():
        Image.fromarray(
            np.kron(rng.integers(0, 256, (h // 10, w // 10, 3)), np.ones((10, 10, 1))).astype(np.uint8)
        ).save(folder / f"{name}.png")
    return folder


def test_a_classifiers_classes(capsys, onnx_files, checkpoint, pictures, tmp_path):
    """The ONNX file and the checkpoint say the same."""
    found = {}
    for model in (onnx_files["fp32"], checkpoint):
        status, paths, errors = call(capsys, "predict", model, pictures, "--output", tmp_path / model.suffix[1:])
        assert status == 0 and "a.png: " in errors, errors
        assert [x.rpartition("/")[2] for x in paths] == ["a.json", "b.json"]
        with open(paths[0]) as file:
            found[model] = json.load(file)
    with open_onnx(onnx_files["fp32"]) as run:
        logits = run(read_images([pictures / "a.png"], SMALL))["logits"][0]
    shares = torch.softmax(torch.from_numpy(logits), 0).numpy()
    first = found[onnx_files["fp32"]]
    assert [x["class"] for x in first["classes"]] == np.argsort(-shares)[:5].tolist()
    assert first["classes"][0]["probability"] == pytest.approx(shares.max(), abs=1e-5)
    assert first["model"]["name"] == onnx_files["fp32"].name and first["task"] == "classification"
    other = found[checkpoint]["classes"]
    assert [x["class"] for x in other] == [x["class"] for x in first["classes"]]
    with Image.open(tmp_path / "onnx" / "a.png") as drawn:
        assert drawn.size == (90, 60)


def test_a_detectors_boxes_and_masks(pictures, tmp_path):
    checkpoint = write_checkpoint("mask_rcnn", tmp_path)
    (path,) = predict(checkpoint, [pictures / "a.png"], tmp_path / "out", score=0.0)
    content = json.loads(path.read_text())
    with torch.inference_mode():
        outputs = load_checkpoint(checkpoint)(torch.from_numpy(read_images([pictures / "a.png"], SIZE)))
    count = int(outputs["count"])
    assert len(content["objects"]) == count > 0 and content["height"] == 60
    frame = SIZE.frame(60, 90)
    for x, box, score, label in zip(
        content["objects"], outputs["boxes"][0], outputs["scores"][0], outputs["labels"][0], strict=False
    ):
        scale = np.array([frame.width / 90, frame.height / 60] * 2)
        np.testing.assert_allclose(x["box"], np.clip(box.numpy() / scale, 0, [90, 60, 90, 60]), atol=2e-3)
        assert x["score"] == pytest.approx(float(score), abs=1e-5) and x["name"] == NAMES[int(label)]
        mask = mask_tool.decode(x["mask"] | {"counts": x["mask"]["counts"].encode()})
        assert mask.shape == (60, 90)
        ys, xs = np.nonzero(mask)
        if len(xs):  # a mask lies in its box, but for a pixel
            assert xs.min() >= x["box"][0] - 2 and ys.max() <= x["box"][3] + 2
    few = json.loads(predict(checkpoint, [pictures / "a.png"], tmp_path / "few", score=0.99)[0].read_text())
    assert len(few["objects"]) < count


def test_a_segmenters_labels(pictures, tmp_path):
    checkpoint = write_checkpoint("semantic_fpn", tmp_path)
    (path,) = predict(checkpoint, [pictures / "b.png"], tmp_path / "out")
    content = json.loads(path.read_text())
    with Image.open(tmp_path / "out" / "b.labels.png") as image:
        labels = np.asarray(image)
    assert labels.shape == (120, 50) and sum(x["pixels"] for x in content["labels"]) == labels.size
    for x in content["labels"]:
        assert x["pixels"] == (labels == x["class"]).sum() and x["name"] == NAMES[x["class"]]
    with Image.open(tmp_path / "out" / "b.png") as drawn, Image.open(pictures / "b.png") as picture:
        assert drawn.size == (50, 120) and np.abs(np.asarray(drawn, int) - np.asarray(picture, int)).max() > 20


def test_boxes_are_drawn_where_they_are():
    from rmt_edge.pictures.draw import colour_of, with_objects
    from rmt_edge.tasks.masks import Crop

    grey = Image.new("RGB", (100, 80), (128, 128, 128))
    mask = Crop(30, 20, np.ones((10, 10), bool))
    drawn = np.asarray(with_objects(grey, np.array([[15, 25, 60, 70]], np.float32), [1], ["dog 0.9"], [mask]))
    assert tuple(drawn[70, 40]) == colour_of(1) and tuple(drawn[50, 60]) == colour_of(1)
    assert tuple(drawn[75, 90]) == (128, 128, 128) and tuple(drawn[60, 50]) == (128, 128, 128)
    assert with_objects(grey, np.array([[15, 25, 5, 7]], np.float32), [1], ["no box"]).size == (100, 80)
    inside = drawn[35, 25].astype(int)
    assert np.abs(inside - (0.55 * 128 + 0.45 * np.array(colour_of(1)))).max() <= 1


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["gone.pth", "{pictures}"], "There is no model gone.pth"),
        (["{model}", "gone.png"], "There is no picture gone.png"),
        (["{model}", "{empty}"], "There are no pictures in"),
        (["{model}", "{pictures}/a.png", "{other}/a.png"], "would be written to one file"),
        (["{model}", "{pictures}", "--score", "2"], "--score is 2"),
        (["{quantized}", "{pictures}"], "is of kind 'quantized checkpoint'"),
        (["{bare}", "{pictures}"], "has no manifest"),
        (["{model}", "{text}"], "is not an image"),
    ],
)
def test_wrong_calls_are_told(capsys, arguments, match, onnx_files, quantized, pictures, tmp_path):
    other, empty = tmp_path / "other", tmp_path / "empty"
    for x in (other, empty):
        x.mkdir()
    (other / "a.png").write_bytes((pictures / "a.png").read_bytes())
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "bare.onnx").write_text("")
    names = {
        "model": onnx_files["fp32"], "quantized": quantized["fp32"], "pictures": pictures, "other": other,
        "empty": empty, "text": tmp_path / "text.png", "bare": tmp_path / "bare.onnx",
    }  # fmt: skip
    status, _, errors = call(capsys, "predict", *(x.format(**names) for x in arguments), "--output", tmp_path / "out")
    assert status == 2 and match in errors


def test_folders_are_read_in_order(pictures):
    assert [x.name for x in image_files([pictures])] == ["a.png", "b.png"]
    assert predict_module.SCORE == 0.3
    with pytest.raises(RmtEdgeError, match="There are no pictures"):
        image_files([])
