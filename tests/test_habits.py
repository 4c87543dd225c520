"""What the repository promises beside its code: hooks that run what `make check` runs, a change log, a licence."""

import re

import rmt_edge
from tests.conftest import ROOT


def test_the_hooks_run_what_make_check_runs():
    makefile, hooks = (ROOT / "Makefile").read_text(), (ROOT / ".pre-commit-config.yaml").read_text()
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE).group(1)
    commands = [line.strip().replace("$(VENV)", ".venv") for line in recipe.splitlines()]
    assert len(commands) == 3 and re.findall(r"entry: (.*)", hooks) == commands
    assert re.findall(r"repo: (\S+)", hooks) == ["local"]  # nothing is fetched


def test_the_version_has_its_entry_in_the_change_log():
    assert f"\n## {rmt_edge.__version__}\n" in (ROOT / "CHANGELOG.md").read_text()


def test_the_licence_is_whole():
    text = (ROOT / "LICENSE").read_text()
    assert text.lstrip().startswith("Apache License") and "END OF TERMS AND CONDITIONS" in text
