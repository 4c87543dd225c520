"""Set-up that must come before any test module is imported, and the plugin library that two of them need."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

# Triton decides when it is imported whether to compile kernels or interpret them; without a GPU only the latter runs.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

REPOSITORY = Path(__file__).parents[1]
PLUGIN_SM = 86
COMPILERS = {"x86_64": "g++", "aarch64": "aarch64-linux-gnu-g++"}


@pytest.fixture(scope="session")
def run_python():
    """A function that runs Python in a process of its own, without what this one has set for its kernels."""

    def run(*arguments, **environment):
        clean = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | environment
        clean["PYTHONPATH"] = str(REPOSITORY)
        return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=clean, cwd=REPOSITORY)

    return run


@pytest.fixture(scope="session")
def library_folder(run_python):
    """The plugin libraries for one SM. They stay under build/; build.py makes them again if a source changed."""
    folder = REPOSITORY / "build" / "test-plugin"
    arch = [x for name, compiler in COMPILERS.items() if shutil.which(compiler) for x in ("--arch", name)]
    result = run_python("-m", "rmt_edge.plugin.build", "--sm", str(PLUGIN_SM), *arch, "--output", str(folder))
    assert result.returncode == 0, result.stderr
    return folder
