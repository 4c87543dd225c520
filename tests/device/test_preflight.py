"""Preflight: every way in which an engine or a profile does not fit a machine, named with what mends it."""

import logging
from dataclasses import replace

import pytest

from rmt_edge.artifact import ENGINE, Artifact, identity_of, read_artifact, write_manifest
from rmt_edge.cli import main
from rmt_edge.device import preflight
from rmt_edge.device.machine import Gpu, this_machine
from rmt_edge.device.preflight import check_build, check_engine, free_disk_mib
from rmt_edge.device.profile import load_profile
from rmt_edge.engine.build import build
from rmt_edge.errors import RmtEdgeError
from rmt_edge.writing import written_whole
from tests import machines
from tests.conftest import source_of
from tests.engine.test_build import needs_rtx


@pytest.fixture
def orin(tmp_path):
    return machines.machine("orin-nano", tmp_path / "board")


@pytest.fixture
def h100(tmp_path):
    return machines.machine("h100", tmp_path / "server")


def written(folder, machine, device="jetson-orin-nano-8gb", **details):
    """An engine that was built on the machine, with its plugin library and ONNX file beside it."""
    library, onnx, path = folder / "librmt_edge_plugin_aarch64.so", folder / "x.plugin.onnx", folder / "x.engine"
    library.write_bytes(b"library")
    onnx.write_bytes(b"onnx")
    profile = load_profile(device)
    details = {
        "backend": {"name": profile.backend, "version": machine.tensorrt.get(profile.backend, "1.7.1.116")},
        "profile": profile.to_dict(),
        "compute_capabilities": list(profile.compute_capabilities),
        "kernels": "plugin",
        "plugin_library": identity_of(library),
        "machine": machine.to_dict(),
    } | details
    with written_whole(path) as temporary:
        temporary.write_bytes(b"plan")
        write_manifest(temporary, path, kind=ENGINE, parents=[source_of(onnx)], recipe={}, details=details, seconds=0)
    return path


def test_an_engine_on_the_machine_that_built_it_passes(tmp_path, orin, caplog):
    engine = written(tmp_path, orin)
    with caplog.at_level(logging.WARNING):
        assert check_engine(engine, orin) == tmp_path / "librmt_edge_plugin_aarch64.so"
        assert check_engine(read_artifact(engine, ENGINE), orin) is not None
    assert caplog.text == ""


def test_a_changed_engine_is_refused_before_anything_else(tmp_path, orin):
    engine = written(tmp_path, orin)
    engine.write_bytes(b"changed")
    with pytest.raises(RmtEdgeError, match="is not the file its manifest describes"):
        check_engine(engine, orin)


def test_another_gpu_is_named_with_the_command_that_builds_for_it(tmp_path, orin, h100):
    engine = written(tmp_path, orin)
    pattern = r"built for SM 8\.7; here is NVIDIA H100 80GB HBM3, SM 9\.0[\s\S]*rmt-edge build .*/x\.onnx --device auto"
    with pytest.raises(RmtEdgeError, match=pattern):
        check_engine(engine, replace(h100, tensorrt=orin.tensorrt))


def test_everything_that_differs_is_named_at_once(tmp_path, orin, h100):
    engine = written(tmp_path, orin)
    (tmp_path / "librmt_edge_plugin_aarch64.so").write_bytes(b"another")
    (tmp_path / "x.plugin.onnx").write_bytes(b"another")
    with pytest.raises(RmtEdgeError) as refused:
        check_engine(engine, h100)
    text = str(refused.value)
    assert "SM 8.7" in text and "by tensorrt 10.3.0, for that version alone; 10.9.0.34 is installed" in text
    assert "another librmt_edge_plugin_aarch64.so" in text and "another x.plugin.onnx" in text
    assert text.count("--device jetson-orin-nano-8gb") == 1  # one command mends three of them


