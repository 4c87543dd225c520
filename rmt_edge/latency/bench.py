"""Bench: files measured side by side on this machine, one latency record beside each.

A record (`<stem>.latency.json`, record.py) holds every sample, the machine, and the sha256 of the very file that ran.
"""

import contextlib
import datetime
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmt_edge.artifact import ENGINE, ONNX, Artifact, read_artifact, versions
from rmt_edge.device.machine import this_machine
from rmt_edge.errors import RmtEdgeError
from rmt_edge.latency.measure import MeasureSettings, Point, measure, planned_seconds, points_of, settings_record
from rmt_edge.latency.record import LatencyRecord, Run, record_path, write_latency_record
from rmt_edge.latency.sensors import open_sensor
from rmt_edge.latency.telemetry import Telemetry
from rmt_edge.progress import progress_bar
from rmt_edge.runtime.open import open_peers, open_runner
from rmt_edge.runtime.runner import Runner, check_batch
from rmt_edge.settings import check_choice
from rmt_edge.writing import output_folder

ONNX_BATCHES = (1, 8)  # of a file without a device profile, by default
PEERS = ("torch", "torch-compile", "torch-max-autotune")


@dataclass(frozen=True)
class Subject:
    """A file that is measured, what runs it, and the batch sizes."""

    file: Artifact
    runner: Runner
    batches: tuple[int, ...]


def bench(
    files: Sequence[Path | str | Artifact],
    batches: Sequence[int] | None = None,
    settings: MeasureSettings | None = None,
    transfers: bool | None = None,
    cuda_graph: bool | None = None,
    peers: Sequence[str] = (),
    checkpoint: Path | str | None = None,
    libraries: Path | None = None,
    output: Path | None = None,
) -> list[Path]:
    """Measure engines on this GPU and ONNX files on this CPU, in turns, and return the paths of their records.

    batches: those of an engine's device profile by default, or 1 and 8. transfers, cuda_graph: with, without, or (None)
    both, where the runner has them. peers: of PEERS, PyTorch beside the files, by the weights of `checkpoint`.
    libraries: see open_engine. output: the folder for the records, which lie beside the files without it.
    """
    paths = [x.path if isinstance(x, Artifact) else Path(x) for x in files]
    check_files(paths, batches)
    for peer in peers:
        check_choice("--peers", peer, PEERS)
    if peers and checkpoint is None:
        raise RmtEdgeError("--peers is given without --checkpoint.", "PyTorch needs the weights that the files hold.")
    folder = None if output is None else output_folder(output)
    kinds = {".engine": ENGINE, ".onnx": ONNX}
    checked = [read_artifact(x, kinds[path.suffix]) for x, path in zip(files, paths, strict=True)]
    with contextlib.ExitStack() as stack:
        subjects = [
            Subject(file, stack.enter_context(open_runner(file, libraries, as_engine=False)), batches_of(file, batches))
            for file in checked
        ]
        beside = peers_beside(subjects, peers, Path(checkpoint)) if peers and checkpoint is not None else []
        opened = [stack.enter_context(x) for x in beside]
        return bench_opened(subjects, opened, settings or MeasureSettings(), transfers, cuda_graph, folder)


def check_files(paths: Sequence[Path], batches: Sequence[int] | None) -> None:
    """Refuse what is given twice, and what no runner takes, before anything is opened."""
    seen: dict[Path, Path] = {}
    for path in paths:
        if path.suffix not in (".engine", ".onnx"):
            raise RmtEdgeError(f"{path} cannot be measured.", "bench takes .engine and .onnx files of rmt-edge.")
        target = record_path(path.resolve())
        if target in seen:
            raise RmtEdgeError(
                f"{path} and {seen[target]} would write the same record, {target.name}.",
                do="Give each file once, and files of the same name one after the other with --output.",
            )
        seen[target] = path
    for batch in batches or []:
        if batch < 1:
            raise RmtEdgeError(f"--batch holds {batch}.", "a batch is a whole number of at least 1.")
        if list(batches or []).count(batch) > 1:
            raise RmtEdgeError(f"--batch holds {batch} twice.", do="Give each size once.")


def batches_of(file: Artifact, asked: Sequence[int] | None) -> tuple[int, ...]:
    """The batch sizes: those asked for, else those of the device profile that an engine was built with."""
    return tuple(asked or file.details.get("profile", {}).get("batches") or ONNX_BATCHES)


def peers_beside(subjects: list[Subject], names: Sequence[str], checkpoint: Path) -> list[Any]:
    """PyTorch's runners for the checkpoint and the input size of the files, which must agree in both."""
    checkpoints = {x.file.details["checkpoint"]["sha256"] for x in subjects}
    shapes = {x.runner.image_shape for x in subjects}
    if len(checkpoints) > 1 or len(shapes) > 1:
        raise RmtEdgeError(
            f"The files are of {len(checkpoints)} checkpoints and {len(shapes)} input sizes.",
            "--peers measures one model beside them.",
            "Measure those of one checkpoint and size at a time.",
        )
    return open_peers(checkpoint, checkpoints.pop(), list(dict.fromkeys(names)), shapes.pop())


