"""Whole files or none, manifests, and the chain."""

import json

import pytest

from rmt_edge import artifact
from rmt_edge.artifact import ONNX, manifest_path, read_artifact, write_manifest
from rmt_edge.errors import RmtEdgeError
from rmt_edge.writing import written_whole


def write(path, content=b"content", kind=ONNX):
    with written_whole(path) as temporary:
        temporary.write_bytes(content)
        return write_manifest(temporary, path, kind=kind, parents=[], recipe={}, details={"a": 1}, seconds=1.234)


def test_a_file_and_its_manifest_agree(tmp_path):
    written = write(tmp_path / "x.onnx")
    assert read_artifact(tmp_path / "x.onnx", ONNX) == written
    assert written.sha256 == "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"
    assert written.manifest.size_bytes == 7 and written.manifest.versions["rmt-edge"]
    assert sorted(x.name for x in tmp_path.iterdir()) == ["x.onnx", "x.onnx.json"]


def test_a_kill_between_manifest_and_file_is_noticed(tmp_path):
    write(tmp_path / "x.onnx", b"old")
    with pytest.raises(RuntimeError), written_whole(tmp_path / "x.onnx") as temporary:
        temporary.write_bytes(b"new")
        write_manifest(temporary, tmp_path / "x.onnx", kind=ONNX, parents=[], recipe={}, details={}, seconds=0)
        raise RuntimeError  # stands for the kill: the manifest is new, the file is old
    with pytest.raises(RmtEdgeError, match=r"x\.onnx is not the file its manifest describes"):
        read_artifact(tmp_path / "x.onnx", ONNX)


def test_a_changed_file_is_refused_with_both_hashes(tmp_path):
    manifest = write(tmp_path / "x.onnx")
    (tmp_path / "x.onnx").write_bytes(b"changed")
    with pytest.raises(RmtEdgeError, match=rf"sha256 d67e[\s\S]*{manifest.sha256[:16]}"):
        read_artifact(tmp_path / "x.onnx", ONNX)


def test_a_missing_file_or_manifest_or_kind_is_named(tmp_path):
    with pytest.raises(RmtEdgeError, match=r"no file .*x\.onnx"):
        read_artifact(tmp_path / "x.onnx", ONNX)
    write(tmp_path / "x.onnx")
    with pytest.raises(RmtEdgeError, match="is of kind 'ONNX model'"):
        read_artifact(tmp_path / "x.onnx", "engine")
    manifest_path(tmp_path / "x.onnx").write_text(json.dumps({"name": "x"}))
    with pytest.raises(RmtEdgeError, match="is not a manifest"):
        read_artifact(tmp_path / "x.onnx", ONNX)
    manifest_path(tmp_path / "x.onnx").unlink()
    with pytest.raises(RmtEdgeError, match="has no manifest"):
        read_artifact(tmp_path / "x.onnx", ONNX)


def test_a_checked_file_is_not_checked_again_but_held_to_its_kind(tmp_path):
    checked = read_artifact(write(tmp_path / "x.onnx").path, ONNX)
    checked.path.write_bytes(b"changed since")
    assert read_artifact(checked, ONNX) is checked
    with pytest.raises(RmtEdgeError, match=r"is of kind 'ONNX model'[\s\S]*this step takes 'engine'"):
        read_artifact(checked, "engine")


def test_a_folder_hashes_each_file_once_and_those_known_never(tmp_path, monkeypatch):
    known, other = write(tmp_path / "x.onnx"), write(tmp_path / "y.onnx")
    hashed = []
    real = artifact.sha256_of
    monkeypatch.setattr(artifact, "sha256_of", lambda path: hashed.append(path.name) or real(path))
    folder = artifact.ArtifactFolder(tmp_path, [known])
    assert folder.read("x.onnx", ONNX) is known
    assert folder.read("y.onnx", ONNX) == other and folder.read("y.onnx", ONNX) == other
    assert hashed == ["y.onnx"]
    with pytest.raises(RmtEdgeError, match="this step takes 'engine'"):
        folder.read("x.onnx", "engine")


def test_parents_have_roles(tmp_path):
    source = write(tmp_path / "x.onnx")
    data = artifact.parent_of("set", "ab" * 32, artifact.DATA)
    with written_whole(tmp_path / "y.npz") as temporary:
        temporary.write_bytes(b"y")
        child = write_manifest(
            temporary, tmp_path / "y.npz", kind="predictions", parents=[data, source.as_parent()], recipe={},
            details={}, seconds=0,
        ).manifest  # fmt: skip
    assert child.source == {"role": "source", "name": "x.onnx", "sha256": source.sha256}
    assert child.parent(artifact.DATA) == data and child.find_parent(artifact.SUBSET) is None
    with pytest.raises(RmtEdgeError, match=r"y\.npz names no parent 'subset'[\s\S]*data, source"):
        child.parent(artifact.SUBSET)
    artifact.check_parent(child, source.manifest)
    with pytest.raises(RmtEdgeError, match=r"y\.npz was made from another x\.onnx"):
        artifact.check_parent(child, write(tmp_path / "x.onnx", b"later").manifest)
