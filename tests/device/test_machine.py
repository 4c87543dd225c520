"""What a machine is, from its files, commands, driver and packages; and that nothing of it needs to be there."""

import dataclasses
import json
import subprocess
import sys

import pytest

from rmt_edge.device import machine as module
from rmt_edge.device.machine import Gpu, Sources, has_gpu, run_command, this_machine
from tests import machines


def test_an_orin_nano_is_known_by_its_board_jetpack_and_power_mode(tmp_path):
    machine = machines.machine("orin-nano", tmp_path)
    assert machine.board == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert (machine.l4t, machine.jetpack, machine.power_mode) == ("36.4.4", "6.2.1", "MAXN_SUPER")
    assert machine.is_jetson and machine.cuda_toolkit == "12.6.68"
    assert machine.gpus == (Gpu("Orin", "8.7", 7619, 5000, "540.4.0", "12.6", is_memory_shared=True),)
    assert (machine.memory_mib, machine.free_memory_mib) == (7619, 5000)


def test_tensorrt_without_a_distribution_is_asked_for_its_version(tmp_path):
    assert machines.machine("orin-nano", tmp_path).tensorrt == {"tensorrt": "10.3.0"}
    assert machines.machine("thor", tmp_path).tensorrt == {"tensorrt": "10.13.3.9"}
    assert machines.machine("no-gpu", tmp_path).tensorrt == {"tensorrt_rtx": "1.7.1.116"}


def test_a_board_without_the_jetpack_package_is_known_by_its_jetson_linux(tmp_path):
    machine = machines.machine("thor", tmp_path)
    assert (machine.l4t, machine.jetpack, machine.power_mode) == ("38.4.0", "7.1", "MAXN")
    assert machine.gpus[0].driver_version == "580.00" and machine.gpus[0].compute_capability == "11.0"
    assert machine.cuda_toolkit == "13.0.48"


def test_a_server_s_gpus_are_matched_to_nvml_by_their_address(tmp_path):
    machine = machines.machine("h100", tmp_path)
    assert not machine.is_jetson and machine.board is None and machine.power_mode is None
    whole, slice_of_one = machine.gpus
    assert (whole.compute_capability, whole.memory_mib, whole.free_memory_mib) == ("9.0", 81089, 70000)
    assert (whole.driver_version, whole.cuda_version) == ("570.86.15", "12.8")
    # NVML speaks of the whole GPU there, CUDA of the slice.
    assert (slice_of_one.memory_mib, slice_of_one.free_memory_mib) == (9856, None)
    assert machine.tensorrt == {"tensorrt": "10.9.0.34"}


def test_nvml_is_closed_after_use(tmp_path):
    sources = machines.sources("h100", tmp_path)
    this_machine(sources)
    assert not sources.nvml().is_open


def test_a_machine_of_which_nothing_is_known_is_no_error(tmp_path):
    nothing = Sources(root=tmp_path, run=lambda _: None, cuda=lambda: None, nvml=lambda: None,
                      package_version=lambda _: None)  # fmt: skip
    machine = this_machine(nothing)
    assert (machine.gpus, machine.tensorrt, machine.packages) == ((), {}, {})
    unknown = ("board", "jetpack", "power_mode", "memory_mib", "free_memory_mib", "l4t", "cuda_toolkit")
    assert {getattr(machine, name) for name in unknown} == {None}


def test_a_machine_is_json(tmp_path):
    record = json.loads(json.dumps(machines.machine("h100", tmp_path).to_dict()))
    assert record["gpus"][0]["name"] == "NVIDIA H100 80GB HBM3" and record["processor"] == "x86_64"


def test_this_very_machine_is_described():
    machine = this_machine()
    assert machine.packages["numpy"] and machine.memory_mib > 512
    assert bool(machine.gpus) == has_gpu()


def test_no_driver_means_no_gpu(tmp_path, monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(module.ctypes, "CDLL", missing)
    assert not has_gpu()
    assert has_gpu(machines.sources("h100", tmp_path).cuda)


def test_a_driver_that_does_not_start_means_no_gpu(monkeypatch):
    monkeypatch.setattr(module.ctypes, "CDLL", lambda name: type("Driver", (), {"cuInit": lambda self, flags: 100})())
    assert not has_gpu()


@pytest.mark.parametrize("command", [["no-such-command"], ["false"], ["sleep", "5"]])
def test_a_command_that_is_missing_fails_or_hangs_says_nothing(command, monkeypatch):
    monkeypatch.setattr(module, "COMMAND_SECONDS", 0.2)
    assert run_command(command) is None
    assert run_command(["echo", "15W"]) == "15W\n"


def test_asking_loads_neither_tensorrt_nor_numpy():
    code = "import sys; from rmt_edge.device.machine import this_machine; this_machine(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings", "torch"} & set(loaded)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.161.08  Sat Mar 16 2024", "535.161.08"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build", "570.86.15"),
    ],
)
def test_without_nvml_the_kernel_module_gives_the_driver_s_version(tmp_path, text, version):
    sources = dataclasses.replace(machines.sources("h100", tmp_path), nvml=lambda: None)
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text(text)
    gpu = this_machine(sources).gpus[0]
    assert (gpu.driver_version, gpu.free_memory_mib) == (version, None)
