"""Machines on paper: what their files, commands, CUDA driver and NVML answer, a TOML file each.

Put together from what NVIDIA documents and owners post; none was written down by rmt-edge on such a machine.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

from rmt_edge.device.machine import Machine, Sources, this_machine
from rmt_edge.settings import read_toml

FOLDER = Path(__file__).parent
NOT_SUPPORTED = 801  # CUDA_ERROR_NOT_SUPPORTED


class Driver:
    """libcuda of a recorded machine: every function fills what it is given, as through ctypes."""

    def __init__(self, gpus, version):
        self.gpus, self.version = gpus, version

    def cuDeviceGetCount(self, count):  # noqa: N802
        count._obj.value = len(self.gpus)
        return 0

    def cuDriverGetVersion(self, version):  # noqa: N802
        version._obj.value = self.version
        return 0

    def cuDeviceGet(self, device, ordinal):  # noqa: N802
        device._obj.value = ordinal
        return 0

    def cuDeviceTotalMem_v2(self, size, device):  # noqa: N802
        size._obj.value = self.gpus[device.value]["memory_mib"] << 20
        return 0

    def cuDeviceGetName(self, name, length, device):  # noqa: N802
        name.value = self.gpus[device.value]["name"].encode()[: length - 1]
        return 0

    def cuDeviceGetAttribute(self, value, attribute, device):  # noqa: N802
        gpu = self.gpus[device.value]
        major, minor = gpu["compute_capability"]
        value._obj.value = {18: gpu.get("integrated", 0), 75: major, 76: minor}[attribute]
        return 0

    def cuDeviceGetPCIBusId(self, address, length, device):  # noqa: N802
        if "pci" not in self.gpus[device.value]:
            return NOT_SUPPORTED
        address.value = self.gpus[device.value]["pci"].encode()
        return 0


class Nvml:
    """pynvml of a recorded machine."""

    class NVMLError(Exception):
        pass

    def __init__(self, gpus, driver_version):
        self.gpus = {gpu["pci"].encode(): gpu for gpu in gpus if "pci" in gpu}
        self.driver_version, self.is_open = driver_version, True

    def nvmlSystemGetDriverVersion(self):  # noqa: N802
        if self.driver_version is None:
            raise self.NVMLError("Not Supported")
        return self.driver_version

    def nvmlDeviceGetHandleByPciBusId(self, address):  # noqa: N802
        if address not in self.gpus:
            raise self.NVMLError("Not Found")
        return self.gpus[address]

    def nvmlDeviceGetMemoryInfo(self, gpu):  # noqa: N802
        return SimpleNamespace(total=gpu["nvml_total_mib"] << 20, free=gpu["nvml_free_mib"] << 20)

    def nvmlShutdown(self):  # noqa: N802
        self.is_open = False


def sources(name: str, root: Path) -> Sources:
    """The sources of a machine of this folder; its files are laid under `root`."""
    record = read_toml(FOLDER / f"{name}.toml")
    for path, text in record["files"].items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    gpus, packages = record.get("gpus", []), record["packages"]
    nvml = Nvml(gpus, record.get("driver_version")) if "nvidia-ml-py" in packages else None
    python = {sys.executable: "python"}
    return Sources(
        root=root,
        run=lambda command: record["commands"].get(" ".join(python.get(x, x) for x in command)),
        cuda=lambda: Driver(gpus, record["cuda_version"]) if gpus else None,
        nvml=lambda: nvml,
        package_version=packages.get,
        platform=record["platform"],
        processor=record["processor"],
        python=record["python"],
    )


def machine(name: str, root: Path) -> Machine:
    """A machine of this folder as rmt-edge sees it."""
    return this_machine(sources(name, root))
