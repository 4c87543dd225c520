"""Boards that are namespaces of this machine: a network, processes, mounts and a home of their own, and a real sshd.

Root is needed, iproute2 and openssh-server (Debian's). Every board hangs on a veth cable of its own, which can be cut;
killing its first process is cutting its power, and starting it again is a boot with another boot_id.
"""

import contextlib
import itertools
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from rmt_edge.settings import ROOT

SITE_PACKAGES = sysconfig.get_paths()["purelib"]
SSHD = "/usr/sbin/sshd"
_NUMBER = itertools.count()
# Mounts of a board, as the first process of its namespaces makes them. $1: its folder, seen there as /run/board; $2:
# MiB of a small disk, or 0; $3: 1 for a /tmp of its own. The home is of its own by passwd: this machine's Python may
# lie in /root, which is not hidden therefore.
INIT = """
set -e
mount --make-rprivate /
mount -t tmpfs none /run
mkdir -p /run/sshd /run/board /run/upper /run/work
mount --bind "$1" /run/board
cp -a /run/board/etc/. /run/upper/
mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/upper,workdir=/run/work /etc
if [ "$2" != 0 ]; then mkdir -p /run/board/home/small && mount -t tmpfs -o size="$2"m none /run/board/home/small; fi
if [ "$3" = 1 ]; then mount --bind /run/board/tmp /tmp; fi
mount --bind /run/board/boot_id /proc/sys/kernel/random/boot_id
exec /usr/sbin/sshd -D -e -f /run/board/sshd_config
"""
# A checkout or a Python in /tmp must be seen there; then nothing is said of what is left in /tmp.
OWN_TMP = "0" if any(x.startswith("/tmp/") for x in (str(ROOT), sys.prefix, sys.base_prefix)) else "1"


