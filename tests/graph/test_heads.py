"""Detectors and segmenters as ONNX graphs: equal to PyTorch, from the file of `export`, and built by TensorRT-RTX."""

import dataclasses
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from rmt_edge.data.preprocess import Preprocessing
from rmt_edge.device.profile import load_profile
from rmt_edge.engine.build import build
from rmt_edge.graph.export import export
from rmt_edge.graph.model import onnx_from_model
from rmt_edge.graph.segmenters import pooling_weights
from rmt_edge.model.folded import folded_from_model
from rmt_edge.model.heads import MODELS
from rmt_edge.model.widths import PUBLIC_WIDTHS, Widths
from rmt_edge.quantization.quantize import quantize
from rmt_edge.quantization.selection import head_layers, int8_layers_of
from rmt_edge.runtime.onnx_runner import OnnxRunner
from tests.downstream import filled_head

OFFSETS = {"retina_cls.bias": -2.0, "fc_cls.bias": 0.0}
SLOWER = [pytest.param(x, marks=pytest.mark.slow) if x == "cascade_mask_rcnn" else x for x in MODELS]
H, W = 65, 97  # odd, so that no level is twice the next


def narrow(head):
    widths = Widths(**{name: 16 for name, value in vars(PUBLIC_WIDTHS[head]).items() if value})
    return filled_head(head, "rmt_nano", 3, 5, OFFSETS, widths)


@pytest.mark.parametrize("head", SLOWER)
def test_a_graph_gives_what_pytorch_gives(head, tmp_path):
    model = narrow(head)
    graph = onnx_from_model(folded_from_model(model, H, W), np.dtype(np.float32), {}, {})
    onnx.checker.check_model(graph, full_check=True)
    images = torch.randn(2, 3, H, W, generator=torch.Generator().manual_seed(0))
    images[1, :, :, 80:] = 0  # padding, which boxes must not reach
    found = OnnxRunner(tmp_path / "x.onnx", content=graph.SerializeToString())(images.numpy())
    with torch.no_grad():
        expected = {name: x.numpy() for name, x in model(images).items()}
    assert {name: (x.shape, x.dtype) for name, x in found.items()} == {
        name: (x.shape, x.dtype) for name, x in expected.items()
    }
    if "count" not in expected:
        assert (found["labels"] != expected["labels"]).mean() < 1e-3 and len(np.unique(expected["labels"])) == 3
        return
    assert expected["count"].min() > 0 and expected["boxes"][1].max() <= 80
    assert np.array_equal(found["count"], expected["count"])
    assert np.array_equal(found["labels"], expected["labels"])
    for name in set(expected) - {"count", "labels"}:
        assert np.abs(found[name] - expected[name]).max() < 1e-3, name


@pytest.fixture(scope="module")
def exported(tmp_path_factory, recipes):
    """A function from a head and a recipe's name to the file of `export`."""
    folder = tmp_path_factory.mktemp("heads")

    def make(head, recipe, images=None):
        path = folder / f"{head}.pth"
        torch.save({"meta": {"CLASSES": ("a", "b", "c")}, "state_dict": narrow(head).state_dict()}, path)
        size = Preprocessing(H, W)
        return export(quantize(path, recipes[recipe], folder, images, size))

    return make


@pytest.mark.parametrize(
    ("head", "precision"),
    [
        pytest.param("retinanet", "fp16", marks=pytest.mark.slow),
        pytest.param("mask_rcnn", "fp32", marks=pytest.mark.slow),
        ("semantic_fpn", "fp16"),
    ],
)
def test_export_checks_both_forms_and_says_what_the_model_is(exported, head, precision):
    file = exported(head, precision)
    details = file.details
    assert (details["head"], details["task"]) == (head, "segmentation" if head == "semantic_fpn" else "detection")
    assert details["spec"] == {"variant": "rmt_nano", "head": head, "classes": 3, "height": H, "width": W}
    assert details["class_names"] == ["a", "b", "c"]
    assert 0 < details["relative_error"] < 0.02 and 0 < details["plugin_form_relative_error"] < 0.02


@pytest.mark.parametrize(
    ("head", "kinds"),
    [
        ("semantic_fpn", {"neck", "decode"}),
        pytest.param("retinanet", {"neck", "tower"}, marks=pytest.mark.slow),
        pytest.param("mask_rcnn", {"neck", "rpn", "box_fc", "mask_conv"}, marks=pytest.mark.slow),
    ],
)
def test_convolutions_and_fully_connected_layers_of_heads_are_in_int8(exported, images, head, kinds):
    file = exported(head, "int8", images)
    layers = head_layers(folded_from_model(narrow(head), H, W))
    assert set(layers.values()) == kinds
    graph = onnx.load(file.path).graph
    int8 = {x.name.removesuffix(".weight_int8") for x in graph.initializer if x.name.endswith(".weight_int8")}
    assert {x for x in int8 if not x.startswith("backbone.")} == set(layers)
    assert not any(x.endswith(("conv_seg", "retina_cls", "fc_cls", "rpn_cls")) for x in int8)
    assert any(x.endswith("fc1") for x in int8)


def test_kinds_and_names_of_heads_can_be_kept_in_fp16(recipes):
    model = folded_from_model(narrow("retinanet"), H, W)
    recipe = dataclasses.replace(recipes["int8"], fp16=("tower", "neck.fpn_convs.0.*", "fc1"))
    names = int8_layers_of(recipe, model)
    assert "neck.fpn_convs.1.conv" in names and "neck.fpn_convs.0.conv" not in names
    assert not any(("_convs." in x and x.startswith("bbox_head")) or x.endswith("fc1") for x in names)


def test_pooling_is_one_product():
    x = torch.randn(2, 5, 7, 9, generator=torch.Generator().manual_seed(0))
    cells = x.flatten(2) @ pooling_weights(7, 9)  # (b, c, 50)
    expected = [torch.nn.functional.adaptive_avg_pool2d(x, size).flatten(2) for size in (1, 2, 3, 6)]
    assert torch.allclose(cells, torch.cat(expected, dim=2), atol=1e-6)


@pytest.mark.trt
@pytest.mark.slow
@pytest.mark.parametrize("head", MODELS)
def test_tensorrt_rtx_builds_a_native_engine_of_every_head(exported, head):
    # An R-CNN's 1,000 regions a picture, at the profile's 32 pictures, ask for more than its workspace.
    profile = replace(load_profile("rtx-portable"), max_batch=4, batches=(1, 4))
    engine = build(exported(head, "fp16"), profile, kernels="native")
    assert engine.path.stat().st_size > 1 << 20 and engine.details["layers"] > 100
