"""The exported file: what is in it, that it computes the model, and that it is checked."""

import dataclasses
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from onnx.inliner import inline_local_functions

from rmt_edge.artifact import ONNX, manifest_path, read_artifact
from rmt_edge.data.dataset import open_dataset
from rmt_edge.errors import RmtEdgeError
from rmt_edge.graph import export as export_module
from rmt_edge.graph.export import expected_logits, export
from rmt_edge.graph.network import onnx_from_folded
from rmt_edge.graph.plugin_form import executable, plugin_form
from rmt_edge.metrics import relative_error
from rmt_edge.model.folded import FoldedRMT, folded_from_model
from rmt_edge.model.layers import source_of
from rmt_edge.model.variants import VARIANTS
from rmt_edge.ops.retention.onnx_function import OP_TYPES
from rmt_edge.quantization.calibrate import calibrate
from rmt_edge.quantization.formats import MIN_SCALE, int8_of, scale_of
from rmt_edge.quantization.recipe import load_recipe
from rmt_edge.runtime.onnx_runner import OnnxRunner
from rmt_edge.settings import known_settings
from tests.conftest import SMALL, filled
from tests.golden import weights

NANO = VARIANTS["rmt_nano"]
BLOCKS = sum(NANO.depths)


def retentions(is_scaled):
    """The op types of a nano model's attention, with how many there are."""
    return {
        name: sum(n for n, x in zip(NANO.depths, NANO.decomposed, strict=True) if x == decomposed)
        for name, (decomposed, has_vectors) in OP_TYPES.items()
        if has_vectors == is_scaled
    }


def count(path, inlined=False):
    model = onnx.load(path)
    return Counter(node.op_type for node in (inline_local_functions(model) if inlined else model).graph.node)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_each_block_s_attention_is_one_node_with_a_body(onnx_files, precision):
    model = onnx.load(onnx_files[precision])
    ops = count(onnx_files[precision])
    wanted = retentions(precision == "int8")
    assert {name: ops[name] for name in OP_TYPES if name in ops} == wanted
    assert sum(wanted.values()) == BLOCKS and all(wanted.values())
    assert {x.domain for x in model.functions} == {"rmt_edge"}
    assert {x.op_type for x in model.graph.node if x.domain} == {x.name for x in model.functions}
    opsets = {x.domain: x.version for x in model.opset_import}
    assert opsets[""] >= 19
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert dims[0].dim_param == "batch"
    assert [x.dim_value for x in dims[1:]] == [3, SMALL.height, SMALL.width]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_layer_norm_is_one_node(onnx_files, precision):
    ops = count(onnx_files[precision], inlined=True)
    assert ops["LayerNormalization"] == 2 * BLOCKS
    assert not {"Pow", "Sqrt", "QuantizeLinear"} & set(ops)


def test_int8_has_one_q_dq_per_linear_and_int8_weights(onnx_files):
    model = onnx.load(onnx_files["int8"])
    linears = 4 * BLOCKS + 1
    ops = count(onnx_files["int8"])
    assert ops["QuantizeLinear"] == linears
    assert ops["DequantizeLinear"] == 2 * linears
    stored = [x for x in model.graph.initializer if x.data_type == TensorProto.INT8 and x.dims]
    assert len(stored) == linears
    by_output = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and node.name.endswith(("qkv/quantized", "fc1/quantized")):
            source = by_output[node.input[0]]
            assert source.op_type == "LayerNormalization" or source.op_type.endswith("DepthwiseResidualNorm")
            assert [x.op_type for x in model.graph.node if node.input[0] in x.input] == ["QuantizeLinear"]


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", np.float32), ("fp16", np.float16)])
def test_every_weight_has_the_precision_of_the_file(onnx_files, precision, dtype):
    for tensor in onnx.load(onnx_files[precision]).graph.initializer:
        if tensor.data_type != TensorProto.INT64:  # shapes and axes
            assert numpy_helper.to_array(tensor).dtype == dtype, tensor.name


