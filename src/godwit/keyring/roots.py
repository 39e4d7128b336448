"""The root keys on disk: `<data>/keyring/roots.json`, for the keyring's user alone.

The newest wraps; older ones open until nothing is wrapped by them. Whoever loses this file loses
every secret: it is backed up together with the control database.
"""

import json
import os
import secrets
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from pydantic import Field, ValidationError

from godwit.base import errors, private_files
from godwit.base.clock import Clock
from godwit.wire import keyring
from godwit.wire.record import Record
from godwit.wire.secrets import (
    KEY_BYTES,
    Owner,
    SealedKey,
    open_for_host,
    seal_for_host,
    to_bytes,
    to_text,
)

RETIRED_AFTER_MS = 60_000
"""No answer that used a superseded key is under way any more by then."""
_PLATFORM, _ALL = Owner(org_id="platform", app_id="keyring"), "roots"
"""Whose the root keys are where they are sealed as if they were an app's."""
_NAME = "roots.json"
_NEW = "roots.json.new"


class Root(Record):
    """One root key.

    Attributes:
        key: 32 random bytes, base64.
        wraps_from_ms: Since when it wraps; 0 while it only opens, `None` for since it was made.
    """

    id: str
    key: str = Field(repr=False)
    made_at_ms: int
    wraps_from_ms: int | None = None

    @property
    def since_ms(self) -> int:
        """Return when it came to wrap: of all, the last one does."""
        return self.made_at_ms if self.wraps_from_ms is None else self.wraps_from_ms


class Kept(Record):
    """`roots.json`, the oldest key first."""

    v: int = 1
    roots: tuple[Root, ...] = Field(min_length=1)


