"""The plugin library: how it is built, what it exports, and what TensorRT-RTX makes of it, all without a GPU.

The library is built once for one GPU generation and both processors, in a process of its own: this one may have Triton
set to interpret kernels. The full build is `rmt-edge plugin build`.
"""

import ctypes
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from rmt_edge.errors import RmtEdgeError
from rmt_edge.graph.plugin_form import to_plugin
from rmt_edge.ops.depthwise.onnx_function import OP_TYPES, depthwise_node
from rmt_edge.ops.retention.onnx_function import retention_node
from rmt_edge.plugin import cxx, load

REPOSITORY = Path(__file__).parents[2]
SM = 86
# JetPack 6 is Ubuntu 22.04: glibc 2.35, libstdc++ of GCC 12.
NEWEST_VERSIONS = {"GLIBC": (2, 35), "GLIBCXX": (3, 4, 30), "CXXABI": (1, 3, 13), "GCC": (12, 0)}
EXPORTS = {
    "getCreators", "setLoggerFinder", "rmt_edge_last_error", "rmt_edge_library_info",
    "rmt_retention_launch", "rmt_retention_load", "rmt_retention_workspace_bytes",
    "rmt_depthwise_residual_launch", "rmt_depthwise_residual_load",
}  # fmt: skip
OPS = ["Retention", *OP_TYPES]
COMPILED_ARCHITECTURES = [
    pytest.param(x, marks=pytest.mark.skipif(not shutil.which(compiler), reason=f"no {compiler}"))
    for x, compiler in (("x86_64", "g++"), ("aarch64", "aarch64-linux-gnu-g++"))
]


def run_python(*arguments, **environment):
    """A Python of its own, without what this process has set for its kernels."""
    clean = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | environment
    clean["PYTHONPATH"] = str(REPOSITORY)
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=clean, cwd=REPOSITORY)


@pytest.fixture(scope="session")
def library_folder():
    """The libraries for one SM. Kept between sessions under build/, rebuilt by build.py if a source changed."""
    folder = REPOSITORY / "build" / "test-plugin"
    architectures = [x.values[0] for x in COMPILED_ARCHITECTURES if not x.marks[0].args[0]]
    arch = [x for name in architectures for x in ("--arch", name)]
    result = run_python("-m", "rmt_edge.cli", "plugin", "build", "--sm", str(SM), *arch, "--output", str(folder))
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope="session")
def library(library_folder):
    return load.library_path(library_folder)


def change_attributes(node, changes):
    """changes: attributes to replace, or to drop if None."""
    kept = [x for x in node.attribute if x.name not in changes]
    del node.attribute[:]
    node.attribute.extend(kept)
    node.attribute.extend(onnx.helper.make_attribute(k, v) for k, v in changes.items() if v is not None)


def one_node_model(d=32, decomposed=1, dtype=np.float16, changes=None):
    """qkv -> Retention -> out on a 14 x 14 grid. changes: attributes to replace, or to drop if None."""
    grid, num_heads, changes = 14, 4, changes or {}
    c, l = num_heads * d, grid * grid
    generator = np.random.default_rng(0)
    weights = {
        "sin": generator.uniform(-1, 1, (l, d)), "cos": generator.uniform(-1, 1, (l, d)),
        "lepe_weight": generator.standard_normal((c, 1, 5, 5)) * 0.2, "lepe_bias": generator.standard_normal(c),
    }  # fmt: skip
    decay = [-0.3 / (i + 1) for i in range(num_heads)]
    node = retention_node(["qkv", *weights], "out", "retention", num_heads, decay, bool(decomposed), c)
    to_plugin(node)
    change_attributes(node, changes)
    element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node], "retention", [info("qkv", element, ["b", grid, grid, 3 * c])],
        [info("out", element, ["b", grid, grid, c])],
        [onnx.numpy_helper.from_array(x.astype(dtype), name) for name, x in weights.items()],
    )  # fmt: skip
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("rmt_edge", 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)


