"""Following a stream: the newest record of every subject, then every change, for ever.

A reading uses one push consumer, told to be alive by heartbeats. It is given up, and all is read
anew, when the connection breaks, when heartbeats stay away or when a message is left out: a
consumer that outlives a reconnection may stay silent (docs/decisions/0010 speaks of bids, this
of facts). The bus sends on only as fast as messages are taken (its flow control).
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from godwit.base import errors
from godwit.bus.connection import Connection

logger = logging.getLogger(__name__)

_WAIT_S = 5.0
_PAUSE_S = 0.5
_HEARTBEAT_S = 2.0
_SILENCE_S = 5.0
_MOST_AT_ONCE = 256


@dataclass(frozen=True)
class Batch:
    """Some messages of a reading, in their order.

    Attributes:
        begins: A reading begins: everything that is there is told from here on.
        whole: Everything that was there when the reading began has been told.
    """

    messages: tuple[Msg, ...] = ()
    begins: bool = False
    whole: bool = False


class _Silent(Exception):
    """The bus did not say what it had to say."""


async def follow(
    connection: Connection, stream: str, subjects: Sequence[str]
) -> AsyncGenerator[Batch, None]:
    """Yield what a stream holds under these subjects and every change, for ever.

    After any doubt a new reading begins; receivers order records by what is in them.
    """
    while True:
        if not await connection.wait_up(_WAIT_S):
            continue
        try:
            async with contextlib.aclosing(read(connection, stream, subjects)) as batches:
                async for batch in batches:
                    yield batch
        except errors.Failure as failure:
            logger.info("the reading of %s is made again: %s", stream, failure.message)
            await asyncio.sleep(_PAUSE_S)


async def read(
    connection: Connection, stream: str, subjects: Sequence[str]
) -> AsyncGenerator[Batch, None]:
    """Yield what a stream holds under these subjects and every change, until the first doubt.

    Raises:
        Failure: `unavailable`: what ended it.
    """
    try:
        async with contextlib.aclosing(_read(connection, stream, subjects)) as batches:
            async for batch in batches:
                yield batch
    except (_Silent, nats.errors.Error, nats.js.errors.Error, OSError, TimeoutError) as error:
        why = str(error) or "the bus is silent"
        raise errors.Failure("unavailable", f"{stream}: {why}") from error


async def _read(
    connection: Connection, stream: str, subjects: Sequence[str]
) -> AsyncGenerator[Batch, None]:
    client = connection.require()
    ear = _Ear()
    with connection.broken(ear.give_up):
        subscription = await client.subscribe(client.new_inbox(), cb=ear.hear)
        try:
            config = ConsumerConfig(
                deliver_subject=subscription.subject,
                deliver_policy=DeliverPolicy.LAST_PER_SUBJECT,
                ack_policy=AckPolicy.NONE,
                filter_subjects=list(subjects),
                idle_heartbeat=_HEARTBEAT_S,
                flow_control=True,
                mem_storage=True,
                num_replicas=1,
            )
            async with asyncio.timeout(_WAIT_S):
                info = await connection.jetstream.add_consumer(stream, config)
            whole = not info.num_pending
            yield Batch(begins=True, whole=whole)
            received = 0
            while True:
                heard = await ear.listen()
                received = await _check(connection, heard, received)
                messages = tuple(message for message in heard if not _status(message))
                whole = whole or any(not one.metadata.num_pending for one in messages)
                if messages:
                    yield Batch(messages, whole=whole)
        finally:
            with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
                async with asyncio.timeout(1):
                    await subscription.unsubscribe()


async def _check(connection: Connection, heard: Sequence[Msg], received: int) -> int:
    """Return how many messages were received in all; let the bus send on.

    Raises:
        _Silent: One was left out.
    """
    for message in heard:
        if _status(message):
            last = (message.headers or {}).get("Nats-Last-Consumer")
            if last is not None and int(last) != received:
                raise _Silent(f"{int(last) - received} messages were left out")
            if message.reply:
                await connection.require().publish(message.reply, b"")
            continue
        received += 1
        if message.metadata.sequence.consumer != received:
            raise _Silent(f"message {received} was left out")
    return received


def _status(message: Msg) -> bool:
    """Tell whether a message is a heartbeat or a question of flow control."""
    return bool(message.headers) and "Status" in (message.headers or {})


class _Ear:
    """What has arrived and was not taken yet."""

    def __init__(self) -> None:
        self._heard: list[Msg] = []
        self._anything = asyncio.Event()
        self._broken = False

    async def hear(self, message: Msg) -> None:
        """Take a message from the NATS client."""
        self._heard.append(message)
        self._anything.set()

    def give_up(self) -> None:
        """Hear nothing more."""
        self._broken = True
        self._anything.set()

    async def listen(self) -> list[Msg]:
        """Return what has arrived since; waits for something.

        Raises:
            _Silent: The connection broke, or not even a heartbeat came.
        """
        try:
            async with asyncio.timeout(_SILENCE_S):
                await self._anything.wait()
        except TimeoutError as error:
            raise _Silent(f"nothing was heard for {_SILENCE_S:g} s") from error
        if self._broken:
            raise _Silent("the connection broke")
        taken, self._heard = self._heard[:_MOST_AT_ONCE], self._heard[_MOST_AT_ONCE:]
        if not self._heard:
            self._anything.clear()
        return taken
