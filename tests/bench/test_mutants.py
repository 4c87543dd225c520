"""The list of faults that bench/mutants.py plants: every one can still be planted."""

import pytest

from rmt_edge.settings import ROOT, read_toml

MUTANTS = read_toml(ROOT / "tests" / "mutants.toml")["mutant"]


@pytest.mark.parametrize("mutant", MUTANTS, ids=[x["name"] for x in MUTANTS])
def test_text_of_the_fault_occurs_once_in_its_file(mutant):
    assert (ROOT / mutant["file"]).read_text().count(mutant["what"]) == 1, mutant["file"]
    assert mutant["by"] != mutant["what"]


def test_names_are_told_apart_and_kinds_are_covered():
    assert len({x["name"] for x in MUTANTS}) == len(MUTANTS) >= 30
    assert {x["tests"] for x in MUTANTS} == {"plugin", "graph", "quantization", "boxes"}
