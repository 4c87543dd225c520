"""Which of the embedded images a GPU gets, and what follows when its driver refuses one.

The library here is the real C++ around one kernel whose images say what they are, in place of code.
"""

import platform

import pytest

from rmt_edge.plugin import cxx
from rmt_edge.plugin.cxx import KernelImage
from tests.plugin.standin_machine import include_flags

CUBINS, EXACT_CUBINS, PTX = (80, 86, 87, 89), (90, 110), (80, 89)
LOAD = "assert library.rmt_retention_load(32, 0, 1, 0, 0) == 0"
LOAD_REFUSED = "assert library.rmt_retention_load(32, 0, 1, 0, 0) != 0"


def image(sm, is_ptx, is_exact=False, symbol="retention_kernel"):
    data = f"{'ptx' if is_ptx else 'cubin'} {sm}\0".encode()
    return KernelImage("retention_whole_d32_fp16_t4", symbol, sm, is_ptx, is_exact, 0, 128, (64, 64, 0), data)


def image_of_lines():
    """Of raw products of 8 bits the CUDA kernel alone, for grids of lines of 7."""
    return KernelImage(
        "retention_whole_d32_r7_raw8", "retention_lines", 86, False, False, 0, 128, (7, 4, 80), b"cubin 86\0"
    )


def library_of(folder, images):
    path = folder / "library.so"
    cxx.write_generated(folder / "generated", images, {"ops": []}, "hash")
    include = [x.removeprefix("-isystem") for x in include_flags()]
    cxx.compile_library(platform.machine(), folder / "generated", include, path)
    return path


@pytest.fixture(scope="session")
def many_images(standin, tmp_path_factory):
    """Shuffled, so that their order in the table decides nothing."""
    images = [image(sm, True) for sm in PTX] + [image(sm, False, True) for sm in EXACT_CUBINS]
    images += [image(sm, False) for sm in (86, 80, 89, 87)] + [image_of_lines()]
    return library_of(tmp_path_factory.mktemp("many"), images)


def tried(calls):
    return [x["load"] for x in calls if "load" in x]


FIRST_CHOICE = {80: "cubin 80", 86: "cubin 86", 87: "cubin 87", 89: "cubin 89", 90: "cubin 90", 110: "cubin 110",
                88: "cubin 86", 103: "ptx 89", 121: "ptx 89", 91: "ptx 89"}  # fmt: skip


@pytest.mark.parametrize("sm", FIRST_CHOICE)
def test_gpu_gets_the_image_that_suits_it_best(standin, many_images, sm):
    calls, message = standin.python(LOAD, library=many_images, sm=sm)
    assert tried(calls) == [FIRST_CHOICE[sm]]
    assert message == ""


# Everything that a GPU of that SM may get, in order. Tegra's 8.7 shares cubins with no other.
ALL_CHOICES = {
    89: ["cubin 89", "cubin 86", "cubin 80", "ptx 89", "ptx 80"],
    86: ["cubin 86", "cubin 80", "ptx 80"],
    87: ["cubin 87", "ptx 80"],
    80: ["cubin 80", "ptx 80"],
    90: ["cubin 90", "ptx 89", "ptx 80"],
    120: ["ptx 89", "ptx 80"],
}


@pytest.mark.parametrize("sm", ALL_CHOICES)
def test_refused_image_is_followed_by_the_next_and_ptx_comes_last(standin, many_images, sm):
    *refused, taken = ALL_CHOICES[sm]
    calls, message = standin.python(LOAD, library=many_images, sm=sm, FAKE_REFUSE=",".join(refused))
    assert tried(calls) == ALL_CHOICES[sm]
    kind, number = taken.split()
    name = f"{kind.upper() if kind == 'ptx' else kind} of SM {int(number) / 10}"
    assert f"rmt_edge: note: on this GPU (SM {sm / 10}) the {name} is used" in message
    assert message.count("no kernel image is available") == len(refused)


@pytest.mark.parametrize("sm", ALL_CHOICES)
def test_error_lists_every_image_with_the_answer_of_the_driver(standin, many_images, sm):
    calls, message = standin.python(LOAD_REFUSED, library=many_images, sm=sm, FAKE_REFUSE=",".join(ALL_CHOICES[sm]))
    assert tried(calls) == ALL_CHOICES[sm]
    answers = "; ".join(
        f"the {'PTX' if kind == 'ptx' else kind} of SM {int(number) / 10}: no kernel image is available"
        for kind, number in map(str.split, ALL_CHOICES[sm])
    )
    expected = f"retention_whole_d32_fp16_t4 cannot be loaded on this GPU (SM {sm / 10}): the driver refused {answers}."
    assert expected in message


def test_orin_without_its_cubin_takes_ptx(standin, tmp_path):
    library = library_of(tmp_path, [image(80, False), image(86, False), image(80, True)])
    calls, _ = standin.python(LOAD, library=library, sm=87)
    assert tried(calls) == ["ptx 80"]


def test_image_without_the_kernel_is_unloaded_and_followed_by_the_next(standin, tmp_path):
    library = library_of(tmp_path, [image(86, False, symbol="missing"), image(80, False)])
    calls, message = standin.python(LOAD, library=library, sm=86)
    assert [x for x in calls if "load" in x or "unload" in x] == [
        {"load": "cubin 86", "refused": 0}, {"unload": 1}, {"load": "cubin 80", "refused": 0},
    ]  # fmt: skip
    assert "the cubin of SM 8.6: another fake error" in message


@pytest.mark.parametrize("sm, loaded", [(86, "cubin"), (89, "cubin"), (87, "ptx"), (90, "ptx"), (121, "ptx")])
def test_library_for_one_gpu_serves_others_as_far_as_it_can(standin, sm, loaded):
    calls, _ = standin.host(sm=sm)
    assert set(tried(calls)) == {loaded}


def test_refused_cubin_of_the_real_library_is_followed_by_its_ptx(standin):
    calls, message = standin.host(sm=86, environment={"FAKE_REFUSE": "cubin"})
    assert tried(calls) == ["cubin", "ptx"] * 9
    assert message.count("rmt_edge: note:") == 1, "told once, not for every kernel"


def test_older_gpu_is_refused_with_a_message(standin):
    calls, message = standin.host(sm=75, status=6)
    assert tried(calls) == []
    assert "was not compiled for this GPU (SM 7.5)" in message
    assert "cubins for SM 8.6; PTX: SM 8.6 and later" in message
    assert "rmt-edge plugin build --sm 75" in message


LAUNCH_RAW = """
pointers = [ctypes.c_void_p(16)] * 9 + [ctypes.c_void_p()]
sizes = [ctypes.c_int32(x) for x in (1, {}, {}, 4, 32, 0, 1)]
status = library.rmt_retention_launch(*pointers, *sizes, ctypes.c_float(0.5), ctypes.c_float(0), 0, ctypes.c_void_p())
assert (status == 0) == {}
"""


def test_grid_without_a_kernel_is_refused_with_advice(standin, many_images):
    calls, _ = standin.python(LAUNCH_RAW.format(5, 7, True), library=many_images)
    assert [x["kernel"] for x in calls if "kernel" in x] == ["retention_lines"]
    calls, message = standin.python(LAUNCH_RAW.format(5, 9, False), library=many_images)
    assert not [x for x in calls if "kernel" in x]
    assert "no kernel of head dim 32 for a grid of 5 x 9 whose qkv is a raw product of 8 bits" in message
    assert "quantise with --recipe int8-linear" in message
