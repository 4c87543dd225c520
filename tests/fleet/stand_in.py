"""An `ssh` that runs the command here, in a home of its own for each destination: for what needs no real sshd."""

from pathlib import Path

from tests.fleet.namespaces import SITE_PACKAGES

SCRIPT = """#!/bin/sh
# Behind "--" come the destination and the command.
while [ "$1" != -- ]; do [ "$1" = -O ] && exit 0; shift; done
echo "$2" >> "{folder}/calls"
[ -e "{folder}/$2.says" ] && {{ cat "{folder}/$2.says" >&2; exit 255; }}
mkdir -p "{folder}/homes/$2"
export HOME="{folder}/homes/$2" PYTHONPATH="{site}"
cd && exec sh -c "$3"
"""


class StandIn:
    """The folder of the stand-in; bin goes first on the PATH."""

    def __init__(self, folder: Path):
        self.folder, self.bin = folder, folder / "bin"
        self.bin.mkdir(parents=True)
        ssh = self.bin / "ssh"
        ssh.write_text(SCRIPT.format(folder=folder, site=SITE_PACKAGES))
        ssh.chmod(0o755)

    def home(self, destination: str) -> Path:
        return self.folder / "homes" / destination

    def says(self, destination: str, text: str | None) -> None:
        """What ssh says instead of connecting."""
        path = self.folder / f"{destination}.says"
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)

    def calls(self, destination: str) -> int:
        path = self.folder / "calls"
        return path.read_text().splitlines().count(destination) if path.exists() else 0
