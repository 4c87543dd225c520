"""Latency records: what `rmt-edge bench` writes beside a file, how it is read again, and when two are of one machine.

There is one writer and one reader. The reader takes a record that is whole, or says in an error what is wrong with it;
what comes after it (baseline, verdict, search, estimate, report) trusts its types. numpy is not needed.
"""

import json
import re
import types
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args, get_origin

from rmt_edge.errors import RmtEdgeError
from rmt_edge.writing import written_whole

KIND = "latency"
SUFFIX = ".latency.json"
ENGINE_RUNNERS = ("tensorrt", "tensorrt_rtx")
# (transfers, cuda_graph): where runs of several settings could be compared, the first that all were measured with is.
SETTINGS = ((False, True), (False, False), (True, True), (True, False))
_LARGEST = 1e300  # a float of JSON such as 1e999 is read as infinity


@dataclass(frozen=True)
class Run:
    """One runner at one batch size and setting, timed: one entry of a record's `runs`.

    Times are in milliseconds for a batch; the statistics are those of percentiles.summary. enqueue_p50_ms is the host's
    part of an inference, None on a CPU. telemetry is what the machine did meanwhile (telemetry.Telemetry.summary).
    """

    runner: str
    precision: str
    clock: str
    batch: int
    transfers: bool
    cuda_graph: bool
    samples_ms: list[float]
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    coefficient_of_variation: float
    early_stopping_p90_ms: float | None
    early_stopping_p99_ms: float | None
    images_per_s: float
    enqueue_p50_ms: float | None
    meets_mlperf_minimum: bool
    telemetry: dict[str, Any] | None
    warnings: list[str]

    @property
    def setting(self) -> tuple[bool, bool]:
        """Transfers and CUDA graph, as SETTINGS lists them."""
        return self.transfers, self.cuda_graph

    @property
    def is_engine(self) -> bool:
        """Whether an engine was run."""
        return self.runner in ENGINE_RUNNERS

    @property
    def is_peer(self) -> bool:
        """Whether it is of the checkpoint in PyTorch, which was measured beside the record's file."""
        return self.runner.startswith("torch")


@dataclass(frozen=True)
class LatencyRecord:
    """What was measured of one file on one machine.

    subject: the file's "name", "sha256" and "kind". kernels: of an engine, whose they are. machine: machine.Machine as
    a dict, and the "cpu" and number of "cpus".
    """

    subject: dict[str, str]
    recipe: dict[str, Any]
    precision: str
    kernels: str | None
    machine: dict[str, Any]
    settings: dict[str, Any]
    runs: list[Run]
    versions: dict[str, str]
    created: str

    def to_dict(self) -> dict[str, Any]:
        """The record as its file holds it."""
        return {"kind": KIND} | asdict(self)


def record_path(path: Path) -> Path:
    """Where a file's latency record lies."""
    return path.with_name(f"{path.stem}{SUFFIX}")


def write_latency_record(path: Path, record: LatencyRecord) -> None:
    """Write a record as JSON, whole or not at all; lists of numbers stand on one line, since samples are many."""
    text = json.dumps(record.to_dict(), indent=2, allow_nan=False)
    text = re.sub(r"\[[\s\d.,e+-]+\]", lambda x: "[" + " ".join(x[0][1:-1].split()) + "]", text)
    with written_whole(path) as temporary:
        temporary.write_text(text + "\n")


def read_latency_record(path: Path) -> LatencyRecord:
    """The record at `path`, or an error that says what is wrong with it: cut short, damaged, or of another kind."""
    try:
        value = read_json_record(path, KIND)
        expected = _types_of(LatencyRecord) | {"runs": list[dict[str, Any]]}
        check_fields(value, expected)
        check_fields(value["subject"], dict.fromkeys(("name", "sha256", "kind"), str), "subject")
        check_fields(value["recipe"], {"name": str, "precision": str}, "recipe")
        check_machine(value["machine"])
        runs = [_checked_run(run, f"runs[{i}]") for i, run in enumerate(value["runs"])]
        known = {name: value[name] for name in expected if name != "runs"}
        return LatencyRecord(runs=runs, **known)
    except ValueError as error:
        raise RmtEdgeError(
            f"{path} is not a latency record: {error}.",
            "`rmt-edge bench` writes *.latency.json.",
            "Measure again: rmt-edge bench, or remove it.",
        ) from error


def read_latency_records(folder: Path) -> dict[Path, LatencyRecord]:
    """All latency records of a folder by their paths, sorted."""
    return {path: read_latency_record(path) for path in sorted(folder.glob(f"*{SUFFIX}"))}


def _checked_run(value: dict[str, Any], where: str) -> Run:
    check_fields(value, _types_of(Run), where)
    if not value["samples_ms"] or min(value["samples_ms"]) <= 0 or value["p50_ms"] <= 0 or value["batch"] < 1:
        raise ValueError(f"{where} has no samples, or a time or batch size that is not above zero")
    spread = dict[str, float] | None
    seen: dict[str, Any] = {"energy_per_image_j": float | None, "power_w": float | None, "other_cpu_load": float | None}
    seen |= {"clock_mhz": spread, "temperature_c": spread, "throttled_share": spread, "readings": int | None}
    if value["telemetry"] is not None:
        check_present(value["telemetry"], seen, f"{where}.telemetry")
    return Run(**{name: value[name] for name in _types_of(Run)})


