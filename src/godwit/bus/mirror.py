"""The mirror: in one region, what the hosts of all other regions own.

Regions' servers are not linked. Who keeps a region's mirror reads the other regions' streams of
facts as any client does, and puts every newer record of a machine or host into the stream
`MIRROR` of its own, under `mirror.<region>.<kind>.<owner>.<key>`: the same record, under the
region that owns it. A region that is cut off keeps its last mirror.

Nothing here has to happen once only. A record replaces another by (epoch, revision), and is
written only over the one it was compared with (the bus compares the subject's last sequence), so
two that keep one mirror at a time do no harm, nor does reading everything again.
"""

import asyncio
import contextlib
import itertools
import json
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import nats.js.errors
from nats.aio.msg import Msg
from nats.js.api import DiscardPolicy, StorageType, StreamConfig

from godwit.base import errors, tasks
from godwit.base.clock import Clock
from godwit.bus import facts, following, streams
from godwit.bus.connection import Connection
from godwit.wire.facts import MOST_BYTES

logger = logging.getLogger(__name__)

STREAM = "MIRROR"
KINDS = ("machine", "host")
SETTLING_S = 600.0
"""After a whole reading owners get so long to tell again what a bus may have lost."""
_AT_ONCE = 64
_PAUSE_S = 1.0
_COPIES_S = 5.0
_PUBLISH_S = 5.0
_WRONG_LAST_SEQUENCE = 10_071
_SUBJECT_PARTS = 5

Version = tuple[int, int]


@dataclass(frozen=True)
class Copy:
    """A record as it goes into the mirror, or as it is there.

    Attributes:
        version: Its epoch and revision.
        data: The record; empty for one that is there already.
        sequence: Of the message in the mirror; 0 for one that is not there.
    """

    subject: str
    version: Version
    deleted: bool
    data: bytes = b""
    sequence: int = 0


def read(subject: str, data: bytes, region: str) -> Copy | None:
    """Return what the mirror takes from a message of a region's facts.

    `None` for what its subject's owner may not say, or what is no record of a machine or host.
    """
    parts = subject.split(".")
    if len(parts) != _SUBJECT_PARTS or parts[1] != region or parts[2] not in KINDS:
        return None
    _, _, kind, owner, key = parts
    try:
        record = json.loads(data)
        version = (int(record["epoch"]), int(record["revision"]))
        named = record["machine_id" if kind == "machine" else "host_id"]
        says = (record["kind"], record["owner"], record["host_id"], record["region"], named)
        deleted = bool(record.get("deleted"))
    except (ValueError, TypeError, KeyError):
        return None
    if says != (kind, owner, owner, region, key):
        return None
    return Copy(f"mirror.{subject.removeprefix('facts.')}", version, deleted, data)


class Ledger:
    """What the mirror holds, and what it is yet to be given. Pure."""

    def __init__(self) -> None:
        self._held: dict[str, Copy] = {}
        self._due: dict[str, Copy] = {}

    def holds(self, copy: Copy) -> None:
        """Note what is in the mirror's stream."""
        known = self._held.get(copy.subject)
        if known is None or copy.sequence >= known.sequence:
            self._held[copy.subject] = replace(copy, data=b"")
        due = self._due.get(copy.subject)
        if due is not None and not _replaces(due, self._held[copy.subject]):
            del self._due[copy.subject]

    def told(self, copy: Copy) -> bool:
        """Take in what an owner says; return whether the mirror is to be given it."""
        newest = self._due.get(copy.subject) or self._held.get(copy.subject)
        if not _replaces(copy, newest):
            return False
        self._due[copy.subject] = copy
        return True

    def due(self, limit: int, but: Collection[str] = ()) -> list[tuple[Copy, int]]:
        """Return what is to be written, and the sequence of what each is to replace.

        Args:
            limit: So many at most.
            but: Subjects of which something is being written already.
        """
        waiting = (one for one in self._due.values() if one.subject not in but)
        return [(one, self._sequence(one.subject)) for one in itertools.islice(waiting, limit)]

    def knows(self, subject: str, sequence: int) -> bool:
        """Tell whether nothing is learnt of a subject by a message with that sequence."""
        return self._sequence(subject) >= sequence

    def absent(self, subject: str) -> None:
        """Note that what was known of a subject is no more: its tombstone may have passed."""
        self._held.pop(subject, None)

    def gone(self, region: str, told: set[str]) -> list[str]:
        """Return the machines' subjects that a whole reading of a region did not tell of.

        Only of hosts that it told of: a stream that lost its content takes nothing away.
        """
        hosts = {parts[3] for subject in told if (parts := subject.split("."))[2] == "host"}
        found = []
        for subject, copy in self._held.items():
            _, of, kind, owner, _ = subject.split(".")
            lives = of == region and kind == "machine" and not copy.deleted
            if lives and owner in hosts and subject not in told:
                found.append(subject)
        return found

    def _sequence(self, subject: str) -> int:
        held = self._held.get(subject)
        return held.sequence if held is not None else 0


