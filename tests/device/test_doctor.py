"""Doctor: what machines are told about themselves and about each command."""

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rmt_edge.cli import COMMANDS, devices, main
from rmt_edge.cli.devices import _commands
from rmt_edge.device import profile
from rmt_edge.device.doctor import NEEDS, WAYS, Tools, diagnose, imported_by, missing_packages, profile_fits
from rmt_edge.device.machine import Gpu
from tests import machines
from tests.conftest import ROOT

DEVICE_MODULES = {"numpy", "tqdm", "pycuda"}


def tools(folder, modules=DEVICE_MODULES, compilers=(), pycuda="12 6 0", free_disk_mib=100_000):
    return Tools(
        has_module=lambda name: name in modules,
        which=lambda name: name if name in compilers else None,
        run=lambda command: pycuda,
        free_disk_mib=lambda path: free_disk_mib,
        folder=folder,
    )


@pytest.fixture
def orin(tmp_path):
    return machines.machine("orin-nano", tmp_path / "root")


@pytest.fixture
def library(tmp_path):
    folder = tmp_path / "build" / "plugin"
    folder.mkdir(parents=True)
    for processor in ("aarch64", "x86_64"):
        (folder / f"librmt_edge_plugin_{processor}.so").touch()


def whats(lacks):
    return " ".join(lack.what for lack in lacks)


def dos(lacks):
    return " ".join(lack.do for lack in lacks)


def test_a_whole_orin_nano_is_fit_for_the_device_s_commands(orin, tmp_path, library):
    found = diagnose(orin, _commands(), tools(tmp_path))
    assert found.lacks == ()
    assert next(iter(found.profiles.items())) == ("jetson-orin-nano-8gb", "")
    assert found.profiles["jetson-thor"] == "SM 8.7, not 11.0"
    assert found.profiles["jetson-orin-nx-16gb"].endswith("Super, not Orin NX")
    assert found.commands["build"] == found.commands["preflight"] == found.commands["devices"] == ()
    assert "torch" in whats(found.commands["quantize"]) and "workstation" in dos(found.commands["quantize"])


def test_a_build_without_the_plugin_library_is_told_how_to_get_one(orin, tmp_path):
    lacks = diagnose(orin, _commands(), tools(tmp_path)).commands["build"]
    assert "librmt_edge_plugin_aarch64.so is not there" in whats(lacks) and "--kernels native" in dos(lacks)


def test_a_workstation_without_torch_is_given_the_pip_command(tmp_path):
    machine = machines.machine("no-gpu", tmp_path)
    lacks = diagnose(machine, _commands(), tools(tmp_path)).commands["export"]
    constraints = ROOT / "rmt_edge" / "constraints.txt"  # in a wheel too
    assert whats(lacks) == "onnx, onnxruntime, safetensors, torch not installed."
    assert dos(lacks) == f"pip install --constraint {constraints} onnx onnxruntime safetensors torch"
    assert constraints.read_text() == (ROOT / "constraints.txt").read_text()


def test_modules_are_installed_by_the_names_of_their_distributions(tmp_path):
    machine = machines.machine("no-gpu", tmp_path)
    lacks = diagnose(machine, _commands(), tools(tmp_path)).commands["quantize"]
    assert "nvidia-modelopt" in dos(lacks) and "pillow" in dos(lacks) and "PIL" not in dos(lacks)


@pytest.mark.parametrize(
    ("change", "what", "do"),
    [
        ({"python": "3.8.10"}, "Python 3.8.10 is too old", "3.10"),
        ({"tensorrt": {"tensorrt": "8.5.2.2"}, "jetpack": "5.1.2"}, "JetPack 5.1.2 has TensorRT 8.5.2.2", "6.2"),
        ({"tensorrt": {}, "jetpack": "6.0"}, "JetPack 6.0 has TensorRT before 10.3", "SDK Manager"),
        ({"gpus": (Gpu("Xavier", "7.2", 7000),)}, "Xavier has SM 7.2", "Ampere"),
        ({"gpus": ()}, "its CUDA driver does not start", "--runtime nvidia"),
        ({"memory_mib": 3700}, "3700 MiB of memory", "swap"),
    ],
)
def test_what_is_wrong_with_a_board_is_said_with_what_mends_it(orin, tmp_path, change, what, do):
    lacks = diagnose(replace(orin, **change), {}, tools(tmp_path)).lacks
    assert what in whats(lacks) and do in dos(lacks)


