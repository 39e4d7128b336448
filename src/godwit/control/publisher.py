"""Tells every region's catalog what control owns: drains the outbox, and all again after a doubt.

Facts are put into the outbox by the transaction that makes them true, so none is forgotten; the
bus is never their only copy. Each region is told by itself and keeps its own place in the
outbox: one that is away loses its place, holds up nobody and nothing, and is told everything
when it is back.

Of several replicas of control one tells a region, by a lease in the database: two that told at
their own pace could put an older record over a newer one. Who takes a region over begins with
everything.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterable

import pydantic

from godwit.base import errors, ids, log, tasks
from godwit.control import apps, members
from godwit.control.context import Context
from godwit.control.ports import Facts
from godwit.control.records import Publication, Reached
from godwit.wire import facts

logger = logging.getLogger(__name__)

_FACT: pydantic.TypeAdapter[facts.Fact] = pydantic.TypeAdapter(facts.Fact)
_BATCH = 200
_AT_ONCE = 32
"""Records under way: a region across an ocean takes a third of a second for each."""
_IDLE_S = 5.0
_PAUSE_S = 1.0
_LEASE_MS = 20_000
_MARGIN_MS = 8_000
"""Nothing is sent when the lease ends sooner: a record may be so long under way."""


class Publisher:
    """Publishes control's facts to one region.

    Args:
        holder: Which replica of control this is; one of its own unless said.
    """

    def __init__(self, ctx: Context, region: str, stream: Facts, holder: str = "") -> None:
        self._ctx = ctx
        self._region = region
        self._stream = stream
        self._holder = holder or ids.ulid()
        self._until_ms = 0
        self._position = 0
        self._all_again = True
        self._wanted = asyncio.Event()

    def republish(self) -> None:
        """Have every fact published again: the bus is back, or its memory is in doubt."""
        self._all_again = True
        self._wanted.set()

    def wake(self) -> None:
        """Look into the outbox."""
        self._wanted.set()

    async def run(self) -> None:
        """Publish for ever; the region is left to others in the end."""
        try:
            while True:
                self._wanted.clear()
                try:
                    await self.publish_once()
                except errors.Failure as failure:
                    logger.debug("%s is told of facts later: %s", self._region, failure.message)
                    await self._ctx.clock.sleep(_PAUSE_S)
                    continue
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_IDLE_S):
                        await self._wanted.wait()
        finally:
            with contextlib.suppress(errors.Failure):
                await self._let_go()

    async def publish_once(self) -> None:
        """Publish what is due; nothing while another replica does.

        Raises:
            Failure: `unavailable`; everything is due then.
        """
        if not await self._hold():
            return
        # A doubt that arises on the way is another one: all of it begins again.
        doubted, self._all_again = self._all_again, False
        try:
            if doubted:
                await self._publish_all()
            while await self._drain():
                pass
        except BaseException:
            self._all_again = True
            with contextlib.suppress(errors.Failure):
                await self._move(None)
            raise

    async def _hold(self) -> bool:
        """Take or renew the lease, if it is to be had."""
        now_ms = self._ctx.clock.now_ms()
        if now_ms < self._until_ms - _LEASE_MS // 2:
            return True
        async with self._ctx.store.read() as rows:
            found = await rows.publications.get(self._region)
        if found is not None and found.holder != self._holder and found.until_ms > now_ms:
            return False
        async with self._ctx.store.write() as rows:
            found = await rows.publications.get(self._region)
            lasts = found is not None and found.until_ms > now_ms
            mine = found is not None and found.holder == self._holder and lasts
            if lasts and not mine:
                return False
            position = found.position if found is not None and mine else None
            until_ms = now_ms + _LEASE_MS
            await rows.publications.put(
                Publication(self._region, self._holder, until_ms, position)
            )
        self._all_again = self._all_again or not mine
        self._until_ms = until_ms
        return True

    async def _let_go(self) -> None:
        async with self._ctx.store.write() as rows:
            found = await rows.publications.get(self._region)
            if found is not None and found.holder == self._holder:
                await rows.publications.remove(self._region)

    async def _drain(self) -> bool:
        """Publish what came into the outbox; return whether there may be more."""
        async with self._ctx.store.read() as rows:
            pending = await rows.outbox.after(self._position, _BATCH)
        if pending:
            # Of one subject the last is enough.
            records = {
                facts.subject(self._region, record): record
                for row in pending
                if (record := _read(row.fact)) is not None
            }
            await self._tell_all(records.values())
            await self._move(pending[-1].id)
        return len(pending) == _BATCH

    async def _move(self, position: int | None) -> None:
        if position is not None:
            self._position = position
        async with self._ctx.store.write() as rows:
            await rows.publications.move(self._region, self._holder, position)
            await rows.outbox.forget(self._ctx.clock.now_ms())

    async def _tell_all(self, records: Iterable[facts.Fact]) -> None:
        """Publish records of different subjects, some at once.

        Raises:
            Failure: Of those that were not published the first one's.
        """
        left = list(records)
        async with tasks.Tasks("publish") as owned:
            while left:
                if not await self._hold() or self._lease_ends():
                    raise errors.Failure("unavailable", "another replica of control publishes")
                batch, left = left[:_AT_ONCE], left[_AT_ONCE:]
                under_way = [owned.spawn(self._tell(one), name=one.kind) for one in batch]
                told = [await one for one in under_way]
                if failures := [one for one in told if one is not None]:
                    raise failures[0]

    def _lease_ends(self) -> bool:
        return self._ctx.clock.now_ms() > self._until_ms - _MARGIN_MS

    async def _tell(self, record: facts.Fact) -> errors.Failure | None:
        """Publish a record; one that the bus can never take holds up no others."""
        try:
            await self._stream.publish(record)
        except errors.Failure as failure:
            if failure.code != "invalid_argument":
                return failure
            with log.bound(org_id=getattr(record, "org_id", "")):
                logger.error("a fact cannot be published: %s", failure)  # noqa: TRY400
        return None

    async def _publish_all(self) -> None:
        async with self._ctx.store.read() as rows:
            position = await rows.outbox.newest()
        count = 0
        async for page in everything(self._ctx):
            await self._tell_all(page)
            count += len(page)
        await self._move(position)
        logger.info("told %s all %d facts of control's", self._region, count)


class Publishers:
    """One publisher for each region."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._by_region: dict[str, Publisher] = {}

    def add(self, region: str, stream: Facts) -> Publisher:
        """Return a region's publisher, a new one."""
        made = self._by_region[region] = Publisher(self._ctx, region, stream)
        return made

    def remove(self, region: str) -> None:
        """Forget a region."""
        self._by_region.pop(region, None)

    def republish(self) -> None:
        """Have every region told everything again."""
        for publisher in self._by_region.values():
            publisher.republish()

    async def run(self) -> None:
        """Wake the publishers whenever something is in the outbox, for ever."""
        while True:
            await self._ctx.facts_wanted.wait()
            self._ctx.facts_wanted.clear()
            for publisher in self._by_region.values():
                publisher.wake()


