"""Where clocks, power, temperature and throttling are read: Jetson's jtop or tegrastats, NVML, or Linux for a CPU.

Each sensor is opened by trying: what is not here is None. jtop is jetson-stats 4 and later (jtop.gpu, .power,
.temperature; MHz from kHz, W from mW); tegrastats is of Jetson Linux 35 and later ("Tegrastats Utility" in its
developer guide; lines of boards in tests/latency/test_telemetry.py); NVML is nvidia-ml-py. Only the CPU's has ever run.
"""

import contextlib
import glob
import importlib
import re
import shutil
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

TEGRASTATS_MS = 200
# NVML's clocks event reasons that slow a GPU down against what was asked of it; idle and set clocks do not.
THROTTLE_REASONS = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
# The rail of a whole board, where it has one; else the rails are added up. jtop's rule, plus the board of Thor.
BOARD_RAILS = ("VIN", "VDD_IN", "POM_5V_IN")
# Of AGX Orin; taken to be fed by VIN_SYS_5V0 and so counted already. No source found: hold it against a meter.
INNER_RAILS = ("VDDQ_VDD2_1V8AO",)


@dataclass(frozen=True)
class Reading:
    """What a sensor sees at one time; None is what it cannot. throttling: reasons, empty when there are none."""

    clock_mhz: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    throttling: tuple[str, ...] = ()


class Sensor(Protocol):
    """name: as records say it. fix_clocks: what to run so that the clocks stand still."""

    name: str
    fix_clocks: str

    def read(self) -> Reading: ...

    def close(self) -> None: ...


def board_power_w(rails_mw: dict[str, float]) -> float | None:
    """The power of a Jetson from its rails in mW."""
    for name in BOARD_RAILS:
        if name in rails_mw:
            return rails_mw[name] / 1e3
    counted = [power for name, power in rails_mw.items() if name not in (*INNER_RAILS, "NC")]
    return sum(counted) / 1e3 if counted else None


class OverCurrent:
    """A Jetson's counters of throttling by over-current (soctherm): hwmon/*/oc1_event_cnt and so on."""

    def __init__(self, pattern: str = "/sys/class/hwmon/hwmon*/oc*_event_cnt"):
        self.counters = [Path(x) for x in sorted(glob.glob(pattern))]
        self.last = self._counts()

    def reasons(self) -> tuple[str, ...]:
        """Those whose count has grown since it was last asked for."""
        counts = self._counts()
        grown = [path for path in self.counters if counts.get(path, 0) > self.last.get(path, 0)]
        self.last = counts
        return tuple(f"over-current ({path.name.partition('_')[0]})" for path in grown)

    def _counts(self) -> dict[Path, int]:
        counts = {}
        for path in self.counters:
            with contextlib.suppress(OSError, ValueError):
                counts[path] = int(path.read_text())
        return counts


class JtopSensor:
    """jetson-stats, through its service."""

    name = "jtop"
    fix_clocks = "sudo jetson_clocks"

    def __init__(self) -> None:
        self.jtop = importlib.import_module("jtop").jtop(interval=0.5)
        self.jtop.start()
        self.over_current = OverCurrent()

    def read(self) -> Reading:
        power = self.jtop.power
        rails = {name: float(rail["power"]) for name, rail in power["rail"].items()}
        if name := power["tot"].get("name"):
            rails[name] = float(power["tot"]["power"])
        clocks = [gpu["freq"]["cur"] / 1e3 for gpu in dict(self.jtop.gpu).values() if gpu["freq"].get("cur")]
        hot = [x["temp"] for x in self.jtop.temperature.values() if x.get("online", True) and x["temp"] > -256]
        return Reading(
            max(clocks, default=None), board_power_w(rails), max(hot, default=None), self.over_current.reasons()
        )

    def close(self) -> None:
        self.jtop.close()


