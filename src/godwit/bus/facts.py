"""The region's stream of facts: published by owners, watched by views.

The stream keeps the newest record of each subject. It is never the only copy of anything: an
owner publishes all its facts again at start and after every reconnection.

A machine's tombstone leaves the stream after `TOMBSTONE_S`, by its own time to live; those of
apps and hosts stay, as many as there were names. A view that was away for longer learns of a
deletion by silence: what a whole reading of the stream does not tell, and whose owner it does
tell of, is gone (`rust/crates/watch`).
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import datetime

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    StorageType,
    StreamConfig,
)
from pydantic import TypeAdapter, ValidationError

from godwit.base import errors
from godwit.bus import following, streams
from godwit.bus.connection import Connection
from godwit.wire import facts

logger = logging.getLogger(__name__)

_FACT: TypeAdapter[facts.Fact] = TypeAdapter(facts.Fact)
_BATCH = 256
_FETCH_S = 5.0
TOMBSTONE_S = 7 * 86_400
"""Longer than an owner remembers what it destroyed, and so may tell of it again."""
HEADERS_BYTES = 1_024
"""Room for a message's headers, which count."""
_NO_TIME_TO_LIVE = 10_166


class FactStream:
    """The stream `FACTS_<region>`.

    Args:
        connection: To the bus.
        region: Whose facts.
        tombstone_s: How long the stream keeps the record of a deletion.
        replicas: Servers that keep it, where this side makes or changes it.
    """

    def __init__(
        self,
        connection: Connection,
        region: str,
        *,
        tombstone_s: int = TOMBSTONE_S,
        replicas: int = 1,
    ) -> None:
        self._connection = connection
        self._region = region
        self._tombstone_s = tombstone_s
        self._replicas = replicas
        self.name = f"FACTS_{region}"
        self.skipped = 0

    async def ensure(self, *, migrate: bool = False) -> None:
        """Make the stream if it is not there.

        Args:
            migrate: Bring one that an earlier release made to today's form; control's to do.

        Raises:
            Failure: `unavailable` while the bus is away, or has too few servers for the copies
                that the stream should have: it has one then.
        """
        config = StreamConfig(
            name=self.name,
            subjects=[f"facts.{self._region}.>"],
            storage=StorageType.FILE,
            max_msgs_per_subject=1,
            max_msg_size=facts.MOST_BYTES + HEADERS_BYTES,
            discard=DiscardPolicy.OLD,
            allow_direct=True,
            allow_msg_ttl=True,
            num_replicas=self._replicas,
        )
        jetstream = self._connection.jetstream
        with bus_errors("ensure"):
            whole = await streams.ensure(jetstream, config, migrate=migrate)
        if not whole:
            raise errors.Failure(
                "unavailable", f"{self.name} has one copy until {self._replicas} servers are there"
            )

    async def publish(self, fact: facts.Fact) -> None:
        """Publish a record and return once the bus has it on disk.

        Raises:
            Failure: `unavailable`: publish it again later; `invalid_argument`: it is too long,
                now and later.
        """
        subject = facts.subject(self._region, fact)
        body = fact.model_dump_json().encode()
        if len(body) > facts.MOST_BYTES:
            raise errors.invalid(f"{subject} has {len(body)} bytes, over {facts.MOST_BYTES}")
        passes = fact.deleted and isinstance(fact, facts.MachineFact)
        with bus_errors(subject):
            try:
                await self._publish(subject, body, self._tombstone_s if passes else None)
            except nats.js.errors.APIError as error:
                if error.err_code != _NO_TIME_TO_LIVE:
                    raise
                # An earlier release made the stream, and control has not migrated it yet.
                await self._publish(subject, body, None)

    async def _publish(self, subject: str, body: bytes, lives_s: float | None) -> None:
        async with asyncio.timeout(_FETCH_S + 1):
            await self._connection.jetstream.publish(
                subject, body, timeout=_FETCH_S, stream=self.name, msg_ttl=lives_s
            )

    async def bury(self, before: datetime) -> int:
        """Remove tombstones of machines that were published before a time and live for ever.

        Those of an earlier release do. A record that replaces one meanwhile stays.

        Returns:
            How many were removed.

        Raises:
            Failure: `unavailable`.
        """
        gone = 0
        with bus_errors("the removal of old tombstones"):
            async for message in self._newest(["machine"]):
                told = message.metadata
                with contextlib.suppress(ValidationError):
                    if _FACT.validate_json(message.data).deleted and told.timestamp < before:
                        await self._connection.jetstream.purge_stream(
                            self.name, subject=message.subject, seq=told.sequence.stream + 1
                        )
                        gone += 1
        return gone

    async def watch(self, kinds: Sequence[str]) -> AsyncIterator[facts.Fact]:
        """Yield the newest record of every subject of these kinds, then every change, for ever.

        After a reconnection everything is yielded again; receivers order by (epoch, revision).
        Records that cannot be read are skipped and counted in `skipped`.
        """
        subjects = [f"facts.{self._region}.{kind}.>" for kind in kinds]
        async for batch in following.follow(self._connection, self.name, subjects):
            for message in batch.messages:
                try:
                    yield _FACT.validate_json(message.data)
                except ValidationError as error:
                    self.skipped += 1
                    logger.warning("skipped a fact on %s: %s", message.subject, error)

    async def _newest(self, kinds: Sequence[str]) -> AsyncIterator[Msg]:
        """Yield the newest message of every subject of these kinds, once."""
        async with self._consumer(kinds) as puller:
            left = (await puller.consumer_info()).num_pending or 0
            while left > 0:
                batch = await puller.fetch(min(_BATCH, left), timeout=_FETCH_S)
                left -= len(batch)
                for message in batch:
                    yield message

    @contextlib.asynccontextmanager
    async def _consumer(
        self, kinds: Sequence[str]
    ) -> AsyncIterator[JetStreamContext.PullSubscription]:
        jetstream = self._connection.jetstream
        config = ConsumerConfig(
            filter_subjects=[f"facts.{self._region}.{kind}.>" for kind in kinds],
            deliver_policy=DeliverPolicy.LAST_PER_SUBJECT,
            ack_policy=AckPolicy.NONE,
            inactive_threshold=60.0,
            mem_storage=True,
        )
        info = await jetstream.add_consumer(self.name, config)
        puller = await jetstream.pull_subscribe_bind(info.name, stream=self.name)
        try:
            yield puller
        finally:
            with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
                async with asyncio.timeout(1):
                    await puller.unsubscribe()


@contextlib.contextmanager
def bus_errors(what: str) -> Iterator[None]:
    """Turn what the client raises into `unavailable`, saying what the bus did not take."""
    try:
        yield
    except (nats.errors.Error, nats.js.errors.Error, OSError, TimeoutError) as error:
        raise errors.Failure("unavailable", f"the bus did not take {what}: {error}") from error