def quantize_output(model, scale):
    """Let the node write INT8 and a DequantizeLinear read it."""
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("output_scale", scale))
    model.graph.node[0].output[0] = "out_int8"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float16(scale), "out_scale"))
    model.graph.node.append(onnx.helper.make_node("DequantizeLinear", ["out_int8", "out_scale"], ["out"]))
    return model


# What a child process does with a model file: parse, count plugin layers, build for SM 8.6; prints one line of JSON.
BUILD_ENGINE = """
import json, sys
from pathlib import Path
import tensorrt_rtx_bindings as trt
from rmt_edge.plugin.load import load_plugins, take_last_error
assert not {"torch", "triton"} & set(sys.modules), "the device has neither"

class Logger(trt.ILogger):
    lines = []
    def __init__(self):
        trt.ILogger.__init__(self)
    def log(self, severity, message):
        self.lines.append(message)

logger, library = Logger(), Path(sys.argv[2])
load_plugins(trt, library)
builder = trt.Builder(logger)
network = builder.create_network(0)
parser = trt.OnnxParser(network, logger)
engine, kinds = None, []
if parser.parse(Path(sys.argv[1]).read_bytes()):
    kinds = [str(network.get_layer(i).type) for i in range(network.num_layers)]
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    profile = builder.create_optimization_profile()
    shape = list(network.get_input(0).shape)[1:]
    for i in range(network.num_inputs):
        profile.set_shape(network.get_input(i).name, [1, *shape], [8, *shape], [8, *shape])
    config.add_optimization_profile(profile)
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    engine = builder.build_serialized_network(network, config)
layers = [x for line in logger.lines for x in line.splitlines() if x.startswith("Name: ")]
print(json.dumps({"engine_bytes": engine.nbytes if engine else 0, "layers": layers, "error": take_last_error(library),
                  "plugin_layers": sum("PLUGIN_V3" in x for x in kinds)}))
"""


def build_engine(model, library, tmp_path):
    """Build in a process of its own, so that one that dies is seen. Returns what it printed."""
    pytest.importorskip("tensorrt_rtx_bindings", reason="no tensorrt-rtx-cu13-bindings")
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    result = run_python("-c", BUILD_ENGINE, str(path), str(library), XDG_CACHE_HOME=str(tmp_path))
    assert result.returncode == 0, f"the process ended with {result.returncode}: {result.stderr}"
    return json.loads(result.stdout.splitlines()[-1]) | {"stderr": result.stderr}


@pytest.mark.trt
@pytest.mark.parametrize("decomposed", [1, 0], ids=["decomposed", "whole"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32], ids=["fp16", "fp32"])
@pytest.mark.parametrize("d", [16, 32])
def test_engine_of_one_node_has_exactly_the_plugin_layer(library, tmp_path, decomposed, dtype, d):
    built = build_engine(one_node_model(d=d, decomposed=decomposed, dtype=dtype), library, tmp_path)
    assert built["plugin_layers"] == 1
    assert built["engine_bytes"] > 0
    working = [x for x in built["layers"] if "LayerType: shape_call" not in x]
    assert len(working) == 1 and "LayerType: custom_layer" in working[0], working


@pytest.mark.trt
def test_engine_with_int8_output_passes_int8_on(library, tmp_path):
    built = build_engine(quantize_output(one_node_model(), 0.05), library, tmp_path)
    assert built["plugin_layers"] == 1
    (plugin,) = (x for x in built["layers"] if "LayerType: custom_layer" in x)
    assert "Datatype: Int8" in plugin.split("Outputs: ")[1]