class TegrastatsSensor:
    """The last line that tegrastats wrote."""

    name = "tegrastats"
    fix_clocks = "sudo jetson_clocks"

    def __init__(self) -> None:
        command = ["tegrastats", "--interval", str(TEGRASTATS_MS)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.over_current = OverCurrent()
        self.line = ""
        self.reader = threading.Thread(target=self._follow, daemon=True)
        self.reader.start()

    def _follow(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.line = line

    def read(self) -> Reading:
        found = parse_tegrastats(self.line)
        return Reading(found.clock_mhz, found.power_w, found.temperature_c, self.over_current.reasons())

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=10)
        self.reader.join(timeout=10)


def parse_tegrastats(line: str) -> Reading:
    """GPU clock, board power and the hottest sensor of one line of tegrastats.

    `GR3D_FREQ 14%@[407,407]` or `37%@306` (MHz; some boards give the load alone), `gpu@44.5C`, -256C for a sensor
    that is off, `VDD_IN 4542mW/4000mW` (now/average).
    """
    clocks = re.search(r"GR3D_FREQ \d+%@\[?([\d,]+)", line)
    clock_mhz = max(float(x) for x in clocks[1].split(",") if x) if clocks else 0.0
    temperatures = [float(x) for x in re.findall(r"\w+@(-?[\d.]+)C\b", line)]
    rails = {name: float(power) for name, power in re.findall(r"(\w+) (\d+)mW/\d+mW", line)}
    hot = [x for x in temperatures if x > -256]
    return Reading(clock_mhz or None, board_power_w(rails), max(hot, default=None))


class NvmlSensor:
    """A GPU through nvidia-ml-py. bus_id: its PCI address; without one, the first GPU."""

    name = "nvml"

    def __init__(self, bus_id: str | None = None):
        self.nvml = importlib.import_module("pynvml")
        self.nvml.nvmlInit()
        if bus_id:
            self.gpu = self.nvml.nvmlDeviceGetHandleByPciBusId(bus_id)
        else:
            self.gpu = self.nvml.nvmlDeviceGetHandleByIndex(0)
        clock = self._ask("nvmlDeviceGetMaxClockInfo", self.nvml.NVML_CLOCK_SM)
        self.fix_clocks = f"sudo nvidia-smi -lgc {clock or 'MHZ'} (a clock that it can hold)"

    def _ask(self, function: str, *arguments: Any) -> Any:
        """What this GPU answers, None where it cannot."""
        try:
            return getattr(self.nvml, function)(self.gpu, *arguments)
        except self.nvml.NVMLError:
            return None

    def read(self) -> Reading:
        milliwatts = self._ask("nvmlDeviceGetPowerUsage")
        bits = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons") or 0
        return Reading(
            self._ask("nvmlDeviceGetClockInfo", self.nvml.NVML_CLOCK_SM),
            None if milliwatts is None else milliwatts / 1e3,
            self._ask("nvmlDeviceGetTemperature", self.nvml.NVML_TEMPERATURE_GPU),
            tuple(name for bit, name in THROTTLE_REASONS.items() if bits & bit),
        )

    def close(self) -> None:
        self.nvml.nvmlShutdown()


class CpuSensor:
    """Linux's own files: the mean clock of the CPUs by cpufreq or /proc/cpuinfo, the hottest thermal zone."""

    name = "cpu"
    fix_clocks = "sudo cpupower frequency-set --governor performance"

    def __init__(self, root: Path = Path("/")):
        self.root = root
        self.clocks = sorted(root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"))  # kHz
        self.zones = sorted(root.glob("sys/class/thermal/thermal_zone*/temp"))  # m°C

    def read(self) -> Reading:
        clocks = [float(x.read_text()) / 1e3 for x in self.clocks] or self._of_cpuinfo()
        hot = []
        for zone in self.zones:
            with contextlib.suppress(OSError, ValueError):  # a zone that is off does not answer
                hot.append(float(zone.read_text()) / 1e3)
        return Reading(sum(clocks) / len(clocks) if clocks else None, None, max(hot, default=None))

    def _of_cpuinfo(self) -> list[float]:
        text = (self.root / "proc/cpuinfo").read_text()
        return [float(x) for x in re.findall(r"^cpu MHz\s*: ([\d.]+)", text, re.MULTILINE)]

    def close(self) -> None:
        pass


def open_sensor(is_gpu: bool, bus_id: str | None = None) -> Sensor | None:
    """The best sensor for what is measured, on a GPU or a CPU; None where there is none. Never an error."""
    if not is_gpu:
        candidates: list[Any] = [CpuSensor]
    else:
        tegrastats = [TegrastatsSensor] if shutil.which("tegrastats") else []
        candidates = [JtopSensor, *tegrastats, lambda: NvmlSensor(bus_id)]
    for candidate in candidates:
        with contextlib.suppress(Exception):  # a sensor that is not here, or breaks, says so in its own way
            sensor = candidate()
            sensor.read()
            return sensor
    return None
