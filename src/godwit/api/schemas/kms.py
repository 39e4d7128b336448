"""Secret keys of apps (spec/machines.md §1.2): named and used, never shown."""

import base64
import binascii
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from godwit.api.schemas.common import In, Out
from godwit.base import clock
from godwit.control import kms
from godwit.control.records import KmsKey
from godwit.wire.kms import KeyType

_MOST_ENCODED = 131_072


def _bytes(given: Any) -> bytes:
    """Take base64, as clients in Go send bytes, or a list of numbers, as the public schema says.

    Its words quote nothing of what was given.
    """
    if isinstance(given, str):
        if len(given) > _MOST_ENCODED:
            raise ValueError("is too long")
        try:
            return base64.b64decode(given, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("must be base64, or a list of bytes") from None
    if isinstance(given, list) and len(given) <= _MOST_ENCODED:
        try:
            return bytes(given)
        except (TypeError, ValueError):
            raise ValueError("must be base64, or a list of bytes") from None
    raise ValueError("must be base64, or a list of bytes")


Bytes = Annotated[
    bytes,
    BeforeValidator(_bytes),
    Field(repr=False),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "format": "byte"},
                {
                    "type": "array",
                    "items": {"type": "integer", "minimum": 0, "maximum": 255},
                },
            ]
        }
    ),
]


class ImportKey(In):
    """A key to import."""

    type: KeyType
    value: Bytes


class GenerateKey(In):
    """A key to make."""

    type: KeyType


class Encrypt(In):
    """What to encrypt; `associated_data` must be given again to decrypt it."""

    plaintext: Bytes = b""
    associated_data: Bytes = b""


class Decrypt(In):
    """What to decrypt."""

    ciphertext: Bytes
    associated_data: Bytes = b""


class Sign(In):
    """What to sign."""

    plaintext: Bytes = b""


class Verify(In):
    """A text and what is said to be its signature."""

    plaintext: Bytes = b""
    signature: Bytes


class SecretKey(Out):
    """A secret key. `public_key` of asymmetric ones alone."""

    name: str
    type: KeyType
    public_key: str | None = None
    created_at: str
    updated_at: str

    @classmethod
    def of(cls, row: KmsKey) -> "SecretKey":
        """Return a key as the API shows it."""
        return cls(**_fields(row))


class SecretKeyList(Out):
    """Secret keys by name."""

    secret_keys: list[SecretKey]


class SecretKeySet(SecretKey):
    """A key that was made, and the version of the app's secrets with it."""

    version: int

    @classmethod
    def made(cls, row: KmsKey, version: int) -> "SecretKeySet":
        """Return the answer to making one."""
        return cls(**_fields(row), version=version)


class SecretKeysVersion(Out):
    """The version of the app's secrets."""

    version: int


class Ciphertext(Out):
    """What was encrypted, base64."""

    ciphertext: str


class Plaintext(Out):
    """What was decrypted, base64."""

    plaintext: str


class Signature(Out):
    """A signature, base64."""

    signature: str


def encoded(data: bytes) -> str:
    """Return bytes as answers show them."""
    return base64.b64encode(data).decode()


def types(listed: str) -> frozenset[KeyType]:
    """Return the types that a list parted by commas names; unknown ones are of no key."""
    named = {name.strip() for name in listed.split(",")}
    return frozenset(one for one in kms.TYPES if one in named)


def _fields(row: KmsKey) -> dict[str, Any]:
    return {
        "name": row.name,
        "type": row.type,
        "public_key": row.public_key or None,
        "created_at": clock.rfc3339(row.created_at_ms),
        "updated_at": clock.rfc3339(row.updated_at_ms),
    }