def why_not() -> str:
    """Why there can be no such boards here, or nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need root on Linux"
    for tool in ("ip", "unshare", "ssh", "ssh-keygen", SSHD):
        if shutil.which(tool) is None:
            return f"{tool} is not here (Debian: openssh-server, iproute2)"
    name = f"rmt{os.getpid()}probe"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if tried.returncode != 0:
        return f"no network namespace can be made: {tried.stderr.strip()}"
    inside = ["ip", "netns", "exec", name, "unshare", "--mount", "--pid", "--fork", "--mount-proc", "true"]
    tried = subprocess.run(inside, capture_output=True, text=True)
    sh("ip", "netns", "del", name)
    return f"no namespaces of processes and mounts: {tried.stderr.strip()}" if tried.returncode else ""


def sh(*command: object, check: bool = True) -> str:
    done = subprocess.run([str(x) for x in command], capture_output=True, text=True)
    assert not check or done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


class NamespaceBoard:
    """One board. folder: everything of it, its home as home/. small_mib: of a disk mounted at ~/small, if any."""

    def __init__(self, name: str, folder: Path, key: Path, small_mib: int = 0, power: bool = False):
        self.name, self.folder, self.small_mib = name, folder, small_mib
        number = next(_NUMBER)
        self.netns, self.cable = f"rmt{os.getpid()}n{number}", f"rv{os.getpid()}x{number}"[-15:]
        block = (os.getpid() % 64) * 256 + number
        self.address, self.gateway = (
            f"10.{192 + block // 16384}.{block // 64 % 256}.{block % 64 * 4 + x}" for x in (2, 1)
        )
        self.process: subprocess.Popen | None = None
        self.home = folder / "home"
        for place in ("home", "tmp", "etc", "bin"):
            (folder / place).mkdir(parents=True)
        shutil.copy(f"{key}.pub", folder / "authorized_keys")
        (folder / "etc" / "passwd").write_text(
            "root:x:0:0:root:/run/board/home:/bin/sh\nsshd:x:99:65534::/run/sshd:/bin/false\n"
        )
        self.new_host_key()
        environment = f"SetEnv PYTHONPATH={SITE_PACKAGES} OMP_NUM_THREADS=1"
        if power:
            self._add_power_modes()
            environment += f" PATH=/run/board/bin:{os.environ['PATH']}"
        (folder / "sshd_config").write_text(
            f"ListenAddress 0.0.0.0\nHostKey /run/board/host_key\nAuthorizedKeysFile /run/board/authorized_keys\n"
            f"PermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\n"
            f"StrictModes no\nMaxStartups 100:30:200\nPidFile none\n{environment}\n"
        )

    def connect(self) -> None:
        """A network of its own at a cable of its own."""
        sh("ip", "netns", "add", self.netns)
        sh("ip", "link", "add", self.cable, "type", "veth", "peer", "name", "eth0", "netns", self.netns)
        sh("ip", "addr", "add", f"{self.gateway}/30", "dev", self.cable)
        sh("ip", "link", "set", self.cable, "up")
        self._inside("ip", "addr", "add", f"{self.address}/30", "dev", "eth0")
        self._inside("ip", "link", "set", "lo", "up")
        self.heal()

    def _inside(self, *command: object) -> str:
        return sh("ip", "netns", "exec", self.netns, *command)

    def _add_power_modes(self) -> None:
        """An nvpmodel as a Jetson has it: three modes, one of which wants a reboot."""
        (self.folder / "etc" / "nvpmodel.conf").write_text(
            "< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n< POWER_MODEL ID=1 NAME=25W >\n"
            "< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n"
        )
        (self.folder / "mode").write_text("15W\n")
        (self.folder / "modes_set").touch()
        tool = self.folder / "bin" / "nvpmodel"
        tool.write_text(
            "#!/bin/sh\ncd /run/board\n"
            'case "$1 $2" in\n'
            '"-q ") echo "NV Power Mode: $(cat mode)";;\n'
            '"-m 0") echo 15W > mode; echo 15W >> modes_set;;\n'
            '"-m 1") echo 25W > mode; echo 25W >> modes_set;;\n'
            '"-m 2") read answer; [ "$answer" = YES ] && echo MAXN_SUPER > mode;;\n'
            "*) exit 1;;\nesac\n"
        )
        tool.chmod(0o755)

    def new_host_key(self) -> None:
        """As after the board was flashed anew."""
        for path in self.folder.glob("host_key*"):
            path.unlink()
        sh("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / "host_key")

    def known_host(self) -> str:
        return f"{self.address} {(self.folder / 'host_key.pub').read_text()}"

    def boot(self) -> None:
        """Switch on, and wait until sshd listens."""
        (self.folder / "boot_id").write_text(f"{uuid.uuid4()}\n")
        with (self.folder / "sshd.log").open("a") as log:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", self.netns, "unshare", "--mount", "--pid", "--fork", "--kill-child",
                 "--mount-proc", "sh", "-c", INIT, "init", str(self.folder), str(self.small_mib), OWN_TMP],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        limit = time.monotonic() + 30
        while b"SSH-" not in self._greeting():
            assert self.process.poll() is None, (self.folder / "sshd.log").read_text()
            assert time.monotonic() < limit, "sshd does not listen"
            time.sleep(0.05)

    def _greeting(self) -> bytes:
        with contextlib.suppress(OSError), socket.create_connection((self.address, 22), 0.3) as connection:
            return connection.recv(64)
        return b""

    def first_process(self) -> int:
        """Of its namespaces: sshd, by the number that it has outside."""
        assert self.process is not None
        return int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()[0])

    def power_off(self) -> None:
        """All its processes end at once, and nothing is said on its connections."""
        self.cut()
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        # A kernel that dies takes its sockets along; that of a namespace lives on, so that they must be ended.
        self._inside("ss", "-K", "state", "established") if shutil.which("ss") else None
        self.heal()

    def reboot(self) -> None:
        self.power_off()
        self.boot()

    def cut(self) -> None:
        """Pull the cable."""
        self._inside("ip", "link", "set", "eth0", "down")

    def heal(self) -> None:
        self._inside("ip", "link", "set", "eth0", "up")

    def remove(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        sh("ip", "link", "del", self.cable, check=False)
        sh("ip", "netns", "del", self.netns, check=False)


class Drawer:
    """Boards on the network, and an `ssh` that knows them, in a folder to put first on the PATH."""

    def __init__(self, folder: Path):
        self.folder, self.boards = folder, {}
        self.key = folder / "key"
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        sh("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key)
        wrapper = self.bin / "ssh"
        wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F "{folder}/config" "$@"\n')
        wrapper.chmod(0o755)

    def add(self, name: str, **options) -> NamespaceBoard:
        board = self.boards[name] = NamespaceBoard(name, self.folder / name, self.key, **options)
        board.connect()
        board.boot()
        self.write_config()
        return board

    def write_config(self, known: bool = True) -> None:
        """The user's configuration of ssh; host keys are checked, as they are by default."""
        hosts = "".join(f"Host {x.name}\n  HostName {x.address}\n" for x in self.boards.values())
        (self.folder / "config").write_text(
            f"{hosts}Host *\n  User root\n  IdentityFile {self.key}\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {self.folder}/known_hosts\n  GlobalKnownHostsFile /dev/null\n"
        )
        if known:
            (self.folder / "known_hosts").write_text("".join(x.known_host() for x in self.boards.values()))

    def boards_toml(self, path: Path, **fields: str) -> Path:
        """boards.toml of all; fields: further ones, the same for each."""
        lines = [line for name in self.boards for line in (f"[{name}]", f'ssh = "{name}"', *_lines(fields))]
        path.write_text("\n".join(lines) + "\n")
        return path


def _lines(fields: dict[str, str]) -> list[str]:
    return [f'{key} = "{value}"' for key, value in fields.items()]


@contextlib.contextmanager
def drawer(folder: Path) -> Iterator[Drawer]:
    """A drawer of boards, gone when the block ends."""
    found = Drawer(folder)
    try:
        yield found
    finally:
        for board in found.boards.values():
            board.remove()
