"""Engines built for real, on the CPU, by TensorRT-RTX."""

import errno
import importlib.util
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import helper

from rmt_edge.artifact import ENGINE, PLUGIN_ONNX, manifest_path, plugin_form_path, read_artifact
from rmt_edge.device.backend import BACKENDS, load_backend
from rmt_edge.device.profile import DeviceProfile, load_profile
from rmt_edge.engine import build as engine
from rmt_edge.engine import layers as engine_layers
from rmt_edge.engine.build import build, choose_kernels, engine_from_onnx
from rmt_edge.errors import RmtEdgeError
from rmt_edge.model.variants import VARIANTS
from tests.tensorrt_api import standin

BLOCKS = sum(VARIANTS["rmt_nano"].depths)
has_rtx = importlib.util.find_spec("tensorrt_rtx_bindings") is not None
needs_rtx = pytest.mark.skipif(not has_rtx, reason="tensorrt-rtx-cu13-bindings is not installed")


@pytest.fixture(scope="module")
def built(onnx_files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("engines")
    return {
        name: build(onnx_files[name], load_profile("rtx-portable"), folder, kernels="native").path
        for name in ("fp16", "int8")
    }


@pytest.fixture(scope="module")
def built_with_plugins(onnx_files, tmp_path_factory, library_folder):
    folder = tmp_path_factory.mktemp("engines")
    return {
        name: build(onnx_files[name], load_profile("rtx-portable"), folder, libraries=library_folder).path
        for name in ("fp16", "int8")
    }


@pytest.mark.trt
@needs_rtx
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_an_engine_comes_with_its_layers_and_manifest(built, onnx_files, precision):
    path = built[precision]
    artifact = read_artifact(path, ENGINE)
    layers = json.loads(path.with_name(f"{path.name}.layers.json").read_text())
    assert layers["count"] == len(layers["layers"]) == sum(layers["by_kind"].values()) == artifact.details["layers"]
    assert artifact.manifest.source["name"] == onnx_files[precision].name
    assert artifact.details["profile"]["compute_capabilities"] == ["8.0", "8.6", "8.9", "12.0"]
    # Native retention is fused attention: two kernels in a decomposed block, one in a whole one.
    variant = VARIANTS["rmt_nano"]
    attention = sum((2 if d else 1) * n for d, n in zip(variant.decomposed, variant.depths, strict=True))
    assert sum("gemm_mha" in x["name"] for x in layers["layers"]) == attention
    nodes = [node for layer in layers["layers"] for node in layer["onnx_nodes"]]
    assert any("retention" in x for x in nodes)


@pytest.mark.trt
@needs_rtx
def test_the_recipe_s_layers_run_in_int8(built):
    assert read_artifact(built["int8"], ENGINE).details["int8_gemms"] == 4 * BLOCKS + 1
    assert read_artifact(built["fp16"], ENGINE).details["int8_gemms"] == 0


@pytest.mark.trt
@needs_rtx
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_plugins_are_the_default_and_leave_little_beside_them(built_with_plugins, precision):
    path = built_with_plugins[precision]
    artifact = read_artifact(path, ENGINE)
    layers = json.loads(path.with_name(f"{path.name}.layers.json").read_text())["layers"]
    plugins = [x for x in layers if x["kind"] in engine_layers.PLUGIN_KINDS]
    # Retention, the position encoding and the feed-forward's convolution of each block.
    assert len(plugins) == artifact.details["plugin_layers"] == 3 * BLOCKS
    assert sum("retention" in x["name"] for x in plugins) == BLOCKS
    assert not [x for x in layers if "mha" in x["name"]]
    assert artifact.details["kernels"] == "plugin" and artifact.manifest.source["name"].endswith(".plugin.onnx")
    assert len(artifact.details["plugin_library"]["sha256"]) == 64
    # 8 layers a block in FP16, 11 in INT8, and at most 20 for the stem, the downsamplings and the head.
    assert len(layers) <= {"fp16": 8, "int8": 11}[precision] * BLOCKS + 20
    writes_int8 = [x for x in plugins if "Int8" in x["writes"]]
    assert len(writes_int8) == (3 * BLOCKS if precision == "int8" else 0)


@pytest.mark.trt
@needs_rtx
@pytest.mark.parametrize("kernels", ["native", "plugin"])
@pytest.mark.parametrize("name", ["int8-all", "int8-naive"])
def test_convolutions_run_in_int8_too(exported, library_folder, tmp_path, name, kernels):
    path = build(exported(name), load_profile("rtx-portable"), tmp_path, kernels=kernels, libraries=library_folder).path
    layers = json.loads(path.with_name(f"{path.name}.layers.json").read_text())["layers"]
    convolutions = [x for x in layers if x["kind"] == "correlation" and "Int8" in x["reads"]]
    # Stem, downsamplings, two depthwise convolutions a block. LePE, native, is none of them.
    assert len(convolutions) == 4 + 3 + 2 * BLOCKS
    artifact = read_artifact(path, ENGINE)
    assert artifact.details["int8_gemms"] == 4 * BLOCKS + 2
    assert artifact.details["plugin_layers"] == (BLOCKS if kernels == "plugin" else 0)


@pytest.mark.trt
@needs_rtx
def test_an_engine_with_too_few_plugin_layers_is_refused(onnx_files, library_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(engine_layers, "PLUGIN_KINDS", ())
    with pytest.raises(RmtEdgeError, match=r"18 nodes for plugins, but its engine has 0 plugin layers"):
        engine.plugin_engine(
            read_artifact(plugin_form_path(onnx_files["fp16"]), PLUGIN_ONNX), load_profile("rtx-portable"),
            library_folder, None, tmp_path,
        )  # fmt: skip


def test_a_plugin_form_of_another_export_is_refused(onnx_files, tmp_path):
    for path in (onnx_files["fp16"], plugin_form_path(onnx_files["int8"])):
        name = path.name.replace("int8", "fp16")
        shutil.copy(path, tmp_path / name)
        shutil.copy(manifest_path(path), manifest_path(tmp_path / name))
    with pytest.raises(RmtEdgeError, match=r"was made from another nano\.fp16\.onnx"):
        build(tmp_path / "nano.fp16.onnx", load_profile("rtx-portable"))


def test_a_missing_plugin_library_says_how_to_build_it(onnx_files, tmp_path):
    with pytest.raises(RmtEdgeError, match=r"No plugin library for[\s\S]*rmt-edge plugin build[\s\S]*native"):
        build(onnx_files["fp16"], load_profile("rtx-portable"), tmp_path, libraries=tmp_path)
    assert not list(tmp_path.iterdir())


def test_kernels_are_plugins_by_default_and_auto_explains_itself(caplog, monkeypatch):
    monkeypatch.setattr(engine, "has_gpu", lambda: False)
    assert choose_kernels(None) == "plugin"
    assert choose_kernels("native") == "native"
    with caplog.at_level(logging.INFO):
        assert choose_kernels("auto") == "plugin"
    assert "no GPU here" in caplog.text
    with pytest.raises(RmtEdgeError, match=r"--kernels is 'fast'[\s\S]*plugin, native, auto"):
        choose_kernels("fast")


@pytest.mark.trt
@needs_rtx
@pytest.mark.parametrize("faster", ["native", "plugin"])
def test_auto_keeps_the_faster_of_both(onnx_files, library_folder, tmp_path, monkeypatch, faster):
    monkeypatch.setattr(engine, "has_gpu", lambda: True)
    monkeypatch.setattr(engine, "median_latency_ms", lambda file, trt, batch: 1.0 if faster in file.path.name else 2.0)
    path = build(onnx_files["fp16"], load_profile("rtx-portable"), tmp_path, "auto", library_folder).path
    assert path.name == f"nano.fp16.rtx-portable.{faster}.engine"
    assert sorted(x.name for x in tmp_path.iterdir()) == [path.name, f"{path.name}.json", f"{path.name}.layers.json"]


@pytest.mark.trt
@needs_rtx
def test_a_changed_onnx_file_is_refused(onnx_files, tmp_path):
    path = Path(shutil.copy(onnx_files["fp16"], tmp_path))
    shutil.copy(manifest_path(onnx_files["fp16"]), tmp_path)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(RmtEdgeError, match="is not the file its manifest describes"):
        build(path, load_profile("rtx-portable"), kernels="native")


@pytest.mark.trt
@needs_rtx
def test_what_the_parser_cannot_take_is_printed(tmp_path):
    node = helper.make_node("Mystery", ["x"], ["y"], domain="nobody")
    value = [helper.make_tensor_value_info(name, 1, ["b", 3, 8, 8]) for name in "xy"]
    model = helper.make_model(
        helper.make_graph([node], "g", value[:1], value[1:]),
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("nobody", 1)],
    )
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(RmtEdgeError, match=r"cannot parse .*x\.onnx[\s\S]*Mystery"):
        engine_from_onnx(tmp_path / "x.onnx", load_profile("rtx-portable"), None, tmp_path)


@pytest.mark.trt
@needs_rtx
def test_an_unknown_compute_capability_lists_the_known_ones(onnx_files, tmp_path):
    profile = DeviceProfile("orin", "Orin", "tensorrt_rtx", ("8.7",), ("1.7", "1.7"), 8, 1024)
    with pytest.raises(RmtEdgeError, match=r"does not build for compute capability 8\.7[\s\S]*8\.6, 8\.9, 12\.0"):
        engine_from_onnx(onnx_files["fp16"], profile, None, tmp_path)


@pytest.mark.parametrize(
    ("backend", "install"), [("tensorrt_rtx", "pip install tensorrt-rtx-cu13-libs"), ("tensorrt", "JetPack")]
)
def test_a_missing_backend_says_what_to_install(backend, install, monkeypatch):
    monkeypatch.setitem(BACKENDS, backend, replace(BACKENDS[backend], modules=("no_such_module",)))
    with pytest.raises(RmtEdgeError, match=rf"{backend} is not installed here[\s\S]*{install}"):
        load_backend(backend)


def test_a_backend_that_does_not_load_says_why(monkeypatch, tmp_path):
    (tmp_path / "broken_backend.py").write_text("raise ImportError('libnvinfer.so.10: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(BACKENDS, "tensorrt", replace(BACKENDS["tensorrt"], modules=("broken_backend",)))
    with pytest.raises(RmtEdgeError, match=r"not installed here: libnvinfer\.so\.10: cannot open"):
        load_backend("tensorrt")


@pytest.mark.trt
@needs_rtx
def test_ctrl_c_stops_a_build_and_leaves_nothing(onnx_files, tmp_path):
    command = [sys.executable, "-m", "rmt_edge.cli", "build", str(onnx_files["fp16"]), "--output", str(tmp_path)]
    command += ["--kernels", "native"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    started = process.stderr.read(len("build"))  # the first word of the progress bar
    assert "build" in started + process.stderr.read(10)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "interrupted" in errors
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_leaves_the_previous_engine_and_its_records(onnx_files, tmp_path, monkeypatch):
    module = standin("10.13")
    monkeypatch.setattr(engine, "load_backend", lambda name: module)
    path = build(onnx_files["fp16"], load_profile("rtx-portable"), tmp_path, "native").path
    before = {x.name: x.read_bytes() for x in tmp_path.iterdir()}
    for full in ("write_bytes", "write_text"):

        def refuse(self, *arguments):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(Path, full, refuse)
        with pytest.raises(RmtEdgeError, match=r"nano\.fp16\S* cannot be written: No space left on device"):
            build(onnx_files["fp16"], load_profile("rtx-portable"), tmp_path, "native")
        monkeypatch.undo()
        monkeypatch.setattr(engine, "load_backend", lambda name: module)
        assert {x.name: x.read_bytes() for x in tmp_path.iterdir()} == before
    read_artifact(path, ENGINE)


@pytest.mark.trt
@needs_rtx
def test_a_build_on_a_disk_that_is_too_small_leaves_the_previous_engine(built, onnx_files, tmp_path):
    """For real: the process may write no file above 1 MiB, as a disk with no more room; the engine has more."""
    for path in (built["fp16"], manifest_path(built["fp16"]), engine.layers_path(built["fp16"])):
        shutil.copy(path, tmp_path)
    path = tmp_path / built["fp16"].name
    assert path.stat().st_size > 1 << 20
    before = {x.name: x.read_bytes() for x in tmp_path.iterdir()}
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20,) * 2)"
    arguments = ["build", str(onnx_files["fp16"]), "--kernels", "native", "--output", str(tmp_path)]
    result = subprocess.run(
        [sys.executable, "-c", f"{limit}; from rmt_edge.cli import main; raise SystemExit(main({arguments!r}))"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2, result.stderr
    assert f"{path} cannot be written: File too large" in result.stderr
    assert {x.name: x.read_bytes() for x in tmp_path.iterdir()} == before
