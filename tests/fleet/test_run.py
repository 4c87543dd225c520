"""A run on boards from its beginning to its end, with an `ssh` that stays here and steps that are short."""

import dataclasses
import io
import json
import sys
import time

import pytest

from rmt_edge.errors import RmtEdgeError
from rmt_edge.fleet import look, run
from rmt_edge.fleet.fleet import DONE, FAILED, LOST, RUNNING, STOPPED, UNREACHABLE, only_here
from rmt_edge.fleet.page import write_page
from rmt_edge.fleet.remote import read_json, write_json
from rmt_edge.fleet.run import outcome_of, run_fleet
from rmt_edge.fleet.table import View
from tests.bundles import write_bundle
from tests.fleet.plans import open_short, wrong_with


@pytest.fixture
def short(tmp_path, wheel, stand_in):
    """Opens the run of these boards."""
    bundle = write_bundle(tmp_path / "b.rmtedge")

    def opened(*names, **options):
        boards = "".join(f'[{x}]\nssh = "{x}"\nruns = "onnx"\npython = "{sys.executable}"\n' for x in names)
        (tmp_path / "boards.toml").write_text(boards)
        return open_short(
            tmp_path / "boards.toml", bundle, wheel, tmp_path / "fleet", View(out=io.StringIO()), 3, **options
        )

    return opened


def there_of(stand_in, fleet, name):
    return stand_in.home(name) / "rmt-edge-fleet" / "runs" / fleet.run


def status_of(fleet, name):
    return fleet.known_of(fleet.folder / name / "board.json")["status"]


def test_boards_run_side_by_side_and_what_is_wrong_with_one_is_its_own(short, stand_in):
    stand_in.says("lost", "lost: Permission denied (publickey).\n")
    fleet = short("a", "lost")
    found = run_fleet(fleet)
    assert found["a"] == "" and "accepts no key of yours" in found["lost"]
    assert wrong_with(fleet.folder / "a", there_of(stand_in, fleet, "a"), "a") == []
    assert (status_of(fleet, "a"), status_of(fleet, "lost")) == (DONE, FAILED)
    # Nothing outside the folder, no lock left, and no second look at what is done.
    assert [x.name for x in stand_in.home("a").iterdir()] == ["rmt-edge-fleet"]
    assert not (stand_in.home("a") / "rmt-edge-fleet" / "lock.json").exists()
    calls = stand_in.calls("a")
    assert run_fleet(short("a"))["a"] == "" and stand_in.calls("a") == calls
    page = write_page(fleet).read_text()
    assert "1 of 2 boards done" in page and "accepts no key of yours" in page and "onnxruntime" in page
    # status, fetch and stop of a run that has ended change nothing.
    assert look.status(short("a")) == look.stop(short("a")) == look.fetch(short("a")) == {"a": ""}
    assert status_of(fleet, "a") == DONE


@pytest.mark.slow
def test_what_happens_while_nobody_looks_is_fetched_later(short, stand_in, monkeypatch):
    """The workstation goes away in the middle; the board goes on; a later look, fetch and run find it."""

    async def gone(*arguments):
        raise KeyboardInterrupt

    fleet = short("a", pause_s=0.3)
    monkeypatch.setattr(run, "follow", gone)
    with pytest.raises(KeyboardInterrupt):
        run_fleet(fleet)
    monkeypatch.undo()
    monkeypatch.setenv("PATH", f"{stand_in.bin}:/usr/bin:/bin")
    view = View(out=io.StringIO())
    assert look.status(dataclasses.replace(fleet, view=view)) == {"a": ""}
    assert view.rows["a"].step.startswith("step") and "of 2 steps" in view.rows["a"].note
    there = there_of(stand_in, fleet, "a")
    limit = time.monotonic() + 60
    while read_json(there / "step1" / "status.json") is None:
        assert time.monotonic() < limit
        time.sleep(0.1)
    assert look.fetch(fleet) == {"a": ""}
    assert wrong_with(fleet.folder / "a", there, "a") == [] and status_of(fleet, "a") == DONE


@pytest.mark.slow
def test_a_stopped_run_says_so_and_goes_on_when_it_is_run_again(short, stand_in):
    fleet = short("a", pause_s=0.2)
    there = there_of(stand_in, fleet, "a")

    def tell(self, board, **changes):
        if changes.get("step") == "step1":
            stop_there(stand_in, fleet)

    fleet.view.tell = tell.__get__(fleet.view)
    found = run_fleet(fleet)
    assert "was stopped" in found["a"] and status_of(fleet, "a") == FAILED
    assert run_fleet(short("a", pause_s=0.2)) == {"a": ""}
    assert (there / "executions.txt").read_text() == "0\n1\n"  # the first step was not run again


def stop_there(stand_in, fleet):
    from rmt_edge.fleet.supervise import stop

    stop({"folder": str(stand_in.home("a") / "rmt-edge-fleet"), "run": fleet.run})


def test_another_run_on_the_board_is_named_and_ended_only_when_that_is_asked(short, stand_in, tmp_path):
    work = stand_in.home("a") / "rmt-edge-fleet"
    import time as clock

    from rmt_edge.fleet.remote import boot

    lock = {"run": "another", "owner": "eve on laptop", "since": "noon", "boot": boot()}
    write_json(work / "lock.json", lock | {"uptime": clock.clock_gettime(clock.CLOCK_BOOTTIME)})
    fleet = short("a")
    found = run_fleet(fleet)
    assert "used by another fleet run: eve on laptop since noon" in found["a"] and "--others" in found["a"]
    assert not (work / "wheels").exists()  # nothing was copied
    look.stop(fleet)
    assert (work / "lock.json").exists()
    look.stop(fleet, others=True)
    assert not (work / "lock.json").exists()


def test_a_board_that_does_not_answer_is_left_after_a_while(short, stand_in):
    stand_in.says("a", "ssh: connect to host a port 22: No route to host\n")
    fleet = short("a")
    found = run_fleet(fleet)
    assert "has not answered for" in found["a"] and "No route to host" in found["a"]
    assert status_of(fleet, "a") == UNREACHABLE and stand_in.calls("a") >= 3


def test_a_record_of_another_bundle_is_refused(short, stand_in):
    fleet = short("a")
    wrong = short("a").plan
    foreign = dataclasses.replace(fleet, plan=lambda *x: json.loads(json.dumps(wrong(*x)).replace(
        fleet.cargo.index.sha256_of("m.onnx"), "f" * 64)))  # fmt: skip
    found = run_fleet(foreign)
    assert "m.onnx is neither in the bundle nor built from it" in found["a"]
    assert list((fleet.folder / "a").glob("*/*.json")) == []


def test_two_processes_do_not_follow_one_run(short):
    fleet = short("a")
    with only_here(fleet), pytest.raises(RmtEdgeError, match="Another process follows this run"):
        run_fleet(fleet)


@pytest.mark.parametrize(
    ("runs", "codes", "outcome"),
    [
        (True, [0, None], RUNNING), (False, [0, 0], DONE), (False, [0, None], LOST), (False, [3, None], FAILED),
        (False, ["stopped", None], STOPPED), (True, [3, None], RUNNING), (False, [], LOST),
    ],
)  # fmt: skip
def test_a_state_in_one_word(runs, codes, outcome):
    statuses = {None: None, "stopped": {"rc": 2, "stopped": True}}
    steps = [{"fine": [0], "status": statuses.get(x, {"rc": x, "stopped": False})} for x in codes]
    assert outcome_of({"runs": runs, "steps": steps}) == outcome
