"""What is refused before anything is copied, and after the doctor there."""

import copy

import pytest

from rmt_edge.device.doctor import diagnose
from rmt_edge.device.machine import Gpu, Machine
from rmt_edge.errors import RmtEdgeError
from rmt_edge.fleet.boards import Board
from rmt_edge.fleet.checks import CLOCK_SECONDS, check_doctor, check_probe
from rmt_edge.fleet.plan import Cargo, Options
from tests.bundles import FILES, index_of, write_bundle

ORIN = Board("orin", "orin", device="jetson-orin-nano-8gb")
PROBE = {
    "work": "/home/n/rmt-edge-fleet", "free_mib": 20000, "memory_mib": 7620, "is_writable": True, "has_venv": True,
    "modules": ["numpy", "tqdm", "tensorrt"], "has_bundle": False, "power_mode": "15W",
    "power_modes": {"15W": "0", "25W": "1"},
}  # fmt: skip


@pytest.fixture
def cargo(tmp_path):
    bundle = write_bundle(tmp_path / "b.rmtedge")
    index = index_of(FILES, libraries={"aarch64": {}})
    return Cargo(bundle, "a" * 64, index, bundle, "b" * 64)


def probed(cargo, board=ORIN, options=None, ahead_s=0.0, **changes):
    check_probe(board, options or Options(), cargo, PROBE | changes, ahead_s)


def test_a_board_that_can_serve_passes(cargo):
    probed(cargo)
    probed(cargo, options=Options(power_modes=("15W", "25W")))
    probed(cargo, ahead_s=CLOCK_SECONDS - 1)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"ahead_s": -40 * 365.25 * 86400}, r"clock of orin is 350640\.0 h behind"),
        ({"ahead_s": 300.0}, r"clock of orin is 300 s ahead"),
        ({"modules": ["tensorrt"]}, r"no numpy and no tqdm.*\n.*\n.*python3-numpy python3-tqdm"),
        ({"modules": ["numpy", "tqdm"]}, r"no TensorRT"),
        ({"has_venv": False}, "python3-venv"),
        ({"is_writable": False}, "cannot be written"),
        ({"free_mib": 900}, r"900 MiB are free on the disk of /home/n/rmt-edge-fleet on orin"),
        ({"memory_mib": 3800}, r"3800 MiB of memory; .* has 8 GiB"),
        ({"options": Options(power_modes=("MAXN",))}, r"no power mode MAXN.\n.*15W, 25W"),
        ({"options": Options(power_modes=("15W",)), "power_modes": {}}, "no nvpmodel"),
        ({"board": Board("pc", "pc", runs="onnx")}, "no ONNX Runtime"),
    ],
)
def test_what_a_board_lacks_is_said_with_what_mends_it(cargo, changes, match):
    with pytest.raises(RmtEdgeError, match=match):
        probed(cargo, **changes)


def test_what_is_there_already_needs_no_room_and_what_is_not_built_neither(cargo):
    probed(
        cargo, Board("pc", "pc", runs="onnx"), free_mib=33, has_bundle=True, modules=["numpy", "tqdm", "onnxruntime"]
    )


GPU = Gpu("Orin", "8.7", 7620, 5000, "540.4.0", "12.6", is_memory_shared=True)
MACHINE = Machine(
    platform="Linux", processor="aarch64", board="NVIDIA Jetson Orin Nano Developer Kit", jetpack="6.2",
    power_mode="15W", gpus=(GPU,), memory_mib=7620, free_memory_mib=5000, python="3.10.12",
    tensorrt={"tensorrt": "10.3.0"}, l4t="36.4.3",
)  # fmt: skip


@pytest.fixture(scope="module")
def diagnosis():
    """What doctor would print on an Orin Nano where all is well: its own words about a machine on paper."""
    found = diagnose(MACHINE, {}).to_dict()
    library = "build/plugin/librmt_edge_plugin_aarch64.so is not there."
    lack = {"what": library, "do": "unpack a bundle"}
    ready: dict = {"is_ready": True, "lacks": []}
    names = ("validate engine", "bench engine", "validate onnx", "bench onnx")
    return found | {"commands": {"build": {"is_ready": False, "lacks": [lack]}} | {x: ready for x in names}}


def test_a_board_that_its_doctor_finds_well_passes(cargo, diagnosis):
    check_doctor(ORIN, Options(), cargo, diagnosis)
    check_doctor(Board("orin", "orin"), Options(), cargo, diagnosis)


def test_the_doctors_words_are_passed_on(cargo, diagnosis):
    ill = copy.deepcopy(diagnosis)
    ill["commands"]["bench engine"]["lacks"] = [{"what": "pycuda is not installed.", "do": "pip install pycuda"}]
    with pytest.raises(RmtEdgeError, match=r"orin is not ready: pycuda is not installed.\n.*\npip install pycuda"):
        check_doctor(ORIN, Options(), cargo, ill)
    check_doctor(ORIN, Options(steps=("build",)), cargo, ill)  # which does not need it


def test_another_device_than_boards_toml_says_is_refused(cargo, diagnosis):
    with pytest.raises(RmtEdgeError, match=r"orin is no jetson-agx.*: .*\n.*jetson-orin-nano-8gb"):
        check_doctor(Board("orin", "orin", device="jetson-agx-orin-64gb"), Options(), cargo, diagnosis)
    none = diagnosis | {"profiles": [x | {"why_not": "no GPU here"} for x in diagnosis["profiles"]]}
    with pytest.raises(RmtEdgeError, match="No device profile fits"):
        check_doctor(Board("orin", "orin"), Options(), cargo, none)


def test_a_bundle_without_the_boards_library_is_refused_unless_kernels_are_tensorrts(cargo, diagnosis):
    other = copy.deepcopy(diagnosis)
    other["machine"]["processor"] = "x86_64"
    other["commands"]["build"]["lacks"] = []
    with pytest.raises(RmtEdgeError, match=r"no plugin library for orin, which is x86_64.\n.*it has aarch64"):
        check_doctor(ORIN, Options(), cargo, other)
    check_doctor(ORIN, Options(kernels="native"), cargo, other)
