"""Sensors on paper (lines and files of boards and GPUs that are not here), the sampling thread, and the warnings."""

import sys
import threading
import time
from types import SimpleNamespace

import pytest

from rmt_edge.latency import sensors, telemetry
from rmt_edge.latency.sensors import (
    CpuSensor,
    NvmlSensor,
    OverCurrent,
    Reading,
    board_power_w,
    open_sensor,
    parse_tegrastats,
)
from rmt_edge.latency.telemetry import CpuTime, Telemetry, cpu_time, doubts, other_cpu_load
from tests.latency_records import make_run

# Published lines: AGX Orin (github.com/GDWR/jetson_exporter, issue 14), Orin Nano and AGX Orin with a busy GPU as
# Jetson Linux 36 writes them.
ORIN_IDLE = (
    "04-11-2025 10:36:27 RAM 4321/62801MB (lfb 1759x4MB) SWAP 19/31400MB (cached 0MB) CPU [0%@729,0%@729,off] "
    "EMC_FREQ 0%@2133 GR3D_FREQ 0%@[0,0] VIC_FREQ 729 APE 174 CV0@-256C CPU@44.562C Tboard@32C SOC2@40.093C "
    "Tdiode@33C GPU@-256C tj@44.343C VDD_GPU_SOC 2340mW/2340mW VDD_CPU_CV 390mW/390mW VIN_SYS_5V0 4025mW/4025mW "
    "NC 0mW/0mW VDDQ_VDD2_1V8AO 301mW/301mW NC 0mW/0mW"
)
ORIN_BUSY = (
    "RAM 9000/62801MB (lfb 5x4MB) CPU [100%@2201,100%@2201] EMC_FREQ 1%@2133 GR3D_FREQ 14%@[407,406] VIC_FREQ 115 "
    "CPU@77.281C GPU@69.125C tj@77.281C VDD_GPU_SOC 3150mW/2971mW VDD_CPU_CV 14312mW/12415mW "
    "VIN_SYS_5V0 4968mW/5048mW VDDQ_VDD2_1V8AO 1091mW/1091mW"
)
ORIN_NANO = (
    "RAM 2493/7620MB (lfb 1x4MB) CPU [72%@1728,75%@1728] GR3D_FREQ 33% cpu@50C soc2@47.937C gpu@48.75C tj@50C "
    "VDD_IN 9761mW/9700mW VDD_CPU_GPU_CV 4238mW/4238mW VDD_SOC 1825mW/1825mW"
)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (ORIN_IDLE, Reading(None, 2.340 + 0.390 + 4.025, 44.562)),
        (ORIN_BUSY, Reading(407, 3.150 + 14.312 + 4.968, 77.281)),
        (ORIN_NANO, Reading(None, 9.761, 50)),
        (ORIN_NANO.replace("33% ", "33%@1020 "), Reading(1020, 9.761, 50)),
        ("", Reading()),
        ("tegrastats: not a line of it", Reading()),
    ],
)
def test_a_line_of_tegrastats_is_read(line, expected):
    found = parse_tegrastats(line)
    assert found.clock_mhz == expected.clock_mhz and found.temperature_c == expected.temperature_c
    assert found.power_w == (None if expected.power_w is None else pytest.approx(expected.power_w))


def test_the_boards_rail_counts_before_the_sum_of_the_others():
    assert board_power_w({"VDD_SOC": 2000, "VDD_IN": 9000}) == 9
    assert board_power_w({"VDD_SOC": 2000, "CPU": 500, "VDDQ_VDD2_1V8AO": 300}) == 2.5
    assert board_power_w({}) is None


