"""What the machine did while it was measured, and whether the numbers can be trusted.

A thread reads one sensor (sensors.py) a few times a second. Its readings are cut by the times in which a run was on,
since runs take turns. A sensor that fails costs its readings, never the run.
"""

import itertools
import os
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rmt_edge.latency.record import Run
from rmt_edge.latency.sensors import Reading, Sensor

INTERVAL_S = 0.2
# trtexec warns above 1 % of GPU compute; two and a half times that, here, since a whole inference is timed.
MAX_VARIATION = 0.025
MAX_CLOCK_CHANGE = 0.05
MAX_OTHER_LOAD = 0.05
# trtexec warns of an enqueue time near the compute time: the host then holds the GPU up.
MAX_ENQUEUE = 0.8


@dataclass(frozen=True)
class CpuTime:
    """Seconds of all CPUs together since the machine started, seconds of them at work, and this process's own."""

    total_s: float
    busy_s: float
    own_s: float


def cpu_time(stat: Path = Path("/proc/stat")) -> CpuTime | None:
    """From /proc/stat ("cpu user nice system idle iowait irq softirq steal …", in ticks); None elsewhere."""
    try:
        ticks = [int(x) for x in stat.read_text().split("\n", 1)[0].split()[1:9]]
        idle = ticks[3] + ticks[4]
    except (OSError, ValueError, IndexError):
        return None
    own, per_second = os.times(), os.sysconf("SC_CLK_TCK")
    return CpuTime(sum(ticks) / per_second, (sum(ticks) - idle) / per_second, own.user + own.system)


class Telemetry:
    """Reads a sensor in a thread of its own while it is open. A context manager."""

    def __init__(self, sensor: Sensor | None, interval_s: float = INTERVAL_S):
        self.sensor, self.interval_s = sensor, interval_s
        self.readings: list[tuple[float, Reading, CpuTime | None]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "Telemetry":
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                reading = self.sensor.read() if self.sensor else Reading()
            except Exception:  # whatever a sensor raises, the run goes on without this reading
                reading = Reading()
            self.readings.append((time.monotonic(), reading, cpu_time()))
            self._stop.wait(self.interval_s)

    def summary(self, intervals: list[tuple[float, float]], images: int) -> dict[str, Any]:
        """What was read within a run's intervals of time.monotonic, in which it took that many images.

        energy_per_image_j: mean power times the run's time, over its images. other_cpu_load: of all CPUs, what other
        processes took, 1 being all of them.
        """
        inside = [x for x in self.readings if any(start <= x[0] <= end for start, end in intervals)]
        seconds = sum(end - start for start, end in intervals)
        read = [reading for _, reading, _ in inside]
        power_w = _mean([x.power_w for x in read])
        reasons = Counter(reason for x in read for reason in x.throttling)
        return {
            "sensor": self.sensor.name if self.sensor else None,
            "readings": len(read),
            "seconds": round(seconds, 3),
            "clock_mhz": _spread([x.clock_mhz for x in read]),
            "power_w": power_w,
            "energy_per_image_j": None if power_w is None else power_w * seconds / images,
            "temperature_c": _spread([x.temperature_c for x in read]),
            "throttled_share": {reason: count / len(read) for reason, count in reasons.items()},
            "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
            "other_cpu_load": other_cpu_load([(x[0], x[2]) for x in inside], intervals),
        }


def other_cpu_load(times: list[tuple[float, CpuTime | None]], intervals: list[tuple[float, float]]) -> float | None:
    """The share of all CPUs that other processes took, over neighbouring readings of the same interval.

    times: when each reading was, and what it found.
    """
    total = other = 0.0
    for (start, first), (end, second) in itertools.pairwise(times):
        is_inside = any(low <= start and end <= high for low, high in intervals)
        if first is not None and second is not None and is_inside:
            total += second.total_s - first.total_s
            other += (second.busy_s - first.busy_s) - (second.own_s - first.own_s)
    return max(0.0, other / total) if total > 0 else None


def _mean(values: list[float | None]) -> float | None:
    known = [x for x in values if x is not None]
    return float(np.mean(known)) if known else None


def _spread(values: list[float | None]) -> dict[str, float] | None:
    known = [x for x in values if x is not None]
    return {"min": min(known), "mean": float(np.mean(known)), "max": max(known)} if known else None


@dataclass
class Doubts:
    """Why numbers should not be trusted: each doubt is a sentence with the number, and what to do."""

    found: list[str] = field(default_factory=list)

    def add(self, holds: bool, what: str, do: str) -> None:
        if holds:
            self.found.append(f"{what} {do}")


def doubts(run: Run, asked: int, fix_clocks: str) -> list[str]:
    """The warnings that a run deserves. asked: samples that it should have. fix_clocks: the sensor's."""
    found, seen = Doubts(), run.telemetry or {}
    variation = run.coefficient_of_variation
    found.add(
        variation > MAX_VARIATION,
        f"The coefficient of variation is {100 * variation:.1f} % (over {100 * MAX_VARIATION:.1f} %).",
        f"Stop other programs, fix the clocks ({fix_clocks}) or measure for longer (--duration).",
    )
    for reason, share in seen.get("throttled_share", {}).items():
        what = f"Throttled by {reason} in {100 * share:.0f} % of the readings."
        found.add(True, what, "Cool the device, raise its power mode, or set a clock that it can hold.")
    if clock := seen.get("clock_mhz"):
        change = (clock["max"] - clock["min"]) / clock["mean"]
        what = f"The clock moved by {100 * change:.0f} %, from {clock['min']:.0f} to {clock['max']:.0f} MHz."
        found.add(change > MAX_CLOCK_CHANGE, what, f"Fix it: {fix_clocks}.")
    count = len(run.samples_ms)
    found.add(count < asked, f"There are {count} samples of the {asked} asked for.", "Measure for longer: --duration.")
    if run.enqueue_p50_ms is None:
        if (load := seen.get("other_cpu_load")) is not None:
            what = f"Other programs took {100 * load:.0f} % of the CPUs (load average {seen['load_average']:.1f})."
            found.add(load > MAX_OTHER_LOAD, what, "Stop them and measure again.")
    elif not run.cuda_graph:
        share = run.enqueue_p50_ms / run.p50_ms
        what = f"Handing the work to the GPU takes {share:.2f} of the latency: the host holds the GPU up."
        found.add(share > MAX_ENQUEUE, what, "Use a CUDA graph (--cuda-graph).")
    return found.found
