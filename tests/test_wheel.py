"""The wheel: all of the tree that runs is in it, and an installed one finds its profiles and recipes anywhere."""

import json
import os
import re
import subprocess
import zipfile
from pathlib import Path

import pytest

import rmt_edge
from rmt_edge.ops.depthwise import cuda_variants as depthwise_variants
from rmt_edge.ops.retention import cuda_variants as retention_variants
from rmt_edge.settings import known_settings, read_toml
from tests.conftest import ROOT
from tests.wheels import build_wheel, device_python

FOLDERS = {"rmt_edge": "rmt_edge", "calib": "rmt_edge/calib", "engines": "rmt_edge/engines"}  # in the tree, in a wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A function that runs an installed rmt-edge in an empty folder, in an environment with numpy and tqdm alone."""
    folder = tmp_path_factory.mktemp("installed")
    python, elsewhere = device_python(folder / "venv", wheel), folder / "elsewhere"
    elsewhere.mkdir()

    def run(*arguments, program="rmt-edge"):
        environment = {"PATH": os.environ["PATH"], "HOME": str(elsewhere)}
        command = [str(x) for x in (python.with_name(program), *arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=elsewhere)

    return run


def test_the_list_of_packages_is_that_of_the_tree():
    listed = read_toml(ROOT / "pyproject.toml")["tool"]["setuptools"]["packages"]
    there = {".".join(x.parent.relative_to(ROOT).parts) for x in (ROOT / "rmt_edge").rglob("__init__.py")}
    assert listed == sorted(there | {"rmt_edge.calib", "rmt_edge.engines"})


def test_every_file_that_runs_is_in_the_wheel(wheel):
    packed = {x for x in zipfile.ZipFile(wheel).namelist() if x.startswith("rmt_edge/")}
    there = {
        f"{inside}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, inside in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == there


def test_sources_of_the_cuda_kernels_are_in_the_wheel(wheel):
    sources = {"device.cuh", depthwise_variants.SOURCE, retention_variants.SOURCE}
    assert {f"rmt_edge/ops/{x}" for x in sources} <= set(zipfile.ZipFile(wheel).namelist())


def test_an_installed_wheel_lists_every_profile_and_recipe(installed):
    listed = installed("devices")
    assert listed.returncode == 0, listed.stderr
    assert [line.split()[0] for line in listed.stdout.splitlines()[1:]] == known_settings("engines")
    assert len(json.loads(installed("devices", "--json").stdout)) == len(list((ROOT / "engines").glob("*.toml")))
    code = (
        "import rmt_edge, json; from rmt_edge.quantization.recipe import load_recipe; "
        "from rmt_edge.settings import known_settings; print(rmt_edge.__file__); "
        "print(json.dumps([load_recipe(x).name for x in known_settings('calib')]))"
    )
    where, recipes = installed("-c", code, program="python").stdout.splitlines()
    assert "site-packages" in where
    assert json.loads(recipes) == sorted(x.stem for x in (ROOT / "calib").glob("*.toml"))


def test_an_installed_wheel_shows_sources_and_says_what_it_knows(installed):
    assert "Jetson Thor Series Modules Data Sheet" in installed("devices", "jetson-thor").stdout
    unknown = installed("devices", "abacus")
    assert unknown.returncode != 0 and "jetson-thor" in unknown.stderr and "Traceback" not in unknown.stderr


@pytest.mark.parametrize(
    ("arguments", "packages"),
    [
        (["quantize", "x.pth", "--recipe", "fp16"], "PIL, modelopt, safetensors, torch"),
        (["export", "x.safetensors"], "onnx, onnxruntime, safetensors, torch"),
        (["plugin", "build"], "torch, triton"),
        (["report", "."], "jinja2, matplotlib"),
    ],
)
def test_a_command_of_the_workstation_says_what_to_install(installed, arguments, packages):
    """Where only a device's packages are: no traceback, and the pins that came with the wheel."""
    result = installed(*arguments)
    assert result.returncode != 0 and "Traceback" not in result.stderr
    for package in packages.split(", "):
        assert re.search(rf"This needs .*\b{package}\b.*not installed here", result.stderr), result.stderr
    assert re.search(r"pip install --constraint \S+site-packages/rmt_edge/constraints\.txt", result.stderr)


def test_the_doctor_of_an_installed_wheel_gives_pins_that_are_there(installed):
    page = installed("doctor")
    assert page.returncode == 0, page.stderr
    (constraints,) = set(re.findall(r"pip install --constraint (\S+)", page.stdout))
    assert "site-packages" in constraints
    assert Path(constraints).read_text() == (ROOT / "constraints.txt").read_text()


def test_the_version_stands_in_one_place(wheel, installed):
    assert f"-{rmt_edge.__version__}-" in wheel.name
    metadata = zipfile.ZipFile(wheel).read(f"rmt_edge-{rmt_edge.__version__}.dist-info/METADATA").decode()
    assert f"\nVersion: {rmt_edge.__version__}\n" in metadata and "\nLicense-Expression: Apache-2.0\n" in metadata
    elsewhere = [x for x in (ROOT / "rmt_edge").rglob("*.py") if f'"{rmt_edge.__version__}"' in x.read_text()]
    assert elsewhere == [ROOT / "rmt_edge" / "__init__.py"]
