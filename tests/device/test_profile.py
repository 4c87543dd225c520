"""Device profiles: what they hold and what they refuse."""

from dataclasses import replace

import pytest

from rmt_edge.device import profile as module
from rmt_edge.device.machine import Gpu, Machine
from rmt_edge.device.profile import DeviceProfile, load_profile, misfit, profile_for, profile_names, version_numbers
from rmt_edge.errors import RmtEdgeError
from tests import machines

RIGHT = {
    "name": "x", "device": "X", "backend": "tensorrt_rtx", "compute_capabilities": ["8.6"],
    "tensorrt_versions": ["1.7", "1.7"], "memory_gib": 8, "workspace_mib": 1024,
}  # fmt: skip


def with_gpus(*gpus):
    """A server."""
    return Machine("Linux 6.8.0", "x86_64", None, None, None, gpus, 65536, 60000, "3.12.3")


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_in_the_repository_loads(name):
    assert load_profile(name).name == name


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(RmtEdgeError, match=r"no device profile abacus[\s\S]*rtx-portable"):
        load_profile("abacus")


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"compute_capabilities": ["sm_86"]}, r'like \["8.7"\]'),
        ({"compute_capabilities": "8.6"}, "it is a list"),
        ({"compute_capabilities": []}, "compute_capabilities is"),
        ({"backend": "onnxruntime"}, "allowed: tensorrt_rtx, tensorrt"),
        ({"backend": "tensorrt", "compute_capabilities": ["8.6", "8.9"]}, "only tensorrt_rtx builds one engine"),
        ({"tensorrt_versions": ["11.4", "10.3"]}, "the first comes before the last"),
        ({"tensorrt_versions": ["10"]}, "the first and the last"),
        ({"memory_gib": 0}, "memory_gib is 0"),
        ({"bandwidth_gb_s": -1.0}, "bandwidth_gb_s is -1.0"),
        ({"workspace_mib": 9000}, "a part of the memory"),
        ({"min_batch": 4}, "min ≤ opt ≤ max"),
        ({"max_batch": 0}, "max_batch is 0"),
        ({"batches": [1, 64]}, "batches holds 64"),
        ({"hardware_compatibility": "all"}, "allowed: none, ampere_plus"),
    ],
)
def test_wrong_profiles_are_refused(values, match):
    assert DeviceProfile(**RIGHT).max_batch == 32
    with pytest.raises(RmtEdgeError, match=match):
        DeviceProfile(**RIGHT | values)


def test_versions_compare_as_numbers():
    assert version_numbers("10.13.3.9") > version_numbers("10.3")


PEAKS = [name for name in profile_names() if name != "rtx-portable"]


@pytest.mark.parametrize("name", PEAKS)
def test_the_peaks_of_a_device_are_plausible_and_sourced(name):
    profile = load_profile(name)
    # Tensor cores do INT8 at twice FP16's rate; on GeForce, which halves FP16 with FP32 accumulation, at four times.
    assert 1.9 <= profile.int8_tops / profile.fp16_tflops <= 4.1
    # Operations a byte: from 117 (RTX 5090) to 945 (Thor). A slip of a unit is a factor of 1,000.
    assert 100 <= 1e3 * profile.fp16_tflops / profile.bandwidth_gb_s <= 1000
    assert profile.workspace_mib <= profile.memory_gib * 1024 / 2
    assert profile.sources and profile.identified_by
    assert len(profile.compute_capabilities) == 1 and profile.batches[0] == 1
    assert not profile.version_compatible and profile.hardware_compatibility == "none"


@pytest.mark.parametrize("name", [x for x in PEAKS if x.startswith("jetson")])
def test_a_jetson_shares_its_memory_and_knows_its_power_modes(name):
    profile = load_profile(name)
    assert profile.backend == "tensorrt" and profile.is_memory_shared and len(profile.power_modes) >= 4
    assert profile.workspace_mib <= profile.memory_gib * 1024 / 8
    assert version_numbers(profile.tensorrt_versions[0]) >= (10, 3)


