"""What each type of an app's secret keys is and does (spec/machines.md §1.2). Called by the vault.

    type            key as imported                     what it makes
    hs256 384 512   its hash's length, or more          HMAC (RFC 2104), whole
    es256           32-byte scalar, or PKCS #8 or       ECDSA on P-256 with SHA-256, r ‖ s
                    SEC 1, DER or PEM                   (RFC 7518 §3.4); public key in SPKI DER
    nacl_auth       32 bytes                            HMAC-SHA-512-256 (NaCl's crypto_auth)
    nacl_sign       32-byte seed, or seed ‖ public key  Ed25519, detached; public key 32 bytes
    xaes256gcm      32 bytes                            nonce (24) ‖ XAES-256-GCM (C2SP)
    nacl_secretbox  32 bytes                            nonce (24) ‖ XSalsa20-Poly1305
    nacl_box        32-byte X25519 key                  libsodium's sealed box to its public key

A key is kept as the bytes that `load` returns. Of several forms in which a key can be imported
they are the shortest.
"""

import hmac
import secrets
from collections.abc import Mapping
from typing import Protocol

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from nacl import public, secret, signing
from nacl.exceptions import CryptoError

from godwit.base import errors
from godwit.wire.kms import KeyType

_KEY_BYTES = 32
_NONCE_BYTES = 24
_LONGEST_KEY = 4_096
_P256_BYTES = 32
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_AES_BLOCK = 16


class Kind(Protocol):
    """A type of keys."""

    def generate(self) -> bytes:
        """Return a new key."""

    def load(self, given: bytes) -> bytes:
        """Return an imported key as it is kept.

        Raises:
            Failure: `invalid_argument`, never with a part of it.
        """

    def public(self, key: bytes) -> bytes | None:
        """Return what may be known of it; `None` for a symmetric one."""


class Signing(Kind, Protocol):
    """A type that signs."""

    def sign(self, key: bytes, text: bytes) -> bytes:
        """Return the signature of a text."""

    def verify(self, key: bytes, text: bytes, signature: bytes) -> bool:
        """Tell whether that is the text's signature."""


class Encrypting(Kind, Protocol):
    """A type that encrypts."""

    takes_associated_data: bool

    def encrypt(self, key: bytes, text: bytes, associated: bytes) -> bytes:
        """Return a text encrypted."""

    def decrypt(self, key: bytes, text: bytes, associated: bytes) -> bytes | None:
        """Return what was encrypted; `None` for anything else."""


class _Symmetric:
    """A key that is random bytes."""

    def __init__(self, least: int = _KEY_BYTES, most: int = _KEY_BYTES) -> None:
        self._least, self._most = least, most

    def generate(self) -> bytes:
        return secrets.token_bytes(self._least)

    def load(self, given: bytes) -> bytes:
        if not self._least <= len(given) <= self._most:
            longer = "" if self._least == self._most else " at least"
            raise errors.invalid(
                f"value: a key of this type has{longer} {self._least} bytes, not {len(given)}"
            )
        return given

    def public(self, _: bytes) -> bytes | None:
        return None


class _Hmac(_Symmetric):
    """HMAC, cut to a length; RFC 7518 §3.2 wants a key as long as the hash."""

    def __init__(self, digest: str, key_bytes: int, most: int, length: int) -> None:
        super().__init__(key_bytes, most)
        self._digest, self._length = digest, length

    def sign(self, key: bytes, text: bytes) -> bytes:
        return hmac.digest(key, text, self._digest)[: self._length]

    def verify(self, key: bytes, text: bytes, signature: bytes) -> bool:
        return hmac.compare_digest(self.sign(key, text), signature)


