"""Secrets at rest in the control database: sealed with a key that the database does not hold.

A sealed record names its format and its key, so that whoever keeps keys later can open it with
the old key and seal it again with another. What it belongs to (an organization, a registry) is
bound into it: a record moved to another row does not open. Made in `cmd.control`.
"""

import base64
import binascii
import hashlib
import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from godwit.base import errors, private_files

FORMAT = 1
"""AES-256-GCM, a random nonce of 96 bits, the context as additional data."""
_KEY_BYTES = 32
_NONCE_BYTES = 12


@dataclass(frozen=True)
class Sealed:
    """A secret as it is stored.

    Attributes:
        format: How it is sealed; this release knows `FORMAT`.
        key_id: Which key opens it.
    """

    format: int
    key_id: str
    nonce: bytes
    data: bytes


class Sealer:
    """Seals and opens with one key."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)
        self.key_id = "key_" + hashlib.sha256(b"godwit sealing key\0" + key).hexdigest()[:16]

    def seal(self, secret: bytes, context: str) -> Sealed:
        """Return a secret sealed for what it belongs to."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        data = self._cipher.encrypt(nonce, secret, context.encode())
        return Sealed(FORMAT, self.key_id, nonce, data)

    def open(self, sealed: Sealed, context: str) -> bytes:
        """Return the secret of a record.

        Raises:
            Failure: `failed_precondition` when it was sealed with another key, in a format of a
                newer release, for something else, or was changed.
        """
        if sealed.format != FORMAT or sealed.key_id != self.key_id:
            raise errors.Failure(
                "failed_precondition",
                f"a stored secret is sealed with {sealed.key_id} (format {sealed.format}), and"
                f" this control has {self.key_id} (format {FORMAT})",
                hint="put back the key file that belongs to this database, or give it anew",
            )
        try:
            return self._cipher.decrypt(sealed.nonce, sealed.data, context.encode())
        except InvalidTag as error:
            raise errors.Failure(
                "failed_precondition",
                "a stored secret does not open: it was changed",
                hint="give the secret anew",
            ) from error


def ensure(directory: Path) -> Sealer:
    """Return the sealer of `sealing.key`, made when there is none, for its owner alone.

    Raises:
        Failure: `failed_precondition` when the file holds no key.
    """
    path = directory / "sealing.key"
    if not path.exists():
        # Whole or not at all: a lost key loses what it sealed.
        made = base64.b64encode(secrets.token_bytes(_KEY_BYTES))
        private_files.write(path, made.decode() + "\n")
    try:
        key = base64.b64decode(path.read_bytes().strip(), validate=True)
    except binascii.Error:
        key = b""
    if len(key) != _KEY_BYTES:
        raise errors.Failure(
            "failed_precondition",
            f"{path} holds no key: it must be {_KEY_BYTES} bytes in base64",
            hint="put the file back from your copy; what it sealed opens with no other",
        )
    return Sealer(key)
