"""The same build against the API of TensorRT 10.3, 10.13 and 11.4 on paper, and what differs with TensorRT-RTX."""

import ast
import hashlib
import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from rmt_edge.artifact import ENGINE, manifest_path, plugin_form_path, read_artifact
from rmt_edge.device.machine import Gpu, Machine
from rmt_edge.device.profile import DeviceProfile, load_profile
from rmt_edge.engine import build as engine
from rmt_edge.engine import config as builder_config
from rmt_edge.engine.build import build, gpu_of
from rmt_edge.engine.config import DIGEST_BYTES, cache_folder, temporary_folder
from rmt_edge.engine.layers import layers_in_json, layers_in_log
from rmt_edge.errors import RmtEdgeError
from rmt_edge.report.collect import write_report
from tests.conftest import ROOT
from tests.tensorrt_api import FOLDER, VERSIONS, standin

ORIN = DeviceProfile("orin", "Orin", "tensorrt", ("8.7",), ("10.3", "11.4"), 8, 1024, max_batch=4, batches=(1,))
MACHINE = Machine("Linux", "aarch64", None, None, None, (Gpu("Orin (nvgpu)", "8.7", 7619),), 7619, 5000, "3.10.12")
has_rtx = importlib.util.find_spec("tensorrt_rtx_bindings") is not None
needs_rtx = pytest.mark.skipif(not has_rtx, reason="tensorrt-rtx-cu13-bindings is not installed")


@pytest.fixture
def cache_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(params=VERSIONS)
def trt(request, monkeypatch, cache_home):
    """TensorRT of one version on paper, on an Orin on paper."""
    module = standin(request.param)
    monkeypatch.setattr(engine, "load_backend", lambda name: module)
    machine = replace(MACHINE, tensorrt={"tensorrt": module.__version__})
    monkeypatch.setattr(engine, "this_machine", lambda: machine)
    return module


def test_one_build_serves_every_version_of_tensorrt(trt, onnx_files, library_folder, tmp_path):
    output = tmp_path / "engines"
    path = build(onnx_files["int8"], ORIN, output, libraries=library_folder).path
    artifact = read_artifact(path, ENGINE)
    details = artifact.details
    assert path.read_bytes().startswith(b"plan of rmt_nano")
    assert details["backend"] == {"name": "tensorrt", "version": trt.__version__}
    assert details["compute_capabilities"] == ["8.7"]
    assert details["machine"]["gpus"][0]["name"] == "Orin (nvgpu)"
    assert details["plugin_layers"] == details["layers_by_kind"]["PluginV3"] == 18
    assert details["plugin_library"]["name"].startswith("librmt_edge_plugin")
    [config] = trt.scenario.configs
    assert config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED
    assert config._pools == {trt.MemoryPoolType.WORKSPACE: 1024 << 20}
    [batches] = config._profiles
    assert batches._shape == ("images", (1, 3, 40, 48), (1, 3, 40, 48), (4, 3, 40, 48))
    assert config._flags == []
    assert sorted(x.name for x in output.iterdir()) == [path.name, f"{path.name}.json", f"{path.name}.layers.json"]


def test_networks_are_strongly_typed_in_every_version(trt):
    assert builder_config.network_flags(trt) == 1 << trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    trt.NetworkDefinitionCreationFlag = type("NetworkDefinitionCreationFlag", (), {})
    assert builder_config.network_flags(trt) == 0


@pytest.mark.parametrize(("lists", "layers"), [("log", True), ("inspector", True), ("", False)])
def test_plugin_layers_are_counted_wherever_the_layers_are_listed(
    trt, onnx_files, library_folder, tmp_path, lists, layers
):
    trt.scenario.lists = lists
    path = build(onnx_files["fp16"], ORIN, tmp_path, libraries=library_folder).path
    details = read_artifact(path, ENGINE).details
    found = json.loads(path.with_name(f"{path.name}.layers.json").read_text())
    assert details["plugin_layers"] == 18
    if layers:
        assert found["count"] == details["layers"] == len(found["layers"]) > 18
        assert found["layers"][0]["reads"] == ["Half"]
    else:
        assert [found[x] for x in ("count", "by_kind", "layers")] == [None] * 3 == [details["int8_gemms"]] * 3


