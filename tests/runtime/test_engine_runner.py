"""Running engines, against stand-ins for pycuda, TensorRT and the driver: no GPU is at hand (standins.py)."""

import logging

import numpy as np
import pytest

from rmt_edge.artifact import ENGINE, manifest_path, read_artifact
from rmt_edge.errors import RmtEdgeError
from rmt_edge.runtime import engine_runner
from rmt_edge.runtime import open as opening
from rmt_edge.runtime.engine_runner import EngineRunner, kernels_path
from tests import standins
from tests.standins import COMPUTE_MS, COPY_MS, LARGEST, SHAPE


@pytest.fixture
def gpu(monkeypatch):
    made = standins.Gpu()
    made.driver = standins.Driver(made)
    monkeypatch.setattr(engine_runner, "load_cuda", lambda: standins.pycuda_driver(made))
    monkeypatch.setattr(engine_runner, "load_driver", lambda: made.driver)
    return made


def written_engine(*arguments, **details):
    """An engine of the stand-in, checked."""
    return read_artifact(standins.write_engine(*arguments, **details), ENGINE)


@pytest.fixture
def engine(tmp_path):
    return written_engine(tmp_path / "x.engine")


def images(batch, seed=0):
    return np.random.default_rng(seed).standard_normal((batch, *SHAPE), dtype=np.float32)


def logits(x):
    return np.stack([x.sum((1, 2, 3)), x[:, 0].sum((1, 2))], 1)


@pytest.mark.parametrize("is_rtx", [False, True])
def test_logits_are_those_of_the_images_given_last(gpu, engine, is_rtx):
    with EngineRunner(engine, standins.tensorrt(gpu, is_rtx)) as runner:
        kept = []
        for seed, batch in enumerate((2, 1, 2, LARGEST)):
            kept.append((runner(images(batch, seed))["logits"], logits(images(batch, seed))))
        assert runner.batches == range(1, LARGEST + 1) and runner.image_shape == SHAPE
        assert runner.gpu_bus_id == "0000:01:00.0"
    for found, expected in kept:  # also when others have been computed since
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("is_rtx", [False, True])
@pytest.mark.parametrize("cuda_graph", [False, True])
@pytest.mark.parametrize("transfers", [False, True])
def test_latency_is_compute_and_transfers_are_counted_when_asked(gpu, engine, is_rtx, cuda_graph, transfers):
    with EngineRunner(engine, standins.tensorrt(gpu, is_rtx)) as runner:
        for batch in (4, 2, 4):
            runner.prepare(batch, transfers, cuda_graph)
            for _ in range(2):
                timing = runner.run()
                assert timing.latency_ms == COMPUTE_MS * batch + 2 * COPY_MS * transfers
                assert timing.enqueue_ms > 0


def test_a_graph_is_captured_once_for_each_batch_after_a_run_and_freed(gpu, engine):
    with EngineRunner(engine, standins.tensorrt(gpu)) as runner:
        for batch in (1, 2, 1):
            runner.prepare(batch, cuda_graph=True)
            runner.run()
        captured = [x for x in gpu.calls if x != "launch"]
        assert captured == ["init", *["enqueue", "begin", "enqueue", "end", "instantiate"] * 2]
        assert gpu.calls.count("launch") == 6
    assert gpu.calls.count("destroy graph") == gpu.calls.count("destroy executable") == 2


def test_tensorrt_rtx_compiles_at_once_and_captures_itself(gpu, engine):
    trt = standins.tensorrt(gpu, is_rtx=True)
    with EngineRunner(engine, trt) as runner:
        runner.prepare(1, cuda_graph=True)
        runner.run()
        runner.prepare(1, cuda_graph=False)
    strategies = [x.config.cuda_graph_strategy for x in trt.contexts]
    assert strategies == ["whole", "off"] and "begin" not in gpu.calls
    assert {x.config.dynamic_shapes_kernel_specialization_strategy for x in trt.contexts} == {"eager"}


def test_everything_on_the_gpu_is_freed_before_its_context_goes(gpu, engine):
    with EngineRunner(engine, standins.tensorrt(gpu)) as runner:
        runner(images(1))
        assert len(gpu.memory) == 2 and gpu.context_is_current
    assert not gpu.memory and not gpu.context_is_current


def test_compiled_kernels_are_kept_for_the_next_time(gpu, engine):
    for expected in (set(), {(2, *SHAPE)}):
        trt = standins.tensorrt(gpu, is_rtx=True)
        with EngineRunner(engine, trt) as runner:
            assert runner._kernels.compiled == expected
            runner(images(2))
    before = kernels_path(engine.path).stat().st_mtime_ns
    with EngineRunner(engine, standins.tensorrt(gpu, is_rtx=True)) as runner:
        runner(images(2))
    assert kernels_path(engine.path).stat().st_mtime_ns == before  # nothing new to keep


def test_kernels_of_another_engine_or_changed_ones_are_not_loaded(gpu, engine, tmp_path, caplog):
    with EngineRunner(engine, standins.tensorrt(gpu, is_rtx=True)) as runner:
        runner(images(2))
    other = written_engine(engine.path, precision="int8")
    manifest = manifest_path(kernels_path(engine.path))
    manifest.write_text(manifest.read_text().replace(engine.sha256, "0" * 64))
    with EngineRunner(other, standins.tensorrt(gpu, is_rtx=True)) as runner:
        assert runner._kernels.compiled == set()
    kernels_path(engine.path).write_bytes(b"__import__('os').abort()")
    with caplog.at_level(logging.INFO), EngineRunner(engine, standins.tensorrt(gpu, is_rtx=True)) as runner:
        assert runner._kernels.compiled == set()
    assert "is not used and will be made again" in caplog.text


