"""`rmt-edge bench`: ONNX files for real, engines against stand-ins, and what it refuses."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch

from rmt_edge.artifact import manifest_path, plugin_form_path, sha256_of, versions
from rmt_edge.cli import main
from rmt_edge.device.machine import has_gpu
from rmt_edge.errors import RmtEdgeError
from rmt_edge.latency import measure as latency
from rmt_edge.latency.bench import PEERS, bench
from rmt_edge.latency.record import read_latency_record
from rmt_edge.latency.sensors import Reading
from rmt_edge.latency.telemetry import Telemetry
from rmt_edge.runtime import engine_runner
from rmt_edge.runtime import open as opening
from tests import standins

QUICK = ["--duration", "0.1", "--samples", "4", "--warm-up", "0.01"]


@pytest.fixture
def files(onnx_files, tmp_path) -> dict[str, Path]:
    """The FP16 and INT8 ONNX files with their manifests, in a folder of their own."""
    copied = {}
    for name in ("fp16", "int8"):
        copied[name] = Path(shutil.copy(onnx_files[name], tmp_path))
        shutil.copy(manifest_path(onnx_files[name]), tmp_path)
    return copied


def refused(capsys, *arguments) -> str:
    assert main(["bench", *map(str, arguments)]) == 2
    return capsys.readouterr().err


def test_onnx_files_are_measured_side_by_side(files, capsys):
    assert main(["bench", *map(str, files.values()), "--batch", "1", "2", *QUICK]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-2:] == [str(x.with_suffix(".latency.json")) for x in files.values()]
    assert "nano.fp16.onnx (sha256" in out and "onnxruntime int8" in out
    for name, path in files.items():
        record = json.loads(path.with_suffix(".latency.json").read_text())
        assert record["kind"] == "latency" and record["precision"] == name and record["kernels"] is None
        assert record["subject"] == {"name": path.name, "sha256": sha256_of(path), "kind": "ONNX model"}
        assert record["settings"]["duration_s"] == 0.1 and record["settings"]["samples"] == 4
        assert record["machine"]["processor"] and record["versions"] == versions()
        assert [(x["runner"], x["batch"]) for x in record["runs"]] == [("onnxruntime", 1), ("onnxruntime", 2)]
        for run in record["runs"]:
            assert len(run["samples_ms"]) >= 4 and min(run["samples_ms"]) > 0
            assert min(run["samples_ms"]) <= run["p50_ms"] <= run["p90_ms"] <= run["p999_ms"]
            assert run["images_per_s"] == pytest.approx(1000 * run["batch"] / run["mean_ms"])
            assert not run["transfers"] and not run["cuda_graph"]
            assert run["telemetry"]["sensor"] in ("cpu", None)


@pytest.fixture
def one_thread():
    """PyTorch on one thread: on a busy machine several wait for each other for seconds."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_peers_are_measured_in_the_same_turns(files, checkpoint, capsys, one_thread):
    arguments = ["--batch", "1", "--peers", "torch", "--checkpoint", str(checkpoint), *QUICK]
    assert main(["bench", str(files["fp16"]), *arguments]) == 0
    runs = json.loads(files["fp16"].with_suffix(".latency.json").read_text())["runs"]
    assert ["onnxruntime", "torch eager"] == [x["runner"] for x in runs][:2]