def test_tegrastats_is_followed_and_stopped(tmp_path, monkeypatch):
    program = tmp_path / "tegrastats"
    program.write_text(f"#!/bin/sh\nwhile true; do echo '{ORIN_BUSY}'; sleep 0.02; done\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    sensor = open_sensor(is_gpu=True)
    assert sensor is not None and sensor.name == "tegrastats" and sensor.fix_clocks == "sudo jetson_clocks"
    wait_until(lambda: sensor.read().clock_mhz)
    assert sensor.read().clock_mhz == 407
    sensor.close()
    assert sensor.process.poll() is not None


def wait_until(holds, seconds=10):
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)


def test_jtop_is_read_before_tegrastats(monkeypatch):
    """The properties of jetson-stats 4: kHz, mW, and -256 °C of a sensor that is off."""
    board = SimpleNamespace(
        start=lambda: None,
        close=lambda: None,
        gpu={"dla": {"freq": {"cur": 115_200}}, "gpu": {"freq": {"cur": 1_020_000}}, "off": {"freq": {"cur": 0}}},
        power={"rail": {"VDD_SOC": {"power": 1500}}, "tot": {"power": 9500, "name": "VDD_IN"}},
        temperature={"gpu": {"temp": 51.5, "online": True}, "cv0": {"temp": -256, "online": False}},
    )
    monkeypatch.setitem(sys.modules, "jtop", SimpleNamespace(jtop=lambda interval: board))
    sensor = open_sensor(is_gpu=True)
    assert sensor is not None and sensor.name == "jtop"
    assert sensor.read() == Reading(1020, 9.5, 51.5)


def test_growing_over_current_counters_are_throttling(tmp_path):
    for number, count in ((1, "0"), (3, "7")):
        (tmp_path / f"oc{number}_event_cnt").write_text(count)
    counters = OverCurrent(str(tmp_path / "oc*_event_cnt"))
    assert counters.reasons() == ()
    (tmp_path / "oc3_event_cnt").write_text("9")
    assert counters.reasons() == ("over-current (oc3)",)
    assert counters.reasons() == ()


@pytest.fixture
def nvml(monkeypatch):
    """pynvml of a GPU that cannot tell its temperature and is held down by its power cap while idle bits are set."""

    class NVMLError(Exception):
        pass

    def refuse(*_):
        raise NVMLError("Not Supported")

    made = SimpleNamespace(
        NVMLError=NVMLError, NVML_CLOCK_SM=1, NVML_TEMPERATURE_GPU=0, asked=[],
        nvmlInit=lambda: None, nvmlShutdown=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetHandleByPciBusId=lambda bus_id: bus_id,
        nvmlDeviceGetMaxClockInfo=lambda gpu, kind: 1980,
        nvmlDeviceGetClockInfo=lambda gpu, kind: 1410,
        nvmlDeviceGetPowerUsage=lambda gpu: 251_500,
        nvmlDeviceGetTemperature=refuse,
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda gpu: 0x01 | 0x02 | 0x04 | 0x40,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "pynvml", made)
    return made


def test_nvml_tells_what_the_gpu_can(nvml):
    sensor = NvmlSensor("0000:01:00.0")
    assert sensor.gpu == "0000:01:00.0" and "nvidia-smi -lgc 1980" in sensor.fix_clocks
    assert sensor.read() == Reading(1410, 251.5, None, ("power cap", "hardware thermal slowdown"))