def _replaces(copy: Copy, other: Copy | None) -> bool:
    """Tell whether a record is newer; a tombstone also replaces the record it is made of."""
    if other is None or copy.version > other.version:
        return True
    return copy.version == other.version and copy.deleted and not other.deleted


class Mirror:
    """Keeps one region's mirror.

    Attributes:
        skipped: Messages that were no record that their subject's owner may tell.

    Args:
        home: To the region's own bus.
        region: The region.
        others: The connection to each other region, those of this moment.
        replicas: Servers that keep the stream.
        settling_s: See `SETTLING_S`.
    """

    def __init__(
        self,
        home: Connection,
        region: str,
        others: Callable[[], dict[str, Connection]],
        clock: Clock,
        *,
        replicas: int = 1,
        settling_s: float = SETTLING_S,
    ) -> None:
        self._home = home
        self._region = region
        self._others = others
        self._clock = clock
        self._replicas = replicas
        self._settling_s = settling_s
        self._ledger = Ledger()
        self._something_due = asyncio.Event()
        self.skipped = 0

    async def run(self) -> None:
        """Keep the mirror until cancelled; every doubt about it is a new beginning."""
        while True:
            try:
                whole = await self._ensure()
                await self._keep(whole=whole)
            except errors.Failure as failure:
                logger.info("the mirror is kept later: %s", failure.message)
                await self._clock.sleep(_PAUSE_S)

    async def _ensure(self) -> bool:
        """Ensure the stream; return whether it has all its copies."""
        config = StreamConfig(
            name=STREAM,
            subjects=["mirror.>"],
            storage=StorageType.FILE,
            max_msgs_per_subject=1,
            max_msg_size=MOST_BYTES + facts.HEADERS_BYTES,
            discard=DiscardPolicy.OLD,
            allow_direct=True,
            allow_msg_ttl=True,
            num_replicas=self._replicas,
        )
        if not await self._home.wait_up(_PUBLISH_S):
            raise errors.Failure("unavailable", "the bus is away")
        with facts.bus_errors("the mirror's stream"):
            return await streams.ensure(self._home.jetstream, config, migrate=True)

    async def _copy(self) -> None:
        """Have the stream get all its copies, as soon as there are servers for them."""
        whole = False
        while not whole:
            await self._clock.sleep(_COPIES_S)
            with contextlib.suppress(errors.Failure):
                whole = await self._ensure()

    async def _keep(self, *, whole: bool) -> None:
        """Learn what the mirror holds, then follow the other regions, until the first doubt.

        Args:
            whole: Whether the stream has all its copies.

        Raises:
            Failure: `unavailable`. The stream may be another than before: all of it is compared
                again then.
        """
        self._ledger = Ledger()
        async with tasks.Tasks(f"mirror.{self._region}", grace_s=2.0) as owned:
            if not whole:
                owned.spawn(self._copy(), name="copies")
            learnt = False
            async with contextlib.aclosing(
                following.read(self._home, STREAM, ["mirror.>"])
            ) as batches:
                async for batch in batches:
                    for message in batch.messages:
                        self._learn(message)
                    if batch.whole and not learnt:
                        learnt = True
                        owned.spawn(self._write(), name="write")
                        owned.spawn(self._follow_others(owned), name="others")

    def _learn(self, message: Msg) -> None:
        sequence = message.metadata.sequence.stream
        if self._ledger.knows(message.subject, sequence):
            # What was written from here comes back.
            return
        parts = message.subject.split(".")
        copy = read(f"facts.{message.subject.removeprefix('mirror.')}", message.data, parts[1])
        if copy is not None:
            self._ledger.holds(replace(copy, sequence=sequence))

    async def _follow_others(self, owned: tasks.Tasks) -> None:
        """Follow each other region, as they come and go."""
        followed: dict[str, tuple[Connection, asyncio.Task[None]]] = {}
        while True:
            others = {name: to for name, to in self._others().items() if name != self._region}
            for name, (link, doing) in list(followed.items()):
                if others.get(name) is not link or doing.done():
                    doing.cancel()
                    del followed[name]
            for name, link in others.items():
                if name not in followed:
                    doing = owned.spawn(self._follow(name, link), name=name)
                    followed[name] = (link, doing)
            await self._clock.sleep(_PAUSE_S)

    async def _follow(self, region: str, connection: Connection) -> None:
        subjects = [f"facts.{region}.{kind}.>" for kind in KINDS]
        async with tasks.Tasks(f"mirror.{region}") as owned:
            told: set[str] = set()
            settled: asyncio.Task[None] | None = None
            async for batch in following.follow(connection, f"FACTS_{region}", subjects):
                if batch.begins:
                    told = set()
                    if settled is not None:
                        settled.cancel()
                        settled = None
                for message in batch.messages:
                    # By its subject: what this release cannot read is there all the same.
                    told.add(f"mirror.{message.subject.removeprefix('facts.')}")
                    self._take(region, message)
                if batch.whole and settled is None:
                    settled = owned.spawn(self._settle(region, told), name="settle")

    def _take(self, region: str, message: Msg) -> None:
        copy = read(message.subject, message.data, region)
        if copy is None:
            self.skipped += 1
            logger.warning("skipped a fact on %s: not what its owner may say", message.subject)
        elif self._ledger.told(copy):
            self._something_due.set()

    async def _settle(self, region: str, told: set[str]) -> None:
        """What a whole reading did not tell, nor its owner since, is gone: bury it."""
        await self._clock.sleep(self._settling_s)
        for subject in self._ledger.gone(region, told):
            with contextlib.suppress(errors.Failure):
                found = await self._last(subject)
                if found is not None and self._ledger.told(_buried(found)):
                    self._something_due.set()

    async def _write(self) -> None:
        """Write what is due, for ever: so much at once, and of each subject one record."""
        under_way: set[str] = set()
        failures: list[errors.Failure] = []

        async def put(copy: Copy, over: int) -> None:
            try:
                if failure := await self._put(copy, over):
                    failures.append(failure)
            finally:
                under_way.discard(copy.subject)
                self._something_due.set()

        async with tasks.Tasks("mirror.write") as owned:
            while True:
                self._something_due.clear()
                for copy, over in self._ledger.due(_AT_ONCE - len(under_way), under_way):
                    under_way.add(copy.subject)
                    owned.spawn(put(copy, over), name=copy.subject)
                await self._something_due.wait()
                if failures:
                    logger.info("the mirror is written later: %s", failures[0].message)
                    await self._clock.sleep(_PAUSE_S)
                    failures.clear()

    async def _put(self, copy: Copy, over: int) -> errors.Failure | None:
        """Write a record over the one with a sequence, or learn what is there instead."""
        passes = copy.deleted and copy.subject.split(".")[2] == "machine"
        try:
            with facts.bus_errors(copy.subject):
                try:
                    async with asyncio.timeout(_PUBLISH_S + 1):
                        done = await self._home.jetstream.publish(
                            copy.subject,
                            copy.data,
                            timeout=_PUBLISH_S,
                            stream=STREAM,
                            headers={"Nats-Expected-Last-Subject-Sequence": str(over)},
                            msg_ttl=facts.TOMBSTONE_S if passes else None,
                        )
                except nats.js.errors.APIError as error:
                    if error.err_code != _WRONG_LAST_SEQUENCE:
                        raise
                    found = await self._last(copy.subject)
                    self._ledger.absent(copy.subject)
                    if found is not None:
                        self._ledger.holds(found)
                    return None
        except errors.Failure as failure:
            return failure
        self._ledger.holds(replace(copy, sequence=done.seq))
        return None

    async def _last(self, subject: str) -> Copy | None:
        """Return what is in the mirror under a subject.

        Raises:
            Failure: `unavailable`.
        """
        with facts.bus_errors(subject):
            try:
                async with asyncio.timeout(_PUBLISH_S):
                    found = await self._home.jetstream.get_last_msg(STREAM, subject)
            except nats.js.errors.NotFoundError:
                return None
        data = found.data or b""
        copy = read(f"facts.{subject.removeprefix('mirror.')}", data, subject.split(".")[1])
        if copy is None:
            # Nobody can have written it; anything replaces it.
            return Copy(subject, (0, 0), deleted=False, sequence=found.seq or 0)
        return replace(copy, sequence=found.seq or 0)


def _buried(copy: Copy) -> Copy:
    """Return the tombstone of a record whose owner says nothing of it any more."""
    record = json.loads(copy.data) | {"deleted": True, "state": "destroyed"}
    return replace(copy, deleted=True, data=json.dumps(record).encode(), sequence=0)
