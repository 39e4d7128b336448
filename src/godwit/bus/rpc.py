"""Control asks hosts, hosts answer: the RPC of `wire.host_rpc` over NATS request/reply."""

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
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
BidHandler = Callable[[host_rpc.BidRequest], Awaitable[host_rpc.Bid]]

MAX_BODY_BYTES = 524_288
MAX_BIDDERS = 8
_MAX_RUNNING = 512


class Client:
    """Control's side."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

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
        plain = body.model_dump(mode="json") if isinstance(body, Record) else body
        request = host_rpc.Request(principal=principal, body=plain)
        payload = request.model_dump_json().encode()
        if len(payload) > MAX_BODY_BYTES:
            raise errors.invalid(f"the request is over {MAX_BODY_BYTES} bytes")
        subject = f"godwit.host.{host_id}.rpc.{verb}"
        answer = await self._connection.request(subject, payload, timeout_s)
        try:
            reply = host_rpc.Reply.model_validate_json(answer.data)
        except ValidationError as error:
            message = f"the answer of host {host_id} to {verb} cannot be read"
            raise errors.Failure("unavailable", message) from error
        if reply.error is not None:
            raise errors.Failure(reply.error.code, reply.error.message, hint=reply.error.hint)
        return reply.body or {}

    async def bids(
        self, region: str, request: host_rpc.BidRequest, wait_s: float = 1.0
    ) -> list[host_rpc.Bid]:
        """Ask every host of a region for a bid; return those that came in time.

        Returns as soon as `MAX_BIDDERS` answered or, after the first answer, a quarter of the
        wait has passed without another.

        Raises:
            Failure: `unavailable` while the bus is away.
        """
        client = self._connection.require()
        inbox = client.new_inbox()
        subscription = await client.subscribe(inbox, max_msgs=MAX_BIDDERS + 1)
        found: list[host_rpc.Bid] = []
        try:
            payload = request.model_dump_json().encode()
            await client.publish(f"godwit.bids.{region}", payload, reply=inbox)
            async with asyncio.timeout(wait_s):
                while len(found) < MAX_BIDDERS:
                    patience = wait_s / 4 if found else wait_s
                    message = await subscription.next_msg(timeout=patience)
                    if message.headers and message.headers.get("Status") == "503":
                        break
                    if (bid := _bid(message.data)) is not None:
                        found.append(bid)
        except (nats.errors.TimeoutError, TimeoutError):
            pass
        except (nats.errors.Error, OSError) as error:
            raise errors.Failure("unavailable", f"the bus is away: {error}") from error
        finally:
            with contextlib.suppress(nats.errors.Error, OSError):
                await subscription.unsubscribe()
        return found


async def serve(
    connection: Connection, owned: tasks.Tasks, host_id: str, handlers: Mapping[str, Handler]
) -> None:
    """Answer this host's RPC from now on, across reconnections.

    Each request runs in a task of `owned`. A `Failure` becomes a `Problem`; any other error is
    logged and answered as `internal`.
    """
    prefix = f"godwit.host.{host_id}.rpc."
    running = asyncio.Semaphore(_MAX_RUNNING)

    async def answer(message: Msg) -> None:
        async with running:
            verb = message.subject.removeprefix(prefix)
            reply = await _handle(handlers.get(verb), verb, message.data)
        try:
            await message.respond(reply.model_dump_json().encode())
        except (nats.errors.Error, OSError) as error:
            logger.warning("answer to %s was lost: %s", verb, error)

    async def receive(message: Msg) -> None:
        owned.spawn(answer(message), name=message.subject)

    await _subscribe(connection, f"{prefix}>", receive)


async def serve_bids(
    connection: Connection, owned: tasks.Tasks, region: str, handler: BidHandler
) -> None:
    """Answer requests for bids in a region from now on."""

    async def answer(message: Msg) -> None:
        try:
            request = host_rpc.BidRequest.model_validate_json(message.data)
            bid = await handler(request)
            await message.respond(bid.model_dump_json().encode())
        except (ValidationError, nats.errors.Error, OSError) as error:
            logger.warning("a request for bids was not answered: %s", error)

    async def receive(message: Msg) -> None:
        owned.spawn(answer(message), name="bid")

    await _subscribe(connection, f"godwit.bids.{region}", receive)


async def _subscribe(
    connection: Connection, subject: str, receive: Callable[[Msg], Awaitable[None]]
) -> None:
    """Subscribe at the first connection; nats-py renews subscriptions when it reconnects."""
    done = False

    async def on_up() -> None:
        nonlocal done
        if not done:
            done = True
            try:
                await connection.client.subscribe(subject, cb=receive)
            except BaseException:
                done = False
                raise
            # Before the bus has it, a request finds nobody; a bus that left is told when back.
            with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
                await connection.client.flush(timeout=5)

    if connection.up:
        await on_up()
    connection.on_up(on_up)


def _bid(data: bytes) -> host_rpc.Bid | None:
    try:
        return host_rpc.Bid.model_validate_json(data)
    except ValidationError as error:
        # Another release's: the other hosts' bids count all the same.
        logger.warning("a bid cannot be read: %s", error)
        return None


async def _handle(handler: Handler | None, verb: str, data: bytes) -> host_rpc.Reply:
    if handler is None:
        return _problem("not_found", f"this host does not know the request {verb}")
    try:
        request = host_rpc.Request.model_validate_json(data)
        body = await handler(request.principal, request.body)
    except errors.Failure as failure:
        return _problem(failure.code, failure.message, failure.hint)
    except ValidationError as error:
        return _problem("invalid_argument", f"{verb}: {error}")
    except Exception:
        # The edge of the process: a bug must be answered, or the caller waits in vain.
        logger.exception("request %s failed", verb)
        return _problem("internal", f"{verb} failed on the host; its log says why")
    plain = body.model_dump(mode="json") if isinstance(body, Record) else body
    if len(json.dumps(plain)) > MAX_BODY_BYTES:
        return _problem("internal", f"the answer to {verb} is over {MAX_BODY_BYTES} bytes")
    return host_rpc.Reply(body=plain)


def _problem(code: errors.Code, message: str, hint: str = "") -> host_rpc.Reply:
    return host_rpc.Reply(error=host_rpc.Problem(code=code, message=message, hint=hint))
