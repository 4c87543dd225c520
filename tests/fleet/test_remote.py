"""What a board does, called here without a connection: processes, the lock, files that come in pieces."""

import hashlib
import io
import os
import subprocess
import sys
import threading
import time

import pytest

from rmt_edge.fleet import remote
from rmt_edge.fleet.deposit import install, put, records
from rmt_edge.fleet.remote import (
    LOCK_SECONDS,
    RefusedError,
    acquire,
    check_lock,
    end,
    identity,
    is_alive,
    read_json,
    release,
    renew,
    write_json,
)
from tests.wheels import site_packages

CONTENT = bytes(range(256)) * 1000


@pytest.fixture
def answers(monkeypatch):
    found = []
    for module in ("remote", "deposit", "supervise"):
        monkeypatch.setattr(f"rmt_edge.fleet.{module}.answer", found.append, raising=False)
    return found


def test_a_process_is_told_from_a_later_one_of_its_number():
    process = subprocess.Popen(["sleep", "60"])
    known = identity(process.pid)
    assert is_alive(known)
    assert not is_alive(known | {"started": "1"}) and not is_alive(known | {"boot": "another"}) and not is_alive(None)
    process.kill()
    while is_alive(known):  # a zombie is none
        time.sleep(0.01)
    process.wait()
    assert not is_alive(identity(process.pid))  # one that had ended when it was asked who it is


def test_a_process_that_does_not_heed_sigterm_is_ended_all_the_same():
    process = subprocess.Popen(["sh", "-c", "trap '' TERM; while :; do sleep 1; done"], start_new_session=True)
    time.sleep(0.2)
    end(identity(process.pid), seconds=0.3, group=True)
    assert process.wait() == -9


def lock_request(tmp_path, run, **more):
    return {"folder": str(tmp_path), "run": run, "owner": f"{run}'s owner", "since": "noon"} | more


def test_a_lock_is_its_owners_and_says_whose(tmp_path):
    acquire(lock_request(tmp_path, "one"))
    acquire(lock_request(tmp_path, "one", since="later"))
    assert read_json(tmp_path / "lock.json")["since"] == "noon"
    with pytest.raises(RefusedError) as error:
        acquire(lock_request(tmp_path, "two"))
    assert error.value.answer == {"kind": "locked", "what": "one's owner", "note": "noon", "do": ""}
    release(tmp_path, "two")
    assert read_json(tmp_path / "lock.json")["run"] == "one"
    release(tmp_path, "one")
    acquire(lock_request(tmp_path, "two"))


def test_a_lock_that_was_left_behind_is_free_but_not_while_its_run_runs(tmp_path):
    acquire(lock_request(tmp_path, "one"))
    lock = read_json(tmp_path / "lock.json")
    write_json(tmp_path / "lock.json", lock | {"uptime": lock["uptime"] - LOCK_SECONDS - 1})
    check_lock(tmp_path, "two")
    write_json(tmp_path / "lock.json", lock | {"boot": "an earlier one"})
    check_lock(tmp_path, "two")
    write_json(tmp_path / "runs" / "one" / "supervisor.json", identity(os.getpid()))
    with pytest.raises(RefusedError):
        check_lock(tmp_path, "two")
    (tmp_path / "runs" / "one" / "supervisor.json").unlink()
    renew(tmp_path, "one")
    with pytest.raises(RefusedError):
        check_lock(tmp_path, "two")


def file_request(tmp_path, **changes):
    digest = hashlib.sha256(CONTENT).hexdigest()
    return {"folder": str(tmp_path), "run": "r", "path": "b/f", "size": len(CONTENT), "sha256": digest} | changes


def test_a_file_that_was_cut_goes_on_where_it_was(tmp_path, answers):
    with pytest.raises(RefusedError, match="ended"):
        put(file_request(tmp_path), io.BytesIO(CONTENT[:100_000]))
    assert not (tmp_path / "b" / "f").exists()
    put(file_request(tmp_path), io.BytesIO(CONTENT[100_000:]))
    assert (tmp_path / "b" / "f").read_bytes() == CONTENT
    put(file_request(tmp_path), io.BytesIO())  # it is there: nothing is sent
    assert answers == [{"from": 0}, {"from": 100_000}, {"from": len(CONTENT)}]
    assert [x.name for x in (tmp_path / "b").iterdir()] == ["f"]


def test_a_file_that_is_another_in_the_end_begins_anew(tmp_path, answers):
    with pytest.raises(RefusedError, match="did not arrive"):
        put(file_request(tmp_path), io.BytesIO(CONTENT[:-1] + b"!"))
    assert not (tmp_path / "b" / "f").exists()
    put(file_request(tmp_path), io.BytesIO(CONTENT))
    assert answers[-1] == {"from": 0} and (tmp_path / "b" / "f").read_bytes() == CONTENT


def test_a_writer_left_behind_by_a_cut_is_ended(tmp_path, answers):
    process = subprocess.Popen(["sleep", "60"])
    write_json(tmp_path / "b" / "f.writer", identity(process.pid))
    put(file_request(tmp_path), io.BytesIO(CONTENT))
    assert process.wait() == -15


def test_json_is_whole_at_any_time(tmp_path):
    path, wrong = tmp_path / "x.json", []

    def look():
        while not done.is_set():
            if read_json(path) not in ([0] * 5000, [1] * 5000):
                wrong.append(1)

    write_json(path, [0] * 5000)
    done = threading.Event()
    looking = threading.Thread(target=look)
    looking.start()
    for i in range(60):
        write_json(path, [i % 2] * 5000)
    done.set()
    looking.join()
    assert not wrong


def test_the_wheel_is_installed_without_pip_and_again_after_another_python(tmp_path, wheel):
    request = {"folder": str(tmp_path), "environment": "venv-1", "wheel": str(wheel)}
    install(request)
    python = tmp_path / "venv-1" / "bin" / "python"
    code = "import rmt_edge.errors, sys; print(rmt_edge.__file__)"
    found = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert found.startswith(str(site_packages(tmp_path / "venv-1")))
    marker = tmp_path / "venv-1" / "installed.json"
    before = marker.stat().st_mtime_ns
    install(request)
    assert marker.stat().st_mtime_ns == before
    write_json(marker, {"python": "3.9", "executable": sys.executable})
    (site_packages(tmp_path / "venv-1") / "stale.py").touch()
    install(request)
    assert not (site_packages(tmp_path / "venv-1") / "stale.py").exists()


def test_records_come_back_but_for_those_that_are_known(tmp_path, answers):
    folder = tmp_path / "runs" / "r" / "records"
    write_json(folder / "15W" / "a.json", {"a": "x" * 100_000})
    write_json(folder / "15W" / "b.json", {})
    there = records({"folder": str(tmp_path), "run": "r", "known": {}})["records"]
    assert sorted(there) == ["15W/a.json", "15W/b.json"] and len(answers) == 3
    answers.clear()
    records({"folder": str(tmp_path), "run": "r", "known": there})
    assert answers == []


def test_the_home_folder_is_where_a_relative_folder_lies(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert remote.work_folder("a/b") == tmp_path / "a/b" and str(remote.work_folder("/a")) == "/a"
