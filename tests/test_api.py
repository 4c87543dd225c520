"""The public names of rmt_edge, and a program as a notebook would hold it."""

import ast
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import rmt_edge
from tests.conftest import ROOT
from tests.engine.test_build import needs_rtx

NOTEBOOK = """
import rmt_edge
recipes = [{recipe!r}]
made = rmt_edge.deploy({checkpoint!r}, {images!r}, calibration={images!r}, output={folder!r}, recipes=recipes,
                       kernels="native", max_drop=100)
onnx = made.models["tiny"].onnx
with rmt_edge.open_onnx(onnx) as run:                     # on a device: rmt_edge.open_engine("X.engine")
    logits = run(rmt_edge.read_images([{image!r}], run.preprocessing))["logits"]
print(logits.shape, logits.argmax(1))
"""


def test_the_table_of_names_is_what_type_checkers_read():
    tree = ast.parse((ROOT / "rmt_edge" / "__init__.py").read_text())
    (block,) = [x for x in tree.body if isinstance(x, ast.If)]
    for_checkers = {alias.name: node.module.removeprefix("rmt_edge.") for node in block.body for alias in node.names}
    assert for_checkers == rmt_edge._HOMES
    assert sorted(rmt_edge.__all__) == sorted(rmt_edge._HOMES)
    assert set(rmt_edge.__all__) <= set(dir(rmt_edge))


@pytest.mark.parametrize("name", rmt_edge.__all__)
def test_every_public_name_is_there_and_says_what_it_is(name):
    found = getattr(rmt_edge, name)
    assert callable(found) and found.__doc__ and found.__name__ == name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'deplyo'"):
        rmt_edge.deplyo  # noqa: B018


@pytest.mark.trt
@needs_rtx
def test_a_notebook_deploys_and_runs_an_image(checkpoint, images, tmp_path):
    (tmp_path / "tiny.toml").write_text('precision = "int8"\nimages = 16\nbatch = 8\n')
    Image.fromarray(np.arange(60 * 70 * 3, dtype=np.uint32).astype(np.uint8).reshape(60, 70, 3)).save(
        tmp_path / "cat.png"
    )
    names = {"recipe": "tiny.toml", "folder": "out", "image": "cat.png"}
    paths = {key: str(tmp_path / value) for key, value in names.items()}
    code = NOTEBOOK.format(checkpoint=str(checkpoint), images=str(images), **paths)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("(1, 10) [")
