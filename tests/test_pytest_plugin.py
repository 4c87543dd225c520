"""The plugin in a pytest run of its own, in a repository of someone else's."""

import subprocess
import sys
from dataclasses import fields

import pytest

from rmt_edge.gate.baseline import write_baseline
from rmt_edge.gate.gate import Limits
from tests.conftest import ROOT
from tests.gate.test_baseline import ORIN, make_results

pytest_plugins = ["pytester"]

TEST = """
import pytest

@pytest.mark.rmt_edge_gate({marker})
def test_no_worse(rmt_edge_baseline):
    rmt_edge_baseline.check("now")
"""


@pytest.fixture
def repository(pytester):
    """A baseline, its results, and a function that runs a gate on new ones."""
    write_baseline(make_results(pytester.path / "before"), pytester.path / "baseline.json")

    def run(*arguments, marker="", **changes):
        make_results(pytester.path / "now", **changes)
        pytester.makepyfile(TEST.format(marker=marker))
        return pytester.runpytest_inprocess("-p", "rmt_edge.pytest_plugin", "--strict-markers", *arguments)

    return run


BASELINE = ("--rmt-edge-baseline", "baseline.json")


def test_results_within_the_limits_pass(repository):
    repository(*BASELINE, wrong=5).assert_outcomes(passed=1)


def test_worse_results_fail_with_the_table_and_no_traceback_of_ours(repository):
    result = repository(*BASELINE, wrong=24, p50_ms=3.0)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*AssertionError: now is worse than the baseline*baseline.json:",
            "*WORSE *int8 *top-1 *99.00 % *94.00 %*-5.00 points*-0.5 points",
            "*WORSE *int8 *p50 of engine orin plugin*2.000 ms*3.000 ms*x 1.500*x 1.1",
        ]
    )
    assert "gate.py" not in result.stdout.str()


def test_the_marker_sets_the_limits(repository):
    changes = {"wrong": 24, "p50_ms": 3.0, "engine_size": 4000}
    limits = "max_drop=5, max_latency_ratio=1.5, max_size_ratio=1.4"
    repository(*BASELINE, marker=limits, **changes).assert_outcomes(passed=1)
    repository(*BASELINE, marker=limits + ", confidence=0.95", **changes).assert_outcomes(failed=1)


def test_the_baseline_may_stand_in_the_configuration_file(repository, pytester):
    pytester.makeini("[pytest]\nrmt_edge_baseline = baseline.json")
    repository(wrong=5).assert_outcomes(passed=1)
    repository(wrong=24).assert_outcomes(failed=1)


def test_without_a_baseline_the_command_that_writes_one_is_named(repository, pytester):
    result = repository()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*UsageError: rmt_edge_baseline needs a baseline: pass --rmt-edge-baseline FILE*"])
    result.stdout.fnmatch_lines(["*rmt-edge baseline FOLDER --output FILE*"])
    result = repository("--rmt-edge-baseline", "nowhere.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: There is no baseline *nowhere.json*rmt-edge baseline FOLDER --output *nowhere.json"]
    )
    pytester.makeini("[pytest]\nrmt_edge_baseline = nowhere.json")
    result = repository()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*UsageError: There is no baseline *nowhere.json*"])


def test_other_tests_run_without_a_baseline(pytester):
    pytester.makeini("[pytest]\nrmt_edge_baseline = nowhere.json")
    pytester.makepyfile("def test_x(): pass")
    pytester.runpytest_inprocess("-p", "rmt_edge.pytest_plugin").assert_outcomes(passed=1)


def test_an_unknown_limit_is_refused_with_those_known(repository):
    result = repository(*BASELINE, marker="max_loss=1")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*'max_loss'*takes, by name: max_drop, max_latency_ratio, max_size_ratio, confidence"])


def test_other_images_are_refused(repository):
    result = repository(*BASELINE, data={"name": "x.npz", "sha256": "f" * 64})
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*RmtEdgeError: int8 was validated on other images than its baseline*"])


def test_latency_of_another_machine_is_a_warning(repository):
    result = repository(*BASELINE, p50_ms=90, machine=ORIN | {"board": "Jetson Orin Nano"})
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(
        ["*NotComparedWarning*another machine (board Jetson Orin Nano*latency is not compared*"]
    )


def test_the_marker_is_listed(pytester):
    result = pytester.runpytest_inprocess("-p", "rmt_edge.pytest_plugin", "--markers")
    result.stdout.fnmatch_lines(["@pytest.mark.rmt_edge_gate(max_drop=0.5, max_latency_ratio=1.1,*"])


def test_the_marker_and_its_defaults_are_those_of_the_limits():
    text = (ROOT / "rmt_edge" / "pytest_plugin.py").read_text()
    assert "(" + ", ".join(f"{x.name}={x.default}" for x in fields(Limits)) + ")" in text


def test_at_start_the_plugin_loads_pytest_alone_and_costs_nothing():
    code = (
        "import pytest, sys, time; before = set(sys.modules); start = time.perf_counter(); "
        "import rmt_edge.pytest_plugin; spent = time.perf_counter() - start; "
        "print(*sorted(set(sys.modules) - before)); print(spent)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded, seconds = done.stdout.splitlines()
    assert loaded.split() == ["rmt_edge", "rmt_edge.pytest_plugin"]
    assert float(seconds) < 0.05  # 1 ms where nothing else runs; numpy alone takes 80


def test_the_entry_point_is_named_as_the_module():
    """So that pytest takes `-p rmt_edge.pytest_plugin` and the installed entry point for one plugin."""
    text = (ROOT / "pyproject.toml").read_text()
    assert '[project.entry-points.pytest11]\n"rmt_edge.pytest_plugin" = "rmt_edge.pytest_plugin"' in text