def test_a_second_gpu_that_fits_is_pointed_to(tmp_path, orin):
    machine = replace(orin, board=None, l4t=None, gpus=(Gpu("NVIDIA L4", "8.9", 22600), *orin.gpus))
    with pytest.raises(RmtEdgeError, match="CUDA_VISIBLE_DEVICES=1"):
        check_engine(written(tmp_path, orin), machine)


def test_without_a_gpu_or_tensorrt_both_are_named(tmp_path, orin):
    machine = replace(machines.machine("no-gpu", tmp_path / "other"), tensorrt={})
    with pytest.raises(
        RmtEdgeError, match=r"none is installed[\s\S]*no GPU here[\s\S]*pip install 'tensorrt==10\.3\.0'"
    ):
        check_engine(written(tmp_path, orin), machine)


@pytest.mark.parametrize(
    ("built", "here", "compatible", "opens"),
    [
        ("10.3.0", "10.3.0.30", False, True),
        ("10.3.0.26", "10.3.0.30", False, False),
        ("10.3.0", "10.13.3", False, False),
        ("10.3.0", "10.13.3", True, True),
        ("10.13.3", "10.3.0", True, False),
        ("10.3.0", "11.4.1", True, False),
    ],
)
def test_versions_must_be_equal_or_compatible_and_not_older(tmp_path, orin, built, here, compatible, opens):
    profile = load_profile("jetson-orin-nano-8gb").to_dict() | {"version_compatible": compatible}
    backend = {"name": "tensorrt", "version": built}
    engine = written(tmp_path, orin, backend=backend, profile=profile)
    machine = replace(orin, tensorrt={"tensorrt": here})
    if opens:
        check_engine(engine, machine)
    else:
        with pytest.raises(RmtEdgeError, match=rf"built by tensorrt {built}, .*; {here} is installed"):
            check_engine(engine, machine)


@pytest.mark.parametrize(
    ("level", "opens"), [("ampere_plus", True), ("same_compute_capability", False), ("none", False)]
)
def test_hardware_compatibility_opens_an_engine_on_other_gpus_but_not_on_jetsons(tmp_path, orin, h100, level, opens):
    profile = load_profile("a100").to_dict() | {"hardware_compatibility": level}
    engine = written(tmp_path, h100, "a100", profile=profile)
    if opens:
        check_engine(engine, h100)
    else:
        with pytest.raises(RmtEdgeError, match=r"built for SM 8\.0; here is NVIDIA H100"):
            check_engine(engine, h100)
    with pytest.raises(RmtEdgeError, match=r"built for SM 8\.0; here is Orin"):
        check_engine(engine, replace(orin, tensorrt=h100.tensorrt))


def test_a_missing_plugin_library_and_another_one_are_told_apart(tmp_path, orin, monkeypatch):
    monkeypatch.chdir(tmp_path)
    engine = written(tmp_path, orin)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with pytest.raises(RmtEdgeError, match=r"librmt_edge_plugin_aarch64\.so is not in .*elsewhere"):
        check_engine(engine, orin, elsewhere)
    (elsewhere / "library.so").write_bytes(b"library")
    check_engine(engine, orin, elsewhere / "library.so")
    (elsewhere / "library.so").write_bytes(b"another")
    with pytest.raises(RmtEdgeError, match=r"built with another librmt_edge_plugin_aarch64\.so"):
        check_engine(engine, orin, elsewhere / "library.so")
    check_engine(written(tmp_path, orin, plugin_library=None, kernels="native"), orin, elsewhere)


def test_an_engine_larger_than_the_free_memory_is_refused(tmp_path, orin):
    engine = written(tmp_path, orin)
    engine = Artifact(engine, replace(read_artifact(engine, ENGINE).manifest, size_bytes=6000 << 20))
    with pytest.raises(RmtEdgeError, match="It is 6000 MiB, 5000 MiB of Orin are free"):
        check_engine(engine, orin)


def test_an_engine_of_another_board_with_the_same_gpu_generation_is_opened_with_a_warning(tmp_path, orin, caplog):
    engine = written(tmp_path, replace(orin, board="NVIDIA Jetson AGX Orin Developer Kit"))
    with caplog.at_level(logging.WARNING):
        check_engine(engine, orin)
    assert "was built on NVIDIA Jetson AGX Orin Developer Kit: on this NVIDIA Jetson Orin Nano" in caplog.text


