"""DepthwiseResidual: reference against torch.nn; ONNX functions and Triton kernel against the reference."""

import itertools
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from torch import Tensor, nn

from rmt_edge.errors import RmtEdgeError
from rmt_edge.ops.depthwise import aot, cuda_op, kernels, op
from rmt_edge.ops.depthwise import onnx_function as function

FP16, FP32 = torch.float16, torch.float32
FORMS = list(itertools.product((False, True), repeat=3))  # has_residual, has_norm, is_int8
SCALED_FORMS = [form for form in function.OP_TYPES.values() if form.is_scaled]
EPSILON = 1e-6
INPUT_SCALE = 2.0**-5  # of a scaled form's int8 x: exact in every type
ELEMENT_TYPES = {FP32: TensorProto.FLOAT, FP16: TensorProto.FLOAT16}
WIDER = {FP16: FP32, FP32: torch.float64}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """A grouped convolution synchronises its threads once a group, which takes seconds on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass
class Case:
    """Arguments of one call. x, residual: (b, h, w, c); weight: (k, k, c); the others: (c,)."""

    tensors: dict[str, Tensor]  # in the order of the node's inputs
    output_scale: float
    has_gelu: bool = False
    input_scale: float = 0.0  # of an x that is int8

    @property
    def has_norm(self) -> bool:
        return "norm_weight" in self.tensors

    def reference(self, dtype: torch.dtype, output_scale: float = 0.0) -> list[Tensor]:
        """out, and norm if there is one, by op.py in that type."""
        tensors = {name: x if x.dtype == torch.int8 else x.to(dtype) for name, x in self.tensors.items()}
        scales = {"output_scale": output_scale, "input_scale": self.input_scale}
        if self.has_norm:
            return list(op.depthwise_residual_norm(**tensors, epsilon=EPSILON, **scales))
        return [op.depthwise_residual(**tensors, has_gelu=self.has_gelu, **scales)]


def make_case(
    shape: tuple[int, ...], k: int, form: tuple[bool, ...], dtype: torch.dtype, is_int8_input: bool = False
) -> Case:
    """form: as OP_TYPES has it. is_int8_input: x is an INT8 product; the form is a scaled one."""
    has_residual, has_norm, is_int8, is_scaled, has_gelu = (*form, False, False)[:5]
    g = torch.Generator().manual_seed(0)
    c = shape[-1]
    shapes = {"x": shape, "weight": (k, k, c), "bias": (c,)}
    if has_residual:
        shapes["residual"] = shape
    if has_norm:
        shapes |= {"norm_weight": (c,), "norm_bias": (c,)}
    if is_scaled:
        shapes |= {"x_scale": (c,), "x_bias": (c,)}
    tensors = {name: torch.randn(s, generator=g) for name, s in shapes.items()}
    tensors["weight"] /= k  # keeps the convolution about as large as x
    if is_scaled:
        tensors["x_scale"] = tensors["x_scale"].abs().clamp(0.05, 1)
    tensors = {name: x.to(dtype) for name, x in tensors.items()}
    if is_int8_input:
        tensors["x"] = op.quantize_int8(tensors["x"], INPUT_SCALE)
    return Case(tensors, 0.017 if is_int8 else 0.0, has_gelu, INPUT_SCALE if is_int8_input else 0.0)


def make_faint_case() -> Case:
    """A case whose out has a variance near epsilon, so that norm shows whether epsilon is in it."""
    case = make_case((1, 2, 2, 64), 3, (True, True, False), FP32)
    for name in ("x", "bias", "residual"):
        case.tensors[name] *= 1e-3
    return case


def assert_accurate(actual: list[Tensor], case: Case) -> None:
    """max|actual - wide| <= 2·max|reference - wide| + floor, the reference in x's type and in the next wider one.

    floor: what adding and subtracting 0.3 does to the reference. INT8 values may be half a step further off: rounding.
    """
    dtype = case.tensors["weight"].dtype
    references, wides = case.reference(dtype), case.reference(WIDER[dtype])
    assert len(actual) == len(references)
    for index, (got, low, wide) in enumerate(zip(actual, references, wides, strict=True)):
        is_int8 = case.output_scale > 0 and index == len(actual) - 1
        assert got.dtype == (torch.int8 if is_int8 else dtype)
        assert got.shape == low.shape
        wide = wide.double()
        floor = ((low + 0.3 - 0.3) - low).abs().max().item()
        limit = 2 * (low - wide).abs().max().item() + floor
        if is_int8:
            step = torch.tensor(case.output_scale, dtype=dtype).item()
            wide, limit = (wide / step).clamp(-128, 127), 0.5 + limit / step
            assert got.abs().max() > 50, "the scale leaves most of INT8 unused"
        error = (got.double() - wide).abs()
        worst = np.unravel_index(int(error.argmax()), error.shape)
        assert error.max() <= limit, (
            f"output {index}: {int((error > limit).sum())} of {error.numel()} beyond {limit:.3g}; "
            f"worst at {worst}: {got[worst]} for {wide[worst]}"
        )


# -- the reference -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 3, 5])
def test_reference_equals_torch_modules(k):
    conv = nn.Conv2d(24, 24, k, padding=k // 2, groups=24)
    layer_norm = nn.LayerNorm(24, eps=EPSILON)
    nn.init.normal_(layer_norm.weight)
    nn.init.normal_(layer_norm.bias)
    x, residual = torch.randn(2, 5, 9, 24), torch.randn(2, 5, 9, 24)
    taps = op.taps_from_conv_weight(conv.weight)
    assert taps.shape == (k, k, 24)

    expected = x + conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(op.depthwise_residual(x, taps, conv.bias), expected)
    y = x + residual
    expected = y + conv(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    out, norm = op.depthwise_residual_norm(x, taps, conv.bias, layer_norm.weight, layer_norm.bias, residual)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(norm, layer_norm(expected))


def test_int8_is_rounded_half_to_even_and_saturated():
    x = torch.tensor([-300.0, -1.5, -0.5, 0.5, 1.5, 2.5, 63.25, 300.0]).half()
    assert op.quantize_int8(x, 0.5).tolist() == [-128, -3, -1, 1, 3, 5, 126, 127]
    assert op.quantize_int8(x, 1.0).tolist() == [-128, -2, 0, 0, 2, 2, 63, 127]
    noise = torch.randn(1000) * 50
    expected = torch.fake_quantize_per_tensor_affine(noise, 0.25, 0, -128, 127)
    assert torch.equal(op.quantize_int8(noise, 0.25) * 0.25, expected)


def test_the_residual_stream_is_not_quantised():
    out, norm = make_case((1, 3, 3, 16), 3, (True, True, True), FP16).reference(FP16, 0.02)
    assert (out.dtype, norm.dtype) == (FP16, torch.int8)


@pytest.mark.parametrize("has_norm", [False, True])
def test_op_is_traced_as_one_node_and_differentiable(has_norm):
    name = "depthwise_residual_norm" if has_norm else "depthwise_residual"
    tensors = make_case((1, 3, 3, 16), 3, (True, has_norm, False), FP32).tensors
    tensors["x"].requires_grad_()

    def call(x: Tensor) -> Tensor:
        out = getattr(torch.ops.rmt_edge, name)(**(tensors | {"x": x}))
        return out[1] if has_norm else out

    with pytest.warns(DeprecationWarning):  # what ModelOpt's exporter uses
        traced = torch.jit.trace(call, tensors["x"])
    assert [node.kind() for node in traced.graph.nodes()].count(f"rmt_edge::{name}") == 1
    (gradient,) = torch.autograd.grad(call(tensors["x"]).square().sum(), tensors["x"])
    assert gradient.abs().min() > 0


@pytest.mark.parametrize("is_int8_input", [False, True])
@pytest.mark.parametrize("form", SCALED_FORMS, ids=lambda form: function.op_type_of(*form))
def test_a_raw_product_is_scaled_biased_and_activated_first(form, is_int8_input):
    case = make_case((2, 5, 9, 24), 3, form, FP32, is_int8_input)
    found = case.reference(FP32, case.output_scale)
    x = case.tensors["x"].float() * (INPUT_SCALE if is_int8_input else 1)
    x = x * case.tensors["x_scale"] + case.tensors["x_bias"]
    x = x * 0.5 * (1 + torch.erf(x / 2**0.5)) if form.has_gelu else x
    plain = {name: t for name, t in case.tensors.items() if name not in ("x_scale", "x_bias")}
    wanted = Case(plain | {"x": x}, case.output_scale).reference(FP32)
    if form.is_int8:
        assert found[-1].dtype == torch.int8
        steps = found[-1] - (wanted[-1] / case.output_scale).clamp(-128, 127)
        assert steps.abs().max() <= 0.501
        found, wanted = found[:-1], wanted[:-1]
    for got, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, right)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x_bias": None}, r"x is torch\.float32 with scale\."),
        ({"x_scale": None}, r"x is torch\.float32 with bias\."),
        ({"x_scale": torch.ones(23)}, r"x_scale is \(23,\)[^$]*x has 24 channels"),
        ({"x_bias": torch.ones(1)}, r"x_bias is \(1,\)"),
        ({"x_scale": torch.ones(24).half()}, r"x is torch\.float32, its scale torch\.float16"),
        ({"input_scale": 0.5}, r"x is torch\.float32 with the input_scale 0\.5"),
        ({"x": torch.ones(1, 2, 2, 24, dtype=torch.int8)}, r"x is torch\.int8 with the input_scale 0"),
        ({"x": torch.ones(1, 2, 2, 24, dtype=torch.int8), "input_scale": float("nan")}, "the input_scale nan"),
        (
            {"x": torch.ones(1, 2, 2, 24, dtype=torch.int8), "x_scale": None, "x_bias": None, "input_scale": 0.5},
            r"x is torch\.int8 with no vectors",
        ),
    ],
)
def test_what_is_no_raw_product_is_refused(changed, message):
    for is_norm in (False, True):
        form = (True, True, False, True) if is_norm else (False, False, False, True, True)
        tensors = make_case((1, 2, 2, 24), 3, form, FP32).tensors
        reference = op.depthwise_residual_norm if is_norm else op.depthwise_residual
        with pytest.raises(RmtEdgeError, match=message):
            reference(**(tensors | changed))


# -- the ONNX functions --------------------------------------------------------------------------------------------


def model_of(case: Case, opset: int, is_dequantized: bool = False) -> onnx.ModelProto:
    """A model of one node; x and residual are inputs, with a free batch, the rest initializers."""
    outputs = ["out", "norm"] if case.has_norm else ["out"]
    node = function.depthwise_node(
        list(case.tensors), outputs, "node", case.tensors["bias"].numel(),
        epsilon=EPSILON if case.has_norm else None, output_scale=case.output_scale,
        is_scaled="x_scale" in case.tensors, has_gelu=case.has_gelu,
    )  # fmt: skip
    x = case.tensors["x"]
    element_type = ELEMENT_TYPES[x.dtype]
    types = dict.fromkeys(outputs, element_type)
    nodes = [node]
    constants = {name: t.numpy() for name, t in case.tensors.items() if name not in ("x", "residual")}
    if case.output_scale and is_dequantized:
        constants["scale"] = np.array(case.output_scale, dtype=constants["bias"].dtype)
        nodes.append(onnx.helper.make_node("DequantizeLinear", [outputs[-1], "scale"], ["dequantized"]))
        types["dequantized"] = types.pop(outputs[-1])
    elif case.output_scale:
        types[outputs[-1]] = TensorProto.INT8
    shape = ["b", *x.shape[1:]]
    graph = onnx.helper.make_graph(
        nodes,
        "depthwise",
        [onnx.helper.make_tensor_value_info(n, element_type, shape) for n in ("x", "residual") if n in case.tensors],
        [onnx.helper.make_tensor_value_info(name, t, shape) for name, t in types.items()],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [onnx.helper.make_opsetid("", opset), onnx.helper.make_opsetid(function.DOMAIN, 1)]
    bodies = [function.depthwise_function(node.op_type, opset, case.tensors["weight"].shape[0])]
    model = onnx.helper.make_model(graph, opset_imports=opsets, functions=bodies, ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def run_onnx(case: Case, opset: int) -> list[Tensor]:
    """The model's outputs from ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = model_of(case, opset).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feeds = {name: case.tensors[name].numpy() for name in ("x", "residual") if name in case.tensors}
    return [torch.from_numpy(x) for x in session.run(None, feeds)]