def test_an_old_tensorrt_on_a_server_is_upgraded_with_pip(tmp_path):
    server = replace(machines.machine("h100", tmp_path), tensorrt={"tensorrt": "8.6.1"})
    lacks = diagnose(server, {}, tools(tmp_path)).lacks
    assert "TensorRT 8.6.1" in whats(lacks) and dos(lacks) == "pip install --upgrade 'tensorrt>=10.3'"


def test_a_full_disk_is_noticed(orin, tmp_path):
    lacks = diagnose(orin, {}, tools(tmp_path, free_disk_mib=900)).lacks
    assert "900 MiB are free on the disk" in whats(lacks)


@pytest.mark.parametrize(
    ("compiled", "what"),
    [
        (None, "pycuda 2024.1.2 is installed but cannot be imported"),
        ("13 0 0", "compiled for CUDA 13.0; the driver runs"),
    ],
)
def test_a_wrong_pycuda_is_noticed(orin, tmp_path, compiled, what):
    lacks = diagnose(orin, {}, tools(tmp_path, pycuda=compiled)).lacks
    assert what in whats(lacks) and "--force-reinstall" in dos(lacks)


def test_an_engine_needs_gpu_tensorrt_and_pycuda(tmp_path, orin):
    def run():
        """Imports nothing."""

    nothing = replace(machines.machine("no-gpu", tmp_path), tensorrt={})
    lacks = diagnose(nothing, {"bench": run}, tools(tmp_path, modules=())).commands["bench engine"]
    assert "no GPU here" in whats(lacks) and "No TensorRT" in whats(lacks) and "pycuda is not" in whats(lacks)
    assert diagnose(orin, {"bench": run}, tools(tmp_path)).commands["bench engine"] == ()


def test_tensorrt_builds_only_where_there_is_a_gpu(tmp_path, orin, library):
    machine = replace(orin, gpus=())
    assert "none is here" in whats(diagnose(machine, _commands(), tools(tmp_path)).commands["build"])


def test_plugins_need_compilers(tmp_path, library):
    box, modules = machines.machine("no-gpu", tmp_path), {"torch", "triton", "onnx", "tqdm"}
    lacks = diagnose(box, _commands(), tools(tmp_path, modules, compilers=("g++",))).commands["plugin"]
    assert [lack.do for lack in lacks] == [
        "sudo apt install g++-aarch64-linux-gnu, or rmt-edge plugin build --arch x86_64"
    ]
    found = diagnose(box, _commands(), tools(tmp_path)).commands
    assert "sudo apt install g++" in [lack.do for lack in found["plugin"]]
    assert "No C compiler" in whats(found["build"])


def test_what_a_command_needs_is_read_from_the_sources():
    commands = _commands()
    assert imported_by(commands["export"]) >= {"torch", "onnx", "onnxruntime", "safetensors", "numpy"}
    assert imported_by(commands["quantize"]) >= {"modelopt", "PIL"}
    assert not imported_by(commands["build"]) & {"torch", "onnx", "modelopt", "PIL", "rmt_edge", "json"}


@pytest.mark.parametrize("name", ["rmt_edge.moved", "rmt_edge.runtime.moved_runner", "rmt_edge.runtime.open.moved"])
def test_a_module_of_ours_that_is_not_there_is_no_silence(name, orin, tmp_path, monkeypatch):
    with pytest.raises(AssertionError, match=f"{name} is no module of rmt_edge"):
        imported_by(name)
    monkeypatch.setitem(WAYS, "bench", {"engine": (name,)})
    with pytest.raises(AssertionError, match=name):
        diagnose(orin, _commands(), tools(tmp_path))


def test_a_function_that_imports_a_module_which_moved_is_no_silence():
    def run():
        from rmt_edge.runtime.moved_runner import Runner  # noqa: F401

    with pytest.raises(AssertionError, match=r"rmt_edge\.runtime\.moved_runner is no module"):
        imported_by(run)


def test_a_missing_module_is_named_with_its_package_only_if_the_command_needs_it(orin, tmp_path):
    box, run = machines.machine("no-gpu", tmp_path / "box"), _commands()["export"]
    lack = missing_packages(run, "onnxruntime.capi", box, tools(tmp_path))
    assert "onnx, onnxruntime, safetensors, torch" in lack.what and "pip install --constraint" in lack.do
    assert "Do this on a workstation" in missing_packages(run, "torch", orin, tools(tmp_path)).do
    assert missing_packages(run, "rmt_edge.moved", box, tools(tmp_path)) is None
    assert missing_packages(run, "a_typing_error", box, tools(tmp_path)) is None


