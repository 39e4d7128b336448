"""Answering requests from the bus: bounded in number and time, every one answered.

`rpc` and `control_rpc` put a subject before it. A handler runs in a task of its own. When its
caller stops waiting it is answered for and goes on: what it does may be half stored. One that
hangs is cancelled in the end, so that no place is lost for ever.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import nats.errors
from nats.aio.msg import Msg
from pydantic import ValidationError

from godwit.base import errors, tasks
from godwit.base.principal import Principal
from godwit.bus.connection import Connection
from godwit.wire import host_rpc
from godwit.wire.record import Record

logger = logging.getLogger(__name__)

Handler = Callable[[Principal, dict[str, Any]], Awaitable[Record | dict[str, Any]]]

MAX_BODY_BYTES = 524_288
LONGEST_S = 360.0
"""Past it a handler is cancelled: longer than the longest command that can be run (300 s)."""


class Answerer:
    """Runs handlers, so many at once and so many more in a queue.

    Args:
        owned: Owns their tasks.
        running: Handlers at once.
        waiting: Requests that wait for one of them to end; further ones are refused at once.
        longest_s: After that a handler is cancelled.
    """

    def __init__(
        self,
        owned: tasks.Tasks,
        *,
        running: int = 512,
        waiting: int = 512,
        longest_s: float = LONGEST_S,
    ) -> None:
        self._owned = owned
        self._places = asyncio.Semaphore(running)
        self._most_waiting = waiting
        self._waiting = 0
        self._longest_s = longest_s

    async def answer(self, handler: Handler | None, verb: str, data: bytes) -> host_rpc.Reply:
        """Return the answer to a request, in time for its caller; never raises a `Failure`."""
        if handler is None:
            return problem("not_found", f"the request {verb} is not known here")
        try:
            request = host_rpc.Request.model_validate_json(data)
        except ValidationError as error:
            return problem("invalid_argument", f"{verb}: {error}")
        if self._places.locked() and self._waiting >= self._most_waiting:
            return problem("rate_limited", f"too many requests wait here; {verb} was not begun")
        within_s = min(request.timeout_s or self._longest_s, self._longest_s)
        until = asyncio.get_running_loop().time() + within_s
        doing = self._owned.spawn(self._do(handler, verb, request, until), name=verb)
        try:
            async with asyncio.timeout(within_s):
                return await asyncio.shield(doing)
        except TimeoutError:
            return problem("deadline_exceeded", f"{verb} is not done within {within_s:g} s")

    async def _do(
        self, handler: Handler, verb: str, request: host_rpc.Request, until: float
    ) -> host_rpc.Reply:
        self._waiting += 1
        try:
            await self._places.acquire()
        finally:
            self._waiting -= 1
        try:
            if asyncio.get_running_loop().time() >= until:
                # Nobody waits for it any more: doing it now would surprise them.
                return problem("deadline_exceeded", f"{verb} was not begun in time")
            async with asyncio.timeout(self._longest_s):
                return await _run(handler, verb, request)
        except TimeoutError:
            logger.warning("request %s hung for %g s and was cancelled", verb, self._longest_s)
            return problem("deadline_exceeded", f"{verb} hung and was cancelled")
        finally:
            self._places.release()


async def _run(handler: Handler, verb: str, request: host_rpc.Request) -> host_rpc.Reply:
    try:
        body = await handler(request.principal, request.body)
    except errors.Failure as failure:
        return problem(failure.code, failure.message, failure.hint)
    except ValidationError as error:
        return problem("invalid_argument", f"{verb}: {error}")
    except Exception:
        # The edge of the process: a bug must be answered, or the caller waits in vain.
        logger.exception("request %s failed", verb)
        return problem("internal", f"{verb} failed on the host; its log says why")
    plain = body.model_dump(mode="json") if isinstance(body, Record) else body
    reply = host_rpc.Reply(body=plain)
    if len(encoded(reply)) > MAX_BODY_BYTES:
        return problem("internal", f"the answer to {verb} is over {MAX_BODY_BYTES} bytes")
    return reply


def encoded(reply: host_rpc.Reply) -> bytes:
    """Return an answer as it goes over the bus."""
    return reply.model_dump_json().encode()


def problem(code: errors.Code, message: str, hint: str = "") -> host_rpc.Reply:
    """Return the answer that is a failure."""
    return host_rpc.Reply(error=host_rpc.Problem(code=code, message=message, hint=hint))


async def respond(message: Msg, reply: host_rpc.Reply) -> None:
    """Send an answer; one that cannot be sent is said in the log."""
    try:
        await message.respond(encoded(reply))
    except (nats.errors.Error, OSError) as error:
        logger.warning("answer to %s was lost: %s", message.subject, error)


async def subscribe(
    connection: Connection,
    subject: str,
    receive: Callable[[Msg], Awaitable[None]],
    *,
    group: str = "",
) -> None:
    """Subscribe at the first connection; nats-py renews subscriptions when it reconnects.

    Args:
        connection: To the bus.
        subject: What to receive.
        receive: Called with each message.
        group: Of all that subscribe as this group, one receives each message.
    """
    done = False

    async def on_up() -> None:
        nonlocal done
        if not done:
            done = True
            try:
                await connection.client.subscribe(subject, queue=group, cb=receive)
            except BaseException:
                done = False
                raise
            # Before the bus has it, a request finds nobody; a bus that left is told when back.
            with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
                await connection.client.flush(timeout=5)

    if connection.up:
        await on_up()
    connection.on_up(on_up)