class Roots:
    """The root keys, in memory and in their file.

    The directory is held by a descriptor: the process that uses this may not reach its path.
    """

    def __init__(self, directory: int, kept: Kept, clock: Clock) -> None:
        self._directory = directory
        self._kept = kept
        self._clock = clock

    @classmethod
    def load(cls, directory: Path, clock: Clock, *, owner: int | None = None) -> Self:
        """Return the keys of a directory, the first made when there is none.

        Args:
            directory: Made if missing, closed to others.
            clock: For when a key was made.
            owner: User and group who shall own it all; `None` for the present ones.

        Raises:
            Failure: `failed_precondition` when the file cannot be read as keys.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        os.fchmod(opened, 0o700)
        try:
            kept = _read(opened)
        except FileNotFoundError:
            kept = Kept(roots=(_made(clock),))
            _write(opened, kept)
        if owner is not None:
            os.chown(_NAME, owner, owner, dir_fd=opened, follow_symlinks=False)
            os.fchown(opened, owner, owner)
        return cls(opened, kept, clock)

    def told(self) -> keyring.Roots:
        """Return which there are."""
        return keyring.Roots(ids=tuple(root.id for root in self._kept.roots))

    @property
    def newest(self) -> Root:
        """Return the one that wraps."""
        return self._kept.roots[-1]

    def key(self, root_id: str) -> bytes:
        """Return a root key.

        Raises:
            Failure: `failed_precondition` when it is not here.
        """
        for root in self._kept.roots:
            if root.id == root_id:
                return to_bytes(root.key)
        raise errors.Failure(
            "failed_precondition",
            f"secrets are wrapped by the root key {root_id}, which this keyring does not have",
            hint="put back the keyring directory that belongs to this database",
        )

    def sealed_for(self, host_key: str) -> SealedKey:
        """Return all of them, sealed for the host with that public key.

        Raises:
            Failure: `invalid_argument` when that is no public key.
        """
        plain = self._kept.model_dump_json().encode()
        return seal_for_host(plain, _PLATFORM, _ALL, host_key)

    def add(self) -> None:
        """Make another, which wraps from now on."""
        self.promote(self.prepare())

    def prepare(self) -> str:
        """Make another, which opens and does not wrap yet; return its name."""
        made = _made(self._clock).model_copy(update={"wraps_from_ms": 0})
        self._keep((*self._kept.roots, made))
        return made.id

    def promote(self, root_id: str) -> None:
        """Have one that was prepared wrap from now on.

        Raises:
            Failure: `failed_precondition` when it is not here.
        """
        self.key(root_id)
        # After the present one, whatever the clock says.
        since_ms = max(self._clock.now_ms(), self.newest.since_ms + 1)
        self._keep(
            root.model_copy(update={"wraps_from_ms": since_ms}) if root.id == root_id else root
            for root in self._kept.roots
        )

    def take(self, sealed: SealedKey, private: X25519PrivateKey) -> None:
        """Know what another keyring knows as well; what wraps there, if that is newer, does here.

        Raises:
            Failure: `failed_precondition` when they are not for this host, or no keys.
        """
        found = {root.id: root for root in self._kept.roots}
        for root in _opened(sealed, private).roots:
            known = found.get(root.id)
            if known is None or known.since_ms < root.since_ms:
                found[root.id] = root
        self._keep(found.values())

    def retire(self, used: Collection[str]) -> None:
        """Remove those that wrap nothing and were superseded a while ago."""
        before_ms = self._clock.now_ms() - RETIRED_AFTER_MS
        roots = self._kept.roots
        staying = tuple(
            root
            for root, successor in zip(roots, (*roots[1:], None), strict=True)
            if successor is None
            or root.id in used
            or max(successor.since_ms, root.made_at_ms) > before_ms
        )
        if staying != roots:
            self._keep(staying)

    def _keep(self, roots: Iterable[Root]) -> None:
        kept = Kept(roots=tuple(sorted(roots, key=lambda root: root.since_ms)))
        _write(self._directory, kept)
        self._kept = kept


def put(directory: Path, sealed: SealedKey, private: X25519PrivateKey) -> None:
    """Give a keyring that has not begun yet the root keys that another sealed for this host.

    Args:
        directory: The keyring's; it makes it its own when it begins.
        sealed: What `Roots.sealed_for` returned there.
        private: The key of this host.

    Raises:
        Failure: `failed_precondition` when they are not for this host, or no keys.
    """
    kept = _opened(sealed, private)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    private_files.write(directory / _NAME, kept.model_dump_json())


def _opened(sealed: SealedKey, private: X25519PrivateKey) -> Kept:
    plain = open_for_host(private, _PLATFORM, sealed)
    try:
        return Kept.model_validate_json(plain)
    except ValidationError:
        # Neither its words nor their cause may quote a key.
        raise errors.Failure(
            "failed_precondition", "the other keyring's root keys cannot be read"
        ) from None


def _made(clock: Clock) -> Root:
    return Root(
        id=f"root_{secrets.token_hex(8)}",
        key=to_text(secrets.token_bytes(KEY_BYTES)),
        made_at_ms=clock.now_ms(),
    )


def _read(directory: int) -> Kept:
    descriptor = os.open(_NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=directory)
    with os.fdopen(descriptor) as file:
        try:
            kept = Kept.model_validate(json.load(file))
            wrong = any(len(to_bytes(root.key)) != KEY_BYTES for root in kept.roots)
        except (ValidationError, ValueError, errors.Failure):
            wrong = True
    if wrong or kept.v != 1:
        raise errors.Failure(
            "failed_precondition",
            f"{_NAME} of the keyring holds no keys of this release",
            hint="put the keyring directory back from your copy: nothing else opens secrets",
        )
    return kept


def _write(directory: int, kept: Kept) -> None:
    """Write the file whole and durably: a lost key loses what it wraps."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(_NEW, flags, 0o600, dir_fd=directory)
    with os.fdopen(descriptor, "w") as file:
        file.write(kept.model_dump_json())
        file.flush()
        os.fsync(file.fileno())
    os.replace(_NEW, _NAME, src_dir_fd=directory, dst_dir_fd=directory)
    os.fsync(directory)
