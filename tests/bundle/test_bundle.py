"""What a device takes from a file it was sent: everything as packed, or nothing."""

import json
import os
import resource
import shutil
import stat
import zipfile

import numpy as np
import pytest

from rmt_edge.bundle import archive
from rmt_edge.bundle.archive import wrong_name
from rmt_edge.bundle.bundle import INDEX, chosen_models, index_from_json, open_bundle, read_folder, subset_of, unpack
from rmt_edge.bundle.subset import IMAGES, LABELS, LOGITS, NAMES
from rmt_edge.errors import RmtEdgeError
from tests.bundles import FILES, directory_at, forge, index_of, npy, write_bundle


@pytest.fixture
def bundle(tmp_path):
    return write_bundle(tmp_path / "b.rmtedge")


def files_in(folder):
    return {x.relative_to(folder).as_posix(): x.read_bytes() for x in folder.rglob("*") if x.is_file()}


def assert_refused(path, message):
    """Neither opened nor unpacked, and no trace left."""
    before = sorted(path.parent.iterdir())
    with pytest.raises(RmtEdgeError, match=message):
        unpack(path)
    assert sorted(path.parent.iterdir()) == before


def test_what_was_packed_is_unpacked(bundle, tmp_path):
    folder = unpack(bundle)
    assert folder == tmp_path / "b"
    assert files_in(folder) == FILES | {INDEX: index_of(FILES).to_json()}
    assert read_folder(folder) == open_bundle(bundle) == index_of(FILES)
    assert sorted(x.name for x in tmp_path.iterdir()) == ["b", "b.rmtedge", "sources"]


def test_any_zip_tool_reads_it(bundle):
    with zipfile.ZipFile(bundle) as file:
        assert file.testzip() is None
        assert file.namelist() == [INDEX, *sorted(FILES)]
        assert {x.date_time for x in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_any_changed_byte_is_refused(bundle):
    content = bundle.read_bytes()
    for at in range(len(content)):
        with bundle.open("r+b") as file:
            file.seek(at)
            file.write(bytes((content[at] ^ (1 << at % 8),)))
        with pytest.raises(RmtEdgeError, match="is no bundle, or not a whole one"):
            open_bundle(bundle)
        with bundle.open("r+b") as file:
            file.seek(at)
            file.write(content[at : at + 1])
    open_bundle(bundle)


def test_a_bundle_cut_short_anywhere_or_too_long_is_refused(bundle):
    content = bundle.read_bytes()
    for length in reversed(range(len(content))):
        os.truncate(bundle, length)
        with pytest.raises(RmtEdgeError, match="cut short or changed on its way"):
            open_bundle(bundle)
    bundle.write_bytes(content + b"\n")
    assert_refused(bundle, "is no bundle, or not a whole one")


@pytest.mark.parametrize("content", [b"", b"text", b"PK\3\4" + b"\0" * 500])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    (tmp_path / "x.rmtedge").write_bytes(content)
    assert_refused(tmp_path / "x.rmtedge", "is no bundle, or not a whole one")


@pytest.mark.parametrize("before", [b"", b"not a zip file at all, but sealed; longer than its end record"])
def test_a_sealed_file_that_is_no_zip_is_refused(tmp_path, before):
    path = tmp_path / "x.rmtedge"
    path.write_bytes(before + archive.SEAL + b"0" * archive.DIGITS)
    archive.seal(path)
    assert_refused(path, "it is no ZIP file")


def test_a_missing_file_and_a_folder_are_no_bundles(tmp_path):
    with pytest.raises(RmtEdgeError, match=r"nowhere\.rmtedge cannot be opened: No such file"):
        unpack(tmp_path / "nowhere.rmtedge")
    with pytest.raises(RmtEdgeError, match="cannot be opened: Is a directory"):
        unpack(tmp_path)


def test_a_bundle_of_another_format_says_which(tmp_path):
    values = json.loads(index_of(FILES).to_json()) | {"format": 2, "new": 1}
    path = forge(tmp_path / "x.rmtedge", index=json.dumps(values).encode())
    assert_refused(path, r"of format 2[\s\S]*reads format 1[\s\S]*same version of rmt-edge")


# Everything below is sealed rightly: what damage cannot do, but someone could.


def test_a_forged_bundle_without_a_change_is_taken(tmp_path):
    """So each refusal below is that of its change."""
    unpack(forge(tmp_path / "x.rmtedge"))


WRONG_NAMES = {
    "/etc/x": "absolute", "": "empty", "../x": "leaves the folder", "a/../../x": "leaves the folder",
    "a//b": "empty parts", "./a": "empty parts", "a/": "empty parts", "a\\b": "backslash", "C:x": "colon",
    "a\nb": "control character", "a\0b": "control character",
}  # fmt: skip


@pytest.mark.parametrize(("name", "reason"), WRONG_NAMES.items())
def test_a_name_that_leaves_the_folder_is_refused(tmp_path, name, reason):
    assert reason in wrong_name(name)
    if name == "":  # zipfile writes no such name
        return

    def rename(entries):
        entries[2][0].filename = name

    values = json.loads(index_of(FILES).to_json())
    values["members"][1]["name"] = name
    path = forge(tmp_path / "x.rmtedge", rename, index=json.dumps(values).encode())
    assert_refused(path, rf"cannot be unpacked: it[\w\s,]*{reason}")
    with pytest.raises(ValueError, match=reason):
        index_from_json(json.dumps(values).encode())


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK, stat.S_IFDIR])
def test_what_is_no_plain_file_is_refused(tmp_path, kind):
    def change(entries):
        entries[3][0].external_attr = (kind | 0o644) << 16

    assert_refused(forge(tmp_path / "x.rmtedge", change), r"m\.onnx\.json is no plain file")