class _Es256:
    """ECDSA on P-256; kept as the scalar."""

    def generate(self) -> bytes:
        return _scalar(ec.generate_private_key(ec.SECP256R1()))

    def load(self, given: bytes) -> bytes:
        if len(given) == _P256_BYTES:
            if not 0 < int.from_bytes(given) < _P256_ORDER:
                raise errors.invalid("value: is no scalar of P-256")
            return given
        for read in (serialization.load_der_private_key, serialization.load_pem_private_key):
            try:
                found = read(given, None)
            except (ValueError, TypeError):
                continue
            if isinstance(found, ec.EllipticCurvePrivateKey) and found.curve.name == "secp256r1":
                return _scalar(found)
        raise errors.invalid(
            "value: is no private key of P-256",
            hint="give its 32-byte scalar, or PKCS #8 or SEC 1 as DER or PEM without a password",
        )

    def public(self, key: bytes) -> bytes | None:
        return (
            _p256(key)
            .public_key()
            .public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )

    def sign(self, key: bytes, text: bytes) -> bytes:
        r, s = decode_dss_signature(_p256(key).sign(text, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(_P256_BYTES) + s.to_bytes(_P256_BYTES)

    def verify(self, key: bytes, text: bytes, signature: bytes) -> bool:
        if len(signature) != 2 * _P256_BYTES:
            return False
        r, s = (
            int.from_bytes(half) for half in (signature[:_P256_BYTES], signature[_P256_BYTES:])
        )
        try:
            asn1 = encode_dss_signature(r, s)
            _p256(key).public_key().verify(asn1, text, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True


class _NaclSign(_Symmetric):
    """Ed25519; kept as the seed."""

    def load(self, given: bytes) -> bytes:
        seed = super().load(given[:_KEY_BYTES])
        if len(given) > _KEY_BYTES and given[_KEY_BYTES:] != self.public(seed):
            raise errors.invalid("value: what follows the seed is not its public key")
        return seed

    def public(self, key: bytes) -> bytes | None:
        return bytes(signing.SigningKey(key).verify_key)

    def sign(self, key: bytes, text: bytes) -> bytes:
        return bytes(signing.SigningKey(key).sign(text).signature)

    def verify(self, key: bytes, text: bytes, signature: bytes) -> bool:
        try:
            signing.SigningKey(key).verify_key.verify(text, signature)
        except (CryptoError, ValueError):
            return False
        return True


class _Xaes256Gcm(_Symmetric):
    """XAES-256-GCM: AES-256-GCM with a key derived from the first half of a long nonce.

    Source: C2SP, XAES-256-GCM. The derivation is NIST SP 800-108r1 with CMAC, two blocks.
    """

    takes_associated_data = True

    def encrypt(self, key: bytes, text: bytes, associated: bytes) -> bytes:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + xaes_seal(key, nonce, text, associated)

    def decrypt(self, key: bytes, text: bytes, associated: bytes) -> bytes | None:
        nonce, sealed = text[:_NONCE_BYTES], text[_NONCE_BYTES:]
        if len(nonce) < _NONCE_BYTES:
            return None
        aead, short = _xaes(key, nonce)
        try:
            return aead.decrypt(short, sealed, associated)
        except InvalidTag:
            return None


class _NaclSecretbox(_Symmetric):
    """XSalsa20-Poly1305."""

    takes_associated_data = False

    def encrypt(self, key: bytes, text: bytes, _: bytes) -> bytes:
        return bytes(secret.SecretBox(key).encrypt(text))

    def decrypt(self, key: bytes, text: bytes, _: bytes) -> bytes | None:
        try:
            return secret.SecretBox(key).decrypt(text)
        except (CryptoError, ValueError):
            return None


class _NaclBox(_Symmetric):
    """Sealed boxes: anybody with the public key encrypts, the key alone decrypts."""

    takes_associated_data = False

    def public(self, key: bytes) -> bytes | None:
        return bytes(public.PrivateKey(key).public_key)

    def encrypt(self, key: bytes, text: bytes, _: bytes) -> bytes:
        return bytes(public.SealedBox(public.PrivateKey(key).public_key).encrypt(text))

    def decrypt(self, key: bytes, text: bytes, _: bytes) -> bytes | None:
        try:
            return public.SealedBox(public.PrivateKey(key)).decrypt(text)
        except (CryptoError, ValueError, TypeError):
            return None


SIGNING: Mapping[KeyType, Signing] = {
    "hs256": _Hmac("sha256", 32, _LONGEST_KEY, 32),
    "hs384": _Hmac("sha384", 48, _LONGEST_KEY, 48),
    "hs512": _Hmac("sha512", 64, _LONGEST_KEY, 64),
    "es256": _Es256(),
    "nacl_auth": _Hmac("sha512", _KEY_BYTES, _KEY_BYTES, 32),
    "nacl_sign": _NaclSign(),
}
ENCRYPTING: Mapping[KeyType, Encrypting] = {
    "xaes256gcm": _Xaes256Gcm(),
    "nacl_box": _NaclBox(),
    "nacl_secretbox": _NaclSecretbox(),
}
KINDS: Mapping[KeyType, Kind] = {**SIGNING, **ENCRYPTING}


def xaes_seal(key: bytes, nonce: bytes, text: bytes, associated: bytes) -> bytes:
    """Return a text sealed by XAES-256-GCM with a nonce of 24 bytes, which must never repeat."""
    aead, short = _xaes(key, nonce)
    return aead.encrypt(short, text, associated)


def _xaes(key: bytes, nonce: bytes) -> tuple[AESGCM, bytes]:
    """Return the derived AES-256-GCM and the rest of the nonce."""
    encryptor = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()  # noqa: S305 - of blocks
    subkey = int.from_bytes(encryptor.update(bytes(_AES_BLOCK)))
    subkey = ((subkey << 1) ^ (0x87 if subkey >> 127 else 0)) & ((1 << 128) - 1)
    first, short = nonce[:12], nonce[12:]
    blocks = (bytes((0, counter, ord("X"), 0)) + first for counter in (1, 2))
    mixed = [(int.from_bytes(block) ^ subkey).to_bytes(_AES_BLOCK) for block in blocks]
    return AESGCM(b"".join(encryptor.update(block) for block in mixed)), short


def _p256(key: bytes) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int.from_bytes(key), ec.SECP256R1())


def _scalar(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_numbers().private_value.to_bytes(_P256_BYTES)
