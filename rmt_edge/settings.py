"""Settings as files: one TOML file is one frozen dataclass that checks itself.

A recipe (quantization/recipe.py) or device profile (device/profile.py) is named by its path or, for those that come
with rmt-edge, by its file name without .toml. Every default is written in its dataclass and nowhere else.
"""

import sys
from pathlib import Path
from typing import Any, TypeVar

from rmt_edge.errors import RmtEdgeError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent  # of a checkout; for an installed wheel it is site-packages, where nothing else of ours lies

Settings = TypeVar("Settings")


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dict."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise RmtEdgeError(f"{path} is not readable as TOML: {error}.") from error


def settings_folder(folder: str) -> Path:
    """The folder of that name which comes with rmt-edge: inside the package in a wheel, beside it in a checkout."""
    inside = PACKAGE / folder
    found = inside if inside.is_dir() else ROOT / folder
    assert found.is_dir(), f"rmt-edge came without its {folder}/: neither {inside} nor {found} is there"
    return found


def load_settings(name: str | Path, folder: str, cls: type[Settings], what: str) -> Settings:
    """The settings of class `cls` by name, looked up in settings_folder(folder), or by path. what: for messages."""
    path = Path(name)
    if path.suffix != ".toml":
        path = settings_folder(folder) / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(known_settings(folder))
        raise RmtEdgeError(f"There is no {what} {name}.", f"known: {known}; or a path that ends in .toml.")
    values = read_toml(path)
    fields = cls.__dataclass_fields__  # type: ignore[attr-defined]
    if unknown := set(values) - set(fields):
        raise RmtEdgeError(f"{path}: unknown {', '.join(sorted(unknown))}.", f"known: {', '.join(fields)}.")
    try:
        return cls(**{"name": path.stem} | values)
    except TypeError as error:
        raise RmtEdgeError(f"{path}: {error}.") from error
    except RmtEdgeError as error:
        raise RmtEdgeError(f"{path}: {error}") from error


def check_choice(field: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is none of those allowed."""
    if value not in allowed:
        raise RmtEdgeError(f"{field} is {value!r}.", f"allowed: {', '.join(allowed)}.")


def check_positive(**values: int) -> None:
    """Refuse what is not a whole number of at least 1."""
    for field, value in values.items():
        if not isinstance(value, int) or value < 1:
            raise RmtEdgeError(f"{field} is {value!r}.", "it is a whole number of at least 1.")


def known_settings(folder: str) -> list[str]:
    """The names of the settings in a folder that comes with rmt-edge, sorted."""
    return sorted(x.stem for x in settings_folder(folder).glob("*.toml"))
