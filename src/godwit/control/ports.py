"""What control needs from outside: a store, hosts, facts, images, a builder.

Real ones are put in by `godwit.cmd.control`; tests put in fakes. SQL is in `godwit.store`, the
bus in `godwit.bus`. All rows of one transaction are written together or not at all.
"""

from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from godwit.base.principal import Principal
from godwit.control.rows import Rows
from godwit.images import registry_disk
from godwit.images.auth import Credentials
from godwit.images.collection import Space
from godwit.wire import facts, host_rpc, keyring
from godwit.wire.record import Record
from godwit.wire.secrets import SealedKey


class Store(Protocol):
    """Control's database."""

    def read(self) -> AbstractAsyncContextManager[Rows]:
        """Open a consistent view of the rows.

        Raises:
            Failure: `unavailable` when the database does not answer.
        """

    def write(self) -> AbstractAsyncContextManager[Rows]:
        """Open a transaction: committed at the end, rolled back by an exception.

        Raises:
            Failure: `unavailable` when the database does not answer.
        """


class Hosts(Protocol):
    """The hosts, each the owner of its machines (verbs in `wire.host_rpc`)."""

    async def call(
        self,
        host_id: str,
        verb: str,
        body: Record | dict[str, Any],
        principal: Principal,
        timeout_s: float = 10.0,
    ) -> dict[str, Any]:
        """Ask one host and return the body of its answer.

        Raises:
            Failure: What the host said, or `unavailable` / `deadline_exceeded`.
        """

    async def bids(
        self,
        region: str,
        request: host_rpc.BidRequest,
        wait_s: float = 1.0,
        *,
        hosts: int = ...,
    ) -> list[host_rpc.Bid]:
        """Ask every host of a region, so many if known, for a bid; return those in time."""


class Keyring(Protocol):
    """The process that alone can open apps' keys (verbs in `wire.keyring`).

    Every method raises `Failure`: `unavailable` when it is away, `failed_precondition` when a key
    does not open.
    """

    async def new_key(self, asked: keyring.NewKey) -> keyring.WrappedKey:
        """Return new keys for an app, wrapped."""

    async def renew_key(self, asked: keyring.RenewKey) -> keyring.WrappedKey:
        """Return another sealing key for an app; its digests stay."""

    async def seal(self, asked: keyring.Seal) -> keyring.Sealed:
        """Return values sealed, with what users see of them."""

    async def reseal(self, asked: keyring.Reseal) -> keyring.Sealed:
        """Return values sealed with an app's present key instead of its former one."""

    async def reveal(self, asked: keyring.Reveal) -> keyring.Revealed:
        """Return values in the clear."""

    async def for_host(self, asked: keyring.ForHost) -> SealedKey:
        """Return an app's sealing key, sealed for a host."""

    async def hand_over(self, asked: keyring.HandOver) -> SealedKey:
        """Return the root keys, sealed for a host with a keyring of its own."""

    async def rewrap(self, asked: keyring.Rewrap) -> keyring.Wrapped:
        """Return apps' keys wrapped by the newest root key."""

    async def roots(self) -> keyring.Roots:
        """Return which root keys there are."""

    async def prepare_root(self) -> keyring.PreparedRoot:
        """Make a root key that opens and does not wrap yet."""

    async def promote_root(self, asked: keyring.PreparedRoot) -> keyring.Roots:
        """Have a prepared root key wrap from now on."""

    async def new_root(self) -> keyring.Roots:
        """Make a root key that wraps from now on."""

    async def retire_roots(self, asked: keyring.RetireRoots) -> keyring.Roots:
        """Remove the root keys that nothing uses and nothing under way can."""

    async def make_kms(self, asked: keyring.MakeKms) -> keyring.MadeKms:
        """Return a secret key of an app, generated or imported, sealed."""

    async def use_kms(self, asked: keyring.UseKms) -> keyring.UsedKms:
        """Return what a secret key makes of a text."""


class Facts(Protocol):
    """The catalog's stream in this region."""

    async def publish(self, fact: facts.Fact) -> None:
        """Publish a record; returns once the bus has it.

        Raises:
            Failure: `unavailable`; publish it again later.
        """

    def watch(self, kinds: Sequence[str]) -> AsyncIterator[facts.Fact]:
        """Yield every newest record of these kinds, then every change, for ever."""


class Images(Protocol):
    """Registries, as far as control looks into them."""

    async def resolve(self, reference: str, token: str | None) -> host_rpc.ImageRef:
        """Return the image a reference names now, with its digest.

        Args:
            reference: As the user wrote it: `nginx`, `ghcr.io/a/b:1`, `…@sha256:…`.
            token: What opens its registry: a pull token of `control.registry`.

        Raises:
            Failure: `manifest_unknown`, `invalid_argument`, `unavailable`.
        """

    async def config_document(self, reference: str, token: str | None) -> bytes:
        """Return the config of the image a reference names now (OCI image-spec, config.md).

        Raises:
            Failure: As `resolve`.
        """

    async def check(self, registry: str, token: str) -> None:
        """Return if a registry takes what a pull token holds.

        Raises:
            Failure: `permission_denied` when it does not, `unavailable`.
        """


@dataclass(frozen=True)
class BuildRequest:
    """One build of a context into the platform's registry.

    Attributes:
        context: A tar of the build context; the caller removes it afterwards.
        reference: Where the image is pushed: `<registry>/<app>:<tag>`.
        push_token: Bearer token for that push.
        push_limit_bytes: More than that is not pushed; content that is there does not count.
        credentials: The organization's own for other registries, by registry; for bases.
        secrets: For `RUN --mount=type=secret,id=NAME`; never in the image or what is printed.
    """

    org_id: str
    app: str
    context: Path
    reference: str
    push_token: str = field(repr=False)
    push_limit_bytes: int | None = None
    credentials: Mapping[str, Credentials] = field(default_factory=dict, repr=False)
    dockerfile: str = "Dockerfile"
    target: str = ""
    args: dict[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    labels: Mapping[str, str] = field(default_factory=dict)
    no_cache: bool = False
    offline: bool = False


class Warehouse(Protocol):
    """The platform's registry as its owner sees it: its disk, and what may go from it."""

    async def contents(self) -> registry_disk.Contents:
        """Return what is in the registry."""

    async def taken(self, repositories: Iterable[str]) -> int:
        """Return how many bytes some repositories take, those below their names included."""

    def space(self) -> Space:
        """Return how full the registry's disk is."""

    async def recover(self) -> None:
        """Have the registry take writes, whatever a collection that was cut off left."""

    async def collect(self, images: Sequence[registry_disk.Pushed], keep: Collection[str]) -> None:
        """Ensure images are gone, and all content that no image names.

        The registry takes no pushes meanwhile; pulls go on.

        Args:
            images: Those that go, unless they were pushed anew since they were read.
            keep: Repositories that stay, however empty.

        Raises:
            Failure: It is to be done again; the registry takes pushes.
        """


class Builder(Protocol):
    """Turns a context into an image."""

    def build(self, request: BuildRequest) -> AsyncGenerator[dict[str, Any], None]:
        """Yield what happens, and last the image.

        `{"type": "log", "line"}` is what the build printed, `{"type": "notice", "message"}` the
        builder's own word (such as a local base that is used instead of upstream's), and
        `{"type": "image", "reference", "digest"}` the end.

        Closing the iterator early ends the build and leaves nothing behind.

        Raises:
            Failure: The build failed; the message says which step.
        """
