"""What a run is: its options, its files, and a board's steps as commands that the command line takes."""

import shutil
import zipfile

import pytest

from rmt_edge.cli import _parser
from rmt_edge.cli import fleet as cli_fleet
from rmt_edge.errors import RmtEdgeError
from rmt_edge.fleet.boards import Board
from rmt_edge.fleet.plan import STEPS, Options, check_wheel, plan_hash, plan_of, read_cargo, steps_of
from tests.bundles import write_bundle

ENGINES = Board("orin", "orin", device="jetson-orin-nano-8gb")
ONNX = Board("pc", "pc", runs="onnx")


@pytest.fixture
def cargo(tmp_path, wheel):
    return read_cargo(write_bundle(tmp_path / "b.rmtedge"), wheel)


def test_the_command_lines_steps_are_the_plans():
    assert cli_fleet.STEPS == STEPS


@pytest.mark.parametrize(
    ("board", "asked", "steps"),
    [
        (ENGINES, STEPS, ["build", "validate", "bench", "verdict"]),
        (ENGINES, ("verdict",), ["build", "bench", "verdict"]),
        (ENGINES, ("validate",), ["build", "validate"]),
        (ENGINES, ("build",), ["build"]),
        (ONNX, STEPS, ["validate", "bench", "verdict"]),
        (Board("pc", "pc", runs="onnx", device="rtx-portable"), STEPS, ["build", "validate", "bench", "verdict"]),
        (ONNX, ("bench",), ["bench"]),
    ],
)
def test_steps_bring_those_that_they_need(board, asked, steps):
    assert steps_of(board, Options(steps=asked)) == steps


def words(item):
    return item if isinstance(item, str) else f"FILE{item['suffix']}"


@pytest.mark.parametrize("board", [ENGINES, ONNX], ids=["engines", "onnx"])
def test_every_step_is_a_command_that_there_is(cargo, board):
    options = Options(
        power_modes=("15W", "25W"), recipes=("fp16",), kernels="native", batch=(1, 8), duration=2.0, max_drop=1
    )
    for step in plan_of(board, options, cargo, "/w")["steps"]:
        assert step["argv"][1:3] == ["-m", "rmt_edge.cli"]
        _parser().parse_args([words(x) for x in step["argv"][3:]])  # ends the test where it cannot be read


def test_each_power_mode_has_records_of_its_own(cargo):
    steps = plan_of(ENGINES, Options(power_modes=("15W", "25W", "15W")), cargo, "/w")["steps"]
    assert [x["name"] for x in steps] == [
        "unpack", "build", "validate", "bench-15W", "verdict-15W", "bench-25W", "verdict-25W"
    ]  # fmt: skip
    assert [(x["power_mode"], x["into"]) for x in steps if x["name"].startswith("bench")] == [
        ("15W", "records/15W"), ("25W", "records/25W")
    ]  # fmt: skip
    default = plan_of(ENGINES, Options(), cargo, "/w")["steps"]
    assert default[3]["power_mode"] is None and default[3]["into"] == "records/default"


def test_a_limit_that_is_not_kept_does_not_end_a_run_but_a_failure_does(cargo):
    fine = {x["name"]: x["fine"] for x in plan_of(ENGINES, Options(), cargo, "/w")["steps"]}
    assert fine == {"unpack": [0], "build": [0], "validate": [0, 1], "bench": [0], "verdict": [0]}


def test_the_same_work_has_the_same_hash_and_other_work_another(cargo):
    same = plan_hash(ENGINES, Options(), cargo)
    assert same == plan_hash(Board("orin", "orin", device="jetson-orin-nano-8gb"), Options(), cargo)
    others = [
        plan_hash(ENGINES, Options(duration=1.0), cargo),
        plan_hash(Board("orin", "orin", device="jetson-orin-nx-8gb"), Options(), cargo),
        plan_hash(Board("orin", "other", device="jetson-orin-nano-8gb"), Options(), cargo),
    ]
    assert len({same, *others}) == 4


def test_a_profile_of_the_users_own_goes_along(cargo, tmp_path):
    from rmt_edge.device.profile import load_profile
    from rmt_edge.settings import settings_folder

    path = shutil.copy(settings_folder("engines") / "jetson-orin-nano-8gb.toml", tmp_path / "mine.toml")
    board = Board("orin", "orin", device=str(path))
    (build,) = [x for x in plan_of(board, Options(), cargo, "/w")["steps"] if x["name"] == "build"]
    device = build["argv"][build["argv"].index("--device") + 1]
    assert device.startswith("/w/profiles/") and device.endswith("/mine.toml") and load_profile(path)


def test_options_are_held_to_what_there_is(cargo):
    with pytest.raises(RmtEdgeError, match="--steps is 'deploy'"):
        Options(steps=("deploy",))
    with pytest.raises(RmtEdgeError, match="power mode"):
        Options(power_modes=("-m 0",))
    with pytest.raises(RmtEdgeError, match="no recipe int9"):
        plan_of(ENGINES, Options(recipes=("int9",)), cargo, "/w")


def test_a_wheel_of_another_state_is_refused(tmp_path, wheel):
    check_wheel(wheel)
    other = tmp_path / wheel.name
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(other, "w") as target:
        for name in source.namelist():
            changed = b"# changed\n" if name == "rmt_edge/errors.py" else b""
            target.writestr(name, changed + source.read(name))
    with pytest.raises(RmtEdgeError, match=r"another state of rmt-edge than this: rmt_edge/errors\.py differs"):
        check_wheel(other)
    with pytest.raises(RmtEdgeError, match="There is no wheel"):
        check_wheel(tmp_path / "none.whl")
    other.write_bytes(b"no zip")
    with pytest.raises(RmtEdgeError, match="cannot be read"):
        check_wheel(other)
    with pytest.raises(RmtEdgeError, match="is no bundle"):
        read_cargo(tmp_path / "b.zip", wheel)