@pytest.mark.parametrize("dtype", [FP32, FP16], ids=["fp32", "fp16"])
@pytest.mark.parametrize("form", function.OP_TYPES.values(), ids=function.OP_TYPES)
@pytest.mark.parametrize(
    ("shape", "k", "opset"), [((3, 5, 9, 24), 5, 20), ((1, 7, 7, 32), 3, 19), ((3, 1, 1, 80), 3, 20)]
)
def test_onnx_function_equals_reference(shape, k, opset, form, dtype):
    case = make_case(shape, k, form, dtype)
    assert_accurate(run_onnx(case, max(opset, 20) if case.has_gelu else opset), case)  # Gelu came with 20


def test_onnx_function_has_epsilon():
    case = make_faint_case()
    assert_accurate(run_onnx(case, 20), case)


@pytest.mark.trt
@pytest.mark.parametrize("dtype", [FP32, FP16], ids=["fp32", "fp16"])
@pytest.mark.parametrize("form", function.OP_TYPES.values(), ids=function.OP_TYPES)
def test_onnx_function_builds_in_tensorrt(form, dtype):
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason="needs TensorRT-RTX")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    case = make_case((1, 7, 7, 64), 3, form, dtype)
    is_parsed = parser.parse(model_of(case, 20, is_dequantized=True).SerializeToString())
    assert is_parsed, [parser.get_error(i).desc() for i in range(parser.num_errors)]
    layer_types = [network.get_layer(i).type for i in range(network.num_layers)]
    assert layer_types.count(trt.LayerType.CONVOLUTION) == 1
    assert layer_types.count(trt.LayerType.QUANTIZE) == form[2]

    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        profile.set_shape(network.get_input(index).name, (1, 7, 7, 64), (4, 7, 7, 64), (8, 7, 7, 64))
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config).nbytes > 0


