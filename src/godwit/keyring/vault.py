"""What the keyring does with its root keys. Holds nothing of apps: they bring their wrapped keys.

An app's wrapped key is two keys: one seals values and is renewed by rotation, one makes digests
and stays, so that a value keeps its digest. Hosts are only ever given the first.
"""

import hashlib
import hmac
import secrets

from godwit.base import errors
from godwit.keyring.roots import Roots
from godwit.wire import keyring
from godwit.wire import secrets as sealing
from godwit.wire.secrets import KEY_BYTES, Owner, SealedKey, SealedValue

_DIGEST_DIGITS = 16


class Vault:
    """Answers every verb of `wire.keyring`. Implements `control.ports.Keyring`."""

    def __init__(self, roots: Roots) -> None:
        self._roots = roots

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

    async def retire_roots(self, asked: keyring.RetireRoots) -> keyring.Roots:
        """Remove the root keys that nothing uses and nothing under way can."""
        self._roots.retire(asked.used)
        return self._roots.told()

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
