"""The wheel of this tree, and a device's Python that has it installed beside numpy and tqdm, all without a network."""

import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from tests.conftest import ROOT

# All that a device has beside TensorRT and pycuda, of `dependencies` in pyproject.toml.
PACKAGES = ("numpy", "numpy.libs", "tqdm", "tomli")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


def build_wheel(folder: Path) -> Path:
    """Build the wheel as `make wheel` does, of a copy, so that setuptools leaves nothing in the tree."""
    source = folder / "source"
    source.mkdir(parents=True)
    for name in ("rmt_edge", "calib", "engines"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    _run(*PIP, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder / "dist", source)
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


def device_python(folder: Path, wheel: Path) -> Path:
    """The interpreter of a new environment in `folder`, with the wheel and PACKAGES and nothing else."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    _run(*PIP, "--python", python, "install", "--no-deps", "--no-index", wheel)
    here = Path(sysconfig.get_paths()["platlib"])
    for name in PACKAGES:
        if (here / name).exists():
            (site_packages(folder) / name).symlink_to(here / name)
    return python


def site_packages(folder: Path) -> Path:
    return folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"


def _run(*command: object) -> None:
    done = subprocess.run([str(x) for x in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