@pytest.mark.parametrize("op_type", function.OP_TYPES)
def test_onnx_function_says_its_kernel_shape(op_type):
    """TensorRT 10.3 needs it where a weight is computed."""
    (conv,) = (x for x in function.depthwise_function(op_type, 20).node if x.op_type == "Conv")
    assert onnx.helper.get_node_attr_value(conv, "kernel_shape") == [3, 3]
    assert function.KERNEL_SIZE == aot.KERNEL_SIZE == 3


def test_wrong_node_is_refused():
    with pytest.raises(RmtEdgeError, match=r"node has 3 inputs and 2 outputs[^$]*it takes 5, or 6 with a residual"):
        function.depthwise_node(["x", "w", "b"], ["out", "norm"], "node", 64, epsilon=EPSILON)
    with pytest.raises(RmtEdgeError, match="output_scale -1"):
        function.depthwise_node(["x", "w", "b"], ["out"], "node", 64, output_scale=-1.0)
    with pytest.raises(RmtEdgeError, match="epsilon 0"):
        function.depthwise_node(["x", "w", "b", "g", "e"], ["out", "norm"], "node", 64, epsilon=0.0)
    with pytest.raises(RmtEdgeError, match="DepthwiseNorm is no DepthwiseResidual op"):
        function.depthwise_function("DepthwiseNorm", 20)
    with pytest.raises(RmtEdgeError, match=r"node has 3 inputs[^$]*with scale and bias of x, it takes 5, or 6"):
        function.depthwise_node(["x", "w", "b"], ["out"], "node", 64, is_scaled=True, has_gelu=True)
    with pytest.raises(
        RmtEdgeError, match=r"node would be ScaledDepthwiseResidual\.[^$]*ScaledGeluDepthwiseResidualInt8"
    ):
        function.depthwise_node(["x", "w", "b", "s", "t"], ["out"], "node", 64, is_scaled=True)
    with pytest.raises(RmtEdgeError, match=r"node would be GeluDepthwiseResidual\."):
        function.depthwise_node(["x", "w", "b"], ["out"], "node", 64, has_gelu=True)