def test_the_record_goes_where_output_says(files, tmp_path, capsys):
    assert main(["bench", str(files["fp16"]), "--batch", "1", *QUICK, "--output", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "nano.fp16.latency.json").is_file()
    assert not list(tmp_path.glob("*.latency.json"))


@pytest.fixture
def device(monkeypatch):
    """A GPU of stand-ins with a sensor on paper, and TensorRT as `engine.load_backend` finds it."""
    gpu = standins.Gpu()
    driver, trt = standins.Driver(gpu), standins.tensorrt(gpu)
    monkeypatch.setattr(engine_runner, "load_cuda", lambda: standins.pycuda_driver(gpu))
    monkeypatch.setattr(engine_runner, "load_driver", lambda: driver)
    monkeypatch.setattr(
        opening, "check_engine", lambda engine, library=None: gpu.calls.append(f"preflight {engine.path.name}")
    )
    monkeypatch.setattr(opening, "load_backend", lambda name: trt if name == "tensorrt" else None)

    class Paper:
        name, fix_clocks = "paper", "sudo jetson_clocks"
        read = staticmethod(lambda: Reading(1000, 20.0, 50))
        close = staticmethod(lambda: gpu.calls.append("closed"))

    monkeypatch.setattr("rmt_edge.latency.bench.Telemetry", partial(Telemetry, interval_s=0.002))
    monkeypatch.setattr("rmt_edge.latency.bench.open_sensor", lambda is_gpu, bus_id: Paper() if is_gpu else None)
    return gpu


def test_engines_are_measured_with_and_without_transfers_and_graphs(device, tmp_path, capsys):
    paths = [standins.write_engine(tmp_path / f"x.{name}.orin.engine", precision=name) for name in ("fp16", "int8")]
    assert main(["bench", *map(str, paths), *QUICK]) == 0
    record = json.loads((tmp_path / "x.int8.orin.latency.json").read_text())
    assert record["precision"] == "int8" and record["kernels"] == "native"
    # The batches are those of the device profile in the engine's manifest.
    settings = [(x["batch"], x["transfers"], x["cuda_graph"]) for x in record["runs"]]
    assert settings == [(b, t, g) for b in (1, 4) for t in (False, True) for g in (False, True)]
    for run in record["runs"]:
        moved = 2 * standins.COPY_MS if run["transfers"] else 0
        assert run["p50_ms"] == run["batch"] * standins.COMPUTE_MS + moved
        assert run["telemetry"]["power_w"] == 20 and run["telemetry"]["energy_per_image_j"] > 0
    assert not device.memory and not device.context_is_current and "closed" in device.calls
    assert "CUDA graph" in capsys.readouterr().out


def test_a_notebook_measures_files_by_one_call(files, tmp_path):
    quick = latency.MeasureSettings(0.1, 4, 0.01)
    found = bench([files["fp16"], str(files["int8"])], (2,), quick, output=tmp_path / "out")
    assert found == [tmp_path / "out" / f"nano.{name}.latency.json" for name in ("fp16", "int8")]
    for path, name in zip(found, ("fp16", "int8"), strict=True):
        (run,) = read_latency_record(path).runs
        assert (run.runner, run.precision, run.batch) == ("onnxruntime", name, 2)


def test_peers_have_the_names_that_their_runners_know(files):
    from rmt_edge.cli import bench as commands
    from rmt_edge.runtime import torch_runner

    assert PEERS == commands.PEERS == tuple(torch_runner.PEERS)
    with pytest.raises(RmtEdgeError, match=r"--peers is 'jax'[\s\S]*torch, torch-compile"):
        bench([files["fp16"]], peers=["jax"])


def test_one_setting_can_be_asked_for(device, tmp_path):
    path = standins.write_engine(tmp_path / "x.engine")
    assert main(["bench", str(path), "--batch", "2", "--no-transfers", "--cuda-graph", *QUICK]) == 0
    runs = json.loads((tmp_path / "x.latency.json").read_text())["runs"]
    assert [(x["batch"], x["transfers"], x["cuda_graph"]) for x in runs] == [(2, False, True)]


def test_a_batch_that_an_engine_does_not_take_is_refused_before_anything_runs(device, tmp_path, capsys):
    path = standins.write_engine(tmp_path / "x.engine")
    assert "A batch of 64.\nNote: x.engine takes 1 to 8" in refused(capsys, path, "--batch", "1", "64", *QUICK)
    assert "enqueue" not in device.calls and not list(tmp_path.glob("*.latency.json"))


def test_an_engine_is_held_against_the_machine_before_it_is_opened(device, tmp_path):
    path = standins.write_engine(tmp_path / "x.engine")
    assert main(["bench", str(path), "--batch", "1", "--no-transfers", "--no-cuda-graph", *QUICK]) == 0
    assert device.calls[:2] == ["preflight x.engine", "init"]


@pytest.mark.skipif(has_gpu(), reason="there is a GPU")
def test_an_engine_without_a_gpu_says_where_to_go(tmp_path, capsys):
    path = standins.write_engine(tmp_path / "x.engine")
    assert "There is no GPU here" in refused(capsys, path)


def test_an_engine_with_plugins_needs_the_library_it_was_built_with(tmp_path, capsys):
    library = {"name": "librmt_edge_plugin_x86_64.so", "sha256": "0" * 64}
    path = standins.write_engine(tmp_path / "x.engine", plugin_library=library)
    assert "Its plugin library librmt_edge_plugin_x86_64.so is not in" in refused(capsys, path, "--libraries", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x.txt"], r"x.txt cannot be measured"),
        (["x.onnx"], r"There is no file"),
        (["x.onnx", "./x.onnx"], r"would write the same record, x.latency.json"),
        (["x.onnx", "x.engine"], r"would write the same record, x.latency.json"),
        (["x.onnx", "--batch", "1", "1"], "--batch holds 1 twice"),
        (["x.onnx", "--batch", "0"], "--batch holds 0"),
        (["x.onnx", "--duration", "-1"], "duration is -1"),
        (["x.onnx", "--duration", "inf"], "duration is inf"),
        (["x.onnx", "--samples", "0"], "samples is 0"),
        (["x.onnx", "--peers", "torch"], "--peers is given without --checkpoint"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, *arguments)


def test_onnx_files_refuse_what_a_gpu_alone_has(files, capsys):
    assert "--cuda-graph is given, but onnxruntime has none" in refused(capsys, files["fp16"], "--cuda-graph", *QUICK)
    assert "--transfers is given, but onnxruntime has none" in refused(capsys, files["fp16"], "--transfers", *QUICK)


def test_a_plugin_form_and_a_changed_file_are_refused(onnx_files, files, capsys):
    assert "this step takes 'ONNX model'" in refused(capsys, plugin_form_path(onnx_files["fp16"]))
    files["fp16"].write_bytes(b"changed")
    assert "is not the file its manifest describes" in refused(capsys, files["fp16"])


def test_peers_of_another_checkpoint_are_refused(files, capsys, tmp_path):
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"other")
    found = refused(capsys, files["fp16"], "--peers", "torch", "--checkpoint", other, *QUICK)
    assert "is not the checkpoint that the files were made from" in found


def test_defaults_are_for_people_and_mlperfs_minima_are_named():
    assert latency.MeasureSettings() == latency.MeasureSettings(10.0, 64, 2.0, 5)
    assert (latency.MLPERF_SECONDS, latency.MLPERF_QUERIES, latency.MLPERF_OFFLINE_IMAGES) == (600, 1024, 24_576)