# nvml.h, "Clocks Event Reasons", as docs.nvidia.com/deploy/nvml-api/group__nvmlClocksEventReasons.html and
# nvidia-ml-py's pynvml.py state them; written here a second time on purpose.
NVML_REASONS = {
    "nvmlClocksEventReasonGpuIdle": 0x0000000000000001,
    "nvmlClocksEventReasonApplicationsClocksSetting": 0x0000000000000002,
    "nvmlClocksEventReasonSwPowerCap": 0x0000000000000004,
    "nvmlClocksEventReasonHwSlowdown": 0x0000000000000008,
    "nvmlClocksEventReasonSyncBoost": 0x0000000000000010,
    "nvmlClocksEventReasonSwThermalSlowdown": 0x0000000000000020,
    "nvmlClocksEventReasonHwThermalSlowdown": 0x0000000000000040,
    "nvmlClocksEventReasonHwPowerBrakeSlowdown": 0x0000000000000080,
    "nvmlClocksEventReasonDisplayClockSetting": 0x0000000000000100,
}
SLOWED = {
    "nvmlClocksEventReasonSwPowerCap": "power cap",
    "nvmlClocksEventReasonHwSlowdown": "hardware slowdown",
    "nvmlClocksEventReasonSwThermalSlowdown": "software thermal slowdown",
    "nvmlClocksEventReasonHwThermalSlowdown": "hardware thermal slowdown",
    "nvmlClocksEventReasonHwPowerBrakeSlowdown": "power brake",
}


@pytest.mark.parametrize("constant", NVML_REASONS)
def test_each_of_nvmls_reasons_alone_is_told_by_its_name_or_is_no_throttling(nvml, constant):
    nvml.nvmlDeviceGetCurrentClocksThrottleReasons = lambda gpu: NVML_REASONS[constant]
    assert NvmlSensor().read().throttling == ((SLOWED[constant],) if constant in SLOWED else ())


def test_nvmls_reasons_are_those_of_the_library():
    pynvml = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    assert {name: getattr(pynvml, name) for name in NVML_REASONS} == NVML_REASONS


def test_nvml_serves_where_there_is_no_jetson(nvml, monkeypatch):
    monkeypatch.setattr(sensors.shutil, "which", lambda name: None)
    sensor = open_sensor(is_gpu=True)
    assert sensor is not None and sensor.name == "nvml" and sensor.gpu == 0
    nvml.nvmlInit = lambda: 1 / 0
    assert open_sensor(is_gpu=True) is None


