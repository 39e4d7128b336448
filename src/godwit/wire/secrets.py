"""An app's secrets on their way to a host and at rest there: sealed, by whom and for whom.

    root key (keyring only) ─wraps─▶ app key ─seals─▶ each value
    host's X25519 key ◀─the app key, sealed again for a host that gets a machine of the app─┘

The keyring seals, the host's agent opens at a machine's start; control and the bus carry what they
cannot read. Values are AES-256-GCM with organization, app, key, name and version as additional
data: one that was moved to another place, or is of another time, does not open. A key for a host
is sealed to its X25519 key by a fresh one (HKDF-SHA256, AES-256-GCM); who it is for is bound in.

Sealed data is a nonce of 96 random bits and then the ciphertext, in base64.
"""

import base64
import binascii
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from godwit.base import errors
from godwit.wire.record import Record

KEY_BYTES = 32
_NONCE_BYTES = 12


class Owner(Record):
    """Whose secrets: one app of one organization."""

    org_id: str
    app_id: str


class SealedValue(Record):
    """One secret, sealed with its app's key.

    Attributes:
        version: Of the app's secrets when this value was set.
        data: Sealed, base64.
    """

    name: str
    version: int
    data: str


class SealedKey(Record):
    """An app's key, sealed for one host.

    Attributes:
        key_id: Which key it is.
        host_key: The host's public key that it is sealed to, base64.
        data: The sealer's public key, then what is sealed, base64.
    """

    key_id: str
    host_key: str
    data: str


class HostSecrets(Record):
    """All secrets of an app at one version, as a host keeps them for a machine.

    Attributes:
        version: Of the app's secrets; grows with every change of any of them.
    """

    v: int = 1
    owner: Owner
    version: int
    key: SealedKey
    values: tuple[SealedValue, ...] = ()


def value_context(owner: Owner, key_id: str, name: str, version: int) -> bytes:
    """Return what a sealed value is bound to; none of the parts can hold a NUL."""
    parts = ("godwit secret 1", owner.org_id, owner.app_id, key_id, name, str(version))
    return "\0".join(parts).encode()


def seal(key: bytes, plain: bytes, context: bytes) -> bytes:
    """Return data sealed with a key, bound to a context."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plain, context)


def unseal(key: bytes, data: bytes, context: bytes) -> bytes:
    """Return what was sealed.

    Raises:
        Failure: `failed_precondition`: sealed with another key, for something else, or changed.
    """
    try:
        return AESGCM(key).decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], context)
    except (InvalidTag, ValueError) as error:
        raise errors.Failure(
            "failed_precondition",
            "a sealed secret does not open: it belongs elsewhere, or was changed",
        ) from error


def seal_value(
    key: bytes, owner: Owner, key_id: str, value: tuple[str, int, bytes]
) -> SealedValue:
    """Return a value `(name, version, plain)` sealed with its app's key."""
    name, version, plain = value
    data = seal(key, plain, value_context(owner, key_id, name, version))
    return SealedValue(name=name, version=version, data=to_text(data))


def open_value(key: bytes, owner: Owner, key_id: str, sealed: SealedValue) -> bytes:
    """Return a sealed value.

    Raises:
        Failure: `failed_precondition`.
    """
    context = value_context(owner, key_id, sealed.name, sealed.version)
    return unseal(key, to_bytes(sealed.data), context)


def seal_for_host(key: bytes, owner: Owner, key_id: str, host_key: str) -> SealedKey:
    """Return an app's key sealed for the host with that public key (base64).

    Raises:
        Failure: `invalid_argument` when that is no public key.
    """
    theirs = to_bytes(host_key)
    try:
        public = X25519PublicKey.from_public_bytes(theirs)
        once = X25519PrivateKey.generate()
        shared = once.exchange(public)
    except ValueError as error:
        raise errors.invalid("the host's sealing key is no X25519 key") from error
    ours = once.public_key().public_bytes_raw()
    context = _key_context(owner, key_id)
    data = ours + seal(_derived(shared, ours, theirs), key, context)
    return SealedKey(key_id=key_id, host_key=host_key, data=to_text(data))


def open_for_host(private: X25519PrivateKey, owner: Owner, sealed: SealedKey) -> bytes:
    """Return an app's key that was sealed for this host.

    Raises:
        Failure: `failed_precondition`: it is for another host or app, or was changed.
    """
    data, mine = to_bytes(sealed.data), private.public_key().public_bytes_raw()
    theirs = data[:KEY_BYTES]
    try:
        shared = private.exchange(X25519PublicKey.from_public_bytes(theirs))
    except ValueError as error:
        raise errors.Failure("failed_precondition", "a sealed key cannot be read") from error
    context = _key_context(owner, sealed.key_id)
    return unseal(_derived(shared, theirs, mine), data[KEY_BYTES:], context)


def to_text(data: bytes) -> str:
    """Return bytes as base64."""
    return base64.b64encode(data).decode()


def to_bytes(text: str) -> bytes:
    """Return the bytes of base64.

    Raises:
        Failure: `invalid_argument`.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise errors.invalid("sealed data is not base64") from error


def _key_context(owner: Owner, key_id: str) -> bytes:
    return f"godwit key for host 1\0{owner.org_id}\0{owner.app_id}\0{key_id}".encode()


def _derived(shared: bytes, sealer: bytes, host: bytes) -> bytes:
    info = b"godwit key for host 1\0" + sealer + host
    return HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=None, info=info).derive(shared)
