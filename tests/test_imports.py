"""Who may import what: a device has neither torch nor modelopt, and importing rmt_edge does nothing."""

import ast
import subprocess
import sys

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "rmt_edge"
# Where each heavy package may be imported, of DESIGN.
ALLOWED = {
    "modelopt": {"calibrate.py"},
    "tensorrt": {"engine.py", "plugin/load.py"},
    "tensorrt_rtx": {"engine.py", "plugin/load.py"},
    "triton": {"retention/kernels.py", "depthwise/kernels.py", "plugin/build.py"},
}
# What a device runs must do without these.
DEVICE_SIDE = (
    "errors",
    "artifact",
    "settings",
    "model.layers",
    "recipe",
    "profile",
    "preprocess",
    "metrics",
    "accuracy",
    "bundle.archive",
    "bundle.subset",
    "bundle.bundle",
    "engine_accuracy",
    "paired",
    "resume",
    "baseline",
    "gate",
    "pytest_plugin",
    "engine",
    "engine_layers",
    "builder_config",
    "builder_log",
    "latency.bench",
    "runtime.cuda_graph",
    "runtime.engine_runner",
    "latency.measure",
    "latency.percentiles",
    "runtime.runner",
    "latency.sensors",
    "latency.telemetry",
    "latency.verdict",
    "machine",
    "preflight",
    "doctor",
    "cli.devices",
    "plugin.load",
    "plugin.layer",
    "cli",
)
WORKSTATION_ONLY = {"torch", "modelopt", "triton", "onnxruntime", "onnx", "safetensors", "PIL", "matplotlib", "jinja2"}


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("package", ALLOWED)
def test_heavy_packages_are_imported_where_they_belong(package):
    found = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if package in set(imports_of(path))}
    assert found <= ALLOWED[package]


@pytest.mark.parametrize("module", ["", *DEVICE_SIDE])
def test_the_device_side_imports_nothing_of_the_workstation(module):
    name = f"rmt_edge.{module}" if module else "rmt_edge"
    code = f"import sys, {name}; print(*sorted(x.partition('.')[0] for x in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not set(loaded) & WORKSTATION_ONLY


def test_imports_are_at_the_top_but_in_the_command_line():
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        deferred = [
            node
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef)
            for node in ast.walk(function)
            if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        assert not deferred or path.parent.name == "cli", path


def test_no_module_outgrows_its_readers():
    long = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {name: lines for name, lines in long.items() if lines > 350} == {}