def test_a_cpu_is_read_from_linux(tmp_path):
    files = {
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "2000000\n",
        "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "3000000\n",
        "sys/class/thermal/thermal_zone0/temp": "47000\n",
        "sys/class/thermal/thermal_zone1/temp": "no value\n",
        "proc/cpuinfo": "cpu MHz\t\t: 1500.000\ncpu MHz\t\t: 1700.000\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert CpuSensor(tmp_path).read() == Reading(2500, None, 47)
    for clock in tmp_path.glob("sys/devices/system/cpu/*/cpufreq/scaling_cur_freq"):
        clock.unlink()
    assert CpuSensor(tmp_path).read().clock_mhz == 1600


def test_this_machines_cpu_can_be_read():
    sensor = open_sensor(is_gpu=False)
    assert sensor is None or isinstance(sensor.read(), Reading)


def test_cpu_times_come_from_proc_stat(tmp_path):
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 0 50 800 40 0 10 0 0 0\ncpu0 1 2 3\n")
    found = cpu_time(stat)
    assert found is not None and found.busy_s / found.total_s == pytest.approx(160 / 1000)
    assert cpu_time(tmp_path / "missing") is None
    stat.write_text("garbage")
    assert cpu_time(stat) is None


def test_other_load_is_what_is_busy_but_not_ours_and_within_the_run():
    times = [
        (0.0, CpuTime(0, 0, 0)),
        (1.0, CpuTime(2, 1.5, 1.0)),  # 0.5 of 2 seconds by others
        (2.0, CpuTime(4, 3.5, 1.0)),  # outside the interval
        (3.0, None),
        (4.0, CpuTime(8, 6, 2)),
    ]
    assert other_cpu_load(times, [(0.0, 1.5)]) == 0.25
    assert other_cpu_load(times, [(10.0, 11.0)]) is None
    assert other_cpu_load([], [(0.0, 1.0)]) is None


class Paper:
    """A sensor that reads what it is given, the last again and again."""

    name, fix_clocks = "paper", "sudo jetson_clocks"

    def __init__(self, *readings):
        self.readings = list(readings)

    def read(self):
        value = self.readings.pop(0) if len(self.readings) > 1 else self.readings[0]
        if isinstance(value, Exception):
            raise value
        return value


def test_energy_is_mean_power_times_the_runs_time_over_its_images():
    seen = Telemetry(Paper(Reading()))
    seen.readings = [
        (0.5, Reading(1000, 10.0, 40, ("power cap",)), None),
        (1.5, Reading(1200, 30.0, 50), None),
        (9.0, Reading(5, 900.0, 90, ("power brake",)), None),  # another run's
    ]
    found = seen.summary([(0.0, 1.0), (1.0, 2.0)], images=8)
    assert found["power_w"] == 20 and found["energy_per_image_j"] == 20 * 2 / 8
    assert found["clock_mhz"] == {"min": 1000, "mean": 1100, "max": 1200}
    assert found["throttled_share"] == {"power cap": 0.5} and found["readings"] == 2


def test_a_sensor_that_breaks_costs_its_readings_alone():
    with Telemetry(Paper(Reading(1000), RuntimeError("gone")), interval_s=0.005) as seen:
        start = time.monotonic() - 1
        wait_until(lambda: len(seen.readings) > 4)
    found = seen.summary([(start, time.monotonic())], 1)
    assert found["readings"] > 4 and found["clock_mhz"]["mean"] == 1000 and found["power_w"] is None


def test_without_a_sensor_everything_is_none_and_the_thread_ends():
    before = threading.active_count()
    with Telemetry(None, interval_s=0.005) as seen:
        pass
    assert threading.active_count() == before
    found = seen.summary([(0.0, 1.0)], 1)
    assert found["sensor"] is None and found["power_w"] is found["clock_mhz"] is found["temperature_c"] is None


def run(telemetry_of=None, **values):
    """A run without a doubt, on a CPU."""
    seen = {"throttled_share": {}, "clock_mhz": None, "other_cpu_load": None, "load_average": 0.1}
    known = {"coefficient_of_variation": 0.01, "cuda_graph": False, "enqueue_p50_ms": None}
    return make_run(**(known | {"samples_ms": [1.0] * 100, "telemetry": seen | (telemetry_of or {})} | values))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"coefficient_of_variation": 0.061}, ("6.1 %", "over 2.5 %", "sudo jetson_clocks", "--duration")),
        ({"telemetry_of": {"throttled_share": {"power cap": 0.4}}}, ("power cap", "40 %", "Cool")),
        ({"telemetry_of": {"clock_mhz": {"min": 900, "mean": 1000, "max": 1000}}}, ("10 %", "900 to 1000 MHz", "sudo")),
        ({"samples_ms": [1.0] * 9}, ("9 samples of the 64", "--duration")),
        ({"telemetry_of": {"other_cpu_load": 0.3, "load_average": 2.5}}, ("30 %", "load average 2.5", "Stop them")),
    ],
)
def test_each_doubt_has_its_number_and_what_to_do(values, words):
    found = doubts(run(**values), 64, "sudo jetson_clocks")
    assert len(found) == 1 and all(word in found[0] for word in words)


def test_a_quiet_run_raises_no_doubt():
    quiet = {"clock_mhz": {"min": 990, "mean": 1000, "max": 1000}, "other_cpu_load": 0.01}
    assert doubts(run(quiet), 64, "") == [] and doubts(run(telemetry=None), 64, "") == []
    assert doubts(run({"other_cpu_load": 0.9}, enqueue_p50_ms=0.5), 64, "") == []  # a GPU does the work


def test_enqueue_close_to_compute_is_a_doubt_without_a_graph():
    assert "0.85 of the latency" in doubts(run(enqueue_p50_ms=0.85), 64, "")[0]
    assert doubts(run(enqueue_p50_ms=0.85, cuda_graph=True), 64, "") == []
    assert telemetry.MAX_ENQUEUE == 0.8
