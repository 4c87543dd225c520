"""Progress: a bar on a terminal, two lines a step in a file."""

import fcntl
import io
import logging
import os
import pty
import struct
import subprocess
import sys
import termios
from types import SimpleNamespace

import pytest
from tqdm import tqdm

from rmt_edge import progress
from rmt_edge.progress import Lines, progress_bar
from tests.conftest import ROOT


@pytest.fixture
def lines(caplog, monkeypatch):
    """What is told where stderr is no terminal, the seconds cut off."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=io.StringIO()))
    return lambda: [x.rpartition(" in ")[0] or x for x in caplog.messages]


def test_a_step_is_one_line_at_its_start_and_one_at_its_end(lines, caplog):
    assert list(progress_bar(range(1000), "calibrate", unit="batch", leave=False)) == list(range(1000))
    assert lines() == ["calibrate: begins, 1000 batches", "calibrate: 1000 batches"]
    assert float(caplog.messages[1].rpartition(" in ")[2].removesuffix(" s")) >= 0


def test_a_step_of_unknown_length_says_how_much_it_was(lines):
    with progress_bar(total=0, desc="build x", unit="step", leave=False) as bar:
        bar.reset(40)
        bar.set_postfix_str("a phase")
        for _ in range(40):
            bar.update()
        bar.refresh()
    bar.close()  # once more tells nothing
    assert lines() == ["build x: begins", "build x: 40 steps"]


def test_a_step_that_stops_early_says_where(lines):
    with pytest.raises(ValueError):
        for index in progress_bar(range(10), "read", unit="image"):
            if index == 3:
                raise ValueError
    assert lines() == ["read: begins, 10 images", "read: stopped at 3 images of 10 images"]


def test_bytes_and_seconds_are_written_as_such(lines):
    with progress_bar(total=3_000_000, desc="unpack", unit="B", unit_scale=True) as bar:
        bar.update(3_000_000)
    with progress_bar(total=2.5, desc="bench", unit="s", bar_format="{bar}") as bar:
        bar.update(2.5)
    with progress_bar(total=2, desc="resumed", unit="run", initial=1) as bar:
        bar.update(1)
    assert lines()[1::2] == ["unpack: 3.00MB", "bench: 2 s", "resumed: 2 runs"]


def test_a_disabled_step_is_silent(lines):
    assert list(progress_bar([], "kernels", disable=True)) == [] and lines() == []


def test_where_there_is_no_stderr_at_all_nothing_breaks(caplog, monkeypatch):
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=None))
    assert isinstance(progress_bar(range(2)), Lines)


def test_on_a_terminal_it_is_tqdm_with_the_same_arguments(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=terminal))
    with progress_bar(total=4, desc="x", unit="step", leave=False) as bar:
        assert type(bar) is tqdm
        bar.update(4)
        assert (bar.n, bar.total, bar.desc, bar.unit, bar.leave) == (4, 4, "x", "step", False)


CODE = """
import logging, sys
from rmt_edge import progress
from rmt_edge.progress import progress_bar
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
for _ in progress_bar(range(500), "calibrate", leave=True): pass
"""


def test_a_real_log_file_gets_two_lines_and_a_real_terminal_a_bar(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with (tmp_path / "log").open("w") as log:
        subprocess.run([sys.executable, "-c", CODE], stderr=log, env=environment, check=True)
    text = (tmp_path / "log").read_text()
    assert (
        text.count("\n") == 2
        and "\r" not in text
        and text.startswith("calibrate: begins, 500 its\ncalibrate: 500 its in ")
    )
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    subprocess.run([sys.executable, "-c", CODE], stderr=theirs, env=environment, check=True)
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:  # Linux's end of a terminal whose other side is closed
        pass
    assert b"\rcalibrate: 100%" in shown and b"begins" not in shown


def test_nothing_of_rmt_edge_calls_tqdm_past_this():
    users = [x.name for x in (ROOT / "rmt_edge").rglob("*.py") if "import tqdm" in x.read_text()]
    assert users == ["progress.py"]