@pytest.mark.parametrize(
    ("recording", "profile"),
    [
        ("orin-nano", "jetson-orin-nano-8gb"),
        ("orin-nano-4gb", "jetson-orin-nano-4gb"),
        ("orin-nx-8gb", "jetson-orin-nx-8gb"),
        ("agx-orin-32gb", "jetson-agx-orin-32gb"),
        ("thor", "jetson-thor"),
        ("h100", "h100"),  # and a slice of one, which no profile knows
        ("b200", "b200"),
        ("rtx-unknown", "generic-sm86"),
    ],
)
def test_a_machine_finds_its_profile(recording, profile, tmp_path):
    assert profile_for(machines.machine(recording, tmp_path)).name == profile


@pytest.mark.parametrize(
    ("gpu", "compute_capability", "memory_gib", "profile"),
    [
        ("NVIDIA A100-SXM4-80GB", "8.0", 79, "a100"),
        ("NVIDIA A100-PCIE-40GB", "8.0", 39.4, "a100-40gb"),
        ("NVIDIA A10", "8.6", 22.2, "a10"),
        ("NVIDIA A10G", "8.6", 22.2, "rtx-portable"),
        ("NVIDIA L4", "8.9", 22.1, "l4"),
        ("NVIDIA L40S", "8.9", 44.5, "l40s"),
        ("NVIDIA L40", "8.9", 44.5, "rtx-portable"),
        ("NVIDIA A30", "8.0", 23.5, "a30"),
        ("NVIDIA GH200 480GB", "9.0", 95.0, "gh200"),
        ("NVIDIA GB200", "10.0", 185.0, "generic-sm100"),
        ("NVIDIA H20", "9.0", 95.0, "generic-sm90"),
        ("NVIDIA GB10", "12.1", 119.0, "generic-sm121"),
        ("NVIDIA H200", "9.0", 139.8, "h200"),
        ("NVIDIA GeForce RTX 4090", "8.9", 23.5, "rtx-4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "8.9", 15.7, "rtx-portable"),
        ("NVIDIA GeForce RTX 3060", "8.6", 11.6, "rtx-portable"),
        ("NVIDIA GeForce RTX 5090", "12.0", 31.4, "rtx-5090"),
    ],
)
def test_a_gpu_finds_its_profile_by_its_whole_name_and_memory(gpu, compute_capability, memory_gib, profile):
    assert profile_for(with_gpus(Gpu(gpu, compute_capability, int(1024 * memory_gib)))).name == profile


def test_gpus_of_one_kind_have_one_profile_and_of_two_kinds_an_error():
    l4, h200 = Gpu("NVIDIA L4", "8.9", 22600), Gpu("NVIDIA H200", "9.0", 143000)
    assert profile_for(with_gpus(l4, l4)).name == "l4"
    with pytest.raises(RmtEdgeError, match=r"2 device profiles fit this machine's GPUs: h200, l4[\s\S]*SM 8\.9"):
        profile_for(with_gpus(l4, h200))


def test_a_board_that_no_profile_knows_gets_a_generic_one(tmp_path):
    nano = machines.machine("orin-nano", tmp_path)
    board = replace(nano, board="NVIDIA Jetson Orin Pico Developer Kit")
    profile = profile_for(board)
    assert (profile.name, profile.backend, profile.is_memory_shared) == ("generic-sm87", "tensorrt", True)
    assert profile.workspace_mib == 7619 // 8 and profile.memory_gib == 7.4
    nx = replace(nano, board="NVIDIA Jetson Orin NX Engineering Reference Developer Kit")
    assert misfit(load_profile("jetson-orin-nx-16gb"), nx.gpus[0], nx) == "7 GiB, not 16"


def test_a_generic_profile_says_that_it_is_one_and_has_no_peaks(tmp_path):
    profile = profile_for(machines.machine("rtx-unknown", tmp_path))
    assert profile.is_generic and "a card that no profile for tensorrt knows" in profile.device
    assert (profile.bandwidth_gb_s, profile.fp16_tflops, profile.int8_tops) == (None, None, None)
    assert (
        "no profile for tensorrt knows NVIDIA RTX A4500" in profile.sources[0] and "no estimate" in profile.sources[0]
    )
    assert (profile.compute_capabilities, profile.tensorrt_versions) == (("8.6",), ("10.3", "11.4"))
    assert not any(load_profile(name).is_generic for name in profile_names())


BOTH = {"tensorrt": "10.9.0", "tensorrt_rtx": "1.7.1"}


@pytest.mark.parametrize(
    ("gpu", "installed", "profile", "backend"),
    [
        (Gpu("NVIDIA A10G", "8.6", 22700), {"tensorrt": "10.9.0"}, "generic-sm86", "tensorrt"),
        (Gpu("NVIDIA A10G", "8.6", 22700), {"tensorrt_rtx": "1.7.1"}, "rtx-portable", "tensorrt_rtx"),
        (Gpu("NVIDIA A10G", "8.6", 22700), BOTH, "rtx-portable", "tensorrt_rtx"),
        (Gpu("NVIDIA L4", "8.9", 22600), {"tensorrt_rtx": "1.7.1"}, "rtx-portable", "tensorrt_rtx"),
        (Gpu("NVIDIA L4", "8.9", 22600), BOTH, "l4", "tensorrt"),
        (Gpu("NVIDIA GeForce RTX 4090", "8.9", 24000), {"tensorrt": "10.9.0"}, "generic-sm89", "tensorrt"),
        (Gpu("NVIDIA H100 80GB HBM3", "9.0", 81000), {"tensorrt_rtx": "1.7.1"}, "h100", "tensorrt"),
        (Gpu("NVIDIA GB10", "12.1", 120000), {"tensorrt_rtx": "1.7.1"}, "generic-sm121", "tensorrt_rtx"),
        (Gpu("NVIDIA GB200", "10.0", 189000), {"tensorrt_rtx": "1.7.1"}, "generic-sm100", "tensorrt"),
    ],
)  # fmt: skip
def test_a_profile_whose_backend_is_installed_goes_before_one_whose_is_not(gpu, installed, profile, backend):
    found = profile_for(replace(with_gpus(gpu), tensorrt=installed))
    assert (found.name, found.backend) == (profile, backend)


def test_a_generic_profile_wants_the_first_tensorrt_that_knows_the_card():
    assert profile_for(with_gpus(Gpu("NVIDIA GB200", "10.0", 189000))).tensorrt_versions == ("10.8", "11.4")


def test_a_generic_profile_is_found_by_its_name_where_its_card_is(tmp_path, monkeypatch):
    machine = machines.machine("rtx-unknown", tmp_path)
    monkeypatch.setattr(module, "this_machine", lambda: machine)
    assert load_profile("generic-sm86") == load_profile("auto")
    with pytest.raises(RmtEdgeError, match=r"No GPU of this machine is generic-sm90's"):
        load_profile("generic-sm90")


@pytest.mark.parametrize(
    ("name", "capability", "do"),
    [
        ("Tesla T4", "7.5", r"build with --kernels native"),
        ("Tesla V100-SXM2-16GB", "7.0", r"Take a GPU from Ampere on[^:]*$"),
    ],
)
def test_a_card_before_the_kernels_first_is_told_what_holds_and_what_to_do(name, capability, do):
    with pytest.raises(
        RmtEdgeError, match=rf"{name} has SM {capability}[\s\S]*begin with 8\.0[\s\S]*known: [\s\S]*{do}"
    ):
        profile_for(with_gpus(Gpu(name, capability, 15000)))


def test_a_machine_without_a_gpu_is_told_so(tmp_path, monkeypatch):
    machine = machines.machine("no-gpu", tmp_path)
    monkeypatch.setattr(module, "this_machine", lambda: machine)
    with pytest.raises(RmtEdgeError, match=r"no GPU here for --device auto[\s\S]*jetson-orin-nano-8gb"):
        load_profile("auto")


def test_auto_is_the_machine_s_own_profile(tmp_path, monkeypatch):
    machine = machines.machine("thor", tmp_path)
    monkeypatch.setattr(module, "this_machine", lambda: machine)
    assert load_profile("auto") == load_profile("jetson-thor")
