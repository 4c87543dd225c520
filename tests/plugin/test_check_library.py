"""`make check-plugin`: a library that is right, and what is said of one that is not."""

import pytest

from rmt_edge.plugin import load
from tests.conftest import PLUGIN_SM
from tests.plugin import check_library
from tests.plugin.conftest import CACHE

NAME = "Retention whole, head dim 16, fp32 -> fp32"


@pytest.fixture
def one_case(monkeypatch):
    case = next(x for x in check_library.cases() if x[0] == NAME)
    monkeypatch.setattr(check_library, "cases", lambda: iter([case]))


def test_kernels_that_did_not_run_are_counted(library_folder, one_case, tmp_path, capsys):
    assert not check_library.check_gpu(load.library_path(library_folder), PLUGIN_SM, CACHE, tmp_path)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"  {NAME}: ") and "WRONG" not in said[0]
    held = load.library_info(load.library_path(library_folder))["kernels"]
    wanted = f"SM 8.6: 1 of {held} kernels in 2 launches, 0 cases wrong, {held - 1} kernels not reached"
    assert said[1].startswith(wanted)


def test_wrong_kernel_is_named(library_folder, one_case, tmp_path, capsys, monkeypatch):
    def refuse(*_):
        raise AssertionError("3 of 90 above 2e-05")

    monkeypatch.setattr("tests.plugin.kernel_cases.assert_within_reference_error", refuse)
    assert not check_library.check_gpu(load.library_path(library_folder), PLUGIN_SM, CACHE, tmp_path)
    said = capsys.readouterr().out
    assert f"{NAME}: WRONG: 3 of 90 above 2e-05" in said and "1 cases wrong" in said


@pytest.mark.slow
def test_library_of_the_tests_is_all_right(library_folder, monkeypatch, capsys):
    library = load.library_path(library_folder)
    monkeypatch.setattr("sys.argv", ["check_library", str(library), "--cache", str(CACHE)])
    assert check_library.main() == 0
    held = load.library_info(library)["kernels"]
    assert f"{held} of {held} kernels" in capsys.readouterr().out
