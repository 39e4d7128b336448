"""Requests are answered in time and bounded in number, whatever their handlers do."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from godwit.base import errors, principal, tasks
from godwit.bus import answering
from godwit.wire import host_rpc

WHO = principal.component("control")


class Handlers:
    """Handlers that a test lets go on."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.begun = 0
        self.ended = 0
        self.cancelled = 0

    async def hang(self, _: principal.Principal, body: dict[str, Any]) -> dict[str, Any]:
        self.begun += 1
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.ended += 1
        return body


@pytest.fixture
async def owned() -> AsyncIterator[tasks.Tasks]:
    async with tasks.Tasks("test") as made:
        yield made


@pytest.fixture
def handlers() -> Handlers:
    return Handlers()


def request(timeout_s: float | None = None, **body: Any) -> bytes:
    made = host_rpc.Request(principal=WHO, body=body, timeout_s=timeout_s)
    return made.model_dump_json().encode()


async def begun(handlers: Handlers, count: int) -> None:
    async with asyncio.timeout(60):
        while handlers.begun < count:
            await asyncio.sleep(0)


def code(reply: host_rpc.Reply) -> str:
    return reply.error.code if reply.error is not None else "ok"


async def test_a_failure_crosses_with_its_hint(owned: tasks.Tasks) -> None:
    async def refuse(_: principal.Principal, __: dict[str, Any]) -> dict[str, Any]:
        raise errors.Failure("conflict", "somebody else holds it", hint="wait")

    reply = await answering.Answerer(owned).answer(refuse, "x", request())
    assert reply.error == host_rpc.Problem(
        code="conflict", message="somebody else holds it", hint="wait"
    )


async def test_a_bug_and_nonsense_are_answered(owned: tasks.Tasks) -> None:
    async def fail(_: principal.Principal, __: dict[str, Any]) -> dict[str, Any]:
        raise KeyError("bug")

    async def boast(_: principal.Principal, __: dict[str, Any]) -> dict[str, Any]:
        return {"text": "x" * answering.MAX_BODY_BYTES}

    answerer = answering.Answerer(owned)
    assert code(await answerer.answer(fail, "x", request())) == "internal"
    assert code(await answerer.answer(boast, "x", request())) == "internal"
    assert code(await answerer.answer(fail, "x", b"{")) == "invalid_argument"
    assert code(await answerer.answer(None, "x", request())) == "not_found"


async def test_a_caller_is_told_in_time_and_what_was_begun_goes_on(
    owned: tasks.Tasks, handlers: Handlers
) -> None:
    answerer = answering.Answerer(owned)
    reply = await answerer.answer(handlers.hang, "x", request(timeout_s=0.01))
    assert code(reply) == "deadline_exceeded"
    assert (handlers.begun, handlers.cancelled) == (1, 0)
    handlers.go_on.set()
    async with asyncio.timeout(60):
        while handlers.ended < 1:
            await asyncio.sleep(0)


async def test_what_hangs_gives_its_place_back_in_the_end(
    owned: tasks.Tasks, handlers: Handlers
) -> None:
    answerer = answering.Answerer(owned, running=1, longest_s=0.01)
    for _ in range(3):
        assert code(await answerer.answer(handlers.hang, "x", request())) == "deadline_exceeded"
    async with asyncio.timeout(60):
        while handlers.cancelled < handlers.begun:
            await asyncio.sleep(0)


async def test_beyond_its_places_and_its_queue_a_request_is_refused_at_once(
    owned: tasks.Tasks, handlers: Handlers
) -> None:
    answerer = answering.Answerer(owned, running=2, waiting=3)
    asked = [
        owned.spawn(answerer.answer(handlers.hang, "x", request(n=n)), name=str(n))
        for n in range(5)
    ]
    await begun(handlers, 2)
    refused = await answerer.answer(handlers.hang, "x", request())
    assert code(refused) == "rate_limited"
    handlers.go_on.set()
    replies = [await one for one in asked]
    assert [reply.body for reply in replies] == [{"n": n} for n in range(5)]
    assert code(await answerer.answer(handlers.hang, "x", request())) == "ok"


async def test_what_nobody_waits_for_any_more_is_not_begun(
    owned: tasks.Tasks, handlers: Handlers
) -> None:
    answerer = answering.Answerer(owned, running=1)
    first = owned.spawn(answerer.answer(handlers.hang, "x", request()), name="first")
    await begun(handlers, 1)
    late = await answerer.answer(handlers.hang, "x", request(timeout_s=0.01))
    assert code(late) == "deadline_exceeded"
    handlers.go_on.set()
    assert code(await first) == "ok"
    assert code(await answerer.answer(handlers.hang, "x", request())) == "ok"
    assert handlers.begun == 2


async def test_thousands_may_wait_at_once(owned: tasks.Tasks, handlers: Handlers) -> None:
    answerer = answering.Answerer(owned, running=4_000, waiting=0)
    asked = [
        owned.spawn(answerer.answer(handlers.hang, "machine.wait", request()), name="wait")
        for _ in range(3_000)
    ]
    await begun(handlers, 3_000)
    handlers.go_on.set()
    assert {code(await one) for one in asked} == {"ok"}


@pytest.mark.parametrize(
    ("text", "fits"), [("é" * 200_000, True), ("\0" * 100_000, False), ("x" * 524_200, True)]
)
async def test_an_answer_is_measured_as_it_goes_over_the_bus(
    owned: tasks.Tasks, text: str, *, fits: bool
) -> None:
    async def tell(_: principal.Principal, body: dict[str, Any]) -> dict[str, Any]:
        return {"text": text}

    reply = await answering.Answerer(owned).answer(tell, "tell", request())
    assert code(reply) == ("ok" if fits else "internal")
    assert len(answering.encoded(reply)) <= answering.MAX_BODY_BYTES