@pytest.mark.parametrize(("precision", "limit"), [("fp32", 1e-5), ("fp16", 5e-3), ("int8", 0.2)])
def test_the_file_computes_the_published_model(onnx_files, nano, precision, limit):
    images = weights.image((3, 3, SMALL.height, SMALL.width), 4)
    with torch.no_grad():
        expected = nano(torch.from_numpy(images)).numpy()
    runner = OnnxRunner(onnx_files[precision])
    assert relative_error(runner(images)["logits"], expected) < limit
    one_by_one = np.concatenate([runner(images[i : i + 1])["logits"] for i in range(3)])
    assert relative_error(one_by_one, expected) < limit


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_exports(name, tmp_path):
    """And its plugin form, run with bodies put back, is the published model too."""
    model = filled(name, 11, seed=2)
    folded = folded_from_model(model, 33, 64)
    onnx.save(onnx_from_folded(folded, np.float32, {}, {}), tmp_path / "x.onnx")
    made = plugin_form(onnx_from_folded(folded, np.float32, {}, {}, flat_linears=True))
    onnx.save(executable(made), tmp_path / "plugins.onnx")
    counted = export_module.check_graph(tmp_path / "x.onnx", name)
    assert counted["retention_nodes"] == sum(VARIANTS[name].depths)
    images = weights.image((2, 3, 33, 64), 0)
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).numpy()
    for path in (tmp_path / "x.onnx", tmp_path / "plugins.onnx"):
        assert relative_error(OnnxRunner(path)(images)["logits"], expected) < 1e-5


def test_rmt_s_in_fp16_has_under_700_nodes():
    graph = onnx_from_folded(FoldedRMT("rmt_s", 1000, 224, 224), np.float16, {}, {}).graph
    assert len(graph.node) < 700
    assert sum(x.op_type in OP_TYPES for x in graph.node) == sum(VARIANTS["rmt_s"].depths)


def test_the_manifest_records_the_counts_and_the_chain(onnx_files, quantized):
    artifact = read_artifact(onnx_files["int8"], ONNX)
    assert artifact.details["nodes"] == sum(count(onnx_files["int8"]).values())
    assert artifact.details["retention_nodes"] == BLOCKS
    assert 0 < artifact.details["relative_error"] < 0.1
    assert 0 < artifact.details["plugin_form_relative_error"] < 0.1
    assert artifact.manifest.source["name"] == quantized["int8"].name
    assert artifact.recipe["int8"]


def test_the_same_input_gives_the_same_bytes(quantized, onnx_files, tmp_path):
    assert export(quantized["int8"], tmp_path).path.read_bytes() == onnx_files["int8"].read_bytes()


def test_a_changed_quantised_checkpoint_is_refused(quantized, tmp_path):
    path = Path(shutil.copy(quantized["fp16"], tmp_path))
    shutil.copy(manifest_path(quantized["fp16"]), tmp_path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(RmtEdgeError, match="is not the file its manifest describes"):
        export(path)


def test_a_graph_that_differs_from_the_model_is_not_left_behind(quantized, tmp_path, monkeypatch):
    write = onnx_from_folded

    def forget_a_bias(model, *args, **kwargs):
        onnx_model = write(model, *args, **kwargs)
        for tensor in onnx_model.graph.initializer:
            if tensor.name == "stages.0.blocks.0.fc1.bias":
                tensor.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(tensor)), tensor.name))
        return onnx_model

    monkeypatch.setattr(export_module, "onnx_from_model", forget_a_bias)
    with pytest.raises(AssertionError, match="away from PyTorch"):
        export(quantized["fp32"], tmp_path)
    assert not list(tmp_path.glob("*.onnx*"))


def test_scales_and_steps():
    assert scale_of(torch.tensor([127.0]), np.float32) == 1.0
    assert scale_of(torch.tensor([0.0, 127.0]), np.float16).tolist() == [MIN_SCALE, 1.0]
    steps = int8_of(np.array([0.5, 1.5, -2.5, 1e6, -1e6]), np.float32(1.0))
    assert steps.tolist() == [0, 2, -2, 127, -127]


def test_a_file_that_is_no_onnx_is_refused(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"no onnx")
    with pytest.raises(RmtEdgeError, match="ONNX Runtime does not take"):
        OnnxRunner(tmp_path / "x.onnx")


def test_every_linear_layer_can_be_quantised(nano, images, recipes):
    recipe = dataclasses.replace(recipes["int8"], int8=("qkv", "out_proj", "fc1", "fc2", "proj", "head"))
    folded = folded_from_model(nano, SMALL.height, SMALL.width)
    ranges = calibrate(folded_from_model(nano, SMALL.height, SMALL.width), recipe, open_dataset(images), SMALL)
    for flat in (False, True):
        nodes = onnx_from_folded(folded, np.float16, ranges, {}, flat_linears=flat).graph.node
        assert Counter(x.op_type for x in nodes)["QuantizeLinear"] == 4 * BLOCKS + 2


