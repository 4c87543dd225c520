"""Settings: found in a checkout and inside a package, read whole, refused with what is known."""

from dataclasses import dataclass

import pytest

from rmt_edge import settings
from rmt_edge.errors import RmtEdgeError
from rmt_edge.settings import check_choice, check_positive, known_settings, load_settings, read_toml, settings_folder
from tests.conftest import ROOT


@dataclass(frozen=True)
class Thing:
    name: str
    size: int = 1

    def __post_init__(self):
        check_positive(size=self.size)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with one thing in things/, beside an empty package."""
    monkeypatch.setattr(settings, "ROOT", tmp_path)
    monkeypatch.setattr(settings, "PACKAGE", tmp_path / "rmt_edge")
    for folder in ("rmt_edge", "things"):
        (tmp_path / folder).mkdir()
    (tmp_path / "things" / "big.toml").write_text("size = 3\n")
    return tmp_path


def load(name):
    return load_settings(name, "things", Thing, "thing")


def test_settings_lie_beside_the_package_in_a_checkout(checkout):
    assert settings_folder("things") == checkout / "things"
    assert known_settings("things") == ["big"] and load("big") == Thing("big", 3)


def test_settings_inside_the_package_are_those_of_a_wheel_and_come_first(checkout):
    (checkout / "rmt_edge" / "things").mkdir()
    (checkout / "rmt_edge" / "things" / "small.toml").write_text("")
    assert settings_folder("things") == checkout / "rmt_edge" / "things"
    assert known_settings("things") == ["small"] and load("small") == Thing("small")


def test_a_package_without_its_settings_is_a_bug_and_no_empty_table(checkout):
    with pytest.raises(AssertionError, match="came without its recipes/"):
        known_settings("recipes")


def test_in_this_tree_recipes_and_profiles_are_those_of_the_repository():
    assert settings_folder("calib") == ROOT / "calib" and settings_folder("engines") == ROOT / "engines"


def test_a_path_is_taken_as_one(checkout, tmp_path):
    (tmp_path / "mine.toml").write_text("size = 7\n")
    assert load(tmp_path / "mine.toml") == Thing("mine", 7)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("tiny", None, r"no thing tiny\.\nNote: known: big; or a path"),
        ("x.toml", None, r"no thing .*x\.toml"),
        ("x.toml", "size = ", r"x\.toml is not readable as TOML"),
        ("x.toml", "colour = 1", r"unknown colour\.\nNote: known: name, size"),
        ("x.toml", "size = 0", r"x\.toml: size is 0"),
        ("x.toml", "name = 1\nsize = 'a'", r"x\.toml: size is 'a'"),
    ],
)
def test_what_is_wrong_is_said_with_the_file(checkout, tmp_path, name, content, match):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(RmtEdgeError, match=match):
        load(tmp_path / name if name.endswith(".toml") else name)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(RmtEdgeError, match="not readable as TOML"):
        read_toml(tmp_path / "x.toml")


def test_choices_are_listed():
    with pytest.raises(RmtEdgeError, match=r"colour is 'red'\.\nNote: allowed: blue, green"):
        check_choice("colour", "red", ("blue", "green"))
