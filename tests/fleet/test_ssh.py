"""The transport: one command line, the words of a remote shell, and what ssh's own messages mean."""

import asyncio
import os
import shlex
import stat
import sys

import pytest

from rmt_edge.errors import RmtEdgeError
from rmt_edge.fleet import ssh
from rmt_edge.fleet.boards import Board
from rmt_edge.fleet.ssh import BOOTSTRAP, LostError, ask, control_folder, failure, ssh_command

BOARD = Board("orin", "nvidia@orin.local", python=sys.executable)


def asked(request, board=BOARD, **options):
    return asyncio.run(ask(board, request, control_folder(), **options))


def test_the_command_line_checks_host_keys_as_the_user_does_and_asks_nothing(tmp_path):
    command = ssh_command(BOARD, ["python3", "-c", "print('a b')"], tmp_path)
    text = " ".join(command)
    assert "StrictHostKeyChecking" not in text and "UserKnownHostsFile" not in text
    assert "BatchMode=yes" in command and "ControlMaster=auto" in command and "ServerAliveInterval=5" in command
    assert command[-3:-1] == ["--", "nvidia@orin.local"]  # whatever follows is no option
    assert shlex.split(command[-1]) == ["python3", "-c", "print('a b')"]


@pytest.mark.parametrize("folder", ["it's a $HOME; `x`", 'with "quotes" and ümläut', "a\\b*?"])
def test_paths_reach_the_board_as_they_are(stand_in, folder):
    board = Board("orin", "orin", folder=folder, python=sys.executable)
    found = asked({"do": "probe", "bundle": "b", "modules": ["json", "no_such_module"]}, board)
    assert found["work"] == str(stand_in.home("orin") / folder) and found["modules"] == ["json"]


def test_a_probe_writes_nothing(stand_in):
    asked({"do": "probe", "bundle": "b", "modules": []}, Board("orin", "orin", python=sys.executable))
    assert list(stand_in.home("orin").iterdir()) == []


# Messages of OpenSSH 9.2, as the boards of test_namespaces.py make it say them, and of shells.
@pytest.mark.parametrize(
    ("rc", "said", "match"),
    [
        (255, "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.", "has changed"),
        (255, "No ED25519 host key is known for o and you have requested strict checking.\nHost key verification "
              "failed.", "is not known here"),
        (255, "nvidia@orin.local: Permission denied (publickey,password).", "accepts no key of yours"),
        (255, "ssh: Could not resolve hostname orin.local: Name or service not known", "There is no host"),
        (255, "/home/u/.ssh/config: line 3: Bad configuration option: foo", "does not read its configuration"),
        (127, "sh: 1: python3: not found", "has no .*python"),
        (126, "bash: /opt/python: Permission denied", "has no .*python"),
    ],
)  # fmt: skip
def test_what_trying_again_does_not_mend_is_said_with_what_does(rc, said, match):
    error = failure(BOARD, rc, said)
    assert isinstance(error, RmtEdgeError)
    with pytest.raises(RmtEdgeError, match=match):
        raise error
    assert len(str(error).splitlines()) >= 2  # and what to do


@pytest.mark.parametrize(
    "said",
    ["ssh: connect to host 10.0.0.2 port 22: No route to host", "Connection closed by 10.0.0.2 port 22", "",
     "kex_exchange_identification: read: Connection reset by peer", "client_loop: send disconnect: Broken pipe"],
)  # fmt: skip
def test_what_trying_again_may_mend_is_lost(said):
    assert isinstance(failure(BOARD, 255, said), LostError)


def test_a_fault_of_ours_on_the_board_keeps_its_traceback(stand_in):
    with pytest.raises(RuntimeError, match="KeyError: 'no such request'"):
        asked({"do": "no such request"})


def test_a_python_that_is_too_old_is_named(stand_in, monkeypatch):
    monkeypatch.setattr(ssh, "BOOTSTRAP", BOOTSTRAP.replace("(3, 10)", "(99, 0)"))
    with pytest.raises(
        RmtEdgeError, match=rf"is Python {sys.version_info[0]}\.{sys.version_info[1]}.*\n.*3\.10 or newer"
    ):
        asked({"do": "probe"})


def test_a_missing_python_is_named(stand_in):
    with pytest.raises(RmtEdgeError, match="has no /no/python"):
        asked({"do": "probe"}, Board("orin", "orin", python="/no/python"))


def test_a_shell_that_prints_something_is_named(stand_in):
    python = stand_in.folder / "python"
    python.write_text("#!/bin/sh\necho Welcome to the board\n")
    python.chmod(0o755)
    with pytest.raises(RmtEdgeError, match=r"answers 'Welcome to the board'.*\n.*start-up files|must print nothing"):
        asked({"do": "probe"}, Board("orin", "orin", python=str(python)))


def test_an_answer_that_never_comes_is_lost(stand_in):
    python = stand_in.folder / "python"
    python.write_text("#!/bin/sh\nexec sleep 60\n")
    python.chmod(0o755)
    with pytest.raises(LostError, match="no answer"):
        asked({"do": "probe"}, Board("orin", "orin", python=str(python)), seconds=0.5)


def test_the_folder_of_sockets_is_private_and_short(tmp_path, monkeypatch):
    short = f"/tmp/rx{os.getpid()}"
    monkeypatch.setenv("XDG_RUNTIME_DIR", short)
    os.mkdir(short)
    try:
        found = control_folder()
        assert stat.S_IMODE(found.stat().st_mode) == 0o700
        assert len(f"{found}/") + 40 + 17 < 107
        found.chmod(0o755)
        with pytest.raises(RmtEdgeError, match="not a folder of yours alone"):
            control_folder()
    finally:
        os.rmdir(f"{short}/rmt-edge")
        os.rmdir(short)


def test_no_ssh_is_an_error(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RmtEdgeError, match="no ssh on this machine"):
        ssh.check_ssh()