def depthwise_model(op_type, dtype=np.float16, c=64, k=3, changes=None):
    """x and the residual -> one DepthwiseResidual node on a 14 x 14 grid -> out and norm, dequantised if INT8."""
    has_residual, has_norm, is_int8 = OP_TYPES[op_type]
    grid, generator = 14, np.random.default_rng(0)
    shapes = {"weight": (k, k, c), "bias": (c,)} | ({"norm_weight": (c,), "norm_bias": (c,)} if has_norm else {})
    weights = {name: generator.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    images = ["x", "residual"] if has_residual else ["x"]
    names = ["x", "weight", "bias", *images[1:], *list(shapes)[2:]]
    outputs = ["out", "norm"] if has_norm else ["out"]
    made = [*outputs[:-1], "quantized"] if is_int8 else outputs
    epsilon, scale = 1e-6 if has_norm else None, 0.05 if is_int8 else 0.0
    nodes = [depthwise_node(names, made, "depthwise", c, epsilon, scale)]
    assert nodes[0].op_type == op_type
    to_plugin(nodes[0])
    change_attributes(nodes[0], changes or {})
    if is_int8:
        weights["scale"] = dtype(scale)
        nodes.append(onnx.helper.make_node("DequantizeLinear", ["quantized", "scale"], outputs[-1:]))
    element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    infos = {x: onnx.helper.make_tensor_value_info(x, element, ["b", grid, grid, c]) for x in [*images, *outputs]}
    graph = onnx.helper.make_graph(
        nodes, "depthwise", [infos[x] for x in images], [infos[x] for x in outputs],
        [onnx.numpy_helper.from_array(x, name) for name, x in weights.items()],
    )  # fmt: skip
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("rmt_edge", 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)


DEPTHWISE_CASES = [(op_type, np.float16, 64) for op_type in OP_TYPES]
DEPTHWISE_CASES += [("DepthwiseResidual", np.float16, 1920), ("AddDepthwiseResidualNormInt8", np.float16, 640)]
DEPTHWISE_CASES += [("DepthwiseResidualInt8", np.float32, 80), ("AddDepthwiseResidualNorm", np.float32, 80)]


@pytest.mark.trt
@pytest.mark.parametrize("op_type, dtype, c", DEPTHWISE_CASES)
def test_engine_of_one_depthwise_node_has_exactly_the_plugin_layer(library, tmp_path, op_type, dtype, c):
    built = build_engine(depthwise_model(op_type, dtype, c), library, tmp_path)
    assert built["plugin_layers"] == 1, built
    assert built["engine_bytes"] > 0, built
    (plugin,) = (x for x in built["layers"] if "LayerType: custom_layer" in x)
    assert plugin.split("Outputs: ")[1].count("Datatype: Int8") == OP_TYPES[op_type][2]


BAD_DEPTHWISE_NODES = {
    "channels": (dict(changes=dict(channels=32)), r"x is \(8, 14, 14, 64\), not \(\?, \?, \?, 32\)"),
    "no channels": (dict(changes=dict(channels=None)), "attribute channels is missing"),
    "odd channels": (dict(c=40), "40 channels are unsupported; supported: multiples of 16"),
    "wide norm": (dict(c=1040), "1040 channels are too many for a LayerNorm"),
    "kernel size": (dict(k=5), r"weight is \(5, 5, 64\); the kernels are compiled for a 3 x 3 convolution"),
    "no epsilon": (dict(changes=dict(epsilon=None)), "attribute epsilon is missing"),
    "epsilon": (dict(changes=dict(epsilon=0.0)), r"epsilon is 0\.0*; it must be positive"),
    "integer epsilon": (dict(changes=dict(epsilon=1)), "attribute epsilon must be float32"),
    "no scale": (dict(changes=dict(output_scale=None)), "attribute output_scale is missing"),
    "scale": (dict(changes=dict(output_scale=-0.5)), r"output_scale is -0\.50*; it must be positive"),
    "small scale": (dict(changes=dict(output_scale=1e-9)), "output_scale is 0 or infinite in float16"),
}


@pytest.mark.trt
@pytest.mark.parametrize("arguments, message", BAD_DEPTHWISE_NODES.values(), ids=BAD_DEPTHWISE_NODES)
def test_wrong_depthwise_node_is_refused_with_a_message(library, tmp_path, arguments, message):
    built = build_engine(depthwise_model("AddDepthwiseResidualNormInt8", **arguments), library, tmp_path)
    assert built["engine_bytes"] == 0
    assert re.search(message, built["error"]), built["error"]
    assert "rmt_edge: error: AddDepthwiseResidualNormInt8" in built["stderr"]


@pytest.mark.trt
def test_missing_depthwise_input_is_refused_with_a_message(library, tmp_path):
    model = depthwise_model("AddDepthwiseResidualNorm")
    del model.graph.node[0].input[5]
    built = build_engine(model, library, tmp_path)
    assert built["engine_bytes"] == 0
    assert "5 inputs and 2 outputs were given, 6 and 2 expected" in built["error"]


@pytest.mark.trt
def test_depthwise_inputs_of_two_types_are_refused_with_a_message(library, tmp_path):
    model = depthwise_model("DepthwiseResidual")
    model.graph.initializer[1].CopyFrom(onnx.numpy_helper.from_array(np.zeros(64, np.float32), "bias"))
    built = build_engine(model, library, tmp_path)
    assert built["engine_bytes"] == 0
    assert "bias has data type 0, x has 1" in built["error"]


BAD_NODES = {
    "heads": (dict(num_heads=3, decay=[-0.1] * 3), "3 heads do not divide 128 channels"),
    "head dim": (dict(d=48), r"head dim 48 \(192 channels, 4 heads\) unsupported; supported: 16, 32"),
    "positive decay": (dict(decay=[-0.1, -0.1, 0.5, -0.1]), r"decay 0\.50* is not negative"),
    "decays": (dict(decay=[-0.1]), "1 decays for 4 heads"),
    "no heads": (dict(num_heads=None), "attribute num_heads is missing"),
    "no decay": (dict(decay=None), "attribute decay is missing"),
    "type": (dict(decomposed=0.5), "attribute decomposed must be one integer"),
    "form": (dict(decomposed=2), "decomposed is 2; allowed: 0, 1"),
    "channels": (dict(channels=64), r"qkv must be \(b, h, w, 192\)"),
    "scale": (dict(output_scale=-0.5), r"output_scale is -0\.50*; it must be positive"),
}


@pytest.mark.trt
@pytest.mark.parametrize("change, message", BAD_NODES.values(), ids=BAD_NODES)
def test_wrong_attribute_is_refused_with_a_message(library, tmp_path, change, message):
    d = change.get("d", 32)
    model = one_node_model(d, changes={k: v for k, v in change.items() if k != "d"})
    built = build_engine(model, library, tmp_path)
    assert built["engine_bytes"] == 0
    assert re.search(message, built["error"]), built["error"]
    assert "rmt_edge: error: Retention" in built["stderr"]


@pytest.mark.trt
def test_missing_input_is_refused_with_a_message(library, tmp_path):
    model = one_node_model()
    del model.graph.node[0].input[4]
    built = build_engine(model, library, tmp_path)
    assert built["engine_bytes"] == 0
    assert "4 inputs were given, 5 expected" in built["error"]


@pytest.mark.trt
def test_tables_of_another_grid_are_refused_with_a_message(library, tmp_path):
    model = one_node_model()
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.zeros((5, 32), np.float16), "sin"))
    built = build_engine(model, library, tmp_path)
    assert built["engine_bytes"] == 0
    assert "sin and cos must be (196, 32)" in built["error"]


