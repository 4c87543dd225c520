"""The commands that know devices: the profiles, this machine, and whether an engine fits it."""

import argparse
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from rmt_edge.artifact import ENGINE, read_artifact
from rmt_edge.cli.options import add_command
from rmt_edge.device.machine import Machine, this_machine
from rmt_edge.device.profile import DeviceProfile, load_profile, profile_names
from rmt_edge.errors import CheckFailedError, RmtEdgeError

COLUMNS = ("name", "device", "SM", "GiB", "backend", "TensorRT", "GB/s", "FP16 TFLOPS", "INT8 TOPS", "batches")
logger = logging.getLogger("rmt_edge")


def devices(args: argparse.Namespace) -> None:
    """List the device profiles, or show one with the sources of its numbers."""
    profiles = [load_profile(name) for name in ([args.name] if args.name else profile_names())]
    if args.json:
        found = [profile.to_dict() for profile in profiles]
        print(json.dumps(found[0] if args.name else found, indent=2))
    elif args.name:
        print("\n".join(_whole(profiles[0])))
    else:
        print("\n".join(_table([COLUMNS, *map(_row, profiles)])))


def doctor(args: argparse.Namespace) -> None:
    """Tell what this machine is, which profiles fit it, and what each command lacks here."""
    from rmt_edge.device.doctor import diagnose

    diagnosis = diagnose(this_machine(), _commands())
    if args.command is not None:
        names = [name for name in diagnosis.commands if args.command in (name, name.partition(" ")[0])]
        if not names:
            raise RmtEdgeError(f"There is no command {args.command}.", f"known: {', '.join(diagnosis.commands)}.")
        diagnosis = replace(diagnosis, commands={name: diagnosis.commands[name] for name in names})
    if args.json:
        print(json.dumps(diagnosis.to_dict(), indent=2))
    elif args.command is None:
        print("\n".join(_report(diagnosis)))
    if args.command is not None and all(diagnosis.commands.values()):
        lacks = [lack for found in diagnosis.commands.values() for lack in found]
        raise CheckFailedError(
            f"{args.command} is not ready here:\n  " + "\n  ".join(lack.what for lack in lacks),
            do="To mend it:\n  " + "\n  ".join(dict.fromkeys(lack.do for lack in lacks)),
        )


def preflight(args: argparse.Namespace) -> None:
    """Check that an engine can be opened here: its file, GPU, TensorRT version, plugin library and ONNX file."""
    from rmt_edge.device.preflight import check_engine

    engine = read_artifact(args.engine, ENGINE)
    check_engine(engine, library=args.library)
    backend = engine.details["backend"]
    logger.info("preflight: %s, by %s %s, can be opened here", args.engine.name, backend["name"], backend["version"])
    print(args.engine)


def _commands() -> dict[str, Callable]:
    """Every command with the function that runs it."""
    from rmt_edge.cli import COMMANDS

    parsers = argparse.ArgumentParser().add_subparsers()
    for module in COMMANDS:
        module.add_commands(parsers)
    return {name: parser.get_default("run") for name, parser in parsers.choices.items()}


def _row(profile: DeviceProfile) -> tuple[str, ...]:
    first, last = profile.tensorrt_versions
    peaks = (profile.bandwidth_gb_s, profile.fp16_tflops, profile.int8_tops)
    return (
        profile.name,
        profile.device,
        " ".join(profile.compute_capabilities),
        f"{profile.memory_gib:g}",
        profile.backend,
        first if first == last else f"{first}–{last}",
        *("–" if peak is None else f"{peak:g}" for peak in peaks),
        " ".join(map(str, profile.batches)),
    )


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _whole(profile: DeviceProfile) -> Iterator[str]:
    """Everything that a profile says, its sources a line each."""
    for key, value in profile.to_dict().items():
        if key == "sources":
            yield "sources"
            yield from (f"  {source}" for source in value)
        else:
            yield f"{key:24}{', '.join(map(str, value)) if isinstance(value, list) else value}"


def _report(diagnosis: Any) -> Iterator[str]:
    yield "This machine"
    yield from (f"  {line}" for line in _machine_lines(diagnosis.machine))
    if diagnosis.lacks:
        yield "\nTo mend"
        for lack in diagnosis.lacks:
            yield from (f"  {lack.what}", f"    {lack.do}")
    yield "\nDevice profiles"
    if diagnosis.machine.gpus:
        yield from (f"  {line}" for line in _table([(name, why or "fits") for name, why in diagnosis.profiles.items()]))
        yield from (f"  {line}" for line in diagnosis.generic)
    else:
        yield "  none fits without a GPU; --device rtx-portable builds for RTX GPUs all the same"
    yield "\nCommands"
    width = max(map(len, diagnosis.commands))
    for name, lacks in diagnosis.commands.items():
        yield f"  {name:{width}}  {'ready' if not lacks else lacks[0].what}"
        for index, lack in enumerate(lacks):
            if index:
                yield f"  {'':{width}}  {lack.what}"
            yield f"  {'':{width}}    {lack.do}"


def _machine_lines(machine: Machine) -> Iterator[str]:
    yield ", ".join(filter(None, (machine.board, machine.platform, machine.processor, f"Python {machine.python}")))
    if machine.is_jetson:
        jetpack = f"JetPack {machine.jetpack or 'unknown'} (Jetson Linux {machine.l4t or 'unknown'})"
        yield f"{jetpack}, power mode {machine.power_mode or 'unknown: nvpmodel -q says nothing'}"
    for index, gpu in enumerate(machine.gpus):
        free = "" if gpu.free_memory_mib is None else f", {gpu.free_memory_mib} free"
        driver = f"driver {gpu.driver_version or 'unknown'}, CUDA up to {gpu.cuda_version or 'unknown'}"
        yield f"GPU {index}: {gpu.name}, SM {gpu.compute_capability}, {gpu.memory_mib} MiB{free}, {driver}"
    if not machine.gpus:
        yield "no GPU: no NVIDIA driver sees one"
    yield f"memory: {machine.memory_mib or 'unknown'} MiB, {machine.free_memory_mib or 'unknown'} free"
    installed = [f"{name} {version}" for name, version in machine.tensorrt.items()] or ["no TensorRT"]
    yield ", ".join([*installed, f"CUDA toolkit {machine.cuda_toolkit or 'not found'}"])


def add_commands(commands) -> None:
    """devices, doctor, preflight."""
    sub = add_command(commands, devices)
    sub.add_argument("name", nargs="?", help="one profile, a path to one, or auto: all of it, with sources")
    sub.add_argument("--json", action="store_true", help="print JSON")
    sub = add_command(commands, doctor)
    sub.add_argument("--for", dest="command", metavar="COMMAND", help="exit 1 if no way of this command is ready")
    sub.add_argument("--json", action="store_true", help="print JSON")
    sub = add_command(commands, preflight)
    sub.add_argument("engine", type=Path, help="a file that `build` wrote")
    sub.add_argument("--library", type=Path, metavar="PATH", help="its plugin library (beside it, or in build/plugin)")
