"""What machines did to themselves here, on its way to control's audit.

A machine's own suspend and stop work while control is away, so their audit rows are written down
at the host first, with the machine, and told afterwards: at once if control is there. They are
told again until control says that it has them; each has an id, so none becomes two rows.
"""

import asyncio
import logging
import sqlite3
from typing import Any

from godwit.agent import ports
from godwit.agent.machines import holdings
from godwit.agent.rpc.desk import Handler
from godwit.base import clock, errors, ids, tasks
from godwit.base.principal import Principal
from godwit.durable.database import Writer
from godwit.wire import guest_api
from godwit.wire.record import Record

logger = logging.getLogger(__name__)


class Deeds:
    """Deeds that control has not heard of.

    Args:
        database: Where they are kept.
        control: Whom they are told.
        the_clock: Says when they were done.
        owned: Owns the telling.
    """

    def __init__(
        self,
        database: Writer,
        control: ports.Control,
        the_clock: clock.Clock,
        owned: tasks.Tasks,
    ) -> None:
        self._database = database
        self._control = control
        self._clock = the_clock
        self._tasks = owned
        self._telling = asyncio.Lock()

    def noting(self, verb: guest_api.OwnVerb, doing: Handler) -> Handler:
        """Return what does the same, written down first; what is refused was not done."""

        async def noted(who: Principal, body: dict[str, Any]) -> Record | dict[str, Any]:
            now_ms = self._clock.now_ms()
            detail = {key: body[key] for key in ("signal", "timeout_ms") if body.get(key)}
            deed = guest_api.Deed(
                id=ids.ulid(now_ms),
                machine_id=body["machine_id"],
                verb=verb,
                at_ms=now_ms,
                detail=detail,
            )
            await self._database.write(lambda tx: holdings.put_deed(tx, deed))
            try:
                answer = await doing(who, body)
            except errors.Failure:
                await self._drop(deed)
                raise
            self._tasks.spawn(self.tell(), name="deeds")
            return answer

        return noted

    async def tell(self) -> None:
        """Tell control all that it has not heard of; what it does not take now is left."""
        async with self._telling:
            try:
                while deeds := await self._database.read(holdings.deeds):
                    for deed in deeds:
                        await self._tell(deed)
                        await self._drop(deed)
            except (errors.Failure, sqlite3.Error) as error:
                logger.info("what machines did to themselves is told later: %s", error)

    async def _tell(self, deed: guest_api.Deed) -> None:
        try:
            await self._control.deed(deed)
        except errors.Failure as failure:
            if failure.code != "invalid_argument":
                raise
            # It would be refused for ever, and stand in the way of all others.
            logger.warning("control takes no %r: %s", deed, failure.message)

    async def _drop(self, deed: guest_api.Deed) -> None:
        await self._database.write(lambda tx: holdings.drop_deed(tx, deed.id))
