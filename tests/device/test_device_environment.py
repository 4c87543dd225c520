"""A device's Python: rmt-edge from its wheel, numpy and tqdm, no torch, no ONNX, no Pillow; up to its TensorRT."""

import os
import subprocess
from pathlib import Path

import pytest

from rmt_edge.artifact import ENGINE, read_artifact
from rmt_edge.bundle.bundle import unpack
from rmt_edge.bundle.pack import pack
from rmt_edge.plugin.cxx import ARCHITECTURES
from tests.bundle.test_validate import fake_engine
from tests.cli.test_cli import call
from tests.engine.test_build import needs_rtx
from tests.test_imports import WORKSTATION_ONLY
from tests.wheels import build_wheel, device_python, site_packages

# Writes down whatever is imported, found or not, so that an import that was tried and given up is seen too.
WATCH = """
import os, sys
log = open(os.environ["IMPORTS"], "a", buffering=1)
sys.addaudithook(lambda event, given: event == "import" and log.write(given[0] + "\\n"))
"""


@pytest.fixture(scope="module")
def bundle(onnx_files, checkpoint, images, library_folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("bundle") / "nano.rmtedge"
    sources = [onnx_files["fp16"], onnx_files["int8"]]
    architectures = tuple(x for x in ARCHITECTURES if list(library_folder.glob(f"*{x}.so")))
    return pack(sources, checkpoint, images, library_folder, path, images=20, architectures=architectures)


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """A device's interpreter, on which the wheel is installed; every import is written down."""
    folder = tmp_path_factory.mktemp("device")
    found = device_python(folder / "venv", build_wheel(folder))
    (site_packages(folder / "venv") / "sitecustomize.py").write_text(WATCH)
    return found


@pytest.fixture
def on_device(python, tmp_path):
    """A function that runs rmt-edge there and asserts that nothing of the workstation was asked for."""

    def run(*arguments):
        log = tmp_path / "imports"
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "IMPORTS": str(log)}
        command = [python, "-m", "rmt_edge.cli", *arguments]
        result = subprocess.run(
            [str(x) for x in command], capture_output=True, text=True, env=environment, cwd=tmp_path
        )
        imported = {name.partition(".")[0] for name in log.read_text().split()}
        assert {"rmt_edge", "json"} <= imported  # it was watched
        assert not imported & WORKSTATION_ONLY
        assert "Traceback" not in result.stderr
        return result

    return run


def test_the_environment_has_what_a_device_has(python):
    modules = ("torch", "onnx", "onnxruntime", "PIL", "safetensors", "tensorrt_rtx", "tensorrt_rtx_bindings", "pytest")
    code = f"import importlib.util as u, numpy, tqdm, rmt_edge; print([x for x in {modules} if u.find_spec(x)])"
    environment = {"IMPORTS": os.devnull}
    result = subprocess.run([str(python), "-c", code], capture_output=True, text=True, env=environment)
    assert result.stdout == "[]\n", result.stderr


def test_a_device_unpacks_a_bundle_and_builds_up_to_its_tensorrt(on_device, bundle, tmp_path):
    folder = tmp_path / "nano"
    result = on_device("unpack", bundle, "--output", folder)
    assert (result.returncode, result.stdout) == (0, f"{folder}\n"), result.stderr
    for source in (bundle, folder):
        arguments = ["build", source, "--device", "rtx-portable"]
        result = on_device(*arguments, *(["--output", folder] if source == bundle else []))
        assert result.returncode == 2 and result.stdout == ""
        assert "is installed" in result.stderr and "pip install 'tensorrt-rtx-cu13-libs" in result.stderr


def test_a_device_says_what_is_wrong_with_a_bundle(on_device, bundle, tmp_path):
    content = bytearray(bundle.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "x.rmtedge").write_bytes(content)
    result = on_device("build", tmp_path / "x.rmtedge")
    assert result.returncode == 2 and "is no bundle, or not a whole one" in result.stderr
    assert not (tmp_path / "x").exists()


def test_a_device_validates_an_engine_up_to_its_tensorrt(on_device, bundle, tmp_path):
    folder = unpack(bundle, tmp_path / "nano")
    engine = fake_engine(folder)
    result = on_device("validate", engine)
    assert result.returncode == 2
    assert (
        f"{engine.name} does not run here" in result.stderr
        and "built by tensorrt 10.3.0, none is installed" in result.stderr
    )


def test_a_device_examines_itself(on_device):
    result = on_device("doctor")
    assert result.returncode == 0, result.stderr
    assert "quantize" in result.stdout and "torch not installed" in result.stdout


@pytest.mark.trt
@needs_rtx
@pytest.mark.parametrize("kernels", ["plugin", "native"])
def test_an_engine_is_built_from_a_bundle_alone(capsys, bundle, tmp_path, monkeypatch, kernels):
    """With the plugin library in it: there is no build/ where this runs."""
    monkeypatch.chdir(tmp_path)
    arguments = ["build", bundle, "--device", "rtx-portable", "--output", "device", "--kernels", kernels]
    status, paths, errors = call(capsys, *arguments, "--recipes", "int8")
    assert status == 0, errors
    assert paths == [f"device/nano.int8.rtx-portable.{kernels}.engine"]
    artifact = read_artifact(Path(paths[0]), ENGINE)
    source = {"plugin": "nano.int8.plugin.onnx", "native": "nano.int8.onnx"}[kernels]
    assert artifact.manifest.source["name"] == source
    assert (artifact.details["plugin_layers"] > 0) == (kernels == "plugin")


@pytest.mark.trt
@needs_rtx
def test_every_model_of_a_bundle_gets_an_engine(capsys, bundle, tmp_path):
    folder = unpack(bundle, tmp_path / "device")
    status, paths, errors = call(capsys, "build", folder, "--device", "rtx-portable", "--kernels", "native")
    assert status == 0, errors
    assert [Path(x).name for x in paths] == [f"nano.{x}.rtx-portable.native.engine" for x in ("fp16", "int8")]
    status, _, errors = call(capsys, "build", folder / "nano.int8.onnx", "--recipes", "int8")
    assert status == 2 and "--recipes chooses among a bundle's models" in errors
    status, _, errors = call(capsys, "build", folder, "--recipes", "int9")
    assert status == 2 and "The bundle has no recipe int9" in errors
