"""Measure: one function times every runner (runner.py), an engine, ONNX Runtime or PyTorch, in the same way.

Points (a runner with a batch size and settings) take turns in rounds, forwards and backwards by turns, so that what
drifts over a measurement (temperature, clocks, other programs) meets all of them alike. numpy only.

MLPerf Inference's minima (mlcommons/inference, mlperf.conf): SingleStream 600 s and 1,024 queries of one image, Offline
600 s and 24,576 images. They are not the defaults, which are for people; a record says whether a run met them.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from types import ModuleType
from typing import Any

from rmt_edge.artifact import Artifact
from rmt_edge.errors import RmtEdgeError
from rmt_edge.latency.percentiles import percentile_ms, summary
from rmt_edge.latency.record import Run
from rmt_edge.latency.telemetry import Telemetry, doubts
from rmt_edge.runtime.engine_runner import EngineRunner
from rmt_edge.runtime.runner import Runner
from rmt_edge.settings import check_positive

MLPERF_SECONDS, MLPERF_QUERIES, MLPERF_OFFLINE_IMAGES = 600, 1024, 24_576
OVERTIME = 10  # a point ends after so many times its duration, whatever it has
TURN_WARM_UPS = 3  # untimed runs when a point's turn comes: another's data are in the caches


@dataclass(frozen=True)
class MeasureSettings:
    """How long a point is measured: duration_s in all its rounds together, and on until it has that many samples.

    samples: 64 are the fewest from which MLPerf's early stopping knows a 90th percentile. warm_up_s: before the first
    round; ten times trtexec's 200 ms, since a governor raises clocks over more than that (temperature takes minutes,
    which rounds and warnings are for).
    """

    duration_s: float = 10.0
    samples: int = 64
    warm_up_s: float = 2.0
    rounds: int = 5

    def __post_init__(self) -> None:
        check_positive(samples=self.samples, rounds=self.rounds)
        for name, value, low in (("duration", self.duration_s, 0.001), ("warm_up_s", self.warm_up_s, 0)):
            if not math.isfinite(value) or value < low:
                raise RmtEdgeError(f"{name} is {value:g}.", f"it is a number of seconds of at least {low:g}.")


KERNELS_AUTO = MeasureSettings(duration_s=2.0)  # of `build --kernels auto`, for each of two engines


@dataclass(frozen=True)
class Point:
    """What is measured: a runner with one batch size and one setting. transfers: images there and logits back."""

    runner: Runner
    batch: int
    transfers: bool = False
    cuda_graph: bool = False


@dataclass
class _Samples:
    """What a point has: latencies, the host's part of each, and when it was its turn."""

    latency_ms: list[float] = field(default_factory=list)
    enqueue_ms: list[float] = field(default_factory=list)
    intervals: list[tuple[float, float]] = field(default_factory=list)


def points_of(runner: Runner, batches: tuple[int, ...], transfers: bool | None, cuda_graph: bool | None) -> list[Point]:
    """The points of a runner. transfers, cuda_graph: None measures with and without, where it has both."""
    return [
        Point(runner, batch, moves, graph)
        for batch in batches
        for moves in _settings("--transfers", transfers, runner.transfers, runner.name)
        for graph in _settings("--cuda-graph", cuda_graph, runner.cuda_graphs, runner.name)
    ]


def _settings(option: str, asked: bool | None, known: tuple[bool, ...], name: str) -> tuple[bool, ...]:
    if asked and True not in known:
        raise RmtEdgeError(f"{option} is given, but {name} has none.", "it means something on a GPU alone.")
    return known if asked is None or asked not in known else (asked,)


