"""Whole files or none, manifests, and the chain."""

import json
import os
import signal
import subprocess
import sys

import pytest

from rmt_edge import artifact
from rmt_edge.artifact import ONNX, manifest_path, output_folder, read_manifest, write_manifest, written_whole
from rmt_edge.errors import RmtEdgeError


def write(path, content=b"content", kind=ONNX):
    with written_whole(path) as temporary:
        temporary.write_bytes(content)
        return write_manifest(temporary, path, kind=kind, parents=[], recipe={}, details={"a": 1}, seconds=1.234)


def test_a_file_and_its_manifest_agree(tmp_path):
    written = write(tmp_path / "x.onnx")
    assert read_manifest(tmp_path / "x.onnx", ONNX) == written
    assert written.sha256 == "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"
    assert written.size_bytes == 7 and written.versions["rmt-edge"]
    assert sorted(x.name for x in tmp_path.iterdir()) == ["x.onnx", "x.onnx.json"]


def test_an_exception_leaves_the_old_file_and_no_part(tmp_path):
    write(tmp_path / "x.onnx", b"old")
    with pytest.raises(KeyboardInterrupt), written_whole(tmp_path / "x.onnx") as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert (tmp_path / "x.onnx").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_killed_process_leaves_no_half_file_under_the_final_name(tmp_path):
    code = f"""
import os, signal
from pathlib import Path
from rmt_edge.artifact import written_whole
with written_whole(Path({str(tmp_path)!r}) / "x.onnx") as temporary:
    temporary.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "x.onnx").exists()
    assert [x.suffix for x in tmp_path.iterdir()] == [".part"]


def test_a_kill_between_manifest_and_file_is_noticed(tmp_path):
    write(tmp_path / "x.onnx", b"old")
    with pytest.raises(RuntimeError), written_whole(tmp_path / "x.onnx") as temporary:
        temporary.write_bytes(b"new")
        write_manifest(temporary, tmp_path / "x.onnx", kind=ONNX, parents=[], recipe={}, details={}, seconds=0)
        raise RuntimeError  # stands for the kill: the manifest is new, the file is old
    with pytest.raises(RmtEdgeError, match=r"x\.onnx is not the file its manifest describes"):
        read_manifest(tmp_path / "x.onnx", ONNX)


def test_a_changed_file_is_refused_with_both_hashes(tmp_path):
    manifest = write(tmp_path / "x.onnx")
    (tmp_path / "x.onnx").write_bytes(b"changed")
    with pytest.raises(RmtEdgeError, match=rf"sha256 d67e[\s\S]*{manifest.sha256[:16]}"):
        read_manifest(tmp_path / "x.onnx", ONNX)


def test_a_missing_file_or_manifest_or_kind_is_named(tmp_path):
    with pytest.raises(RmtEdgeError, match=r"no file .*x\.onnx"):
        read_manifest(tmp_path / "x.onnx", ONNX)
    write(tmp_path / "x.onnx")
    with pytest.raises(RmtEdgeError, match="is of kind 'ONNX model'"):
        read_manifest(tmp_path / "x.onnx", "engine")
    manifest_path(tmp_path / "x.onnx").write_text(json.dumps({"name": "x"}))
    with pytest.raises(RmtEdgeError, match="is not a manifest"):
        read_manifest(tmp_path / "x.onnx", ONNX)
    manifest_path(tmp_path / "x.onnx").unlink()
    with pytest.raises(RmtEdgeError, match="has no manifest"):
        read_manifest(tmp_path / "x.onnx", ONNX)


def test_a_nan_never_reaches_a_record(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        artifact.write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not list(tmp_path.iterdir())


def test_an_output_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RmtEdgeError, match=r"output folder .*file.* cannot be written"):
        output_folder(tmp_path / "file" / "folder")
    with pytest.raises(RmtEdgeError, match=r"output folder .*file cannot be written"):
        output_folder(tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RmtEdgeError, match="cannot be written"):
        output_folder(tmp_path)