@pytest.mark.parametrize("name", known_settings("calib"))
def test_every_recipe_of_the_repository_exports_what_it_names(exported, nano, name):
    path = exported(name)  # export compares it with PyTorch
    names = load_recipe(name).int8_layers("rmt_nano")
    layers = [x for x in names if source_of(x) is None]
    model = onnx.load(path)
    stored = {x.name for x in model.graph.initializer if x.data_type == TensorProto.INT8 and x.dims}
    assert stored == {f"{layer}.weight_int8" for layer in layers}
    sums = 4 * BLOCKS if name == "int8-naive" else 0
    assert count(path)["QuantizeLinear"] == len(names) + 2 * sums
    images = weights.image((3, 3, SMALL.height, SMALL.width), 4)
    with torch.no_grad():
        expected = nano(torch.from_numpy(images)).numpy()
    assert relative_error(OnnxRunner(path)(images)["logits"], expected) < 0.5


def written_around(model, name):
    """The op types from a layer's Q/DQ to the node behind its output, in their order."""
    by_output = {output: node for node in model.graph.node for output in node.output}
    conv = next(x for x in model.graph.node if x.name == name)
    dequantize = by_output[conv.input[0]]
    quantize = by_output[dequantize.input[0]]
    source, layout = by_output[quantize.input[0]], next(x for x in model.graph.node if name in x.input)
    behind = next(x for x in model.graph.node if layout.output[0] in x.input)
    return source, quantize, dequantize, by_output[conv.input[1]], conv, layout, behind


def test_an_int8_depthwise_convolution_is_standard_operators(exported):
    model = onnx.load(exported("int8-all"))
    found = {x.op_type for x in model.graph.node if x.domain}
    assert found == set(retentions(True)) == {x.name for x in model.functions}
    for name, channels in (("stages.1.blocks.1.pos", 64), ("stages.1.blocks.1.dwconv", 192)):
        nodes = written_around(model, name)
        assert [x.op_type for x in nodes] == [
            "Transpose", "QuantizeLinear", "DequantizeLinear", "DequantizeLinear", "Conv", "Transpose", "Add",
        ]  # fmt: skip
        attributes = {x.name: onnx.helper.get_attribute_value(x) for x in nodes[4].attribute}
        assert attributes["group"] == channels
        assert onnx.helper.get_node_attr_value(nodes[3], "axis") == 0
        if not name.endswith("pos"):  # its input is what GELU makes of fc1's true values
            gelu = next(x for x in model.graph.node if x.output[0] == nodes[0].input[0])
            assert (gelu.op_type, gelu.input[0]) == ("Gelu", name.replace("dwconv", "fc1/true"))
        readers = [x.op_type for x in model.graph.node if nodes[6].output[0] in x.input]
        assert ("LayerNormalization" in readers) == name.endswith("pos")
    assert count(exported("int8-all"))["LayerNormalization"] == 2 * BLOCKS


def test_int8_stem_and_downsampling_leave_the_fused_depthwise_op(exported):
    model = onnx.load(exported("int8-conv"))
    convs = [x for x in model.graph.node if x.op_type == "Conv"]
    assert [x.name for x in convs] == [f"stem.{i}" for i in range(4)] + [f"stages.{i}.downsample" for i in range(3)]
    by_output = {output: node for node in model.graph.node for output in node.output}
    assert all(by_output[name].op_type == "DequantizeLinear" for x in convs for name in x.input[:2])
    assert sum("DepthwiseResidual" in x.op_type for x in model.graph.node) == 2 * BLOCKS


def test_the_naive_recipe_rounds_both_operands_of_every_residual_addition(exported):
    model = onnx.load(exported("int8-naive"))
    by_output = {output: node for node in model.graph.node for output in node.output}
    sums = [x for x in model.graph.node if x.name.endswith("/sum") and "blocks" in x.name]
    assert len(sums) == 4 * BLOCKS
    scales = set()
    for node in sums:
        operands = [by_output[name] for name in node.input]
        assert [x.op_type for x in operands] == ["DequantizeLinear", "DequantizeLinear"]
        scales |= {x.input[1] for x in operands}
    assert len(scales) == 2 * len(sums)
    # fc2's bias is in its product here: nothing but the rounded sum leaves a block.
    assert not [x.name for x in model.graph.node if "biased_residual" in x.name]