async def everything(ctx: Context) -> AsyncIterator[list[facts.Fact]]:
    """Yield the newest record of all that control owns, in pages; members first."""
    number, app_id = 0, ""
    while True:
        async with ctx.store.read() as rows:
            epoch = (await rows.meta.get()).epoch
            hosts = await rows.hosts.page(number, _BATCH)
        yield [members.fact(host, epoch) for host in hosts]
        if len(hosts) < _BATCH:
            break
        number = hosts[-1].number
    while True:
        async with ctx.store.read() as rows:
            epoch = (await rows.meta.get()).epoch
            page = await rows.apps.newest_facts(app_id, _BATCH)
            reached = await rows.addresses.reached([app.id for app in page])
        yield [
            apps.fact(
                ctx,
                app,
                reached.get(app.id, Reached()),
                epoch=epoch,
                revision=app.revision,
                deleted=app.deleted_at_ms is not None,
            )
            for app in page
        ]
        if len(page) < _BATCH:
            return
        app_id = page[-1].id


def _read(fact: dict[str, object]) -> facts.Fact | None:
    try:
        return _FACT.validate_python(fact)
    except pydantic.ValidationError:
        # Only a newer release writes what this one cannot read; it publishes all again.
        with log.bound(org_id=str(fact.get("org_id") or "")):
            logger.warning("a fact in the outbox cannot be read and is left out: %s", fact)
        return None
