"""Bundles are signed and checked by the ssh-keygen that everyone has."""

import os
import shutil
import subprocess
import sys

import pytest

from rmt_edge.bundle.signature import NAMESPACE, check_signature, sign, signature_path
from rmt_edge.errors import RmtEdgeError
from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="no ssh-keygen")


def make_key(path, kind="ed25519"):
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "someone@somewhere", "-f", path], check=True)
    return path


@pytest.fixture
def key(tmp_path):
    return make_key(tmp_path / "key")


@pytest.fixture
def bundle(tmp_path):
    path = tmp_path / "x.rmtedge"
    path.write_bytes(b"what a bundle holds")
    return path


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_a_signature_is_found_good_by_its_public_key_and_ssh_keygen_agrees(bundle, tmp_path, kind):
    key = make_key(tmp_path / "key", kind)
    signature = sign(bundle, key)
    assert signature == signature_path(bundle)
    assert check_signature(bundle, key.with_suffix(".pub"))
    command = ["ssh-keygen", "-Y", "check-novalidate", "-n", NAMESPACE, "-s", signature]
    assert subprocess.run(command, stdin=bundle.open("rb"), capture_output=True).returncode == 0
    assert sorted(x.name for x in tmp_path.iterdir()) == ["key", "key.pub", "x.rmtedge", "x.rmtedge.sig"]


def test_allowed_signers_give_the_name(bundle, key, tmp_path):
    sign(bundle, key)
    allowed = tmp_path / "allowed"
    allowed.write_text(f"# who may\n\nanna@lab {key.with_suffix('.pub').read_text()}")
    assert check_signature(bundle, allowed) == "anna@lab"


def test_a_changed_bundle_and_a_signature_of_another_are_refused(bundle, key):
    sign(bundle, key)
    bundle.write_bytes(b"what a bundle held")
    with pytest.raises(RmtEdgeError, match=r"is not a signature of .*x\.rmtedge"):
        check_signature(bundle, key.with_suffix(".pub"))


def test_a_signature_by_another_key_or_for_another_purpose_is_refused(bundle, key, tmp_path):
    sign(bundle, make_key(tmp_path / "other"))
    with pytest.raises(RmtEdgeError, match=r"signed with none of the keys in .*key\.pub"):
        check_signature(bundle, key.with_suffix(".pub"))
    with bundle.open("rb") as content:
        command = ["ssh-keygen", "-q", "-Y", "sign", "-f", key, "-n", "file"]
        signature_path(bundle).write_bytes(subprocess.run(command, stdin=content, capture_output=True).stdout)
    with pytest.raises(RmtEdgeError, match="is not a signature of"):
        check_signature(bundle, key.with_suffix(".pub"))


@pytest.mark.parametrize("content", [b"", b"-----BEGIN SSH SIGNATURE-----\nAAAA\n", b"\xff" * 100])
def test_what_is_no_signature_is_refused(bundle, key, content):
    signature_path(bundle).write_bytes(content)
    with pytest.raises(RmtEdgeError):
        check_signature(bundle, key.with_suffix(".pub"))


def test_what_is_missing_is_named(bundle, key, tmp_path):
    with pytest.raises(RmtEdgeError, match=r"x\.rmtedge is not signed"):
        check_signature(bundle, key.with_suffix(".pub"))
    with pytest.raises(RmtEdgeError, match="There is no file of keys"):
        check_signature(bundle, tmp_path / "none")
    with pytest.raises(RmtEdgeError, match="There is no key"):
        sign(bundle, tmp_path / "none")
    (tmp_path / "damaged").write_text("no key\n")
    with pytest.raises(RmtEdgeError, match="could not be signed"):
        sign(bundle, tmp_path / "damaged")
    assert not signature_path(bundle).exists()


def test_the_command_line_unpacks_and_builds_signed_bundles_alone(bundle, key):
    for command in (["unpack"], ["build"]):
        arguments = [*command, str(bundle), "--require-signed", str(key.with_suffix(".pub"))]
        result = subprocess.run(
            [sys.executable, "-m", "rmt_edge.cli", *arguments], capture_output=True, text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert result.returncode == 2 and "is not signed" in result.stderr, result