# -- the Triton kernel ---------------------------------------------------------------------------------------------


def launch_arrays(arrays: dict[str, np.ndarray], output_scale: float, tile: kernels.Tile) -> list[np.ndarray]:
    """kernels.launch with arrays, which pass between processes. Runs in the interpreter's process."""
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    outputs = kernels.launch(**tensors, epsilon=EPSILON, output_scale=output_scale, tile=tile)
    return [x.numpy() for x in outputs if x is not None]


@pytest.fixture(scope="module")
def launch_interpreted():
    """kernels.launch under TRITON_INTERPRET=1, which triton reads on import: so in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool, pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "TRITON_INTERPRET", "1")
        pool.submit(os.getpid).result()  # starts the process
        patch.undo()

        def launch(case: Case, tile: kernels.Tile) -> list[Tensor]:
            arrays = {name: x.numpy() for name, x in case.tensors.items()}
            return [torch.from_numpy(x) for x in pool.submit(launch_arrays, arrays, case.output_scale, tile).result()]

        yield launch


Launch = Callable[[Case, kernels.Tile], list[Tensor]]
PLAIN, CPE = (False, False), (True, True)  # has_residual, has_norm as in the feed-forward and the position encoding


@pytest.mark.parametrize("dtype", [FP32, FP16], ids=["fp32", "fp16"])
@pytest.mark.parametrize("form", FORMS, ids=lambda form: function.op_type_of(*form))
def test_kernel_equals_reference_in_every_form(form, dtype, launch_interpreted: Launch):
    case = make_case((1, 7, 7, 64), 3, form, dtype)
    assert_accurate(launch_interpreted(case, kernels.tiles_for(64, form[1])[2]), case)


@pytest.mark.parametrize(
    ("shape", "k", "form", "dtype"),
    [
        ((1, 14, 14, 64), 3, (*PLAIN, False), FP16),
        ((1, 14, 14, 112), 3, (*CPE, True), FP16),
        ((3, 5, 9, 80), 3, (*PLAIN, True), FP16),
        ((1, 5, 9, 112), 5, (*CPE, False), FP32),
        ((1, 13, 7, 64), 5, (*PLAIN, False), FP16),
        ((3, 13, 7, 80), 3, (*CPE, False), FP16),
        ((3, 1, 1, 80), 5, (*CPE, True), FP32),
        ((1, 1, 1, 112), 3, (*PLAIN, False), FP32),
        ((3, 7, 7, 112), 3, (False, True, False), FP16),  # the first block of a stage: nothing to add
        ((1, 7, 7, 64), 7, (*PLAIN, False), FP32),
    ],
)  # fmt: skip
def test_kernel_equals_reference_on_odd_grids(shape, k, form, dtype, launch_interpreted: Launch):
    case = make_case(shape, k, form, dtype)
    assert_accurate(launch_interpreted(case, kernels.tiles_for(shape[-1], form[1])[2]), case)


ALL_TILES = [(tile, False) for tile in kernels.CHANNEL_TILES]
ALL_TILES += [(tile, True) for tiles in kernels.ROW_TILES.values() for tile in tiles]


@pytest.mark.parametrize(("tile", "has_norm"), ALL_TILES)
def test_every_tile_computes_the_same(tile, has_norm, launch_interpreted: Launch):
    channels = tile.block_c - 16 if has_norm else tile.block_c + 16  # a row or a last block that fills a tile in part
    assert tile in kernels.tiles_for(channels, has_norm)
    case = make_case((1, 2, 2, channels), 3, (True, has_norm, False), FP16)
    assert_accurate(launch_interpreted(case, tile), case)


def test_kernel_has_epsilon(launch_interpreted: Launch):
    case = make_faint_case()
    assert_accurate(launch_interpreted(case, kernels.tiles_for(64, True)[0]), case)


def test_kernel_rounds_half_to_even_and_saturates(launch_interpreted: Launch):
    case = make_case((1, 2, 4, 16), 3, (False, False, True), FP16)
    case.tensors["weight"].zero_()
    case.tensors["bias"].zero_()
    case.tensors["x"] = (torch.arange(128).reshape(1, 2, 4, 16) * 5.0 - 320).half() / 2
    case.output_scale = 1.0
    (out,) = launch_interpreted(case, kernels.CHANNEL_TILES[0])
    assert torch.equal(out, case.reference(FP16, 1.0)[0])
    assert out.min() == -128 and out.max() == 127


def compiled_loads(channels: int, has_norm: bool, is_int8: bool) -> list[str]:
    """The loads in the PTX of the kernel, compiled ahead of time. Runs in a process that does not interpret kernels."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    tile = kernels.tiles_for(channels, has_norm)[1]
    constants = {
        "KERNEL_SIZE": 3, "BLOCK_H": tile.block_h, "BLOCK_W": tile.block_w, "BLOCK_C": tile.block_c,
        "HAS_RESIDUAL": has_norm, "HAS_NORM": has_norm, "OUT_INT8": is_int8, "IS_SCALED": False, "HAS_GELU": False,
    }  # fmt: skip
    kernel = kernels.depthwise_residual_kernel
    types = kernels.kernel_signature("fp16", has_norm, is_int8)
    assert [*types, *constants] == kernel.arg_names
    source = ASTSource(
        kernel,
        types | dict.fromkeys(constants, "constexpr"),
        constants,
        {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in kernels.DIVISIBLE_BY_16},
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", 87, 32), options={"num_warps": tile.num_warps})
    assert len(compiled.asm["cubin"]) > 0
    return [word for word in compiled.asm["ptx"].split() if word.startswith("ld.global")]


@pytest.mark.parametrize(("channels", "has_norm", "is_int8"), [(192, False, False), (512, True, True)])
def test_kernel_compiles_ahead_of_time_with_wide_loads(channels, has_norm, is_int8, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        loads = pool.submit(compiled_loads, channels, has_norm, is_int8).result()
    taps_read = 9 * (1 + 1 + has_norm)  # x, weight, residual
    assert loads == ["ld.global.v4.b32"] * (taps_read + 1 + 2 * has_norm)  # bias, the norm's two


# -- what the launcher refuses -------------------------------------------------------------------------------------


def refusal_arguments(**changed: object) -> dict[str, object]:
    return make_case((1, 4, 4, 32), 3, (True, True, False), FP32).tensors | changed


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": torch.zeros(1, 4, 4, 32, dtype=torch.float64)}, "x is torch.float64"),
        ({"x": torch.zeros(4, 4, 32)}, r"x has the shape \(4, 4, 32\)"),
        ({"x": torch.zeros(0, 4, 4, 32)}, r"x has the shape \(0, 4, 4, 32\)"),
        ({"weight": torch.zeros(4, 4, 32)}, "kernel size 4 is even"),
        ({"weight": torch.zeros(32, 1, 3, 3)}, "kernel size 32 is even"),
        ({"weight": torch.zeros(3, 5, 32)}, r"weight has the shape \(3, 5, 32\)[^$]*it is \(3, 3, 32\)"),
        ({"bias": torch.zeros(31)}, r"bias has the shape \(31,\)"),
        ({"residual": torch.zeros(1, 4, 4, 32).half()}, "residual is torch.float16 on cpu"),
        ({"residual": torch.zeros(1, 32, 4, 4).permute(0, 2, 3, 1)}, "residual has the strides"),
        ({"norm_bias": None}, "Only one of norm_weight and norm_bias"),
        ({"output_scale": float("nan")}, "output_scale is nan"),
        ({"output_scale": -0.5}, r"output_scale is -0\.5"),
        ({"tile": kernels.Tile(1, 1, 32, 1)}, "does not fit 32 channels"),
        ({}, "x is on cpu"),
    ],
)
def test_launch_refuses_with_a_message(changed, message, monkeypatch):
    monkeypatch.setattr(kernels.triton.knobs.runtime, "interpret", False)
    with pytest.raises(RmtEdgeError, match=message):
        kernels.launch(**refusal_arguments(**changed))