def test_a_report_takes_an_engine_whose_layers_are_not_listed(onnx_files, quantized, tmp_path, monkeypatch, cache_home):
    module = standin("10.13")
    module.scenario.lists = ""
    monkeypatch.setattr(engine, "load_backend", lambda name: module)
    machine = replace(MACHINE, tensorrt={"tensorrt": module.__version__})
    monkeypatch.setattr(engine, "this_machine", lambda: machine)
    folder = tmp_path / "deployed"
    folder.mkdir()
    for path in (quantized["fp16"], onnx_files["fp16"], plugin_form_path(onnx_files["fp16"])):
        shutil.copy(path, folder)
        shutil.copy(manifest_path(path), folder)
    build(folder / onnx_files["fp16"].name, ORIN, kernels="native")
    page = write_report(folder).read_text()
    assert "| engine layers | – |" in page and "| of them plugins | 0 |" in page


def test_an_unlisted_engine_with_too_few_plugins_is_refused(trt, onnx_files, library_folder, tmp_path, monkeypatch):
    trt.scenario.lists = ""
    monkeypatch.setattr(engine, "plugin_layers_of", lambda trt, network: 17)
    with pytest.raises(RmtEdgeError, match="18 nodes for plugins, but its engine has 17 plugin layers"):
        build(onnx_files["fp16"], ORIN, tmp_path, libraries=library_folder)


def test_a_build_that_fails_says_why_and_leaves_nothing(trt, onnx_files, tmp_path):
    trt.scenario.fails = True
    output = tmp_path / "engines"
    with pytest.raises(
        RmtEdgeError, match=r"could not build nano\.fp16\.onnx for Orin:\n.*no implementation for node x"
    ):
        build(onnx_files["fp16"], ORIN, output, "native")
    assert not list(output.iterdir())


def test_the_timing_cache_is_kept_for_the_next_build(trt, onnx_files, tmp_path, cache_home, caplog):
    path = cache_home / "rmt-edge" / "timing" / f"tensorrt-{trt.__version__}-sm87-orin-nvgpu.cache"
    for _ in range(2):
        build(onnx_files["fp16"], ORIN, tmp_path, "native")
    assert trt.scenario.caches == [b"", b"timed, and once more"]
    assert path.read_bytes()[DIGEST_BYTES:] == b"timed, and once more, and once more"
    assert [x.name for x in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("damage", ["cut", "another device"])
def test_a_timing_cache_that_is_damaged_or_not_accepted_is_replaced(
    trt, onnx_files, tmp_path, cache_home, caplog, damage
):
    path = builder_config.timing_cache_path(trt, ORIN, MACHINE.gpus[0])
    path.parent.mkdir(parents=True)
    content = b"of an L4"
    path.write_bytes(hashlib.sha256(content).digest() + (content if damage != "cut" else content[:-1]))
    with caplog.at_level(logging.INFO):
        build(onnx_files["fp16"], ORIN, tmp_path, "native")
    assert ("is damaged" if damage == "cut" else "does not accept the timing cache") in caplog.text
    assert trt.scenario.caches == [b""]
    assert path.read_bytes()[DIGEST_BYTES:] == b"timed, and once more"


def test_a_timing_cache_that_cannot_be_written_costs_a_warning_alone(trt, onnx_files, tmp_path, cache_home, caplog):
    cache_home.write_text("a file where the folder should be")
    assert build(onnx_files["fp16"], ORIN, tmp_path / "engines", "native").path.is_file()
    assert "the timing cache is not kept" in caplog.text


def test_tensorrt_rtx_and_machines_without_a_gpu_have_no_timing_cache(trt, cache_home):
    assert builder_config.timing_cache_path(trt, ORIN, None) is None
    assert builder_config.timing_cache_path(trt, load_profile("rtx-portable"), MACHINE.gpus[0]) is None
    assert cache_folder() == cache_home / "rmt-edge" / "timing"


def test_version_compatibility_is_a_flag(trt, onnx_files, tmp_path):
    build(onnx_files["fp16"], replace(ORIN, version_compatible=True), tmp_path, "native")
    assert trt.scenario.configs[0]._flags == [trt.BuilderFlag.VERSION_COMPATIBLE]
    trt.BuilderFlag = type("BuilderFlag", (), {})
    with pytest.raises(RmtEdgeError, match=rf"tensorrt {trt.__version__} builds no version-compatible engines"):
        build(onnx_files["fp16"], replace(ORIN, version_compatible=True), tmp_path, "native")


def test_hardware_compatibility_is_set_or_refused_by_name(trt, onnx_files, tmp_path):
    build(onnx_files["fp16"], replace(ORIN, hardware_compatibility="ampere_plus"), tmp_path, "native")
    assert trt.scenario.configs[0].hardware_compatibility_level == trt.HardwareCompatibilityLevel.AMPERE_PLUS
    same = replace(ORIN, hardware_compatibility="same_compute_capability")
    if trt.__version__.startswith("10.3."):
        match = r"10\.3\.0 has no hardware compatibility same_compute_capability[\s\S]*has ampere_plus, none"
        with pytest.raises(RmtEdgeError, match=match):
            build(onnx_files["fp16"], same, tmp_path, "native")
    else:
        build(onnx_files["fp16"], same, tmp_path, "native")
        level = trt.scenario.configs[1].hardware_compatibility_level
        assert level == trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY


@pytest.mark.trt
@needs_rtx
@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"version_compatible": True}, r"tensorrt_rtx [\d.]+ builds no version-compatible engines[\s\S]*rtx-portable"),
        ({"hardware_compatibility": "ampere_plus"}, "has no hardware compatibility ampere_plus[\\s\\S]*has none"),
    ],
)
def test_tensorrt_rtx_refuses_what_it_would_drop_in_silence(onnx_files, tmp_path, change, match):
    with pytest.raises(RmtEdgeError, match=match):
        build(onnx_files["fp16"], replace(load_profile("rtx-portable"), **change), tmp_path, "native")


