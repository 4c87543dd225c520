"""Files are whole or not there, under names that nobody can foresee, and killed runs leave nothing for long."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from rmt_edge import writing
from rmt_edge.errors import RmtEdgeError
from rmt_edge.writing import output_folder, private_folder, scratch_folder, user_folder, write_json, written_whole

KILLED = """
import os, signal, sys
from pathlib import Path
from rmt_edge.writing import scratch_folder, written_whole
with written_whole(Path(sys.argv[1]) / "x.onnx") as temporary, scratch_folder(Path(sys.argv[1]) / "y") as folder:
    temporary.write_bytes(b"half")
    (folder / "file").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
WAITS = """
import sys
from pathlib import Path
from rmt_edge.writing import scratch_folder, written_whole
with written_whole(Path(sys.argv[1]) / "x.onnx") as temporary, scratch_folder(Path(sys.argv[1]) / "y") as folder:
    print("ready", flush=True)
    sys.stdin.read()
    temporary.write_bytes(b"whole")
"""
FILLS_THE_DISK = """
import resource, signal, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from rmt_edge.errors import RmtEdgeError
from rmt_edge.writing import written_whole
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    with written_whole(Path(sys.argv[1])) as temporary:
        save_file({"x": torch.zeros(100_000)}, temporary)
except RmtEdgeError as error:
    print(error)
"""


def test_an_exception_leaves_the_old_file_and_no_part(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), written_whole(tmp_path / "x.onnx") as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert (tmp_path / "x.onnx").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_what_a_killed_process_left_has_no_final_name_and_goes_with_the_next_command(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert sorted(x.suffix for x in tmp_path.iterdir()) == [".part", ".tmp"]
    output_folder(tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_a_running_process_writes_stays(tmp_path):
    running = subprocess.Popen(
        [sys.executable, "-c", WAITS, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert running.stdout.readline() == b"ready\n"
    before = sorted(tmp_path.iterdir())
    output_folder(tmp_path)
    assert sorted(tmp_path.iterdir()) == before and len(before) == 2
    running.communicate()
    assert (tmp_path / "x.onnx").read_bytes() == b"whole" and len(list(tmp_path.iterdir())) == 1


def test_a_process_number_that_is_used_again_and_one_of_another_machine_are_told_apart(tmp_path):
    here, process = writing._process_space(), os.getpid()
    owners = [(here, process, writing._start_of(process)), (here, process, 1), ("abc", 1, 1)]
    mine, older, elsewhere = (tmp_path / f".x.{'-'.join(map(str, x))}.{'0' * 16}.part" for x in owners)
    unlike = tmp_path / ".x.1234.part", tmp_path / "x.part", tmp_path / ".notes"
    for path in (mine, older, elsewhere, *unlike):
        path.touch()
    output_folder(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([mine, elsewhere, *unlike])


def test_a_link_at_a_temporary_name_is_not_followed(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    monkeypatch.setattr(writing.secrets, "token_hex", lambda count: "00" * count)
    with written_whole(tmp_path / "x") as temporary:
        name = temporary.name
    (tmp_path / name).symlink_to(victim)
    with pytest.raises(RmtEdgeError, match=r"x cannot be written: File exists"), written_whole(tmp_path / "x"):
        raise AssertionError("the block must not be entered")
    assert victim.read_bytes() == b"precious"


def test_temporary_names_differ(tmp_path):
    with written_whole(tmp_path / "x") as first, written_whole(tmp_path / "x") as second:
        assert first != second


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_file_has_the_mode_of_the_umask_even_where_a_library_puts_another_in_its_place(tmp_path, mask):
    before = os.umask(mask)
    try:
        with written_whole(tmp_path / "x") as temporary:
            other = tmp_path / "other"
            other.write_bytes(b"x")
            other.chmod(0o600)
            other.replace(temporary)
        assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o666 & ~mask
    finally:
        os.umask(before)


def test_a_full_disk_is_an_error_that_names_the_file_and_nothing_stays(tmp_path):
    """A limit on the size of files stands for the full disk; the library that writes is the real one, in Rust."""
    done = subprocess.run(
        [sys.executable, "-c", FILLS_THE_DISK, str(tmp_path / "x.safetensors")], capture_output=True, text=True
    )
    assert done.stdout.startswith(f"{tmp_path}/x.safetensors cannot be written: File too large."), done
    assert not list(tmp_path.iterdir())


def test_a_scratch_folder_goes_with_what_is_in_it(tmp_path):
    with pytest.raises(ValueError), scratch_folder(tmp_path / "x") as folder:
        (folder / "file").touch()
        raise ValueError
    assert not list(tmp_path.iterdir())


def test_a_nan_never_reaches_a_record(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not list(tmp_path.iterdir())


def test_an_output_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RmtEdgeError, match=r"output folder .*file.* cannot be written"):
        output_folder(tmp_path / "file" / "folder")
    with pytest.raises(RmtEdgeError, match=r"output folder .*file cannot be written"):
        output_folder(tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RmtEdgeError, match="cannot be written"):
        output_folder(tmp_path)


@pytest.mark.parametrize("value", ["", "relative/cache"])
def test_a_cache_is_never_in_the_working_folder(monkeypatch, value):
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert user_folder("cache") == Path.home() / ".cache" / "rmt-edge"
    monkeypatch.setenv("XDG_STATE_HOME", "/elsewhere")
    assert user_folder("state") == Path("/elsewhere/rmt-edge")


def test_a_private_folder_is_one_that_nobody_else_may_enter(tmp_path):
    tmp_path.chmod(0o777)
    folder = private_folder(tmp_path / "a" / "b")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o777)
    assert not writing.is_private(folder)
    assert stat.S_IMODE(private_folder(folder).stat().st_mode) == 0o700
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(RmtEdgeError, match=r"link is not a folder of this user's own"):
        private_folder(tmp_path / "link")
