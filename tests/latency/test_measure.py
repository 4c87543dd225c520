"""The one timing function, over a runner that says what it wants and over the engine's stand-ins (standins.py)."""

import time

import pytest

from rmt_edge.artifact import ENGINE, read_artifact
from rmt_edge.errors import RmtEdgeError
from rmt_edge.latency import measure as latency
from rmt_edge.latency.measure import MeasureSettings, Point, measure, meets_mlperf_minimum, points_of
from rmt_edge.latency.telemetry import Telemetry
from rmt_edge.runtime import engine_runner
from rmt_edge.runtime.runner import Timing
from tests import standins

QUICK = MeasureSettings(duration_s=0.02, samples=5, warm_up_s=0.001, rounds=2)


class Runner:
    """Takes `seconds` for each run and says it took batch milliseconds; writes into `log` whose turn it is."""

    precision, clock, image_shape = "fp16", "host clock", (3, 4, 5)
    batches = range(1, 9)

    def __init__(self, name="a", log=None, seconds=0.0005, enqueue_ms=None, has_gpu=False):
        self.name, self.log, self.seconds, self.enqueue_ms = name, [] if log is None else log, seconds, enqueue_ms
        self.transfers = self.cuda_graphs = (False, True) if has_gpu else (False,)
        self.runs = 0

    def prepare(self, batch, transfers=False, cuda_graph=False):
        self.batch = batch
        self.log.append((self.name, batch, transfers, cuda_graph))

    def run(self):
        time.sleep(self.seconds)
        self.runs += 1
        return Timing(float(self.batch), self.enqueue_ms)


def measured(points, settings=QUICK):
    with Telemetry(None) as telemetry:
        return measure(points, settings, telemetry, lambda _: None)


def test_points_take_turns_forwards_and_backwards():
    log = []
    a, b = Runner("a", log), Runner("b", log)
    measured([Point(a, 1), Point(b, 2)], MeasureSettings(0.02, 1, 0.0, rounds=4))
    turns = [name for name, *_ in log]
    assert turns == ["a", "b", *"ab", *"ba", *"ab", *"ba"]  # warm-up, then the rounds


def test_a_run_has_its_samples_and_what_follows_from_them():
    run = measured([Point(Runner(), 4)])[0]
    assert set(run.samples_ms) == {4.0} and len(run.samples_ms) >= 5
    assert run.mean_ms == run.p50_ms == run.p999_ms == 4 and run.images_per_s == 1000
    assert run.coefficient_of_variation == 0 and run.early_stopping_p90_ms is None
    assert (run.runner, run.precision, run.batch) == ("a", "fp16", 4)
    assert run.enqueue_p50_ms is None and not run.meets_mlperf_minimum


def test_a_point_lasts_its_duration():
    run = measured([Point(Runner(), 1)], MeasureSettings(0.1, 1, 0.0, rounds=2))[0]
    assert 0.1 <= run.telemetry["seconds"] < 1


def test_a_point_goes_on_until_it_has_its_samples():
    runner = Runner(seconds=0.01)
    run = measured([Point(runner, 1)], MeasureSettings(0.02, 12, 0.0, rounds=2))[0]
    assert len(run.samples_ms) == 12
    assert runner.runs == 12 + 2 * latency.TURN_WARM_UPS  # warm-ups are no samples
    assert not any("samples" in x for x in run.warnings)


def test_a_slow_runner_ends_in_time_and_is_warned_of():
    run = measured([Point(Runner(seconds=0.01), 1)], MeasureSettings(0.004, 1000, 0.0, rounds=2))[0]
    assert 2 <= len(run.samples_ms) < 20
    assert any(f"There are {len(run.samples_ms)} samples of the 1000 asked for" in x for x in run.warnings)


def test_warm_up_is_by_time():
    runner = Runner(seconds=0.002)
    measured([Point(runner, 1)], MeasureSettings(0.001, 1, 0.05, rounds=1))
    assert runner.runs > 8


def test_the_bar_is_told_of_all_seconds():
    told = []
    with Telemetry(None) as telemetry:
        measure([Point(Runner(), 1), Point(Runner(), 2)], QUICK, telemetry, told.append)
    assert sum(told) == pytest.approx(latency.planned_seconds(2, QUICK))


def test_enqueue_bound_runs_are_warned_of_unless_they_are_graphs():
    run, graph = (measured([Point(Runner(enqueue_ms=0.9, has_gpu=True), 1, cuda_graph=x)])[0] for x in (False, True))
    assert run.enqueue_p50_ms == graph.enqueue_p50_ms == 0.9
    assert any("takes 0.90 of the latency" in x and "--cuda-graph" in x for x in run.warnings)
    assert not graph.warnings


def test_points_are_all_settings_of_a_runner_or_those_asked_for():
    gpu, cpu = Runner(has_gpu=True), Runner()
    assert len(points_of(gpu, (1, 8), None, None)) == 8
    assert points_of(gpu, (1,), False, True) == [Point(gpu, 1, False, True)]
    assert points_of(cpu, (1, 8), None, None) == [Point(cpu, 1), Point(cpu, 8)]
    assert points_of(cpu, (1,), False, False) == [Point(cpu, 1)]
    with pytest.raises(RmtEdgeError, match=r"--cuda-graph is given, but a has none[\s\S]*GPU alone"):
        points_of(cpu, (1,), None, True)


@pytest.mark.parametrize(
    ("batch", "samples", "seconds", "is_met"),
    [(1, 1024, 600, True), (1, 1023, 600, False), (1, 9999, 599, False), (8, 3072, 600, True), (8, 3071, 600, False)],
)
def test_mlperfs_minima(batch, samples, seconds, is_met):
    assert meets_mlperf_minimum(batch, samples, seconds) == is_met


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"duration_s": 0}, r"duration is 0[\s\S]*at least 0\.001"),
        ({"duration_s": float("nan")}, "duration is nan"),
        ({"warm_up_s": -1}, r"warm_up_s is -1"),
        ({"samples": 0}, r"samples is 0"),
    ],
)
def test_settings_that_measure_nothing_are_refused(values, message):
    with pytest.raises(RmtEdgeError, match=message):
        MeasureSettings(**values)


def test_the_median_of_an_engine_is_its_compute_time_as_a_graph(monkeypatch, tmp_path):
    gpu = standins.Gpu()
    driver = standins.Driver(gpu)
    monkeypatch.setattr(engine_runner, "load_cuda", lambda: standins.pycuda_driver(gpu))
    monkeypatch.setattr(engine_runner, "load_driver", lambda: driver)
    monkeypatch.setattr(latency, "KERNELS_AUTO", MeasureSettings(0.05, warm_up_s=0.0))
    engine = read_artifact(standins.write_engine(tmp_path / "x.engine"), ENGINE)
    assert latency.median_latency_ms(engine, standins.tensorrt(gpu), 4) == 4 * standins.COMPUTE_MS
    assert gpu.calls.count("launch") > 64 and not gpu.memory