def bench_opened(
    subjects: list[Subject],
    peers: list[Runner],
    settings: MeasureSettings,
    transfers: bool | None = None,
    cuda_graph: bool | None = None,
    output: Path | None = None,
) -> list[Path]:
    """As bench, of files and peers that are open. What a GPU and what the CPU runs take no turns together."""
    for subject in subjects:
        for batch in subject.batches:
            check_batch(batch, subject.runner.batches, subject.file.path.name)
    machine = this_machine().to_dict() | {"cpu": cpu_model(), "cpus": os.cpu_count()}
    peer_batches = tuple(sorted({x for subject in subjects for x in subject.batches}))
    points = [(x, points_of(x.runner, x.batches, transfers, cuda_graph)) for x in subjects]
    peer_points = [p for x in peers for p in points_of(x, peer_batches, transfers if x.transfers[-1] else None, None)]
    every = [point for _, some in points for point in some] + peer_points
    measured = _measured(every, settings)
    paths = []
    for subject, some in points:
        runs = [measured[id(point)] for point in (*some, *peer_points)]
        path = record_path((output or subject.file.path.parent) / subject.file.path.name)
        write_latency_record(path, _record(subject.file, runs, settings, machine))
        paths.append(path)
    return paths


def _measured(points: list[Point], settings: MeasureSettings) -> dict[int, Run]:
    """The run of each point, by the point's id; those on the GPU first, then those on the CPU."""
    runs: dict[int, Run] = {}
    seconds = planned_seconds(len(points), settings)
    with progress_bar(total=seconds, desc="bench", unit="s", bar_format="{l_bar}{bar}| {n:.0f}/{total:.0f} s") as bar:
        for is_gpu in (True, False):
            some = [x for x in points if (x.runner.clock == "CUDA events") == is_gpu]
            if not some:
                continue
            bus_id = next((x.runner.gpu_bus_id for x in some if hasattr(x.runner, "gpu_bus_id")), None)
            sensor = open_sensor(is_gpu, bus_id)
            with Telemetry(sensor) as telemetry:
                found = measure(some, settings, telemetry, lambda s: bar.update(min(s, seconds - bar.n)))
            if sensor is not None:
                with contextlib.suppress(Exception):  # a sensor that does not close costs nothing any more
                    sensor.close()
            runs |= {id(point): run for point, run in zip(some, found, strict=True)}
    return runs


def _record(file: Artifact, runs: list[Run], settings: MeasureSettings, machine: dict[str, Any]) -> LatencyRecord:
    return LatencyRecord(
        subject=file.identity | {"kind": file.manifest.kind},
        recipe=file.recipe,
        precision=file.recipe["precision"],
        kernels=file.details.get("kernels"),
        machine=machine,
        settings=settings_record(settings),
        runs=runs,
        versions=versions(),
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str | None:
    """The processor's name, where Linux tells it (on x86-64)."""
    try:
        found = re.search(r"^model name\s*: (.+)$", cpuinfo.read_text(), re.MULTILINE)
    except OSError:
        return None
    return found[1].strip() if found else None


def table(record: LatencyRecord) -> str:
    """A record as text has a line for each run, then the warnings by the runs' numbers."""
    header = ("", "runner", "batch", "settings", "p50 ms", "p90 ms", "p99 ms", "images/s", "J/image")
    rows: list[tuple[str, ...]] = [header]
    for number, run in enumerate(record.runs, 1):
        moves = "transfers" if run.transfers else ""
        graph = "CUDA graph" if run.cuda_graph else ""
        energy = (run.telemetry or {}).get("energy_per_image_j")
        name = f"{run.runner} {run.precision}".strip()
        cells = [f"{x:.3f}" for x in (run.p50_ms, run.p90_ms, run.p99_ms)]
        rows.append(
            (str(number), name, str(run.batch), ", ".join(x for x in (moves, graph) if x) or "–", *cells,
             f"{run.images_per_s:.1f}", f"{energy:.3f}" if energy is not None else "–")
        )  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]

    def line(row: tuple[str, ...]) -> str:
        """Names to the left, numbers to the right."""
        cells = zip(row, widths, strict=True)
        return "  ".join(x.ljust(w) if i in (1, 3) else x.rjust(w) for i, (x, w) in enumerate(cells)).rstrip()

    doubts = [f"  ! {number}: {text}" for number, run in enumerate(record.runs, 1) for text in run.warnings]
    subject = record.subject
    return "\n".join([f"{subject['name']} (sha256 {subject['sha256'][:16]}…)", *map(line, rows), *doubts])
