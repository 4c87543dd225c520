"""pytest plugin: a repository's own tests assert that a change has cost no accuracy, latency or size.

    # [tool.pytest.ini_options] rmt_edge_baseline = "baseline.json", or pytest --rmt-edge-baseline FILE
    @pytest.mark.rmt_edge_gate(max_drop=0.3, max_latency_ratio=1.1, max_size_ratio=1.05, confidence=0.95)
    def test_the_new_checkpoint_is_no_worse(rmt_edge_baseline):
        rmt_edge_baseline.check("deployed/")

pytest imports this file at every start, of any project it is installed beside: it imports nothing but pytest, and numpy
only when a test asks for the fixture.
"""

import importlib
from pathlib import Path

import pytest

FIXTURE, MARKER, OPTION, INI = "rmt_edge_baseline", "rmt_edge_gate", "--rmt-edge-baseline", "rmt_edge_baseline"
WRITE = "rmt-edge baseline FOLDER --output {}"


def pytest_addoption(parser):
    """--rmt-edge-baseline FILE, or the same in the configuration file."""
    group = parser.getgroup("rmt-edge")
    group.addoption(
        OPTION, metavar="FILE", default=None, help="the baseline that rmt_edge_baseline.check compares with"
    )
    parser.addini(INI, f"as {OPTION}, relative to the configuration file", default="")


def pytest_configure(config):
    """Register the marker; a baseline named on the command line must be there."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}(max_drop=0.5, max_latency_ratio=1.1, max_size_ratio=1.05, confidence=None): what {FIXTURE}.check "
        "allows: points of accuracy lost, ratios now over baseline, confidence of the drop's upper end",
    )
    given = config.getoption(OPTION)
    if given:
        _existing(config.invocation_params.dir / given)


@pytest.fixture
def rmt_edge_baseline(request):
    """The baseline, with the limits of the test's marker: `.check(folder)` raises AssertionError if it is worse."""
    gate = importlib.import_module("rmt_edge.gate.gate")
    path = _baseline_path(request.config)
    marker = request.node.get_closest_marker(MARKER)
    if marker is None:
        return gate.Baseline(path, gate.Limits())
    if marker.args or set(marker.kwargs) - set(gate.Limits.__dataclass_fields__):
        raise pytest.UsageError(
            f"{MARKER}{(*marker.args, *marker.kwargs)} is not understood; it takes, by name: "
            + ", ".join(gate.Limits.__dataclass_fields__)
        )
    return gate.Baseline(path, gate.Limits(**marker.kwargs))


def _baseline_path(config):
    given, configured = config.getoption(OPTION), config.getini(INI)
    if given:
        return _existing(config.invocation_params.dir / given)
    if configured:
        return _existing(config.rootpath / configured)
    raise pytest.UsageError(
        f"{FIXTURE} needs a baseline: pass {OPTION} FILE, or set {INI} in the configuration file. "
        f"Write one from good results: {WRITE.format('FILE')}"
    )


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise pytest.UsageError(f"There is no baseline {path}. Write it from good results: {WRITE.format(path)}")
    return path