def read_json_record(path: Path, kind: str) -> dict[str, Any]:
    """The object that a JSON file holds, of that kind; ValueError says what it is instead. NaN is no JSON."""

    def refuse(name: str) -> Any:
        raise ValueError(f"it holds {name}, which is no number")

    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except (OSError, RecursionError) as error:
        raise ValueError(str(error)) from error
    check_fields(value, {"kind": str})
    if value["kind"] != kind:
        raise ValueError(f"its kind is {value['kind']!r}")
    return value


def check_fields(value: Any, expected: Mapping[str, Any], where: str = "") -> None:
    """Raise ValueError unless a value of JSON is an object with all fields expected, each of its type.

    expected: names with types; a float may be written as a whole number. where: the value's own name, for messages.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{where or 'it'} is {_shown(value)}, no object")
    for name, kind in expected.items():
        full = f"{where}.{name}" if where else name
        if name not in value:
            raise ValueError(f"{full} is missing")
        if not _is_of(value[name], kind):
            raise ValueError(f"{full} is {_shown(value[name])}")


def check_present(value: dict[str, Any], expected: Mapping[str, Any], where: str = "") -> None:
    """As check_fields, of the fields that are there."""
    check_fields(value, {name: kind for name, kind in expected.items() if name in value}, where)


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value of JSON is of a type; True is no number."""
    if kind is Any:
        return True
    if isinstance(kind, types.UnionType):
        return any(_is_of(value, x) for x in get_args(kind))
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if origin in (float, int):
        is_number = type(value) is int or (origin is float and type(value) is float)
        return is_number and -_LARGEST < value < _LARGEST
    if origin is list:
        return isinstance(value, list) and all(_is_of(x, inner[0]) for x in value)
    if origin is dict:
        return isinstance(value, dict) and all(_is_of(x, inner[1]) for x in value.values())
    return isinstance(value, origin)


def _types_of(cls: type) -> dict[str, Any]:
    return {field.name: field.type for field in fields(cls)}


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


def check_machine(value: Any, where: str = "machine") -> None:
    """Raise ValueError unless a value of JSON is a machine as records hold it; what it does not say may be missing."""
    check_fields(value, {"gpus": list[dict[str, Any]]}, where)
    check_present(value, {"tensorrt": dict[str, str]}, where)


def machine_identity(machine: dict[str, Any]) -> dict[str, Any]:
    """What must be equal for two latencies to be of one machine: name to value, as a baseline keeps it.

    The processor and its number of CPUs, the board, JetPack and the power mode by name; TensorRT, which chooses an
    engine's kernels; of the GPUs the first alone, which is the one that runs, and its driver. Left out are what changes
    by itself (free memory), what follows from the rest (all memory, Jetson Linux, the driver's newest CUDA), and what
    no engine runs through: the kernel's name, Python, packages, the CUDA toolkit. That ONNX Runtime or PyTorch became
    slower with a new version is what a gate is there to find; their versions stand in the record.
    """
    gpu = (machine.get("gpus") or [{}])[0]
    tensorrt = (machine.get("tensorrt") or {}).items()
    return {key: machine.get(key) for key in ("processor", "cpu", "cpus", "board", "jetpack", "power_mode")} | {
        "tensorrt": ", ".join(f"{name} {version}" for name, version in sorted(tensorrt)) or None,
        "gpu": gpu.get("name"),
        "compute_capability": gpu.get("compute_capability"),
        "driver_version": gpu.get("driver_version"),
    }


def identity_differences(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The facts in which two identities differ, each with both values."""
    keys = dict.fromkeys([*ours, *theirs])
    return {key: (ours.get(key), theirs.get(key)) for key in keys if ours.get(key) != theirs.get(key)}


def same_machine(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """Whether latencies of two machines, as records hold them, can be compared (machine_identity)."""
    return machine_identity(ours) == machine_identity(theirs)


def machine_name(machine: dict[str, Any] | None) -> str:
    """What people call a machine: its board, else its first GPU, else its processor; and its power mode."""
    if not machine:
        return "machine not recorded"
    gpus = machine.get("gpus") or []
    named = (machine.get("board"), gpus[0].get("name") if gpus else None, machine.get("cpu"), machine.get("processor"))
    name = next((str(x) for x in named if x), "unnamed")
    mode = machine.get("power_mode")
    return f"{name}, {mode}" if mode else name


def machine_labels(machines: Iterable[dict[str, Any]]) -> list[str]:
    """A name for each machine, one for those that are the same; where two share a name, what differs stands in it."""
    listed = list(machines)
    named = [(machine_name(x), machine_identity(x)) for x in listed]
    labels = []
    for name, identity in named:
        others = [x for other, x in named if other == name]
        differing = dict.fromkeys(key for x in others for key in identity_differences(identity, x))
        facts = ", ".join(
            str(identity[key] or f"no {key}") if key == "tensorrt" else f"{key.replace('_', ' ')} {identity[key]}"
            for key in differing
        )
        labels.append(f"{name} ({facts})" if facts else name)
    return labels


def machine_slug(label: str) -> str:
    """A machine's label as part of a file's name: `jetson-orin-nano-15w`."""
    text = re.sub(r"\b(nvidia|developer kit)\b", "", label.lower())
    return re.sub(r"[^a-z0-9.]+", "-", text).strip("-.") or "machine"
