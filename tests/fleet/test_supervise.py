"""A run on a board, detached: its steps, its end, what it leaves when it is killed, and the way back of power modes."""

import base64
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from rmt_edge.fleet import power, supervise
from rmt_edge.fleet.remote import RefusedError, acquire, is_alive, read_json, write_json
from rmt_edge.fleet.supervise import follow, start, state, stop
from tests.conftest import ROOT


class Bench:
    """A work folder whose environment is this Python with this tree."""

    def __init__(self, folder, answers):
        self.work, self.answers = folder / "work", answers
        python = self.work / "venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" "$@"\n')
        python.chmod(0o755)

    def request(self, **more):
        return {"folder": str(self.work), "run": "r", "environment": "venv", "owner": "o", "since": ""} | more

    @property
    def folder(self):
        return self.work / "runs" / "r"

    def start(self, *steps):
        acquire(self.request())
        return start(self.request(plan={"steps": list(steps)}))

    def end(self):
        """Wait for the end of the run, and return its state."""
        limit = time.monotonic() + 30
        while (now := state(self.request()))["runs"]:
            assert time.monotonic() < limit
            time.sleep(0.02)
        return now

    def log(self, name):
        return (self.folder / name / "log").read_text()


def step(name, script, fine=(0,), mode=None, **more):
    return {"name": name, "argv": ["sh", "-c", script], "power_mode": mode, "fine": list(fine)} | more


def codes(now):
    return [x["status"] and x["status"]["rc"] for x in now["steps"]]


@pytest.fixture
def bench(tmp_path, monkeypatch):
    answers = []
    monkeypatch.setattr(supervise, "answer", answers.append)
    found = Bench(tmp_path, answers)
    yield found
    stop(found.request())


def test_steps_run_in_their_order_up_to_the_first_that_fails(bench):
    bench.start(step("a", "echo one >&2; exit 1", fine=(0, 1)), step("b", "exit 3"), step("c", "echo never >&2"))
    assert codes(bench.end()) == [1, 3, None]
    assert bench.log("a") == "one\n" and not (bench.folder / "c").exists()
    assert not (bench.work / "lock.json").exists()  # what ends by itself lets go by itself


def test_a_second_start_goes_on_with_what_is_not_done(bench):
    count = "echo x >> count; test -e go"
    bench.start(step("a", "echo x >> first"), step("b", count))
    assert codes(bench.end()) == [0, 1]
    (bench.folder / "go").touch()
    bench.start(step("a", "echo x >> first"), step("b", count))
    assert codes(bench.end()) == [0, 0]
    assert (bench.folder / "first").read_text() == "x\n" and (bench.folder / "count").read_text() == "x\nx\n"


def test_a_step_that_has_become_another_is_run_again(bench):
    bench.start(step("a", "echo 1 >> ran"))
    bench.end()
    bench.start(step("a", "echo 2 >> ran"))
    bench.end()
    assert (bench.folder / "ran").read_text() == "1\n2\n"


def test_a_run_that_runs_is_not_started_twice(bench):
    bench.start(step("a", "echo x >> ran; sleep 2"))
    assert bench.start(step("a", "echo x >> ran; sleep 2")) == {"already": True}
    assert codes(bench.end()) == [0] and (bench.folder / "ran").read_text() == "x\n"


def test_of_two_supervisors_of_a_run_one_goes_away(bench):
    bench.start(step("a", "echo x >> ran; sleep 1"))
    argv = [bench.work / "venv/bin/python", "-m", "rmt_edge.fleet.supervise", bench.work, "r"]
    assert subprocess.run(argv, timeout=30).returncode == 0
    assert state(bench.request())["runs"]
    bench.end()
    assert (bench.folder / "ran").read_text() == "x\n"


