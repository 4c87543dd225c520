"""`deploy` of a detector and of a segmenter on composed scenes, with plugins, from the checkpoint to the page."""

import json
from dataclasses import replace

import pytest
from safetensors.numpy import save_file

from rmt_edge import pipeline
from rmt_edge.data.preprocess import Preprocessing
from rmt_edge.device.profile import load_profile
from rmt_edge.model.variants import VARIANTS
from rmt_edge.model.widths import PUBLIC_WIDTHS, Widths
from rmt_edge.quantization.recipe import load_recipe
from tests.conftest import REFERENCE
from tests.downstream import filled_head
from tests.engine.test_build import needs_rtx

SCENES = REFERENCE / "scenes"
SIDE = 128
# Beside three plugins a block: RetinaNet's Nms.
OTHER_PLUGINS = {"retinanet": 1, "semantic_fpn": 0}
ANNOTATIONS = {"retinanet": SCENES / "test" / "annotations.json", "semantic_fpn": SCENES / "test" / "labels"}


@pytest.mark.slow
@pytest.mark.trt
@needs_rtx
@pytest.mark.parametrize("head", OTHER_PLUGINS)
def test_every_recipe_of_a_head_becomes_an_engine_of_its_plugins(head, library_folder, tmp_path):
    widths = Widths(**{name: 32 for name, value in vars(PUBLIC_WIDTHS[head]).items() if value})
    offsets = {"retina_cls.bias": -2.0}
    model = filled_head(head, "rmt_pico", 11 if head == "semantic_fpn" else 10, 5, offsets, widths)
    size = Preprocessing(SIDE, SIDE, crop_ratio=1.0, within=(SIDE, SIDE))
    path = tmp_path / f"{head}.safetensors"
    metadata = {"preprocessing": json.dumps(size.to_dict())}
    save_file({name: x.numpy() for name, x in model.state_dict().items()}, path, metadata)
    deployment = pipeline.deploy(
        path, SCENES / "test" / "images", SCENES / "calibration", tmp_path / "deployed",
        ["fp16", replace(load_recipe("int8"), images=8, batch=4)],
        replace(load_profile("rtx-portable"), compute_capabilities=("8.6",)), libraries=library_folder,
        max_drop=100, images=4, workers=0, annotations=ANNOTATIONS[head],
    )  # fmt: skip
    blocks = sum(VARIANTS["rmt_pico"].depths)
    for made in deployment.models.values():
        details = made.engine.details
        assert details["plugin_layers"] == details["plugin_nodes"] == 3 * blocks + OTHER_PLUGINS[head]
    assert deployment.models["int8"].engine.details["int8_gemms"] > 0
    assert deployment.page.is_file() and deployment.too_large_drops == []
