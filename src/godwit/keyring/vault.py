"""What the keyring does with its root keys. Holds nothing of apps: they bring their wrapped keys.

An app's wrapped key is two keys: one seals values and is renewed by rotation, one makes digests
and stays, so that a value keeps its digest. Hosts are only ever given the first. From the second
is derived what seals the app's secret keys (`kms`), which therefore leave by no verb.
"""

import hashlib
import hmac
import secrets

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from godwit.base import errors
from godwit.keyring import kms
from godwit.keyring.roots import Roots
from godwit.wire import keyring
from godwit.wire import secrets as sealing
from godwit.wire.kms import KeyType
from godwit.wire.secrets import KEY_BYTES, Owner, SealedKey, SealedValue

_DIGEST_DIGITS = 16


class Vault:
    """Answers every verb of `wire.keyring`. Implements `control.ports.Keyring`."""

    def __init__(self, roots: Roots, private: X25519PrivateKey | None = None) -> None:
        self._roots = roots
        self._private = private

    async def new_key(self, asked: keyring.NewKey) -> keyring.WrappedKey:
        """Return new keys for an app, wrapped."""
        return self._wrap(
            asked.owner,
            _Opened(secrets.token_bytes(KEY_BYTES), secrets.token_bytes(KEY_BYTES)),
        )

    async def renew_key(self, asked: keyring.RenewKey) -> keyring.WrappedKey:
        """Return another sealing key for an app; its digests stay.

        Raises:
            Failure: `failed_precondition` when the present one does not open. So do the others.
        """
        present = self._open(asked.key)
        return self._wrap(
            asked.key.owner, _Opened(secrets.token_bytes(KEY_BYTES), present.digesting)
        )

    async def seal(self, asked: keyring.Seal) -> keyring.Sealed:
        """Return values sealed, with what users see of them."""
        opened = self._open(asked.key)
        plain = [(one.name, one.version, sealing.to_bytes(one.value)) for one in asked.values]
        return _sealed(asked.key, opened, plain)

    async def reseal(self, asked: keyring.Reseal) -> keyring.Sealed:
        """Return values sealed with an app's present key instead of its former one."""
        if asked.former.owner != asked.key.owner:
            raise errors.invalid("both keys must be of one app")
        former, opened = self._open(asked.former), self._open(asked.key)
        plain = [
            (one.name, one.version, _plain(asked.former, former, one)) for one in asked.values
        ]
        return _sealed(asked.key, opened, plain)

    async def reveal(self, asked: keyring.Reveal) -> keyring.Revealed:
        """Return values in the clear."""
        opened = self._open(asked.key)
        return keyring.Revealed(
            values=tuple(
                keyring.PlainValue(
                    name=one.name,
                    version=one.version,
                    value=sealing.to_text(_plain(asked.key, opened, one)),
                )
                for one in asked.values
            )
        )

    async def for_host(self, asked: keyring.ForHost) -> SealedKey:
        """Return an app's sealing key, sealed for a host."""
        opened = self._open(asked.key)
        key = asked.key
        return sealing.seal_for_host(opened.sealing, key.owner, key.key_id, asked.host_key)

    async def hand_over(self, asked: keyring.HandOver) -> SealedKey:
        """Return the root keys, sealed for a host with a keyring of its own."""
        return self._roots.sealed_for(asked.host_key)

    async def rewrap(self, asked: keyring.Rewrap) -> keyring.Wrapped:
        """Return apps' keys wrapped by the newest root key."""
        return keyring.Wrapped(
            keys=tuple(self._wrap(key.owner, self._open(key)) for key in asked.keys)
        )

    async def roots(self) -> keyring.Roots:
        """Return which root keys there are."""
        return self._roots.told()

    async def new_root(self) -> keyring.Roots:
        """Make a root key that wraps from now on."""
        self._roots.add()
        return self._roots.told()

    async def prepare_root(self) -> keyring.PreparedRoot:
        """Make a root key that opens and does not wrap yet."""
        return keyring.PreparedRoot(id=self._roots.prepare())

    async def promote_root(self, asked: keyring.PreparedRoot) -> keyring.Roots:
        """Have a prepared root key wrap from now on.

        Raises:
            Failure: `failed_precondition` when it is not here (any more).
        """
        self._roots.promote(asked.id)
        return self._roots.told()

    async def take_roots(self, asked: keyring.TakeRoots) -> keyring.Roots:
        """Know the root keys of another keyring of this platform as well.

        Raises:
            Failure: `failed_precondition` when they are not sealed for this host.
        """
        if self._private is None:
            raise errors.Failure("failed_precondition", "this host has no key to open them with")
        self._roots.take(asked.sealed, self._private)
        return self._roots.told()

    async def retire_roots(self, asked: keyring.RetireRoots) -> keyring.Roots:
        """Remove the root keys that nothing uses and nothing under way can."""
        self._roots.retire(asked.used)
        return self._roots.told()

    async def make_kms(self, asked: keyring.MakeKms) -> keyring.MadeKms:
        """Return a secret key of an app, generated or imported, sealed.

        Raises:
            Failure: `invalid_argument` when what is imported is no key of its type.
        """
        opened, kind = self._open(asked.key), kms.KINDS[asked.type]
        given = None if asked.value is None else sealing.to_bytes(asked.value)
        key = kind.generate() if given is None else kind.load(given)
        context = _kms_context(asked.key.owner, asked.name, asked.type)
        return keyring.MadeKms(
            data=sealing.to_text(sealing.seal(opened.kms_key(), key, context)),
            public_key=sealing.to_text(kind.public(key) or b""),
        )

    async def use_kms(self, asked: keyring.UseKms) -> keyring.UsedKms:
        """Return what a secret key makes of a text.

        Raises:
            Failure: `invalid_argument` when its type does not do that, and when a signature is
                not the text's or a text was not encrypted with it.
        """
        context = _kms_context(asked.key.owner, asked.name, asked.type)
        opened = self._open(asked.key)
        key = sealing.unseal(opened.kms_key(), sealing.to_bytes(asked.data), context)
        text = sealing.to_bytes(asked.text)
        if asked.use in ("sign", "verify"):
            signature = sealing.to_bytes(asked.signature)
            output = _signed(asked, key, text, signature)
        else:
            output = _encrypted(asked, key, text, sealing.to_bytes(asked.associated_data))
        return keyring.UsedKms(output=sealing.to_text(output))

    def _wrap(self, owner: Owner, keys: "_Opened") -> keyring.WrappedKey:
        root, key_id = self._roots.newest, keys.key_id
        context = _context(owner, key_id)
        data = sealing.seal(sealing.to_bytes(root.key), keys.sealing + keys.digesting, context)
        return keyring.WrappedKey(
            owner=owner, key_id=key_id, root_id=root.id, data=sealing.to_text(data)
        )

    def _open(self, key: keyring.WrappedKey) -> "_Opened":
        root = self._roots.key(key.root_id)
        context = _context(key.owner, key.key_id)
        both = sealing.unseal(root, sealing.to_bytes(key.data), context)
        return _Opened(both[:KEY_BYTES], both[KEY_BYTES:])


