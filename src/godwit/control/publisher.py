"""Tells the catalog of apps: drains the outbox, and everything again after any doubt.

Facts are put into the outbox by the transaction that makes them true, so none is forgotten; the
bus is never their only copy.
"""

import asyncio
import contextlib
import logging

import pydantic

from godwit.base import errors
from godwit.control import apps
from godwit.control.context import Context
from godwit.control.ports import Facts
from godwit.wire import facts

logger = logging.getLogger(__name__)

_BATCH = 200
_IDLE_S = 30.0
_PAUSE_S = 1.0


class Publisher:
    """Publishes control's facts."""

    def __init__(self, ctx: Context, stream: Facts) -> None:
        self._ctx = ctx
        self._stream = stream
        self._all_again = True

    def republish(self) -> None:
        """Have every fact published again: the bus is back, or its memory is in doubt."""
        self._all_again = True
        self._ctx.facts_wanted.set()

    async def run(self) -> None:
        """Publish for ever."""
        while True:
            self._ctx.facts_wanted.clear()
            try:
                await self.publish_once()
            except errors.Failure as failure:
                logger.debug("facts are published later: %s", failure.message)
                await self._ctx.clock.sleep(_PAUSE_S)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_IDLE_S):
                    await self._ctx.facts_wanted.wait()

    async def publish_once(self) -> None:
        """Publish what is due.

        Raises:
            Failure: `unavailable`; what was not published stays due.
        """
        if self._all_again:
            # A doubt that arises on the way is another one: all of it begins again.
            self._all_again = False
            try:
                await self._publish_all()
            except BaseException:
                self._all_again = True
                raise
        while await self._drain():
            pass

    async def _drain(self) -> bool:
        async with self._ctx.store.read() as rows:
            pending = await rows.outbox.pending(_BATCH)
        done: list[int] = []
        try:
            for row in pending:
                await self._publish(row.fact)
                done.append(row.id)
        finally:
            if done:
                async with self._ctx.store.write() as rows:
                    await rows.outbox.done(done)
        return len(pending) == _BATCH

    async def _publish(self, fact: dict[str, object]) -> None:
        try:
            record = facts.AppFact.model_validate(fact)
        except pydantic.ValidationError:
            # Only a newer release writes what this one cannot read; it publishes all again.
            logger.warning("a fact in the outbox cannot be read and is left out: %s", fact)
            return
        await self._stream.publish(record)

    async def _publish_all(self) -> None:
        after, count = "", 0
        while True:
            async with self._ctx.store.read() as rows:
                epoch = (await rows.meta.get()).epoch
                page = await rows.apps.newest_facts(after, _BATCH)
            for app in page:
                deleted = app.deleted_at_ms is not None
                await self._stream.publish(
                    apps.fact(self._ctx, app, epoch=epoch, revision=app.revision, deleted=deleted)
                )
                count += 1
            if len(page) < _BATCH:
                break
            after = page[-1].id
        logger.info("published all %d app facts", count)
