"""What every benchmark's record states beside its numbers."""

import datetime
import os
import subprocess
from pathlib import Path
from typing import Any

from rmt_edge.artifact import versions


def header(benchmark: str) -> dict[str, Any]:
    """The benchmark's name, the commit (with `+` where files differ from it), the time, CPUs and versions."""
    root = Path(__file__).parent
    commit = _git("rev-parse", "--short", "HEAD", cwd=root)
    changed = _git("status", "--porcelain", "--untracked-files=no", cwd=root)
    return {
        "benchmark": benchmark,
        "commit": commit + ("+" if changed else ""),
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cpus": os.cpu_count(),
        "versions": versions(),
    }


def _git(*arguments: str, cwd: Path) -> str:
    done = subprocess.run(["git", *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    return done.stdout.strip() or ("unknown" if done.returncode else "")