class _Opened:
    """An app's keys in the clear."""

    def __init__(self, sealing_key: bytes, digesting: bytes) -> None:
        self.sealing = sealing_key
        self.digesting = digesting

    @property
    def key_id(self) -> str:
        return "key_" + hashlib.sha256(b"godwit app key\0" + self.sealing).hexdigest()[:16]

    def kms_key(self) -> bytes:
        """Return what seals the app's secret keys."""
        derive = HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=None, info=b"godwit kms 1")
        return derive.derive(self.digesting)

    def digest(self, name: str, plain: bytes) -> str:
        said = hmac.digest(self.digesting, name.encode() + b"\0" + plain, "sha256")
        return said.hex()[:_DIGEST_DIGITS]


def _sealed(
    key: keyring.WrappedKey, opened: _Opened, plain: list[tuple[str, int, bytes]]
) -> keyring.Sealed:
    return keyring.Sealed(
        values=tuple(
            keyring.DigestedValue(
                sealed=sealing.seal_value(opened.sealing, key.owner, key.key_id, value),
                digest=opened.digest(value[0], value[2]),
            )
            for value in plain
        )
    )


def _plain(key: keyring.WrappedKey, opened: _Opened, value: SealedValue) -> bytes:
    return sealing.open_value(opened.sealing, key.owner, key.key_id, value)


def _context(owner: Owner, key_id: str) -> bytes:
    return f"godwit app key 1\0{owner.org_id}\0{owner.app_id}\0{key_id}".encode()


def _kms_context(owner: Owner, name: str, kind: KeyType) -> bytes:
    return f"godwit kms 1\0{owner.org_id}\0{owner.app_id}\0{name}\0{kind}".encode()


def _signed(asked: keyring.UseKms, key: bytes, text: bytes, signature: bytes) -> bytes:
    kind = kms.SIGNING.get(asked.type)
    if kind is None:
        raise errors.invalid(f"key {asked.name!r} is of type {asked.type}, which does not sign")
    if asked.use == "sign":
        return kind.sign(key, text)
    if not kind.verify(key, text, signature):
        raise errors.invalid("signature: is not that of this text by this key")
    return b""


def _encrypted(asked: keyring.UseKms, key: bytes, text: bytes, associated: bytes) -> bytes:
    kind = kms.ENCRYPTING.get(asked.type)
    if kind is None:
        raise errors.invalid(f"key {asked.name!r} is of type {asked.type}, which does not encrypt")
    if associated and not kind.takes_associated_data:
        raise errors.invalid(
            f"associated_data: type {asked.type} takes none", hint="use a key of type xaes256gcm"
        )
    if asked.use == "encrypt":
        return kind.encrypt(key, text, associated)
    plain = kind.decrypt(key, text, associated)
    if plain is None:
        raise errors.invalid(
            "ciphertext: was not encrypted by this key with this associated data, or was changed"
        )
    return plain