@pytest.mark.parametrize("name", ["int8", "int8-all", "int8-naive"])
def test_the_check_rounds_what_the_graph_rounds(nano, images, tmp_path, name):
    """In float32 summation order alone tells them apart; far more without the rounding.

    In the last stage and the head: through a whole network the few values that it tips grow to as much as the rounding.
    """
    recipe = dataclasses.replace(load_recipe(name), images=8, batch=4)
    folded = folded_from_model(nano, SMALL.height, SMALL.width)
    ranges = calibrate(folded, recipe, open_dataset(images), SMALL)
    ranges = {key: x for key, x in ranges.items() if key.startswith(("stages.3.", "proj", "head"))}
    path = tmp_path / "x.onnx"
    onnx.save(onnx_from_folded(folded, np.float32, ranges, {}), path)

    def error(of_ranges):
        # Without ONNX Runtime's optimisations, which sum integers: another order, which tips values in the middle of a
        # step, and every one of them tips others in the layers behind.
        expected = expected_logits(folded, of_ranges, np.float32, 1.0)
        return export_module.check_against_torch(path, expected, onnx.load(path))

    rounded = error(ranges)
    for missing in (
        ".input_amax",
        ".weight_amax",
        ".product_amax",
        *([("left_amax", "right_amax")] if recipe.residual_adds else []),
    ):
        others = {key: value for key, value in ranges.items() if not key.endswith(missing)}
        if missing == ".weight_amax":  # without which an output has no multiples
            others = {key: value for key, value in others.items() if not key.endswith(".product_amax")}
        assert rounded < error(others) / 100, missing
    plain = folded_from_model(nano, SMALL.height, SMALL.width).state_dict()
    assert all(torch.equal(value, plain[key]) for key, value in folded.state_dict().items())


def test_a_range_of_no_layer_in_the_graph_is_our_fault(nano):
    folded = folded_from_model(nano, SMALL.height, SMALL.width)
    with pytest.raises(AssertionError, match="not in the graph"):
        onnx_from_folded(folded, np.float16, {"stages.0.blocks.0.lepe.input_amax": torch.tensor(1.0)}, {})


FC1, OUTPUT_RANGE = "stages.0.blocks.0.fc1", "stages.0.blocks.0.fc1_output.product_amax"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({OUTPUT_RANGE: torch.tensor(0.0)}, r"range stages\S*fc1_output\.product_amax is 0 to 0"),
        ({OUTPUT_RANGE: torch.tensor(float("nan"))}, "product_amax is nan to nan"),
        ({OUTPUT_RANGE: torch.tensor(-1.0)}, "product_amax is -1 to -1"),
        ({OUTPUT_RANGE: torch.ones(7)}, r"product_amax is \(7,\)[\s\S]*it has one number, or 1\."),
        ({f"{FC1}.weight_amax": torch.ones(7)}, r"fc1\.weight_amax is \(7,\)[\s\S]*one number, or 96"),
        ({f"{FC1}.weight_amax": torch.full((96,), float("inf"))}, "weight_amax is inf"),
        ({f"{FC1}.input_amax": torch.tensor(0.0)}, "input_amax is 0 to 0"),
        ({f"{FC1}.product_amax": torch.tensor(1.0)}, r"There is a range stages\S*fc1\.product_amax"),
        ({"stages.9.input_amax": torch.tensor(1.0)}, r"There is a range stages\.9\.input_amax"),
        ({f"{FC1}.weight_amax": None, f"{FC1}.input_amax": None}, "fc1_output has a range, and its layer is not"),
    ],
)
def test_ranges_that_would_make_wrong_scales_are_refused(nano, changed, message):
    folded = folded_from_model(nano, SMALL.height, SMALL.width)
    ranges = {f"{FC1}.weight_amax": torch.ones(96), f"{FC1}.input_amax": torch.tensor(1.0)}
    ranges |= {OUTPUT_RANGE: torch.tensor(1.0)}
    onnx_from_folded(folded, np.float16, ranges, {})
    ranges = {key: x for key, x in (ranges | changed).items() if x is not None}
    with pytest.raises(RmtEdgeError, match=message):
        onnx_from_folded(folded, np.float16, ranges, {})
