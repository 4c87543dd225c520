"""Who may import what: a device has neither torch nor modelopt, and importing rmt_edge does nothing."""

import ast
import subprocess
import sys

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "rmt_edge"
PLUGIN_BUILD = ("plugin/build.py", "plugin/compile.py")
# Where each heavy package may be imported.
ALLOWED = {
    "pycocotools": {"accuracy/coco_score.py"},
    "modelopt": {"quantization/calibrate.py"},
    "tensorrt": {"device/backend.py", "plugin/load.py"},
    "tensorrt_rtx": {"device/backend.py", "plugin/load.py"},
    "triton": {*(f"ops/{op}/kernels.py" for op in ("retention", "depthwise", "nms", "roi_align")), *PLUGIN_BUILD},
}
# What a device runs must do without the workstation's packages: all of these but the named exceptions.
DEVICE_SIDE = (
    *("errors", "artifact", "settings", "writing", "metrics", "progress", "pytest_plugin", "cli", "cli.devices"),
    *("data", "data.draw", "data.preprocess"),
    *("ops", "plugin.load", "plugin.trust", "model.layers", "quantization", "quantization.recipe"),
    *("device.backend", "device.doctor", "device.machine", "device.preflight", "device.profile"),
    *("runtime.cuda_graph", "runtime.engine_runner", "runtime.open", "runtime.runner"),
    *("latency.bench", "latency.measure", "latency.percentiles", "latency.sensors", "latency.telemetry"),
    *("latency.candidates", "latency.record", "latency.verdict"),
    *("accuracy.limits", "accuracy.predictions", "accuracy.resume", "accuracy.subject"),
    *("tasks.annotations", "tasks.average_precision", "tasks.classification", "tasks.comparison", "tasks.detection"),
    *("tasks.label_maps", "tasks.masks", "tasks.segmentation", "tasks.task", "tasks.tasks"),
    *("engine.build", "engine.config", "engine.layers", "engine.log", "engine.plugin_layers"),
    *("bundle.archive", "bundle.bundle", "bundle.signature", "bundle.found_subset", "bundle.subset", "bundle.validate"),
    *("gate.baseline", "gate.gate"),
    *("fleet.remote", "fleet.power", "fleet.deposit", "fleet.supervise"),
)
# Imports point down these floors, as CONTRIBUTING.md draws them: a package imports from its own and those below it.
FLOORS = (
    {"cli"},
    {"pipeline", "fleet"},
    {"engine", "bundle", "gate", "search", "report", "pictures"},
    {"graph", "latency", "accuracy"},
    {"runtime"},
    {"device", "quantization"},
    {"plugin", "model"},
    {"ops", "data"},
    {"tasks"},
    {"settings", "artifact", "writing", "metrics", "errors", "progress", "pytest_plugin"},
)
WORKSTATION_ONLY = {"torch", "modelopt", "triton", "onnxruntime", "onnx", "safetensors", "PIL", "matplotlib", "jinja2"}


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.partition(".")[0]


def rooms_of(path):
    """The packages and top modules of rmt_edge that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module] if node.module != "rmt_edge" else [f"rmt_edge.{alias.name}" for alias in node.names]
        yield from (x.split(".")[1] for x in names if x.startswith("rmt_edge."))


def test_imports_point_downwards():
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    upwards = []
    for path in sorted(PACKAGE.rglob("*.py")):
        inside = path.relative_to(PACKAGE)
        room = inside.parts[0].removesuffix(".py")
        if room != "__init__":
            assert room in floor, f"{inside} lies in none of the floors"
            upwards += [f"{inside} imports {x}" for x in rooms_of(path) if x in floor and floor[x] < floor[room]]
    assert upwards == []


def test_packages_of_one_floor_do_not_import_each_other_in_circles():
    edges = {}
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        edges.setdefault(room, set()).update(x for x in rooms_of(path) if x != room)

    def reachable(room, seen):
        for x in edges.get(room, ()):
            if x not in seen:
                seen.add(x)
                reachable(x, seen)
        return seen

    rooms = {x for floor in FLOORS for x in floor}
    assert {room for room in rooms if room in reachable(room, set())} == set()


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
