"""The key by which other hosts know this one in the mesh, and the one that it is to have next.

Two files: the key, which `host.identity` makes, and beside it the next one while the key is being
changed. The change itself is one rename, so that a host which dies at any moment of it comes back
with one of the two.
"""

import base64
import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey


class MeshKeys:
    """This host's keys in the mesh."""

    def __init__(self, private_key: Path) -> None:
        self._file = private_key
        self._next = private_key.with_name(private_key.name + ".next")

    @property
    def public(self) -> str:
        """Return the public half of the key in use."""
        return _public(self._file)

    @property
    def next_public(self) -> str:
        """Return the public half of the key that comes next, empty if none does."""
        return _public(self._next) if self._next.exists() else ""

    def age_s(self, now_s: float) -> float:
        """Return how long ago the key in use was made."""
        return now_s - self._file.stat().st_mtime

    def prepare(self) -> str:
        """Ensure that there is a next key; return its public half, for others to be told."""
        if not self._next.exists():
            made = base64.b64encode(X25519PrivateKey.generate().private_bytes_raw())
            new = self._next.with_name(self._next.name + ".new")
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(made + b"\n")
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._next)
        return self.next_public

    def switch(self) -> None:
        """Have the next key be the one in use."""
        self._next.replace(self._file)


def _public(path: Path) -> str:
    private = X25519PrivateKey.from_private_bytes(base64.b64decode(path.read_text().strip()))
    return base64.b64encode(private.public_key().public_bytes_raw()).decode()
