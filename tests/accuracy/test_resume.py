"""What is kept of a run that did not end, and what is not taken for it."""

import numpy as np
import pytest

from rmt_edge.accuracy.resume import finish, partial_path, resumed
from rmt_edge.errors import RmtEdgeError

IDENTITY = {"model": "abc", "batch": 4}


RECORD = np.dtype([("classes", "<i4", (3,)), ("scores", "<f4", (3,))])


def batch_of(images, first):
    rows = np.zeros(images, RECORD)
    rows["classes"] = np.arange(first, first + 3 * images).reshape(images, 3)
    rows["scores"] = rows["classes"] / 7
    return rows


@pytest.fixture
def path(tmp_path):
    """Two whole batches of a run over ten images that was not finished."""
    path = tmp_path / "a.npz"
    with resumed(path, IDENTITY, 4, RECORD, 10) as partial:
        partial.append(batch_of(4, 0))
        partial.append(batch_of(4, 100))
    return path


def images_kept(path, identity=IDENTITY):
    with resumed(path, identity, 4, RECORD, 10) as partial:
        return len(partial)


def test_a_run_continues_and_gives_all_predictions(path):
    with resumed(path, IDENTITY, 4, RECORD, 10) as partial:
        assert len(partial) == 8
        partial.append(batch_of(2, 200))
    with resumed(path, IDENTITY, 4, RECORD, 10) as partial:
        assert len(partial) == 10
        rows = partial.rows()
    assert np.array_equal(rows, np.concatenate([batch_of(4, 0), batch_of(4, 100), batch_of(2, 200)]))
    finish(path)
    assert not partial_path(path).exists()
    finish(path)


def test_another_identity_starts_anew_and_says_so(path, caplog):
    with caplog.at_level("INFO"):
        assert images_kept(path, IDENTITY | {"model": "abd"}) == 0
    assert "a.npz.part is of another model, data set, setting or version" in caplog.text
    assert images_kept(path) == 0  # it was overwritten


def test_another_record_starts_anew(path):
    with resumed(path, IDENTITY, 4, np.dtype([("classes", "<i4", (6,))]), 10) as partial:
        assert len(partial) == 0


def test_a_batch_is_appended_and_nothing_written_before_is_written_again(path):
    before = partial_path(path).read_bytes()
    with resumed(path, IDENTITY, 4, RECORD, 10) as partial:
        partial.append(batch_of(2, 200))
        content = partial_path(path).read_bytes()
    assert content[: len(before)] == before and len(content) - len(before) == 12 + 2 * RECORD.itemsize


@pytest.mark.parametrize("cut", [1, 96, 107, 108])
def test_a_chunk_that_was_cut_short_is_run_again(path, cut):
    part = partial_path(path)
    part.write_bytes(part.read_bytes()[:-cut])
    assert images_kept(path) == 4
    with resumed(path, IDENTITY, 4, RECORD, 10) as partial:
        partial.append(batch_of(4, 100))
    assert images_kept(path) == 8


def test_a_damaged_chunk_and_what_follows_it_is_run_again(path):
    part = partial_path(path)
    content = bytearray(part.read_bytes())
    content[-110] ^= 1  # in the last byte but one of the first chunk
    part.write_bytes(content)
    assert images_kept(path) == 0


@pytest.mark.parametrize("content", [b"", b"x", bytes(1000), b"[]\n"])
def test_a_file_that_is_none_of_ours_starts_anew(path, content):
    partial_path(path).write_bytes(content)
    assert images_kept(path) == 0


def test_a_folder_that_cannot_be_written_is_named(path, monkeypatch):
    partial_path(path).unlink()
    partial_path(path).mkdir()
    with pytest.raises(RmtEdgeError, match=r"a\.npz\.part cannot be written"):
        images_kept(path)