def test_a_file_that_would_run_as_another_user_is_refused(tmp_path):
    def change(entries):
        entries[3][0].external_attr = (stat.S_IFREG | stat.S_ISUID | 0o755) << 16

    assert_refused(forge(tmp_path / "x.rmtedge", change), r"m\.onnx\.json is no plain file")


def test_a_compressed_member_is_refused_before_it_is_read(tmp_path):
    def change(entries):
        entries[3][0].compress_type = zipfile.ZIP_DEFLATED

    assert_refused(forge(tmp_path / "x.rmtedge", change), r"m\.onnx\.json is compressed")


@pytest.mark.parametrize(("at", "value"), [(8, 1), (10, 8), (24, 0xFF), (20, 0xFF)])
def test_a_directory_that_declares_more_than_there_is_is_refused(tmp_path, at, value):
    """Encrypted, compressed, larger unpacked than stored, larger than it is: bytes of APPNOTE.TXT, 4.3.12."""

    def patch(content):
        content[directory_at(content, "m.onnx.json") + at] = value

    message = "is compressed, encrypted" if at < 20 else "does not lie where the member before it ends"
    assert_refused(forge(tmp_path / "x.rmtedge", patch=patch), message)


def test_members_that_overlap_are_refused(tmp_path):
    def patch(content):
        first, second = (directory_at(content, name) + 42 for name in ("m.onnx.json", "m.plugin.onnx.json"))
        content[second : second + 4] = content[first : first + 4]

    assert_refused(forge(tmp_path / "x.rmtedge", patch=patch), "does not lie where the member before it ends")


def test_bytes_that_belong_to_no_member_are_refused(tmp_path):
    def extra(entries):
        entries[3][0].extra = b"\1\0\2\0ab"

    assert_refused(forge(tmp_path / "x.rmtedge", extra), "has extra fields")
    path = forge(tmp_path / "y.rmtedge")
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())
    archive.seal(path)
    assert_refused(path, "its directory does not lie at its end")


def test_zip64_is_refused(tmp_path):
    def patch(content):
        at = content.rindex(b"PK\5\6")
        content[at:at] = b"PK\6\7" + bytes(16)

    assert_refused(forge(tmp_path / "x.rmtedge", patch=patch), "its directory does not lie at its end")


def test_a_directory_of_too_many_members_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = forge(tmp_path / "x.rmtedge")
    monkeypatch.setattr(archive, "MAX_MEMBERS", 9)
    assert_refused(path, "its directory has 10 members in")


def test_a_bundle_above_the_stated_size_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = forge(tmp_path / "x.rmtedge")
    monkeypatch.setattr(archive, "MAX_BYTES", 1000)
    assert_refused(path, r"it has [\d,]+ bytes, and a bundle at most 1,000")


def test_an_index_above_the_stated_size_is_refused(tmp_path):
    index = index_of(FILES).to_json() + b" " * archive.MAX_INDEX_BYTES
    assert_refused(forge(tmp_path / "x.rmtedge", index=index), r"its index has [\d,]+ bytes")