def test_a_build_on_the_right_board_passes(orin, tmp_path):
    check_build(load_profile("jetson-orin-nano-8gb"), orin, tmp_path)


def test_tensorrt_rtx_builds_without_a_gpu_and_tensorrt_does_not(tmp_path):
    machine = machines.machine("no-gpu", tmp_path)
    check_build(load_profile("rtx-5090"), machine, tmp_path)
    with pytest.raises(RmtEdgeError, match=r"tensorrt 10\.3 to 11\.4 is needed, none[\s\S]*no GPU[\s\S]*<11\.5'"):
        check_build(load_profile("l4"), machine, tmp_path)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            {"tensorrt": {"tensorrt": "8.6.2"}},
            r"8\.6\.2 is installed, the profile is for 10\.3 to 10\.16[\s\S]*JetPack",
        ),
        ({"tensorrt": {"tensorrt": "10.17.0"}}, r"10\.17\.0 is installed"),
        ({"tensorrt": {}}, r"none is installed[\s\S]*apt install nvidia-jetpack"),
        ({"gpus": (Gpu("NVIDIA Thor", "11.0", 125692),)}, r"profile is for SM 8\.7; here is NVIDIA Thor[\s\S]*auto"),
        ({"gpus": (Gpu("Orin", "8.7", 7619, 600),)}, r"600 MiB of the 7619 MiB of Orin are free[\s\S]*multi-user"),
    ],
)
def test_what_hinders_a_build_is_named(orin, tmp_path, change, match):
    with pytest.raises(RmtEdgeError, match=match):
        check_build(load_profile("jetson-orin-nano-8gb"), replace(orin, **change), tmp_path)


def test_a_full_disk_hinders_a_build(orin, tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "free_disk_mib", lambda folder: 300)
    with pytest.raises(RmtEdgeError, match=r"300 MiB are free on the disk of .*, a build needs 1024[\s\S]*--output"):
        check_build(load_profile("jetson-orin-nano-8gb"), orin, tmp_path)


def test_the_disk_of_a_folder_yet_to_be_made_is_that_of_its_parent(tmp_path):
    assert free_disk_mib(tmp_path / "a" / "b") == free_disk_mib(tmp_path) > 0


def test_the_command_prints_the_engine_or_what_is_in_the_way(tmp_path, orin, monkeypatch, capsys):
    engine = written(tmp_path, orin)
    monkeypatch.setattr(preflight, "this_machine", lambda: orin)
    assert main(["preflight", str(engine)]) == 0
    assert capsys.readouterr().out == f"{engine}\n"
    assert main(["preflight", str(engine), "--library", str(tmp_path / "nowhere.so")]) == 2
    assert "is not in" in capsys.readouterr().err


@pytest.mark.trt
@needs_rtx
def test_an_engine_as_build_writes_it_is_understood(onnx_files, tmp_path):
    engine = build(onnx_files["fp16"], load_profile("rtx-portable"), tmp_path, kernels="native").path
    here = this_machine()
    rtx_4090 = Gpu("NVIDIA GeForce RTX 4090", "8.9", 24080, 23000)
    assert check_engine(engine, replace(here, gpus=(rtx_4090,))) is None
    with pytest.raises(RmtEdgeError, match=r"built for SM 8\.0, 8\.6, 8\.9, 12\.0; here is NVIDIA H200, SM 9\.0"):
        check_engine(engine, replace(here, gpus=(Gpu("NVIDIA H200", "9.0", 143000),)))
    with pytest.raises(RmtEdgeError, match=r"tensorrt_rtx 1\.7\.\S*, for that version alone; 1\.8\.0\.9 is installed"):
        check_engine(engine, replace(here, gpus=(rtx_4090,), tensorrt={"tensorrt_rtx": "1.8.0.9"}))