def test_a_workspace_that_is_not_taken_is_said(trt, onnx_files, tmp_path, caplog):
    trt.scenario.largest_workspace = 512 << 20
    build(onnx_files["fp16"], ORIN, tmp_path, "native")
    assert "the builder's workspace is 512 MiB, not the profile's 1024" in caplog.text


def test_temporary_files_lie_beside_the_engine_and_go(trt, onnx_files, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", "/somewhere")
    output = tmp_path / "engines"
    path = build(onnx_files["fp16"], ORIN, output, "native").path
    (name,) = trt.scenario.temporary_folders
    folder = output / name
    assert folder.parent == output and folder.name.startswith(f".{path.name}.") and folder.suffix == ".tmp"
    assert not list(output.glob(".*"))
    assert os.environ["TMPDIR"] == "/somewhere"
    monkeypatch.delenv("TMPDIR")
    with pytest.raises(ValueError), temporary_folder(tmp_path / "x") as folder:
        (folder / "file").touch()
        raise ValueError
    assert not folder.exists() and "TMPDIR" not in os.environ


def test_tensorrt_builds_on_its_own_gpu_alone():
    with pytest.raises(RmtEdgeError, match=r"orin is built by TensorRT, and there is no GPU here[\s\S]*on the device"):
        gpu_of(ORIN, replace(MACHINE, gpus=()))
    other = Gpu("NVIDIA L4", "8.9", 23034)
    with pytest.raises(RmtEdgeError, match=r"for compute capability 8\.7; this machine's GPU is NVIDIA L4, 8\.9"):
        gpu_of(ORIN, replace(MACHINE, gpus=(other,)))
    assert gpu_of(ORIN, MACHINE) == MACHINE.gpus[0]
    assert gpu_of(load_profile("rtx-portable"), replace(MACHINE, gpus=())) is None


def test_the_log_s_list_of_tensorrt_rtx_is_read():
    text = (
        "Layers:\n"
        "Name: a, LayerType: gemm, Inputs: [ { Name: x, Datatype: Int8 }], Constants: [ { Datatype: Int8 }], "
        "Outputs: [ { Name: y, Datatype: Half }], TacticName: t, StreamId: 0, "
        "Metadata: [ONNX Layer: p/product][ONNX Layer: p.weight]\n"
        "Name: b, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], TacticName: , "
        "StreamId: 0, Metadata: \n"
        "\nI/O Tensors:\n Name: images, IOMode: Input\n"
    )
    assert layers_in_log([(4, "other"), (4, text)]) == [
        {"name": "a", "kind": "gemm", "reads": ["Int8"], "writes": ["Half"], "onnx_nodes": ["p/product", "p.weight"]},
        {"name": "b", "kind": "shape_call", "reads": [], "writes": [], "onnx_nodes": []},
    ]


def test_the_log_s_list_of_tensorrt_is_read(caplog):
    """After NVIDIA/TensorRT issue 4397, TensorRT 10.10."""
    line = (
        "Name: __myl_Cast_myl0_0, LayerType: kgen, Inputs: [ { Name: pos_ids, Dimensions: [1,40], Format/Datatype: "
        "Int32 }, { Name: x, Dimensions: [1,40], Format/Datatype: Row major linear FP16 format }], Outputs: "
        "[ { Name: y, Dimensions: [1,40], Format/Datatype: Float }], ParameterType: Reformat, TacticName: t"
    )
    [layer] = layers_in_log([(4, "Engine Layer Information:\nLayers:\n" + line)])
    assert layer["reads"] == ["Half", "Int32"] and layer["writes"] == ["Float"] and layer["kind"] == "kgen"
    assert layers_in_log([(4, "nothing")]) is None
    assert layers_in_log([(4, f"Layers:\n{line}\nName: of another form")]) is None
    assert "1 of 2 lines" in caplog.text


def test_the_inspector_s_list_is_read(caplog):
    tensor = {"Name": "input.12", "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}
    int8 = {"Name": "q", "Format/Datatype": "Four wide channel vectorized row major Int8 format"}
    layer = {"Name": "Conv_6", "LayerType": "CaskConvolution", "Inputs": [int8], "Outputs": [tensor]}
    [found] = layers_in_json(json.dumps({"Layers": [layer | {"Metadata": "[ONNX Layer: a][ONNX Layer: b]"}]}))
    assert found == {
        "name": "Conv_6", "kind": "CaskConvolution", "reads": ["Int8"], "writes": ["Half"], "onnx_nodes": ["a", "b"],
    }  # fmt: skip
    for text in ('{"Layers": ["Conv_6"]}', "no JSON", "{}"):
        assert layers_in_json(text) is None
    assert "the inspector's layers cannot be read" in caplog.text


# What mypy says where the code asks first whether a version has it: TensorRT-RTX alone builds for a choice of GPUs.
ABSENT = {'Module has no attribute "ComputeCapability"', '"IBuilderConfig" has no attribute "num_compute_capabilities"'}
EXPECTED = {"rtx-1.7": set(), "10.3": ABSENT, "11.4": ABSENT}
TYPES = {"config": "IBuilderConfig", "network": "INetworkDefinition", "builder": "Builder"}


class _WithTheModule(ast.NodeTransformer):
    """`trt` is the imported module rather than an argument of type ModuleType; config, network and builder are its."""

    def visit_arg(self, node):
        if node.arg == "trt":
            node.arg = "_trt"
        elif node.arg in TYPES and node.annotation is not None and ast.unparse(node.annotation) == "Any":
            node.annotation = ast.parse(f"trt.{TYPES[node.arg]}").body[0].value
        return node

    def visit_Assign(self, node):
        if ast.unparse(node).startswith("trt = load_backend("):
            return ast.Expr(node.value)
        return self.generic_visit(node)


@pytest.mark.parametrize("version", EXPECTED)
def test_mypy_finds_every_name_in_the_recorded_api(version, tmp_path):
    (tmp_path / "tensorrt.pyi").write_text((FOLDER / f"{version}.pyi").read_text())
    checked = []
    for name in ("engine/config", "engine/log", "engine/build", "engine/layers", "plugin/load", "engine/plugin_layers"):
        source = (ROOT / "rmt_edge" / f"{name}.py").read_text()
        tree = ast.fix_missing_locations(_WithTheModule().visit(ast.parse(source)))
        path = tmp_path / f"checked_{name.replace('/', '_')}.py"
        path.write_text(f"import tensorrt as trt\n{ast.unparse(tree)}\n")
        checked.append(str(path))
    options = "--python-version 3.10 --ignore-missing-imports --check-untyped-defs --no-error-summary"
    options += " --follow-imports silent --config-file="
    command = [sys.executable, "-m", "mypy", *options.split()]
    command += ["--cache-dir", str(ROOT / ".mypy_cache" / "tensorrt_api")]
    result = subprocess.run(
        [*command, *checked],
        cwd=tmp_path,
        env=os.environ | {"MYPYPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
    )
    found = {
        line.partition(" error: ")[2].rpartition("  [")[0] for line in result.stdout.splitlines() if " error: " in line
    }
    assert found == EXPECTED[version], result.stdout + result.stderr
