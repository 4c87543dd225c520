"""Which plugin libraries may be loaded: to load one is to run its code, before anything in it could be checked.

A library is vouched for by its sha256, in one of two places: the note that `rmt-edge plugin build` leaves among this
user's own files of what it built, or the index of the unpacked bundle that the library lies in. A library of any other
origin is loaded on demand alone (--trust-libraries). What an engine needs is another matter: the engine's manifest
names the very library, and an engine is native code itself.
"""

import json
import logging
from pathlib import Path

from rmt_edge.artifact import sha256_of
from rmt_edge.errors import RmtEdgeError
from rmt_edge.plugin.load import BUNDLE_INDEX, BUNDLED_LIBRARIES, library_path
from rmt_edge.writing import is_private, private_folder, user_folder, written_whole

logger = logging.getLogger(__name__)


def vouch_for(library: Path) -> None:
    """Note that this user built a library."""
    note = _note_of(sha256_of(library))
    try:
        private_folder(note.parent)
        with written_whole(note) as temporary:
            temporary.write_text(f"{library.resolve()}\n")
    except RmtEdgeError as error:
        logger.warning("%s is built, but takes --trust-libraries to be used.\n%s", library, error)


def is_vouched_for(library: Path) -> bool:
    """Whether this user built the library, or the unpacked bundle that it lies in lists it."""
    sha256 = sha256_of(library)
    note = _note_of(sha256)
    if is_private(note.parent) and note.is_file():
        return True
    return sha256 in _hashes_in_bundle(library)


def trusted_library(folder: Path, trust: bool = False) -> Path:
    """The plugin library for this machine in a folder; refused unless it is vouched for or the user trusts it."""
    path = library_path(folder)
    if not trust:
        check_vouched_for(path)
    return path


def check_vouched_for(path: Path) -> None:
    """Refuse a library that nobody vouches for."""
    if is_vouched_for(path):
        return
    raise RmtEdgeError(
        f"Nobody vouches for the plugin library {path}.",
        "loading a library runs its code; rmt-edge loads what this user built with `rmt-edge plugin build`, and what "
        "an unpacked bundle lists.",
        "Build it here: rmt-edge plugin build. If you know where it is from: --trust-libraries.",
    )


def _note_of(sha256: str) -> Path:
    return user_folder("state") / "libraries" / sha256


def _hashes_in_bundle(library: Path) -> set[str]:
    """The sha256 that a bundle's index gives for a library of this name; none outside of an unpacked bundle."""
    index = library.parent.parent / BUNDLE_INDEX
    if library.parent.name != BUNDLED_LIBRARIES or not index.is_file():
        return set()
    try:
        members = json.loads(index.read_text())["members"]
        return {str(x["sha256"]) for x in members if x["name"] == f"{BUNDLED_LIBRARIES}/{library.name}"}
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise RmtEdgeError(f"{index} is damaged: {error}.", do="Unpack the bundle again.") from error
