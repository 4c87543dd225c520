"""The wheel of this tree, and an `ssh` that stays here."""

import os

import pytest

from tests.fleet.stand_in import StandIn
from tests.wheels import build_wheel


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    found = StandIn(tmp_path / "ssh")
    monkeypatch.setenv("PATH", f"{found.bin}:{os.environ['PATH']}")
    return found