def test_a_folder_that_cannot_be_written_costs_the_kernels_alone(gpu, engine, monkeypatch, caplog):
    def full(path):
        raise RmtEdgeError(f"{path} cannot be written: no space.")

    monkeypatch.setattr(engine_runner, "written_whole", full)
    with caplog.at_level(logging.INFO), EngineRunner(engine, standins.tensorrt(gpu, is_rtx=True)) as runner:
        runner(images(1))
    assert "The compiled kernels are not kept" in caplog.text and not gpu.memory


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((1, *SHAPE)), r"Images are float64[\s\S]*x\.engine takes a float32 array"),
        ([[1.0]], r"Images are list[\s\S]*float32 array"),
        (np.zeros((1, 4, 5, 3), np.float32), r"Images are \(1, 4, 5, 3\)[\s\S]*takes \(b, 3, 4, 5\)"),
        (np.zeros(SHAPE, np.float32), r"Images are \(3, 4, 5\)"),
        (np.zeros((9, *SHAPE), np.float32), r"A batch of 9[\s\S]*takes 1 to 8 images[\s\S]*max_batch"),
        (np.zeros((0, *SHAPE), np.float32), r"A batch of 0"),
    ],
)
def test_wrong_images_are_refused_before_anything_runs(gpu, engine, wrong, message):
    with EngineRunner(engine, standins.tensorrt(gpu)) as runner:
        with pytest.raises(RmtEdgeError, match=message):
            runner(wrong)
        assert "enqueue" not in gpu.calls


def test_a_batch_outside_the_profile_is_not_prepared(gpu, engine):
    with EngineRunner(engine, standins.tensorrt(gpu)) as runner, pytest.raises(RmtEdgeError, match="A batch of 16"):
        runner.prepare(16)


def test_an_engine_of_another_gpu_is_refused(gpu, tmp_path):
    path = written_engine(tmp_path / "y.engine", b"other")
    with pytest.raises(RmtEdgeError, match=r"does not open on this GPU[\s\S]*rmt-edge build"):
        EngineRunner(path, standins.tensorrt(gpu)).__enter__()
    assert not gpu.context_is_current


def test_a_changed_engine_is_not_opened(gpu, engine):
    engine.path.write_bytes(b"changed")
    with pytest.raises(RmtEdgeError, match="is not the file its manifest describes"):
        opening.open_engine(engine.path)
    assert gpu.calls == []


def test_an_engine_of_something_else_is_refused(gpu, engine):
    with pytest.raises(RmtEdgeError, match=r"outputs \['logits'\] of HALF[\s\S]*float32"):
        EngineRunner(engine, standins.tensorrt(gpu, dtype="HALF")).__enter__()
    with pytest.raises(RmtEdgeError, match=r"inputs \['images', 'logits'\]"):
        EngineRunner(engine, standins.tensorrt(gpu, mode_of=lambda name: "in")).__enter__()


def test_a_run_that_fails_says_so(gpu, engine):
    trt = standins.tensorrt(gpu)
    with EngineRunner(engine, trt) as runner:
        runner.prepare(1)
        trt.contexts[-1].is_running = False
        with pytest.raises(RmtEdgeError, match=r"x\.engine failed to run"):
            runner.run()


def test_a_graph_that_cannot_be_captured_says_what_to_do(gpu, engine):
    gpu.driver.fails = "end"
    with (
        EngineRunner(engine, standins.tensorrt(gpu)) as runner,
        pytest.raises(RmtEdgeError, match=r"not permitted when stream is capturing[\s\S]*--no-cuda-graph"),
    ):
        runner.prepare(1, cuda_graph=True)


def test_a_version_compatible_engine_may_bring_its_code(gpu, tmp_path):
    path = written_engine(tmp_path / "x.engine", profile={"backend": "tensorrt", "version_compatible": True})
    trt = standins.tensorrt(gpu)
    with EngineRunner(path, trt):
        assert trt.runtimes[0].engine_host_code_allowed
    trt = standins.tensorrt(gpu)
    with EngineRunner(written_engine(path.path), trt):
        assert not hasattr(trt.runtimes[0], "engine_host_code_allowed")


def test_plugins_are_loaded_before_the_engine_is_opened(gpu, engine, monkeypatch, tmp_path):
    trt = standins.tensorrt(gpu)
    order = []
    monkeypatch.setattr(engine_runner, "load_plugins", lambda module, path: order.append((module is trt, path)))
    with EngineRunner(engine, trt, tmp_path / "plugins.so"):
        assert order == [(True, tmp_path / "plugins.so")]


def test_an_engine_is_opened_with_its_backend_and_the_library_that_preflight_found(gpu, engine, monkeypatch, tmp_path):
    trt, asked = standins.tensorrt(gpu), []

    def preflight(opened, library=None):
        asked.append((opened.path, library))
        return tmp_path / "plugins.so"

    monkeypatch.setattr(opening, "check_engine", preflight)
    monkeypatch.setattr(opening, "load_backend", lambda name: trt if name == "tensorrt" else None)
    runner = opening.open_engine(engine.path, tmp_path)
    assert asked == [(engine.path, tmp_path)]
    assert runner.trt is trt and runner.library == tmp_path / "plugins.so" and runner.precision == "fp16"


def test_missing_pycuda_says_what_to_do(monkeypatch):
    def missing(name):
        raise ImportError("No module named 'pycuda'")

    monkeypatch.setattr(engine_runner.importlib, "import_module", missing)
    with pytest.raises(RmtEdgeError, match=r"pycuda cannot be imported[\s\S]*pip install pycuda"):
        engine_runner.load_cuda()