def test_every_command_is_examined_and_every_need_has_its_command(orin, tmp_path):
    parsers = argparse.ArgumentParser().add_subparsers()
    for module in COMMANDS:
        module.add_commands(parsers)
    examined = diagnose(orin, _commands(), tools(tmp_path)).commands
    assert {name.partition(" ")[0] for name in examined} == set(parsers.choices)
    assert set(NEEDS) <= set(examined)
    modules = [module for ways in WAYS.values() for way in ways.values() for module in way]
    assert all(importlib.util.find_spec(module) for module in modules)


def test_the_ways_of_a_command_are_examined_apart(orin, tmp_path):
    found = diagnose(orin, _commands(), tools(tmp_path)).commands
    assert found["validate engine"] == found["bench engine"] == ()
    assert "torch" in whats(found["validate onnx"]) and "onnxruntime" in whats(found["bench onnx"])


def test_a_machine_without_a_gpu_fits_no_profile(tmp_path):
    assert set(profile_fits(machines.machine("no-gpu", tmp_path)).values()) == {"no GPU here"}


def test_a_card_that_no_profile_knows_is_told_that_a_generic_one_holds(capsys, tmp_path, monkeypatch):
    machine = machines.machine("rtx-unknown", tmp_path)
    monkeypatch.setattr(devices, "this_machine", lambda: machine)
    monkeypatch.setattr(profile, "this_machine", lambda: machine)
    assert main(["doctor"]) == 0
    page = capsys.readouterr().out
    assert re.search(r"generic-sm86 +fits", page)
    assert "no profile for tensorrt knows NVIDIA RTX A4500" in page and "no peaks, so no estimate" in page
    assert main(["devices", "auto"]) == 0
    assert re.search(r"is_generic +True", capsys.readouterr().out)
    assert main(["doctor", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["generic"]) == 1


def test_a_t4_is_told_by_the_doctor_what_auto_tells_it(tmp_path):
    machine = machines.machine("t4", tmp_path)
    found = diagnose(machine, {}, tools(tmp_path))
    assert found.generic == () and set(found.profiles.values()) != {""}
    assert "Tesla T4 has SM 7.5" in whats(found.lacks) and "--kernels native" in dos(found.lacks)


def test_doctor_prints_a_page_and_json(capsys, tmp_path, orin, monkeypatch):
    monkeypatch.setattr(devices, "this_machine", lambda: orin)
    assert main(["doctor"]) == 0
    page = capsys.readouterr().out
    assert "JetPack 6.2.1 (Jetson Linux 36.4.4), power mode MAXN_SUPER" in page
    assert "GPU 0: Orin, SM 8.7, 7619 MiB, 5000 free, driver 540.4.0, CUDA up to 12.6" in page
    assert main(["doctor", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["machine"]["board"] == orin.board and record["commands"]["devices"]["is_ready"]
    assert record["profiles"][0] == {"name": "jetson-orin-nano-8gb", "fits": True, "why_not": ""}


def test_asked_for_a_command_doctor_exits_1_if_it_is_not_ready(capsys, tmp_path, orin, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(devices, "this_machine", lambda: orin)
    assert main(["doctor", "--for", "devices"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["doctor", "--for", "build"]) == 1
    assert "build is not ready here" in capsys.readouterr().err
    assert main(["doctor", "--for", "dance"]) == 2
    assert "no command dance" in capsys.readouterr().err


def test_devices_lists_all_and_shows_one_whole(capsys):
    assert main(["devices"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == profile.profile_names()
    assert main(["devices", "jetson-thor"]) == 0
    whole = capsys.readouterr().out
    assert "bandwidth: 256-bit LPDDR5X" in whole and "MAXN, 120W, 90W, 70W" in whole
    assert main(["devices", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(profile.profile_names())
    assert main(["devices", "jetson-thor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["int8_tops"] == 517


def test_doctor_runs_with_numpy_and_tqdm_alone(tmp_path):
    import numpy
    import tqdm

    for path in (Path(numpy.__file__).parent, Path(tqdm.__file__).parent):
        (tmp_path / path.name).symlink_to(path)
        if (libraries := path.with_name(f"{path.name}.libs")).is_dir():
            (tmp_path / libraries.name).symlink_to(libraries)
    code = "import sys; from rmt_edge.cli import main; sys.exit(main(['doctor']))"
    environment = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": os.environ["PATH"]}
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert re.search(r"quantize +PIL, modelopt, safetensors, torch not installed", done.stdout), done.stdout


def test_needs_are_known():
    assert {need for needs in NEEDS.values() for need in needs} == {"backend", "library", "engine", "compiler"}
