"""Control asks hosts, hosts answer: the RPC of `wire.host_rpc` over NATS request/reply."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import nats.errors
from nats.aio.msg import Msg
from pydantic import ValidationError

from godwit.base import errors, tasks
from godwit.base.principal import Principal
from godwit.bus import answering
from godwit.bus.answering import MAX_BODY_BYTES
from godwit.bus.connection import Connection
from godwit.wire import host_rpc
from godwit.wire.record import Record

logger = logging.getLogger(__name__)

Handler = answering.Handler
BidHandler = Callable[[host_rpc.BidRequest], Awaitable[host_rpc.Bid | None]]
"""`None` makes no bid."""

MAX_BIDDERS = 8
_STRAGGLERS_S = 0.025
MOST_WAITS = 8_192
WAIT = "machine.wait"


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
        request = host_rpc.Request(principal=principal, body=plain, timeout_s=timeout_s)
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
        self,
        region: str,
        request: host_rpc.BidRequest,
        wait_s: float = 1.0,
        *,
        hosts: int = MAX_BIDDERS,
        asked: Sequence[str] = (),
    ) -> list[host_rpc.Bid]:
        """Ask hosts of a region for a bid; return those that came in time.

        Returns as soon as `MAX_BIDDERS` or all hosts answered, or nobody else has for a moment: a
        host slower than the others by more than that is no good place now.

        Args:
            region: Where.
            request: For what.
            wait_s: For the first answer.
            hosts: How many the region has, if that is known.
            asked: Only these hosts; every one unless some are named.

        Raises:
            Failure: `unavailable` while the bus is away.
        """
        client = self._connection.require()
        inbox = client.new_inbox()
        subscription = await client.subscribe(inbox, max_msgs=MAX_BIDDERS + 1)
        found: list[host_rpc.Bid] = []
        subjects = [f"godwit.bids.{region}.{host}" for host in asked[:MAX_BIDDERS]]
        left = len(subjects) or min(hosts, MAX_BIDDERS)
        try:
            payload = request.model_dump_json().encode()
            for subject in subjects or [f"godwit.bids.{region}"]:
                await client.publish(subject, payload, reply=inbox)
            async with asyncio.timeout(wait_s):
                while left > 0:
                    # Of those that were asked by name, each is waited for until one has room.
                    enough = any(bid.fits for bid in found) if subjects else bool(found)
                    patience = min(_STRAGGLERS_S, wait_s) if enough else wait_s
                    message = await subscription.next_msg(timeout=patience)
                    left -= 1
                    if message.headers and message.headers.get("Status") == "503":
                        # Nobody is there: of those that were asked one, or of the region.
                        left = left if subjects else 0
                    elif (bid := _bid(message.data)) is not None:
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

    Requests run in tasks of `owned`, so many at once (`answering`). Waits are many and cheap, and
    have places of their own: nothing else ever stands in line behind them. A `Failure` becomes a
    `Problem`; any other error is logged and answered as `internal`.
    """
    prefix = f"godwit.host.{host_id}.rpc."
    waits = answering.Answerer(owned, running=MOST_WAITS, waiting=0)
    others = answering.Answerer(owned)

    async def answer(message: Msg) -> None:
        verb = message.subject.removeprefix(prefix)
        answerer = waits if verb == WAIT else others
        reply = await answerer.answer(handlers.get(verb), verb, message.data)
        await answering.respond(message, reply)

    async def receive(message: Msg) -> None:
        owned.spawn(answer(message), name=message.subject)

    await answering.subscribe(connection, f"{prefix}>", receive)


async def serve_bids(
    connection: Connection,
    owned: tasks.Tasks,
    region: str,
    handler: BidHandler,
    host_id: str = "",
) -> None:
    """Answer requests for bids in a region from now on, and those that ask this host alone."""

    async def answer(message: Msg) -> None:
        try:
            request = host_rpc.BidRequest.model_validate_json(message.data)
            bid = await handler(request)
            if bid is not None:
                await message.respond(bid.model_dump_json().encode())
        except (ValidationError, nats.errors.Error, OSError) as error:
            logger.warning("a request for bids was not answered: %s", error)

    async def receive(message: Msg) -> None:
        owned.spawn(answer(message), name="bid")

    await answering.subscribe(connection, f"godwit.bids.{region}", receive)
    if host_id:
        await answering.subscribe(connection, f"godwit.bids.{region}.{host_id}", receive)


def _bid(data: bytes) -> host_rpc.Bid | None:
    try:
        return host_rpc.Bid.model_validate_json(data)
    except ValidationError as error:
        # Another release's: the other hosts' bids count all the same.
        logger.warning("a bid cannot be read: %s", error)
        return None
