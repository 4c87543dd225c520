"""The page of all boards: what it says, and what it does not let a board do to it."""

import io
import json
import re

import pytest

from rmt_edge.fleet.boards import Board
from rmt_edge.fleet.fleet import DONE, FAILED, Fleet
from rmt_edge.fleet.page import collect, page, write_page
from rmt_edge.fleet.plan import Cargo, Options
from rmt_edge.fleet.records import take_in
from rmt_edge.fleet.table import View
from tests.bundles import FILES, index_of, write_bundle
from tests.fleet.test_records import ENGINE_SHA, engine_json, predictions_json
from tests.latency_records import MACHINE, make_run, write_record

HOSTILE = '<script>alert("x")</script>'
SEEN = {"energy_per_image_j": 0.0123, "power_w": 7.5, "temperature_c": {"min": 40.0, "mean": 45.0, "max": 51.5}}


@pytest.fixture
def fleet(tmp_path):
    bundle = write_bundle(tmp_path / "b.rmtedge")
    cargo = Cargo(bundle, "a" * 64, index_of(FILES), bundle, "b" * 64)
    boards = [Board("orin-1", "orin-1"), Board("broken", "broken")]
    made = Fleet(boards, Options(), cargo, tmp_path / "fleet", "run", tmp_path, View(out=io.StringIO()))
    contents = {"validate/m.predictions.npz.json": predictions_json()}
    for mode, median in (("15W", 3.25), ("25W", 1.75)):
        machine = MACHINE | {"power_mode": mode}
        runs = [make_run([median] * 9, telemetry=SEEN), make_run([2 * median] * 9, cuda_graph=False)]
        path = write_record(tmp_path / "r.json", "m.engine", runs, ENGINE_SHA, machine=machine)
        contents |= {f"{mode}/m.latency.json": path.read_bytes(), f"{mode}/m.engine.json": engine_json()}
    made.note(boards[0], status=DONE, run="run", machine=MACHINE, error="", is_within_limits=False)
    take_in(made.place(boards[0]), "orin-1", contents, cargo.index, MACHINE)
    made.note(boards[1], status=FAILED, run="run", error=f"broken is not ready: {HOSTILE}")
    return made


def test_boards_and_power_modes_stand_side_by_side(fleet):
    text = page(collect(fleet))
    for said in ("1 of 2 boards done", "JetPack", "6.2", "tensorrt 10.3.0", "15W, 25W", "3.250", "1.750", "0.0123",
                 "51.5", "92.00 (top-1)", "+0.00 (-0.50 to +0.50)", "a limit of accuracy was not kept"):  # fmt: skip
        assert said in text, said
    assert "6.500" not in text  # the run without a CUDA graph is not the one to compare


def test_what_a_board_says_is_no_markup(fleet):
    text = page(collect(fleet))
    assert HOSTILE not in text and "&lt;script&gt;" in text


def test_the_file_loads_nothing_and_the_json_holds_no_samples(fleet):
    path = write_page(fleet)
    assert not re.search(r"(src|href)=\"(?!#)|@import|url\((?!#)", path.read_text())
    content = json.loads(path.with_suffix(".json").read_text())
    assert content["boards"]["orin-1"]["modes"]["15W"]["latency"][0]["runs"][0]["p50_ms"] == 3.25
    assert "samples_ms" not in path.with_suffix(".json").read_text()


def test_columns_of_which_nothing_is_known_are_left_out_and_named(fleet):
    content = collect(fleet)
    for mode in content["boards"]["orin-1"]["modes"].values():
        for record in mode["latency"]:
            for run in record["runs"]:
                run["telemetry"] = None
    text = page(content)
    assert ">J/image</th>" not in text and "Nowhere known: J/image, W, highest °C." in text


def test_boards_of_an_earlier_run_are_not_on_the_page(fleet):
    old = Board("old", "old")
    fleet.note(old, status=DONE, run="an earlier one")
    assert "old" not in collect(fleet)["boards"]
