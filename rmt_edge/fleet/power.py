"""Power modes of a Jetson, on the board: nvpmodel, by sudo, and back to the mode from before the first change.

power.json holds that mode from before the change until it is set again, so that whoever looks next can set it, whatever
ended in between: nvpmodel keeps a mode over a reboot.
"""

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

from rmt_edge.fleet.remote import RefusedError, read_json, write_json

NVPMODEL_CONF = Path("/etc/nvpmodel.conf")


def power_mode() -> str | None:
    """The name that `nvpmodel -q` prints: "NV Power Mode: 15W"."""
    if shutil.which("nvpmodel") is None:
        return None
    done = subprocess.run(["nvpmodel", "-q"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    found = [x.partition(":")[2].strip() for x in done.stdout.splitlines() if "Power Mode:" in x]
    return found[0] if found and found[0] else None


def power_modes() -> dict[str, str]:
    """Name to number, of lines like `< POWER_MODEL ID=0 NAME=MAXN_SUPER >`."""
    found = {}
    with contextlib.suppress(OSError):
        for line in NVPMODEL_CONF.read_text(errors="replace").splitlines():
            words = dict(x.split("=", 1) for x in line.strip("<> \t").split() if "=" in x)
            if "POWER_MODEL" in line and {"ID", "NAME"} <= set(words):
                found[words["NAME"]] = words["ID"]
    return found


def set_power_mode(work: Path, name: str) -> None:
    """Set a mode, by sudo where it is needed; the one before is written down first and restore() goes back to it."""
    before = power_mode()
    if before == name:
        return
    if not (work / "power.json").exists():
        write_json(work / "power.json", {"before": before})
    _nvpmodel(name)


def _nvpmodel(name: str) -> None:
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    argv = [*sudo, "nvpmodel", "-m", power_modes().get(name, "")]
    try:  # a mode that needs a reboot is asked about: no
        done = subprocess.run(argv, input="NO\n", capture_output=True, text=True, timeout=60)
        said = (done.stderr or done.stdout).strip()[-300:]
    except (OSError, subprocess.TimeoutExpired) as error:
        said = str(error)
    if power_mode() != name:
        raise RefusedError("power mode", f"The power mode {name} could not be set: {said or 'nvpmodel says nothing'}")


def restore(work: Path) -> None:
    """Go back to the power mode that was set before the first change."""
    saved = read_json(work / "power.json")
    if saved is None:
        return
    if saved["before"] is not None and power_mode() != saved["before"]:
        _nvpmodel(saved["before"])
    (work / "power.json").unlink()