@pytest.mark.trt
def test_inputs_of_two_types_are_refused_with_a_message(library, tmp_path):
    model = one_node_model()
    model.graph.initializer[1].CopyFrom(onnx.numpy_helper.from_array(np.zeros((196, 32), np.float32), "cos"))
    built = build_engine(model, library, tmp_path)
    assert built["engine_bytes"] == 0
    assert "input 2 has data type 0, qkv has 1" in built["error"]


def test_library_loads_without_torch_and_triton_and_says_what_it_holds(library):
    code = (
        "import json, sys; from pathlib import Path; from rmt_edge.plugin.load import library_info; "
        "info = library_info(Path(sys.argv[1])); "
        "assert not {'torch', 'triton', 'numpy', 'tensorrt'} & set(sys.modules); print(json.dumps(info))"
    )
    result = run_python("-c", code, str(library))
    assert result.returncode == 0, result.stderr
    info = json.loads(result.stdout)
    assert info["ops"] == OPS
    assert info["cubin_sms"] == [SM] and info["ptx_sms"] == [SM]
    assert info["architecture"] == platform.machine()
    sidecar = json.loads(Path(f"{library}.json").read_text())
    assert sidecar["hash"] == info["hash"]
    assert sidecar["bytes"] == library.stat().st_size


def readelf(*arguments):
    if shutil.which("readelf") is None:
        pytest.skip("no readelf (binutils)")
    return subprocess.run(["readelf", "-W", *arguments], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("architecture", COMPILED_ARCHITECTURES)
def test_library_exports_and_needs_what_the_contract_says(library_folder, architecture):
    path = str(library_folder / load.library_name(architecture))
    symbols = [x.split() for x in readelf("--dyn-syms", path).splitlines() if re.match(r" *\d+:", x)]
    defined = {x[7].split("@")[0] for x in symbols if len(x) > 7 and x[3] != "SECTION" and x[6] != "UND"}
    assert defined == EXPORTS
    undefined = {x[7] for x in symbols if len(x) > 7 and x[6] == "UND"}
    assert not [x for x in undefined if re.match(r"cu[A-Z]|cuda|nvinfer|_ZN8nvinfer", x)]
    needed = set(re.findall(r"NEEDED.*\[(.*)\]", readelf("-d", path)))
    assert {re.sub(r"\.so.*", "", x) for x in needed} <= {"libc", "libstdc++", "libgcc_s", "libm", "ld-linux-x86-64"}
    for family, version in re.findall(r"(GLIBC|GLIBCXX|CXXABI|GCC)_([0-9.]+)", readelf("-V", path)):
        assert tuple(map(int, version.split("."))) <= NEWEST_VERSIONS[family], (family, version)


# A C++ host for a processor without Python: prints what the creators say of themselves, and the library's info.
LIST_CREATORS = """
#include <NvInferRuntime.h>
#include <cstdio>
#include <dlfcn.h>
int main(int, char** arguments)
{
    void* library = dlopen(arguments[1], RTLD_NOW);
    if (library == nullptr) { std::puts(dlerror()); return 1; }
    using GetCreators = nvinfer1::IPluginCreatorInterface* const* (*)(int32_t&);
    int32_t count{};
    auto creators = reinterpret_cast<GetCreators>(dlsym(library, "getCreators"))(count);
    for (int32_t i = 0; i < count; ++i)
    {
        auto creator = static_cast<nvinfer1::IPluginCreatorV3One*>(creators[i]);
        std::printf("%s %s ", creator->getPluginName(), creator->getPluginVersion());
        std::puts(creator->getPluginNamespace());
        nvinfer1::PluginFieldCollection empty{};
        std::printf("%d\\n", creator->createPlugin("bad", &empty, nvinfer1::TensorRTPhase::kBUILD) == nullptr);
    }
    std::puts(reinterpret_cast<char const* (*)()>(dlsym(library, "rmt_edge_library_info"))());
}
"""


def test_library_for_jetson_lists_its_creators_and_gpus_under_qemu(library_folder, tmp_path):
    triton_include = Path(pytest.importorskip("triton").__file__).parent / "backends/nvidia/include"
    for tool in ("aarch64-linux-gnu-g++", "qemu-aarch64"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} (apt-get install g++-aarch64-linux-gnu qemu-user)")
    source, host = tmp_path / "host.cpp", tmp_path / "host"
    source.write_text(LIST_CREATORS)
    headers = cxx.find_headers(REPOSITORY / "build" / "plugin-cache", None)
    include = [f"-isystem{x}" for x in (headers, triton_include)]
    subprocess.run(["aarch64-linux-gnu-g++", *include, str(source), "-o", str(host), "-ldl"], check=True)
    library = library_folder / load.library_name("aarch64")
    command = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", str(host), str(library)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    *creators, info = result.stdout.splitlines()
    assert creators[::2] == [f"{op} 1 rmt_edge" for op in OPS]
    assert set(creators[1::2]) == {"1"}, "made a plugin without attributes"
    assert "Retention node 'bad': attribute num_heads is missing" in result.stderr
    assert "AddDepthwiseResidualNormInt8 node 'bad': attribute channels is missing" in result.stderr
    assert json.loads(info)["cubin_sms"] == [SM]
    assert json.loads(info)["architecture"] == "aarch64"


def test_c_entry_points_say_what_is_wrong(library):
    opened = load.open_library(library)
    load.take_last_error(library)
    assert opened.rmt_retention_workspace_bytes(2, 7, 5, 4, 16, 1, 1) == 2 * 7 * 5 * 64 * 2
    assert opened.rmt_retention_workspace_bytes(2, 7, 5, 4, 16, 0, 1) == 0
    nothing = ctypes.c_void_p()
    arguments = [nothing] * 8 + [ctypes.c_int32(x) for x in (1, 7, 7, 4, 48, 1, 1)]
    arguments += [ctypes.c_float(0), ctypes.c_int32(0), nothing]
    assert opened.rmt_retention_launch(*arguments) != 0
    assert "no kernel for head dim 48" in load.take_last_error(library)
    assert load.take_last_error(library) == ""
    if not Path("/dev/nvidiactl").exists():
        arguments[12] = ctypes.c_int32(16)
        assert opened.rmt_retention_launch(*arguments) != 0
        assert "no CUDA driver" in load.take_last_error(library)


def test_depthwise_entry_points_say_what_is_wrong(library):
    opened = load.open_library(library)
    load.take_last_error(library)

    def launch(has_norm=0, c=64, element_type=1, epsilon=1e-6, scale=0.0):
        pointers = [ctypes.c_void_p(16 if x else 0) for x in (1, 1, 1, 0, has_norm, has_norm, 1, has_norm)]
        sizes = [ctypes.c_int32(x) for x in (1, 7, 7, c, element_type)]
        numbers = [ctypes.c_float(epsilon), ctypes.c_float(scale), ctypes.c_int32(0), ctypes.c_void_p()]
        assert opened.rmt_depthwise_residual_launch(*pointers, *sizes, *numbers) != 0
        return load.take_last_error(library)

    assert launch(c=40) == "DepthwiseResidual: 40 channels are unsupported; supported: multiples of 16."
    assert "DepthwiseResidualNormInt8: 2048 channels are too many" in launch(has_norm=1, c=2048, scale=0.1)
    assert "element type 2 is unknown" in launch(element_type=2)
    assert "epsilon must be positive" in launch(has_norm=1, epsilon=0.0)
    assert "output_scale must be positive" in launch(scale=-1.0)
    assert "0 or infinite in float16" in launch(scale=1e-9)
    assert opened.rmt_depthwise_residual_load(0, 1, 0, 1040, 1) != 0
    assert "1040 channels are too many for a LayerNorm" in load.take_last_error(library)
    if not Path("/dev/nvidiactl").exists():
        assert "no CUDA driver" in launch()


# Compiles one kernel for SM 8.0 and 8.7 from one PTX, and for SM 8.7 alone, by Triton from end to end.
COMPILE_TWICE = """
import sys
from pathlib import Path
from rmt_edge.plugin import build
folder, make = Path(sys.argv[1]), list(build.OPS.values())[int(sys.argv[2])]
build.compile_variant(make()[0], {80: "of_80", 87: "shared"}, folder, None)
build.compile_variant(make()[0], {87: "alone"}, folder, None)
"""


@pytest.mark.parametrize("op", [0, 1], ids=["Retention", "DepthwiseResidual"])
def test_kernel_from_shared_ptx_is_the_one_triton_makes(tmp_path, op):
    result = run_python("-c", COMPILE_TWICE, str(tmp_path), str(op), TRITON_CACHE_DIR=str(tmp_path / "cache"))
    assert result.returncode == 0, result.stderr
    shared, alone, of_80 = ((tmp_path / f"{x}.cubin").read_bytes() for x in ("shared", "alone", "of_80"))
    assert shared == alone
    assert shared != of_80


def test_up_to_date_library_is_not_built_again(library_folder, library):
    before = library.stat().st_mtime_ns
    arguments = ["--sm", str(SM), "--arch", platform.machine(), "--output", str(library_folder)]
    result = run_python("-m", "rmt_edge.cli", "plugin", "build", *arguments)
    assert result.returncode == 0, result.stderr
    assert "is up to date" in result.stderr
    assert result.stdout.splitlines() == [str(library)]
    assert library.stat().st_mtime_ns == before


def test_unknown_gpu_generation_is_refused(tmp_path):
    result = run_python("-m", "rmt_edge.cli", "plugin", "build", "--sm", "61", "--output", str(tmp_path))
    assert result.returncode == 1
    assert "SM 61 is not known" in result.stderr
    assert "Traceback" not in result.stderr


def test_build_under_the_interpreter_is_refused(tmp_path):
    result = run_python("-m", "rmt_edge.cli", "plugin", "build", "--output", str(tmp_path), TRITON_INTERPRET="1")
    assert result.returncode == 1
    assert "TRITON_INTERPRET is set" in result.stderr


def test_folder_without_a_library_is_refused(tmp_path):
    (tmp_path / "librmt_edge_plugin_riscv64.so").write_text("")
    with pytest.raises(RmtEdgeError, match=r"No plugin library for .*\n.*librmt_edge_plugin_riscv64.so"):
        load.library_path(tmp_path)


def test_file_that_is_no_library_is_refused(tmp_path):
    path = tmp_path / "librmt_edge_plugin.so"
    path.write_text("text")
    with pytest.raises(RmtEdgeError, match="cannot be loaded"):
        load.library_info(path)


def test_headers_that_are_too_old_are_refused(tmp_path):
    for name in ("NvInfer.h", "NvInferVersion.h"):
        parts = (("MAJOR", 8), ("MINOR", 6), ("PATCH", 2))
        (tmp_path / name).write_text("".join(f"#define NV_TENSORRT_{x} {number}\n" for x, number in parts))
    with pytest.raises(RmtEdgeError, match=r"are of version 8\.6\.2"):
        cxx.find_headers(tmp_path, tmp_path)


def test_folder_without_headers_is_refused(tmp_path):
    with pytest.raises(RmtEdgeError, match=r"No NvInfer\.h in"):
        cxx.find_headers(tmp_path, tmp_path)


def test_missing_cross_compiler_is_named(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    other = next(x for x in cxx.ARCHITECTURES if x != platform.machine())
    with pytest.raises(RmtEdgeError, match=f"{other}-linux-gnu-g\\+\\+ was not found"):
        cxx.find_compiler(other)


class FakeRegistry:
    """A TensorRT that loads the file and registers nothing."""

    def get_creator(self, name, version, namespace):
        return None

    def load_library(self, path):
        return None


def test_tensorrt_that_registers_nothing_is_refused(library):
    trt = SimpleNamespace(__name__="tensorrt", __version__="8.6.2", get_plugin_registry=FakeRegistry)
    with pytest.raises(RmtEdgeError, match=r"tensorrt 8\.6\.2 did not register Retention"):
        load.load_plugins(trt, library)