def test_scale_that_vanishes_in_half_precision_is_refused():
    arguments = {name: x.half() for name, x in refusal_arguments().items()}
    with pytest.raises(RmtEdgeError, match="output_scale 1e-09 is 0 or infinite"):
        kernels.launch(**arguments, output_scale=1e-9)


def test_unsupported_channel_counts_are_refused():
    with pytest.raises(RmtEdgeError, match=r"40 channels are unsupported[^$]*multiples of 16"):
        kernels.tiles_for(40, False)
    with pytest.raises(RmtEdgeError, match=r"1920 channels are too many for a LayerNorm[^$]*up to 1024"):
        kernels.tiles_for(1920, True)
    assert kernels.tiles_for(1920, False)


# -- the CUDA path of the registered ops ---------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS, ids=lambda form: function.op_type_of(*form))
def test_gradient_of_the_cuda_path_is_the_reference_gradient(form):
    """With the reference in the kernel's place: what is tested is the way back."""
    case = make_case((2, 3, 4, 16), 3, form, FP32)
    reference = op.depthwise_residual_norm if case.has_norm else op.depthwise_residual
    numbers = [EPSILON, case.output_scale] if case.has_norm else [case.output_scale]
    names = ["x", "weight", "bias"] + ["norm_weight", "norm_bias"] * case.has_norm + ["residual"]
    gradients = []
    for call in (reference, lambda *args: cuda_op.DepthwiseFunction.apply(reference, reference, *args)):
        leaves = {name: x.clone().requires_grad_(name != "bias") for name, x in case.tensors.items()}
        outputs = call(*(leaves.get(name) for name in names), *numbers)
        outputs = [x for x in (outputs if isinstance(outputs, tuple) else (outputs,)) if x.requires_grad]
        assert len(outputs) == 1 + case.has_norm - form[2]
        for index, out in enumerate(outputs):
            out.backward(torch.arange(out.numel()).reshape(out.shape) / out.numel() - index, retain_graph=True)
        gradients.append({name: x.grad for name, x in leaves.items()})
    assert gradients[1]["bias"] is None
    for name, wanted in gradients[0].items():
        if wanted is not None:
            torch.testing.assert_close(gradients[1][name], wanted)


