"""Signatures of bundles: who packed it, where the seal tells only that nothing was damaged.

By OpenSSH's `ssh-keygen -Y`, which every workstation and board has, with keys that people have: Ed25519, RSA, ECDSA
or a security key. The signature lies beside the bundle, `<bundle>.sig`. Source: ssh-keygen(1), "ALLOWED SIGNERS".
"""

import re
import shutil
import subprocess
from pathlib import Path

from rmt_edge.errors import RmtEdgeError
from rmt_edge.writing import scratch_folder, written_whole

NAMESPACE = "bundle@rmt-edge"  # so that a signature for something else is none for a bundle
_PUBLIC_KEY = re.compile(r"(ssh-|ecdsa-|sk-)\S+ ")  # what a line of a .pub file begins with


def signature_path(bundle: Path) -> Path:
    """Where the signature of a bundle lies."""
    return bundle.with_name(f"{bundle.name}.sig")


def sign(bundle: Path, key: Path) -> Path:
    """Sign a bundle with a private SSH key, or a public one whose other half the agent holds; returns the signature."""
    if not key.is_file():
        raise RmtEdgeError(f"There is no key {key}.", do="Make one: ssh-keygen -t ed25519 -f KEY")
    with bundle.open("rb") as content:
        result = _ssh_keygen("sign", "-q", "-f", str(key), "-n", NAMESPACE, stdin=content)
    if result.returncode or not result.stdout.startswith(b"-----BEGIN SSH SIGNATURE-----"):
        raise RmtEdgeError(f"{bundle} could not be signed with {key}: {_said(result)}.")
    path = signature_path(bundle)
    with written_whole(path) as temporary:
        temporary.write_bytes(result.stdout)
    return path


def check_signature(bundle: Path, keys: Path) -> str:
    """Refuse a bundle that none of some keys signed; returns whose key it was.

    keys: a file of public keys, as `.pub` files hold them, or of OpenSSH's allowed signers (`name keytype key`).
    """
    signature = signature_path(bundle)
    if not keys.is_file():
        raise RmtEdgeError(f"There is no file of keys {keys}.", "it holds public keys or allowed signers, a line each.")
    if not signature.is_file():
        raise RmtEdgeError(
            f"{bundle} is not signed: there is no {signature.name} beside it.",
            do="Pack it with --sign KEY, or copy the signature along.",
        )
    with scratch_folder(bundle) as folder:
        allowed = folder / "allowed_signers"
        allowed.write_text(_as_allowed_signers(keys.read_text(errors="replace")))
        signer = ["-s", str(signature), "-f", str(allowed)]
        found = _ssh_keygen("find-principals", *signer)
        names = found.stdout.decode(errors="replace").splitlines()
        if found.returncode or not names:
            raise RmtEdgeError(f"{bundle} is signed with none of the keys in {keys}.", f"ssh-keygen: {_said(found)}.")
        with bundle.open("rb") as content:
            verified = _ssh_keygen("verify", *signer, "-I", names[0], "-n", NAMESPACE, stdin=content)
    if verified.returncode:
        raise RmtEdgeError(
            f"{signature} is not a signature of {bundle}: {_said(verified)}.",
            "the bundle was changed after it was signed, or the signature is of another file.",
            "Get both again from where the bundle was packed.",
        )
    return names[0]


def _as_allowed_signers(keys: str) -> str:
    """Public keys are turned into allowed signers of any name; what are such already stay."""
    lines = [x.strip() for x in keys.splitlines() if x.strip() and not x.startswith("#")]
    return "".join(f"* {x}\n" if _PUBLIC_KEY.match(x) else f"{x}\n" for x in lines)


def _ssh_keygen(action: str, *arguments: str, stdin=None) -> subprocess.CompletedProcess:
    if shutil.which("ssh-keygen") is None:
        raise RmtEdgeError("There is no ssh-keygen here.", do="Install OpenSSH's client: apt install openssh-client")
    command = ["ssh-keygen", "-Y", action, *arguments]
    return subprocess.run(command, stdin=stdin or subprocess.DEVNULL, capture_output=True)


def _said(result: subprocess.CompletedProcess) -> str:
    lines = (result.stderr or result.stdout).decode(errors="replace").strip().splitlines()
    return lines[-1].rstrip(".") if lines else f"ssh-keygen ended with {result.returncode}"
