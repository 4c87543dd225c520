"""A plugin library is loaded if someone vouches for it, and else not even opened."""

import json
import os
import platform
import shutil
import subprocess
import sys

import pytest

from rmt_edge.artifact import sha256_of
from rmt_edge.errors import RmtEdgeError
from rmt_edge.plugin import load
from rmt_edge.plugin.trust import is_vouched_for, trusted_library, vouch_for
from tests.conftest import ROOT

# Leaves a file behind when it is loaded, whatever is asked of it.
TRAP = """
#include <stdio.h>
#include <stdlib.h>
__attribute__((constructor)) static void trap(void) { FILE* f = fopen(getenv("TRAP"), "w"); if (f) fclose(f); }
"""


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A folder with a library whose code says that it ran, and the file that says so."""
    if shutil.which("gcc") is None:
        pytest.skip("no gcc")
    folder, source, fired = tmp_path / "build" / "plugin", tmp_path / "trap.c", tmp_path / "fired"
    folder.mkdir(parents=True)
    source.write_text(TRAP)
    library = folder / load.library_name(platform.machine())
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    monkeypatch.setenv("TRAP", str(fired))
    return folder, library, fired


def test_the_trap_works(trap):
    """Without it the tests below could not fail."""
    _, library, fired = trap
    with pytest.raises(AttributeError):
        load.open_library(library)
    assert fired.exists()


def test_a_library_that_nobody_vouches_for_is_not_loaded_by_a_build(trap, onnx_files, tmp_path):
    folder, library, fired = trap
    library.with_name(f"{library.name}.json").write_text(json.dumps({"sha256": sha256_of(library), "hash": "x"}))
    for arguments in ([], ["--libraries", str(folder)]):
        command = [sys.executable, "-m", "rmt_edge.cli", "build", str(onnx_files["fp16"]), *arguments]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert result.returncode == 2, result
        assert "Nobody vouches for the plugin library" in result.stderr and "--trust-libraries" in result.stderr
    assert not fired.exists()


def test_what_this_user_built_is_trusted_until_it_is_changed(trap):
    folder, library, _ = trap
    with pytest.raises(RmtEdgeError, match="Nobody vouches"):
        trusted_library(folder)
    assert trusted_library(folder, trust=True) == library
    vouch_for(library)
    assert trusted_library(folder) == library
    library.write_bytes(library.read_bytes() + b"x")
    with pytest.raises(RmtEdgeError, match="Nobody vouches"):
        trusted_library(folder)


def test_notes_that_others_could_write_count_for_nothing(trap, state):
    _, library, _ = trap
    vouch_for(library)
    assert is_vouched_for(library)
    (state / "rmt-edge" / "libraries").chmod(0o777)
    assert not is_vouched_for(library)


def test_a_library_in_a_bundle_is_trusted_if_the_index_lists_it_and_no_other(trap, tmp_path):
    _, library, _ = trap
    bundle = tmp_path / "bundle"
    (bundle / load.BUNDLED_LIBRARIES).mkdir(parents=True)
    inside = bundle / load.BUNDLED_LIBRARIES / library.name
    shutil.copy(library, inside)
    member = {"name": f"{load.BUNDLED_LIBRARIES}/{library.name}", "sha256": sha256_of(library), "size_bytes": 1}
    (bundle / load.BUNDLE_INDEX).write_text(json.dumps({"members": [member]}))
    assert trusted_library(inside.parent) == inside
    inside.write_bytes(inside.read_bytes() + b"swapped")
    with pytest.raises(RmtEdgeError, match="Nobody vouches"):
        trusted_library(inside.parent)
    # The right hash under another member's name is no word for this file.
    (bundle / load.BUNDLE_INDEX).write_text(
        json.dumps({"members": [member | {"name": "x", "sha256": sha256_of(inside)}]})
    )
    assert not is_vouched_for(inside)
    (bundle / load.BUNDLE_INDEX).write_text("[1")
    with pytest.raises(RmtEdgeError, match=r"bundle\.json is damaged"):
        is_vouched_for(inside)
