"""Boards with a real sshd: cables that are pulled, power that goes, a full disk, a strange host key.

The steps are the real commands, as far as a machine without a GPU goes; in the tests of many faults they are short.
"""

import io
import os
import sys
import threading
import time

import pytest

from rmt_edge.bundle.pack import pack
from rmt_edge.fleet import fleet as fleet_module
from rmt_edge.fleet import ssh
from rmt_edge.fleet.boards import read_boards
from rmt_edge.fleet.fleet import DONE, FAILED, open_fleet
from rmt_edge.fleet.page import collect, write_page
from rmt_edge.fleet.plan import Options, read_cargo
from rmt_edge.fleet.run import run_fleet
from rmt_edge.fleet.table import View
from rmt_edge.graph.export import export
from rmt_edge.quantization.quantize import quantize
from rmt_edge.quantization.recipe import load_recipe
from tests.bundles import write_bundle
from tests.conftest import REFERENCE
from tests.fleet.faults import KINDS, Workstation, trouble, wrong
from tests.fleet.namespaces import drawer, why_not
from tests.fleet.plans import open_short, wrong_with

REASON = why_not()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON or "boards in namespaces are to be had")
CHECKPOINT = REFERENCE / "rmt_nano_fashion_mnist.safetensors"


@pytest.fixture
def boards(tmp_path, monkeypatch):
    with drawer(tmp_path / "drawer") as found:
        monkeypatch.setenv("PATH", f"{found.bin}:{os.environ['PATH']}")
        yield found


@pytest.fixture
def quick(monkeypatch):
    """A cut is noticed, and given up on, sooner."""
    monkeypatch.setattr(ssh, "ALIVE_SECONDS", 1)
    monkeypatch.setattr(ssh, "CONNECT_SECONDS", 2)
    monkeypatch.setattr(fleet_module, "LONGEST_WAIT", 1.0)


class At(View):
    """A table that calls when a board comes to a step, once."""

    def __init__(self, **calls):
        super().__init__(out=io.StringIO())
        self.calls = calls

    def tell(self, board, **changes):
        super().tell(board, **changes)
        call = self.calls.pop(f"{board}_{changes.get('step')}", None)
        if call is not None:
            call()


def later(seconds, *calls):
    """Do something in a while, from another thread: what happens to boards happens while they are followed."""

    def run():
        for call in calls:
            time.sleep(seconds)
            call()

    return threading.Thread(target=run, daemon=True).start


def run_of(fleet, board):
    return board.home / "rmt-edge-fleet" / "runs" / fleet.run


@pytest.fixture(scope="module")
def reference_bundle(tmp_path_factory):
    """The trained nano model in FP16 and INT8 with 16 images."""
    folder = tmp_path_factory.mktemp("reference")
    onnx = [
        export(quantize(CHECKPOINT, load_recipe(name), folder, REFERENCE / "calibration.npz"), folder)
        for name in ("fp16", "int8")
    ]
    return pack(
        list(onnx), CHECKPOINT, REFERENCE / "test.npz", output=folder / "n.rmtedge", images=16, architectures=()
    )