def test_a_member_twice_is_refused(tmp_path):
    def change(entries):
        entries.insert(3, entries[2])

    with pytest.warns(UserWarning, match="Duplicate name"):
        path = forge(tmp_path / "x.rmtedge", change)
    assert_refused(path, "two members have one name")


def test_an_unsorted_bundle_is_refused(tmp_path):
    assert_refused(forge(tmp_path / "x.rmtedge", lambda entries: entries.reverse()), r"not bundle\.json and then")


def test_a_member_more_or_less_than_in_the_index_is_refused(tmp_path):
    def add(entries):
        entries.append((archive._entry("z", 1), b"z"))

    def remove(entries):
        entries.pop(1)

    assert_refused(forge(tmp_path / "x.rmtedge", add), "z is in its directory or in its index")
    assert_refused(forge(tmp_path / "y.rmtedge", remove), r"librmt_edge_plugin_x86_64\.so is in its directory or in")


def test_a_size_other_than_in_the_index_is_refused(tmp_path):
    index = index_of(FILES | {"m.onnx": b"longer" * 100}).to_json()
    assert_refused(forge(tmp_path / "x.rmtedge", index=index), r"m\.onnx is in its directory or in its index")


def test_a_content_other_than_in_the_index_is_refused_and_nothing_stays(tmp_path):
    index = index_of(FILES | {LOGITS: FILES[LOGITS][:-1] + b"!"}).to_json()
    assert_refused(forge(tmp_path / "x.rmtedge", index=index), r"logits\.npy is not the file that the index describes")


def test_a_wrong_checksum_or_local_header_is_refused(tmp_path):
    def checksum(content):
        content[directory_at(content, "m.onnx.json") + 16] ^= 1

    def local_name(content):
        content[content.index(b"m.onnx.json", content.index(b"PK\3\4", 100))] = ord("n")

    assert_refused(forge(tmp_path / "x.rmtedge", patch=checksum), "Bad CRC-32")
    assert_refused(forge(tmp_path / "y.rmtedge", patch=local_name), "differ")


GOOD = json.loads(index_of(FILES).to_json())


@pytest.mark.parametrize(
    "index",
    [
        b"", b"\xff", b"[]", b"[" * 100_000, b'{"kind": "engine"}', b'{"kind": "bundle", "format": 1}',
        *(json.dumps(GOOD | change).encode() for change in (
            {"members": 1}, {"members": [1]}, {"members": [*GOOD["members"], GOOD["members"][0]]}, {"models": []},
            {"models": [{"onnx": "n.onnx", "recipe": "", "precision": ""}]}, {"models": [{}]}, {"surprise": 1},
            {"num_classes": "2"}, {"num_classes": 0}, {"validation": []}, {"validation": {"images": True}},
            {"validation": GOOD["validation"] | {"class_names": ["one"]}},
            {"checkpoint": {"name": "x"}}, {"checkpoint": None}, {"preprocessing": {"height": 1}},
            {"members": [GOOD["members"][0] | {"sha256": "0"}, *GOOD["members"][1:]]},
            {"members": [GOOD["members"][0] | {"size_bytes": -1}, *GOOD["members"][1:]]},
            {"members": [GOOD["members"][0] | {"size_bytes": 10**18}, *GOOD["members"][1:]]},
            {"members": [GOOD["members"][0] | {"name": 3}, *GOOD["members"][1:]]},
        )),
    ],
)  # fmt: skip
def test_an_index_that_is_none_is_refused(tmp_path, index):
    assert_refused(forge(tmp_path / "x.rmtedge", index=index), "is refused")


def test_an_index_of_more_than_the_stated_total_is_refused(monkeypatch):
    monkeypatch.setattr("rmt_edge.bundle.bundle.MAX_BYTES", 1000)
    with pytest.raises(ValueError, match=r"its members have [\d,]+ bytes, more than 1,000"):
        index_of(FILES)


def test_a_folder_that_holds_the_bundle_is_left_as_it_is(bundle, tmp_path, caplog):
    folder = unpack(bundle)
    (folder / "m.engine").write_bytes(b"built here")
    stamp = (folder / "m.onnx").stat().st_mtime_ns
    with caplog.at_level("INFO"):
        assert unpack(bundle) == folder
    assert "holds this bundle already" in caplog.text
    assert (folder / "m.engine").exists() and (folder / "m.onnx").stat().st_mtime_ns == stamp


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_folder_with_a_changed_or_missing_file_is_refused(bundle, name):
    folder = unpack(bundle)
    (folder / name).write_bytes(b"?" * len(FILES[name]))
    with pytest.raises(RmtEdgeError, match=rf"Nothing was unpacked into .*: {name} in it was changed or removed"):
        unpack(bundle)
    (folder / name).unlink()
    with pytest.raises(RmtEdgeError, match=r"changed or removed[\s\S]*--output"):
        unpack(bundle)


