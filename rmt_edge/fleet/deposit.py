"""What a board gets and gives: what it is, files, the installed wheel, short commands, records."""

import compileall
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

from rmt_edge.fleet.power import power_mode, power_modes
from rmt_edge.fleet.remote import (
    CHUNK,
    RefusedError,
    answer,
    encoded,
    end,
    identity,
    read_json,
    renew,
    work_folder,
    write_json,
)

# Of sys.path as commands will have it, with the user's packages, which this isolated process leaves out.
FIND = "import sys, importlib.util as u; print(*(x for x in sys.argv[1:] if u.find_spec(x)))"
RENEW_SECONDS = 60  # between two renewals of the lock while a file comes in


def probe(request: dict[str, Any]) -> dict[str, Any]:
    """What must be known before anything is copied; of "modules" those that are there. Nothing is written."""
    work = work_folder(request["folder"])
    there = work
    while not there.exists():
        there = there.parent
    command = [sys.executable, "-c", FIND, *request["modules"]]
    found = subprocess.run(command, cwd="/", capture_output=True, text=True).stdout.split()
    memory = [x.split()[1] for x in Path("/proc/meminfo").read_text().splitlines() if x.startswith("MemTotal:")]
    return {
        "work": str(work),
        "time": time.time(),
        "python": platform.python_version(),
        "processor": platform.machine(),
        "free_mib": shutil.disk_usage(there).free >> 20,
        "memory_mib": int(memory[0]) // 1024 if memory else None,
        "is_writable": there.is_dir() and os.access(there, os.W_OK | os.X_OK),
        "has_venv": importlib.util.find_spec("venv") is not None,
        "modules": found,
        "has_bundle": (work / request["bundle"]).exists(),
        "power_mode": power_mode(),
        "power_modes": power_modes(),
        "lock": read_json(work / "lock.json"),
    }


def put(request: dict[str, Any], source: BinaryIO) -> dict[str, Any]:
    """Take a file, from where an earlier connection was cut; "from" is answered first, then the rest is read.

    A writer whose connection was cut may still wait for bytes that never come: it is ended first.
    """
    work = work_folder(request["folder"])
    target, size = work / request["path"], request["size"]
    part, writer = target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.writer")
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_file() and sha256_of(target) == request["sha256"]:
        answer({"from": size})
        return {}
    end(read_json(writer), seconds=5)
    write_json(writer, identity(os.getpid()))
    try:
        _receive(request, source, part)
    finally:
        writer.unlink(missing_ok=True)
    if sha256_of(part) != request["sha256"]:
        part.unlink()
        raise RefusedError("damaged", f"{target.name} did not arrive as it was sent.")
    part.replace(target)
    return {}


def _receive(request: dict[str, Any], source: BinaryIO, part: Path) -> None:
    """Answer how much is there already and write the rest behind it."""
    size, last = request["size"], time.monotonic()
    there = part.stat().st_size if part.exists() else 0
    there = there if there <= size else 0
    answer({"from": there})
    with part.open("r+b" if there else "wb") as file:
        file.seek(there)
        while there < size:
            if time.monotonic() - last > RENEW_SECONDS:
                renew(work_folder(request["folder"]), request["run"])
                last = time.monotonic()
            chunk = source.read(min(CHUNK, size - there))
            if not chunk:
                raise RefusedError("cut", "The connection ended.")
            file.write(chunk)
            file.flush()
            there += len(chunk)
        os.fsync(file.fileno())


def sha256_of(path: Path) -> str:
    """A file's sha256, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def install(request: dict[str, Any]) -> dict[str, Any]:
    """An environment of its own with the wheel in it and the board's packages (TensorRT, numpy) seen from it.

    The wheel is unpacked, not given to pip: boards come without pip and without ensurepip, and a pure wheel without
    scripts of its own needs no more than that (PEP 427).
    """
    work = work_folder(request["folder"])
    environment, wheel = work / request["environment"], work / request["wheel"]
    made_by = {"python": sys.version, "executable": sys.executable}
    if read_json(environment / "installed.json") == made_by:
        return {}
    shutil.rmtree(environment, ignore_errors=True)
    command = [sys.executable, "-I", "-m", "venv", "--without-pip", "--system-site-packages", str(environment)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        do = "On the board: sudo apt install python3-venv."
        raise RefusedError("install", f"{sys.executable} cannot make an environment: {done.stderr.strip()}.", "", do)
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith("/") or ".." in Path(name).parts or ".data/" in name:
                raise RefusedError("install", f"{wheel.name} holds {name}, which no wheel of rmt-edge does.")
        archive.extractall(environment / "lib" / version / "site-packages")
    compileall.compile_dir(environment / "lib" / version / "site-packages", quiet=2)
    write_json(environment / "installed.json", made_by)
    return {}


def environment_of(work: Path) -> dict[str, str]:
    """The environment variables of commands, by which what they leave elsewhere lies in the work folder.

    CUDA_CACHE_PATH: the driver's compiled kernels (CUDA C++ Programming Guide, environment variables).
    """
    places = {"TMPDIR": "tmp", "XDG_CACHE_HOME": "cache", "CUDA_CACHE_PATH": "cache/cuda"}
    for place in places.values():
        (work / place).mkdir(parents=True, exist_ok=True)
    here = {key: str(work / place) for key, place in places.items()}
    return dict(os.environ) | here | {"PYTHONDONTWRITEBYTECODE": "1"}  # none beside the board's own packages


def command(request: dict[str, Any]) -> dict[str, Any]:
    """Run a short command of rmt-edge to its end."""
    work = work_folder(request["folder"])
    argv = [str(work / request["environment"] / "bin" / "python"), "-m", "rmt_edge.cli", *request["argv"]]
    done = subprocess.run(argv, cwd=work / "tmp", env=environment_of(work), capture_output=True, text=True)
    return {"rc": done.returncode, "out": done.stdout, "err": done.stderr[-4000:]}


def records(request: dict[str, Any]) -> dict[str, Any]:
    """The records of a run that the workstation has not got: "known" is path to sha256."""
    folder = work_folder(request["folder"]) / "runs" / request["run"] / "records"
    found = {}
    for path in sorted(folder.glob("*/*.json")):
        name, content = path.relative_to(folder).as_posix(), path.read_bytes()
        found[name] = hashlib.sha256(content).hexdigest()
        if request["known"].get(name) != found[name]:
            for start in range(0, max(1, len(content)), CHUNK):
                answer({"record": name, "data": encoded(content[start : start + CHUNK])})
    return {"records": found}