@pytest.mark.slow
def test_four_boards_by_the_real_commands(tmp_path, boards, wheel, reference_bundle, quick):
    """One loses its power in the middle of a bench, one its cable; both finish. The others say what is wrong."""
    killed, cut = boards.add("killed", power=True), boards.add("cut", power=True)
    boards.add("full", small_mib=3)
    changed = boards.add("changed")
    changed.new_host_key()  # after it became known
    changed.reboot()
    toml = boards.boards_toml(tmp_path / "boards.toml", runs="onnx", device="rtx-portable", python=sys.executable)
    text = toml.read_text().replace("[full]\n", '[full]\nfolder = "small"\n')
    text = text.replace("[killed]\n", '[killed]\npower_mode = "25W"\n')
    toml.write_text(text)
    cut_and_healed = later(0.5, cut.cut, *[lambda: None] * 11, cut.heal)
    view = At(**{"killed_bench-25W": later(1, killed.reboot), "cut_validate": cut_and_healed})
    options = Options(batch=(1,), duration=0.3, kernels="native")
    fleet = open_fleet(read_boards(toml), options, read_cargo(reference_bundle, wheel), tmp_path / "out", view=view)
    found = run_fleet(fleet)
    assert found["killed"] == "" and found["cut"] == ""
    assert "MiB are free on the disk" in found["full"] and "The host key of changed" in found["changed"]
    content = collect(fleet)
    assert {name: x["status"] for name, x in content["boards"].items()} == {
        "killed": DONE, "cut": DONE, "full": FAILED, "changed": FAILED
    }  # fmt: skip
    for name, mode in (("killed", "25W"), ("cut", "default")):
        records = content["boards"][name]["modes"][mode]
        assert len(records["latency"]) == 2 and records["verdicts"][0]["rows"][0]["verdict"] in ("fp16", "int8")
        assert all(x["within_max_drop"] for x in content["boards"][name]["accuracy"].values())
    # Engines were built there, for RTX GPUs, and their manifests tell of which file.
    engines = list(killed.home.rglob("*.engine"))
    assert len(engines) == 2
    # The power went while 25W was set, and nvpmodel keeps it: it was set back all the same.
    assert (killed.folder / "mode").read_text() == "15W\n"
    assert (killed.folder / "modes_set").read_text().split() == ["25W", "15W", "25W", "15W"]
    for board in (killed, cut):
        assert [x.name for x in board.home.iterdir()] == ["rmt-edge-fleet"], "something is left outside the folder"
        assert list((board.folder / "tmp").iterdir()) == []
    assert list((boards.boards["full"].home / "small").iterdir()) == []
    assert list(changed.home.iterdir()) == []
    page = write_page(fleet).read_text()
    assert all(x in page for x in ("25W", "tensorrt_rtx 1.7", "The host key of changed", "J/image"))


def short_fleet(tmp_path, boards, wheel, view=None, **sizes):
    bundle = write_bundle(tmp_path / "b.rmtedge")
    toml = boards.boards_toml(tmp_path / "boards.toml", runs="onnx", python=sys.executable)
    return open_short(toml, bundle, wheel, tmp_path / "out", view or View(out=io.StringIO()), 60, **sizes)


@pytest.mark.slow
def test_a_board_over_a_real_connection(tmp_path, boards, wheel, capsys, quick):
    """The host key is unknown at first, then known; the cable is pulled in the middle of a log and put back."""
    board = boards.add("one")
    boards.write_config(known=False)
    (boards.folder / "known_hosts").write_text("")
    fleet = short_fleet(tmp_path, boards, wheel, lines=20, pause_s=0.2)
    assert "The host key of one (one) is not known here" in run_fleet(fleet)["one"]
    boards.write_config()
    view = At(one_step0=later(1, board.cut, *[lambda: None] * 4, board.heal))
    fleet = short_fleet(tmp_path, boards, wheel, view, lines=20, pause_s=0.2)
    assert run_fleet(fleet) == {"one": ""}
    assert wrong_with(fleet.folder / "one", run_of(fleet, board), "one", lines=20) == []


def test_a_key_that_the_board_does_not_take(tmp_path, boards, wheel):
    board = boards.add("one")
    (board.folder / "authorized_keys").write_text("")
    assert "accepts no key of yours" in run_fleet(short_fleet(tmp_path, boards, wheel))["one"]
    assert list(board.home.iterdir()) == []


@pytest.mark.slow
def test_twenty_faults_at_random_lose_double_and_spoil_nothing(tmp_path, boards, wheel):
    """Three boards, and cables, power, supervisors and the workstation go at random (bench/fleet_soak.py: 200)."""
    for name in ("a", "b", "c"):
        boards.add(name)
    bundle = write_bundle(tmp_path / "b.rmtedge")
    toml = boards.boards_toml(tmp_path / "boards.toml", runs="onnx", python=sys.executable)
    steps, lines = 3, 12
    arguments = [toml, bundle, wheel, tmp_path / "out", steps, lines, 0.3]
    workstation = Workstation(arguments, os.environ["PATH"], tmp_path / "log")
    done = trouble(boards, workstation, count=20, seed=1, pause_s=(0.3, 1.5))
    assert workstation.process.wait(timeout=120) == 0, (tmp_path / "log").read_text()
    (folder,) = (tmp_path / "out").glob("b-*")
    assert wrong(boards, folder, steps, lines) == []
    # A supervisor is seldom there to be killed, so often does the power go; test_supervise.py kills one for sure.
    assert sum(done.values()) >= 10 and set(done) >= set(KINDS) - {"supervisor"}, done