@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are interpreted without an NVIDIA GPU only")
@pytest.mark.parametrize("form", FORMS, ids=lambda form: function.op_type_of(*form))
def test_cuda_path_passes_its_arguments_on(form):
    case = make_case((2, 3, 4, 16), 3, form, FP32)
    tensors = case.tensors | {"x": case.tensors["x"].mT.contiguous().mT}
    if case.has_norm:
        outputs = cuda_op.launch_residual_norm(**tensors, epsilon=EPSILON, output_scale=case.output_scale)
    else:
        outputs = [cuda_op.launch_residual(**tensors, output_scale=case.output_scale)]
    assert_accurate(list(outputs), case)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
@pytest.mark.parametrize("dtype", [FP32, FP16], ids=["fp32", "fp16"])
@pytest.mark.parametrize("form", FORMS, ids=lambda form: function.op_type_of(*form))
@pytest.mark.parametrize("shape", [(64, 56, 56, 64), (3, 13, 7, 80), (1, 7, 7, 640), (1, 1, 1, 16)])
def test_registered_op_takes_the_kernel_on_a_gpu(shape, form, dtype):
    case = make_case(shape, 3, form, dtype)
    tensors = {name: x.cuda() for name, x in case.tensors.items()}
    if case.has_norm:
        outputs = torch.ops.rmt_edge.depthwise_residual_norm(**tensors, epsilon=EPSILON, output_scale=case.output_scale)
    else:
        outputs = [torch.ops.rmt_edge.depthwise_residual(**tensors, output_scale=case.output_scale)]
    assert_accurate([x.cpu() for x in outputs], case)
