"""The region's stream of facts: published by owners, watched by views.

The stream keeps the newest record of each subject. It is never the only copy of anything: an
owner publishes all its facts again at start and after every reconnection.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator, Sequence

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
from godwit.bus.connection import Connection
from godwit.wire import facts

logger = logging.getLogger(__name__)

_FACT: TypeAdapter[facts.Fact] = TypeAdapter(facts.Fact)
_BATCH = 256
_FETCH_S = 5.0


class FactStream:
    """The stream `FACTS_<region>`."""

    def __init__(self, connection: Connection, region: str) -> None:
        self._connection = connection
        self._region = region
        self.name = f"FACTS_{region}"
        self.skipped = 0

    async def ensure(self) -> None:
        """Make the stream if it is not there.

        Raises:
            Failure: `unavailable` while the bus is away.
        """
        config = StreamConfig(
            name=self.name,
            subjects=[f"facts.{self._region}.>"],
            storage=StorageType.FILE,
            max_msgs_per_subject=1,
            max_msg_size=65_536,
            discard=DiscardPolicy.OLD,
            allow_direct=True,
        )
        with _bus_errors("ensure"):
            await self._connection.jetstream.add_stream(config)

    async def publish(self, fact: facts.Fact) -> None:
        """Publish a record and return once the bus has it on disk.

        Raises:
            Failure: `unavailable`; publish it again later.
        """
        subject = facts.subject(self._region, fact)
        with _bus_errors(subject):
            async with asyncio.timeout(_FETCH_S + 1):
                await self._connection.jetstream.publish(
                    subject, fact.model_dump_json().encode(), timeout=_FETCH_S, stream=self.name
                )

    async def watch(self, kinds: Sequence[str]) -> AsyncIterator[facts.Fact]:
        """Yield the newest record of every subject of these kinds, then every change, for ever.

        After a reconnection everything is yielded again; receivers order by (epoch, revision).
        Records that cannot be read are skipped and counted in `skipped`.
        """
        while True:
            if not await self._connection.wait_up(_FETCH_S):
                continue
            try:
                async for fact in self._watch_once(kinds):
                    yield fact
            except (errors.Failure, nats.errors.Error, OSError, TimeoutError) as error:
                logger.info("the watch on %s is made again: %s", self.name, str(error) or "silent")
                await asyncio.sleep(0.5)

    async def _watch_once(self, kinds: Sequence[str]) -> AsyncIterator[facts.Fact]:
        jetstream = self._connection.jetstream
        client = self._connection.client
        config = ConsumerConfig(
            filter_subjects=[f"facts.{self._region}.{kind}.>" for kind in kinds],
            deliver_policy=DeliverPolicy.LAST_PER_SUBJECT,
            ack_policy=AckPolicy.NONE,
            inactive_threshold=60.0,
            mem_storage=True,
        )
        info = await jetstream.add_consumer(self.name, config)
        reconnections = client.stats["reconnects"]
        puller = await jetstream.pull_subscribe_bind(info.name, stream=self.name)
        try:
            while client.stats["reconnects"] == reconnections and self._connection.up:
                for message in await _fetch(puller):
                    try:
                        yield _FACT.validate_json(message.data)
                    except ValidationError as error:
                        self.skipped += 1
                        logger.warning("skipped a fact on %s: %s", message.subject, error)
        finally:
            with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
                async with asyncio.timeout(1):
                    await puller.unsubscribe()


async def _fetch(puller: JetStreamContext.PullSubscription) -> list[Msg]:
    """Return the next batch, or nothing when all is quiet.

    Silence is checked: the bus is asked whether the consumer still exists.
    """
    try:
        return await puller.fetch(_BATCH, timeout=_FETCH_S)
    except (nats.errors.TimeoutError, TimeoutError):
        async with asyncio.timeout(_FETCH_S):
            await puller.consumer_info()
        return []


@contextlib.contextmanager
def _bus_errors(what: str) -> Iterator[None]:
    try:
        yield
    except (nats.errors.Error, nats.js.errors.Error, OSError, TimeoutError) as error:
        raise errors.Failure("unavailable", f"the bus did not take {what}: {error}") from error