def test_a_folder_with_anything_else_is_refused(bundle, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(RmtEdgeError, match="it exists and is no unpacked bundle"):
        unpack(bundle, tmp_path / "mine")
    with pytest.raises(RmtEdgeError, match="it exists and is no unpacked bundle"):
        unpack(bundle, bundle)
    other = unpack(write_bundle(tmp_path / "other.rmtedge", FILES | {"m.onnx": b"other"}))
    with pytest.raises(RmtEdgeError, match="it holds another bundle"):
        unpack(bundle, other)


def test_an_empty_folder_is_taken(bundle, tmp_path):
    (tmp_path / "out").mkdir()
    assert files_in(unpack(bundle, tmp_path / "out")).keys() == {INDEX, *FILES}


def test_a_full_disk_leaves_nothing(bundle, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        assert_refused(bundle, r"cannot be unpacked into .*: File too large[\s\S]*it takes [\d,]+ bytes")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_ctrl_c_leaves_nothing(bundle, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        unpack(bundle)
    assert sorted(x.name for x in tmp_path.iterdir()) == ["b.rmtedge", "sources"]


def test_a_source_that_changes_while_it_is_packed_is_refused(tmp_path):
    member = index_of(FILES).members[1]
    (tmp_path / "m.onnx").write_bytes(b"edited")
    with pytest.raises(RmtEdgeError, match="changed while it was packed"):
        archive.write_archive(tmp_path / "x.rmtedge", INDEX, b"{}", [(member, tmp_path / "m.onnx")])


def test_models_are_chosen_by_recipe():
    index = index_of(FILES)
    assert (
        [x.onnx for x in chosen_models(index, None)] == [x.onnx for x in chosen_models(index, ["fp16"])] == ["m.onnx"]
    )
    with pytest.raises(RmtEdgeError, match=r"no recipe int8[\s\S]*it has fp16"):
        chosen_models(index, ["int8"])


def test_a_folder_that_is_no_unpacked_bundle_says_so(bundle, tmp_path):
    with pytest.raises(RmtEdgeError, match=r"no unpacked bundle[\s\S]*rmt-edge unpack"):
        read_folder(tmp_path)
    folder = unpack(bundle)
    (folder / INDEX).write_text("{}")
    with pytest.raises(RmtEdgeError, match=r"bundle\.json is refused: its index is not that of a bundle"):
        read_folder(folder)


def test_the_subset_is_what_the_index_declares(bundle):
    folder = unpack(bundle)
    subset, logits = subset_of(folder, read_folder(folder))
    assert len(subset) == 1 and subset.names == ["a/1.png"] and logits.tolist() == [[0.5, 1.5]]
    (folder / LOGITS).write_bytes(npy(np.array([[0.5, 1.0]], np.float32)))
    with pytest.raises(RmtEdgeError, match=r"logits\.npy was changed or removed"):
        subset_of(folder, read_folder(folder))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (IMAGES, npy(np.zeros((2, 32, 32, 3), np.uint8)), r"uint8 \(2, 32, 32, 3\)[\s\S]*declares uint8 \(1, 32"),
        (IMAGES, npy(np.zeros((1, 32, 32, 3), np.float32)), "is float32"),
        (LABELS, npy(np.array(["a"], object)), "not readable"),
        (LABELS, npy(np.array([2])), "labels beyond 2 classes"),
        (LOGITS, npy(np.array([[np.nan, 1]], np.float32)), "NaN logits"),
        (LOGITS, b"junk", "not readable"),
        (NAMES, b"junk", "not readable"),
        (NAMES, b"[1]", "does not hold 1 names"),
    ],
)
def test_a_subset_of_other_shapes_is_refused(tmp_path, name, content, message):
    folder = unpack(write_bundle(tmp_path / "b.rmtedge", FILES | {name: content}))
    with pytest.raises(RmtEdgeError, match=message):
        subset_of(folder, read_folder(folder))


def test_a_bundle_survives_a_copy(bundle, tmp_path):
    shutil.copy(bundle, tmp_path / "copy.rmtedge")
    assert unpack(tmp_path / "copy.rmtedge") == tmp_path / "copy"