def measure(
    points: list[Point], settings: MeasureSettings, telemetry: Telemetry, on_seconds: Callable[[float], None]
) -> list[Run]:
    """Time all points in turns and return the runs of a latency record, in the order of the points.

    The runners are open, and `telemetry` is too. on_seconds: told of the seconds that were just spent, for a bar.
    """
    taken = [_Samples() for _ in points]
    for point in points:
        point.runner.prepare(point.batch, point.transfers, point.cuda_graph)
        _run_for(point, settings.warm_up_s, on_seconds)
    for turn in range(settings.rounds):
        order = list(zip(points, taken, strict=True))
        for point, samples in order if turn % 2 == 0 else reversed(order):
            point.runner.prepare(point.batch, point.transfers, point.cuda_graph)
            for _ in range(TURN_WARM_UPS):
                point.runner.run()
            _take_turn(point.runner, samples, settings, turn, on_seconds)
    return [_run(x, y, settings, telemetry) for x, y in zip(points, taken, strict=True)]


def _run_for(point: Point, seconds: float, on_seconds: Callable[[float], None]) -> None:
    start = time.monotonic()
    while time.monotonic() - start < seconds:
        point.runner.run()
    on_seconds(seconds)


def _take_turn(
    runner: Runner, samples: _Samples, settings: MeasureSettings, turn: int, on_seconds: Callable[[float], None]
) -> None:
    """One round of one point: its share of the time, and on until it has its share of the samples or runs over."""
    share_s = settings.duration_s / settings.rounds
    wanted = math.ceil(settings.samples * (turn + 1) / settings.rounds)
    start = now = time.monotonic()
    while now - start < share_s or (len(samples.latency_ms) < wanted and now - start < OVERTIME * share_s):
        timing = runner.run()
        samples.latency_ms.append(timing.latency_ms)
        if timing.enqueue_ms is not None:
            samples.enqueue_ms.append(timing.enqueue_ms)
        now = time.monotonic()
    samples.intervals.append((start, now))
    on_seconds(share_s)


def _run(point: Point, samples: _Samples, settings: MeasureSettings, telemetry: Telemetry) -> Run:
    """What a point's samples say, with the warnings that they deserve."""
    seconds = sum(end - start for start, end in samples.intervals)
    is_gpu = bool(samples.enqueue_ms)
    run = Run(
        runner=point.runner.name,
        precision=point.runner.precision,
        clock=point.runner.clock,
        batch=point.batch,
        transfers=point.transfers,
        cuda_graph=point.cuda_graph,
        samples_ms=[round(x, 6) for x in samples.latency_ms],
        **summary(samples.latency_ms, point.batch),
        enqueue_p50_ms=percentile_ms(samples.enqueue_ms, 500) if is_gpu else None,
        meets_mlperf_minimum=meets_mlperf_minimum(point.batch, len(samples.latency_ms), seconds),
        telemetry=telemetry.summary(samples.intervals, point.batch * len(samples.latency_ms)),
        warnings=[],
    )
    fix_clocks = telemetry.sensor.fix_clocks if telemetry.sensor else "on a GPU: nvidia-smi -lgc or jetson_clocks"
    return replace(run, warnings=doubts(run, settings.samples, fix_clocks))


def meets_mlperf_minimum(batch: int, samples: int, seconds: float) -> bool:
    """Whether a run is as long as MLPerf asks: SingleStream for one image at a time, Offline for more."""
    enough = samples >= MLPERF_QUERIES if batch == 1 else samples * batch >= MLPERF_OFFLINE_IMAGES
    return enough and seconds >= MLPERF_SECONDS


def planned_seconds(points: int, settings: MeasureSettings) -> float:
    """What measuring so many points takes, if none needs longer for its samples."""
    return points * (settings.warm_up_s + settings.duration_s)


def settings_record(settings: MeasureSettings) -> dict[str, Any]:
    """The `settings` of a latency record."""
    return asdict(settings) | {"turn_warm_ups": TURN_WARM_UPS, "images": "noise, the same in every run"}


def median_latency_ms(engine: Artifact, trt: ModuleType, batch: int) -> float:
    """Median GPU time of one inference, transfers left out, as a CUDA graph.

    trt: the backend that built the engine, its plugins loaded.
    """
    with EngineRunner(engine, trt) as runner, Telemetry(None) as telemetry:
        return measure([Point(runner, batch, cuda_graph=True)], KERNELS_AUTO, telemetry, lambda _: None)[0].p50_ms
