"""The command of many boards: its exit status, what it asks, and which run it means."""

import sys

import pytest

from rmt_edge.fleet import look, plan, run
from tests.bundles import write_bundle
from tests.commands import call


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "boards.toml").write_text(f'[a]\nssh = "a"\nruns = "onnx"\npython = "{sys.executable}"\n')
    write_bundle(tmp_path / "b.rmtedge")
    return tmp_path


def fleet(capsys, *arguments):
    return call(capsys, "fleet", "boards.toml", *arguments)


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A file in the place of the wheel: nothing is sent here (tests/fleet/test_plan.py holds it to the tree)."""
    monkeypatch.setattr(plan, "check_wheel", lambda path: None)
    path = tmp_path / "w.whl"
    path.touch()
    return path


@pytest.fixture
def ran(monkeypatch):
    """The runs in the place of those over ssh; what is wrong by board is in `wrong`."""
    wrong, seen = {}, []

    def took(opened):
        seen.append(opened)
        return {"a": ""} | wrong

    monkeypatch.setattr(run, "run_fleet", took)
    monkeypatch.setattr(look, "status", took)
    return wrong, seen


def test_a_run_prints_its_page_and_what_failed_is_2(folder, capsys, ran, wheel):
    status, out, _ = fleet(capsys, "run", "b.rmtedge", "--wheel", wheel)
    assert status == 0 and out[0].endswith("fleet.html") and (folder / out[0]).is_file()
    ran[0]["a"] = "a is ill.\nSee to it."
    status, _, err = fleet(capsys, "run", "b.rmtedge", "--wheel", wheel)
    assert status == 2 and "a is ill.\nSee to it." in err


def test_a_limit_that_is_not_kept_is_1(folder, capsys, ran, wheel):
    fleet(capsys, "run", "b.rmtedge", "--wheel", wheel)
    ran[1][-1].note(ran[1][-1].boards[0], is_within_limits=False)
    status, _, err = fleet(capsys, "run", "b.rmtedge", "--wheel", wheel)
    assert status == 1 and "not kept on a" in err


def test_a_second_run_has_the_options_and_the_name_of_the_first(folder, capsys, ran, wheel):
    fleet(capsys, "run", "b.rmtedge", "--wheel", wheel, "--duration", "3", "--batch", "1", "8")
    fleet(capsys, "run", "--wheel", wheel)
    fleet(capsys, "status")
    first, second, third = ran[1]
    assert first.options == second.options == third.options and second.options.batch == (1, 8)
    assert first.run == second.run == third.run
    fleet(capsys, "run", "b.rmtedge", "--wheel", wheel, "--again")
    assert ran[1][-1].run != first.run and ran[1][-1].options == first.options


def test_a_run_that_is_not_there_is_an_error(folder, capsys):
    status, _, err = fleet(capsys, "status")
    assert status == 2 and "There is no run in fleet" in err


def test_power_modes_are_agreed_to_first(folder, capsys, ran, wheel, monkeypatch):
    arguments = ("run", "b.rmtedge", "--wheel", wheel, "--power-modes", "15W")
    status, _, err = fleet(capsys, *arguments)
    assert status == 2 and "a: 15W" in err and "--yes" in err and not ran[1]
    assert fleet(capsys, *arguments, "--yes")[0] == 0

    class Terminal:
        def __init__(self, answer):
            self.answer = answer

        def isatty(self):
            return True

        def readline(self):
            return self.answer

    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    status, _, err = fleet(capsys, *arguments)
    assert status == 2 and "sudo nvpmodel -m" in err and "Nothing was run" in err
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    assert fleet(capsys, *arguments)[0] == 0
