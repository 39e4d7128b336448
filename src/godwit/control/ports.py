"""What control needs from outside: a store, hosts, facts, images, a builder.

Real ones are put in by `godwit.cmd.control`; tests put in fakes. SQL is in `godwit.store`, the
bus in `godwit.bus`. All rows of one transaction are written together or not at all.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from godwit.base.principal import Principal
from godwit.control.rows import Rows
from godwit.wire import facts, host_rpc
from godwit.wire.record import Record


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
        self, region: str, request: host_rpc.BidRequest, wait_s: float = 1.0
    ) -> list[host_rpc.Bid]:
        """Ask every host of a region for a bid; return those that came in time."""


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
            token: Bearer token for the platform's own registry.

        Raises:
            Failure: `manifest_unknown`, `invalid_argument`, `unavailable`.
        """


@dataclass(frozen=True)
class BuildRequest:
    """One build of a context into the platform's registry.

    Attributes:
        context: A tar of the build context; the caller removes it afterwards.
        reference: Where the image is pushed: `<registry>/<app>:<tag>`.
        push_token: Bearer token for that push.
    """

    org_id: str
    app: str
    context: Path
    reference: str
    push_token: str
    dockerfile: str = "Dockerfile"
    target: str = ""
    args: dict[str, str] = field(default_factory=dict)
    no_cache: bool = False
    offline: bool = False


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
