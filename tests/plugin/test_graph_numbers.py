"""The plugin-form file of the trained reference, whole, on the CPU: what an engine with our plugins would compute.

Plugin nodes run through the compiled C++ plugins and the PTX of their kernels, all others through ONNX Runtime; the
logits are held to PyTorch's in float32 and to what ONNX Runtime makes of the same file's function bodies.
"""

import functools

import numpy as np
import onnx
import pytest
import torch

from rmt_edge.artifact import plugin_form_path
from rmt_edge.data.dataset import open_dataset
from rmt_edge.graph.export import export
from rmt_edge.metrics import relative_error
from rmt_edge.model.checkpoint import load_checkpoint
from rmt_edge.quantization.quantize import quantize
from rmt_edge.quantization.recipe import load_recipe
from rmt_edge.runtime.onnx_runner import OnnxRunner
from rmt_edge.settings import known_settings
from tests.conftest import REFERENCE
from tests.ptx.graph import PluginGraph

pytestmark = pytest.mark.usefixtures("one_thread")
CHECKPOINT = REFERENCE / "rmt_nano_fashion_mnist.safetensors"
IMAGES, MANY_IMAGES, AT_ONCE = 4, 200, 25
RECIPES = known_settings("calib")
# The plugins may be off by what the function bodies are, half as much again, and a rounding of the type: here every
# node rounds its result, while ONNX Runtime keeps float32 from one FP16 node to the next. Seen in FP16: 6e-4.
OF_THE_BODIES_ERROR = 1.5
# Whatever the bodies are off by. Seen: 3e-7, 9e-4, 2.5e-2 (int8-naive).
LARGEST_ERROR = {"fp32": 1e-5, "fp16": 2e-3, "int8": 5e-2}
ROUNDING = {"fp32": 2.0**-20, "fp16": 2.0**-10, "int8": 2.0**-10}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A function from the name of a recipe that ships to the ONNX file it makes of the trained reference."""
    folder = tmp_path_factory.mktemp("reference")
    return functools.cache(
        lambda name: export(quantize(CHECKPOINT, load_recipe(name), folder, REFERENCE / "calibration.npz")).path
    )


@pytest.fixture(scope="module")
def reference():
    """A function from a number of test images to those images and PyTorch's logits in float32."""
    model = load_checkpoint(CHECKPOINT).eval()
    dataset = open_dataset(REFERENCE / "test.npz")

    @functools.cache
    def run(count):
        images = next(dataset.batches(model.preprocessing, count))
        with torch.no_grad():
            return images, model(torch.from_numpy(images)).numpy()

    return run


def assert_logits_are_right(graph, path, images, wanted, tactic=None):
    got = np.concatenate([graph(images[i : i + AT_ONCE], tactic) for i in range(0, len(images), AT_ONCE)])
    bodies = OnnxRunner(path)(images)["logits"]
    error, of_bodies = relative_error(got, wanted), relative_error(bodies, wanted)
    print(f"{path.name}: relative error {error:.2e} with plugins, {of_bodies:.2e} with function bodies")
    precision = next(x.value for x in graph.model.metadata_props if x.key == "precision")
    assert error <= OF_THE_BODIES_ERROR * of_bodies + ROUNDING[precision]
    assert error <= LARGEST_ERROR[precision]
    # Top-1 is the reference's, unless its two best logits lie closer together than the two runs do.
    best = np.sort(wanted, 1)
    is_clear = best[:, -1] - best[:, -2] > 2 * np.abs(got - wanted).max(1)
    assert is_clear.mean() > 0.8
    assert (got.argmax(1) == wanted.argmax(1))[is_clear].all()
    return got


@pytest.mark.parametrize("recipe", RECIPES)
def test_logits_of_every_recipe_are_pytorchs(device, exported, reference, recipe):
    path = exported(recipe)
    images, wanted = reference(IMAGES)
    graph = PluginGraph(plugin_form_path(path), device, max_batch=IMAGES)
    assert_logits_are_right(graph, path, images, wanted)
    nodes = onnx.load(path).graph.node
    assert len(graph.plugins) == sum(x.domain == "rmt_edge" for x in nodes)
    graph.close()


@pytest.mark.parametrize("tactic", [0, 1, 2])
def test_every_tactic_gives_these_logits_for_any_batch(device, exported, reference, tactic):
    path = exported("int8")
    images, wanted = reference(IMAGES)
    graph = PluginGraph(plugin_form_path(path), device, max_batch=IMAGES)
    got = assert_logits_are_right(graph, path, images, wanted, tactic)
    assert np.array_equal(graph(images[1:2], tactic), got[1:2]), "batch 1 after 4"
    graph.close()


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_logits_of_an_input_that_is_not_square(device, onnx_files, nano, precision):
    """An untrained network at 40 x 48: what is exchanged between height and width shows here alone."""
    path = onnx_files[precision]
    images = np.random.default_rng(0).standard_normal((2, 3, 40, 48), dtype=np.float32)
    with torch.no_grad():
        wanted = nano.eval()(torch.from_numpy(images)).numpy()
    graph = PluginGraph(plugin_form_path(path), device, max_batch=2)
    error, of_bodies = relative_error(graph(images), wanted), relative_error(OnnxRunner(path)(images)["logits"], wanted)
    assert error <= OF_THE_BODIES_ERROR * of_bodies + 2 * ROUNDING[precision], (error, of_bodies)
    graph.close()


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["fp16", "int8"])
def test_top1_of_many_images_is_pytorchs(device, exported, reference, recipe, monkeypatch):
    monkeypatch.setattr(device, "check_races", False)
    path = exported(recipe)
    images, wanted = reference(MANY_IMAGES)
    graph = PluginGraph(plugin_form_path(path), device, max_batch=AT_ONCE)
    got = assert_logits_are_right(graph, path, images, wanted)
    assert (got.argmax(1) == wanted.argmax(1)).mean() >= 0.99
    graph.close()
