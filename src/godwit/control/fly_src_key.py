"""The cluster's key for `Fly-Src`, by which apps know which machine asks them.

Made at the first `godwit up`. A host that joins is given it for its edge to sign with, over TLS
with the certificate that its token names; a host of a former release asks for it
(docs/decisions/0051). Files in `<data>/keys`, for root alone. Used by `control.joining`, and by
`host.layout` and `host.joining` for what is kept here.
"""

from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from godwit.base import private_files
from godwit.wire.fly_src import KEY_FILE, PUBLIC_FILE


def ensure(keys: Path) -> None:
    """Ensure that the key is there, making it when it is not; only on a cluster's first host."""
    held = read(keys)
    keep(keys, held or _pem(Ed25519PrivateKey.generate()))


def read(keys: Path) -> str:
    """Return the key, PEM; empty where there is none."""
    path = keys / KEY_FILE
    return path.read_text() if path.exists() else ""


def keep(keys: Path, pem: str) -> None:
    """Keep the key and its public half; what is none is left alone.

    The public half comes last: whoever finds it finds the other.
    """
    try:
        key = serialization.load_pem_private_key(pem.encode(), None)
    except ValueError:
        return
    if not isinstance(key, Ed25519PrivateKey):
        return
    for name, text in (
        (KEY_FILE, pem),
        (PUBLIC_FILE, key.public_key().public_bytes_raw().hex()),
    ):
        path = keys / name
        if not path.exists() or path.read_text() != text:
            private_files.write(path, text)


def _pem(key: Ed25519PrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