def test_a_run_outlives_who_started_it(bench):
    """The process that answers `start` is gone at once, its session too."""
    code = (
        f"from rmt_edge.fleet.supervise import start; start({bench.request(plan={'steps': [step('a', 'sleep 1')]})!r})"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
    assert state(bench.request())["runs"]
    assert codes(bench.end()) == [0]


def test_a_killed_run_is_lost_and_its_child_ended_before_it_goes_on(bench):
    script = "echo $$ >> pids; echo begun >&2; test -e go && exit 0; sleep 60"
    bench.start(step("a", "true"), step("b", script))
    while not (bench.folder / "pids").exists():
        time.sleep(0.02)
    os.kill(read_json(bench.folder / "supervisor.json")["pid"], signal.SIGKILL)
    while state(bench.request())["runs"]:
        time.sleep(0.02)
    assert codes(state(bench.request())) == [0, None]
    child = read_json(bench.folder / "b" / "child.json")
    assert is_alive(child)
    (bench.folder / "go").touch()
    bench.start(step("a", "true"), step("b", script))
    assert not is_alive(child)
    assert codes(bench.end()) == [0, 0] and bench.log("b") == "begun\nbegun\n"


def test_stop_ends_the_step_and_all_that_it_started(bench):
    bench.start(step("a", "sleep 60 & echo $! > grandchild; echo x >&2; wait"), step("b", "true"))
    while not (bench.folder / "grandchild").exists():
        time.sleep(0.02)
    assert stop(bench.request()) == {"stopped": True}
    now = state(bench.request())
    assert not now["runs"] and now["steps"][0]["status"]["stopped"] and now["steps"][1]["status"] is None
    # Killed is not yet gone: its files are closed when the kernel gets to it.
    open_file = f"/proc/{(bench.folder / 'grandchild').read_text().strip()}/fd/0"
    until = time.monotonic() + 20
    while os.path.exists(open_file):
        assert time.monotonic() < until, f"{open_file} is open still"
        time.sleep(0.02)
    assert stop(bench.request()) == {"stopped": False}


def test_a_log_is_followed_from_its_bytes_none_lost_and_none_twice(bench):
    bench.start(step("a", "for i in 1 2 3 4 5 6 7 8; do printf 'line %d\\n' $i >&2; sleep 0.1; done"))
    follow(bench.request(offsets={"a": 10}))
    parts = [x for x in bench.answers if "log" in x]
    at = 10
    for part in parts:
        assert part["from"] == at
        at += len(base64.b64decode(part["data"]))
    whole = b"".join(base64.b64decode(x["data"]) for x in parts)
    assert whole == "".join(f"line {i}\n" for i in range(1, 9)).encode()[10:]
    assert any(x["state"]["steps"][0]["elapsed"] is not None for x in bench.answers if "state" in x)


def test_paths_that_a_step_printed_are_the_words_of_a_later_one(bench):
    files = [{"printed_by": "build", "suffix": ".engine"}]
    bench.start(
        step("build", "echo a.engine; echo a.txt; echo 'b c.engine'"),
        {"name": "use", "argv": ["printf", "<%s>", *files], "power_mode": None, "fine": [0]},
    )
    assert codes(bench.end()) == [0, 0]
    assert (bench.folder / "use" / "out").read_text() == "<a.engine><b c.engine>"
    bench.start(step("build", "echo nothing"), {"name": "use", "argv": files, "power_mode": None, "fine": [0]})
    assert codes(bench.end()) == [0, 2] and "printed no path that ends in .engine" in bench.log("use")


def test_manifests_are_brought_to_the_records(bench):
    files = [{"printed_by": "build", "suffix": ".engine"}]
    bench.start(
        step("build", "echo $PWD/a.engine; echo '{}' > a.engine.json"),
        step("validate", "mkdir -p records/validate; echo 1 > records/validate/p.json"),
        step("bench", "true", manifests=files, into="records/default"),
    )
    assert codes(bench.end()) == [0, 0, 0]
    assert sorted(x.name for x in (bench.folder / "records/default").iterdir()) == ["a.engine.json", "p.json"]


def test_another_runs_lock_is_kept(bench):
    acquire(bench.request(run="other"))
    with pytest.raises(RefusedError):
        bench.start(step("a", "true"))
    assert not bench.folder.exists()
    assert stop(bench.request(run=None)) == {"stopped": True}  # --others
    bench.start(step("a", "true"))
    assert codes(bench.end()) == [0]


@pytest.fixture
def modes(bench, tmp_path, monkeypatch):
    """A Jetson's nvpmodel: 15W and 25W, and MAXN, which wants a reboot; returns those that were set."""
    conf, tool = tmp_path / "nvpmodel.conf", tmp_path / "bin" / "nvpmodel"
    conf.write_text(
        "# POWER\n< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=1 NAME=25W >\n<POWER_MODEL ID=2 NAME=MAXN >\n"
    )
    tool.parent.mkdir()
    tool.write_text(
        f'#!/bin/sh\ncd {tmp_path}\ncase "$1 $2" in\n"-q ") echo "NV Power Mode: $(cat mode)"; echo 0;;\n'
        '"-m 0") echo 15W > mode; echo 15W >> set;;\n"-m 1") echo 25W > mode; echo 25W >> set;;\n'
        '"-m 2") read answer; echo "$answer" >> set;;\nesac\n'
    )
    tool.chmod(0o755)
    sudo = tool.with_name("sudo")
    sudo.write_text('#!/bin/sh\n[ "$1" = -n ] && shift && exec "$@"\n')
    sudo.chmod(0o755)
    (tmp_path / "mode").write_text("15W\n")
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    # The supervisor is another process: it finds the file by a module of its own.
    python = bench.work / "venv" / "bin" / "python"
    code = "import sys, pathlib; from rmt_edge.fleet import power, supervise; "
    code += f"power.NVPMODEL_CONF = pathlib.Path('{conf}')"
    python.write_text(
        f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -c "{code}; '
        'supervise.supervise(pathlib.Path(sys.argv[1]), sys.argv[2])" "$3" "$4"\n'
    )
    monkeypatch.setattr(power, "NVPMODEL_CONF", conf)
    return lambda: (tmp_path / "set").read_text().split() if (tmp_path / "set").exists() else []


ASK = "nvpmodel -q >> asked"


def test_each_step_has_its_power_mode_and_the_board_its_own_after(bench, modes):
    assert power.power_modes() == {"15W": "0", "25W": "1", "MAXN": "2"}
    bench.start(step("b15", ASK, mode="15W"), step("b25", ASK, mode="25W"))
    assert codes(bench.end()) == [0, 0]
    assert (bench.folder / "asked").read_text().split()[3::5] == ["15W", "25W"]
    assert modes() == ["25W", "15W"] and not (bench.work / "power.json").exists()


@pytest.mark.parametrize("ending", ["fails", "is stopped", "is killed"])
def test_the_power_mode_is_set_back_however_a_run_ends(bench, modes, ending):
    bench.start(step("a", "touch begun; " + ("exit 1" if ending == "fails" else "sleep 60"), mode="25W"))
    if ending != "fails":
        while not (bench.folder / "begun").exists():
            time.sleep(0.02)
        if ending == "is killed":
            os.kill(read_json(bench.folder / "supervisor.json")["pid"], signal.SIGKILL)
        stop(bench.request())
    bench.end()
    assert modes() == ["25W", "15W"] and power.power_mode() == "15W"


def test_the_mode_before_survives_a_reboot_in_the_middle(bench, modes):
    """nvpmodel keeps 25W over the reboot; what was before it is on the disk."""
    write_json(bench.work / "power.json", {"before": "15W"})
    subprocess.run(["nvpmodel", "-m", "1"], check=True)
    bench.start(step("a", ASK, mode="25W"))
    assert codes(bench.end()) == [0] and power.power_mode() == "15W"


def test_a_mode_that_wants_a_reboot_is_an_error_of_its_step(bench, modes):
    bench.start(step("a", "true", mode="MAXN"))
    assert codes(bench.end()) == [2]
    assert "The power mode MAXN could not be set" in bench.log("a") and modes() == ["NO"]


def test_a_state_is_json(bench):
    bench.start(step("a", "true"))
    bench.end()
    json.dumps(state(bench.request()), allow_nan=False)
