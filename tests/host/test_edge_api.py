"""The platform's API through the edge: whichever control answers."""

import asyncio

import httpx
import pytest

from godwit.testing.loopback import free_port
from godwit.wire import components, facts
from tests.host import rust_components as parts
from tests.host.conftest import Bus
from tests.host.edge_lab import QUICK, Lab, make_lab, next_address, on_bus  # noqa: F401
from tests.host.rust_components import Request, response, web_app

pytestmark = pytest.mark.host
NAME = "api.godwit.localhost"
HERE = {"Host": NAME}
PORT = free_port()


def served_by(lab: Lab, *addresses: str) -> None:
    """Have the edge know these controls from the beginning."""
    servers = tuple(f"{address}:{PORT}" for address in addresses)
    lab.changes["api"] = components.Api(name=NAME, servers=servers)


def saying(word: str):
    async def handler(request: Request) -> bytes:
        return response(f"{word} {request.method} {request.path}".encode() + request.body)

    return handler


async def test_the_first_that_answers_does_and_the_next_when_it_is_gone(lab: Lab) -> None:
    one, two = next_address(), next_address()
    served_by(lab, one, two)
    await lab.start()
    async with web_app(two, PORT, saying("two")):
        async with web_app(one, PORT, saying("one")):
            assert (await lab.get("/v1/apps?x=1", headers=HERE)).text == "one GET /v1/apps?x=1"
        assert (await lab.get("/v1/apps", headers=HERE)).text == "two GET /v1/apps"
        # One that did not answer is asked last for a while, also once it is back.
        async with web_app(one, PORT, saying("one")):
            assert (await lab.get("/v1/apps", headers=HERE)).text == "two GET /v1/apps"


async def test_a_body_goes_to_the_next_too_as_long_as_nothing_was_sent(lab: Lab) -> None:
    one, two = next_address(), next_address()
    served_by(lab, one, two)
    await lab.start()
    async with web_app(two, PORT, saying("two")):
        told = await posted(lab, b"x" * 300_000)
    assert told.startswith("two POST /v1/apps")
    assert len(told) > 300_000


async def posted(lab: Lab, body: bytes) -> str:
    async with httpx.AsyncClient(timeout=parts.PATIENCE_S) as client:
        answer = await client.post(f"{lab.url}/v1/apps", headers=HERE, content=body)
    return answer.text


async def test_what_a_control_may_have_done_is_not_done_twice(lab: Lab) -> None:
    one, two = next_address(), next_address()
    asked: list[str] = []

    async def breaks_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode().split()[0])
        writer.transport.abort()

    served_by(lab, one, two)
    await lab.start()
    async with parts.raw_app(one, PORT, breaks_off), web_app(two, PORT, saying("two")):
        told = await posted(lab, b"make one")
        assert "control ended the connection without a response" in told
        assert asked == ["POST"]


async def test_a_read_that_broke_off_is_asked_of_the_next(lab: Lab) -> None:
    one, two = next_address(), next_address()

    async def breaks_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()

    served_by(lab, one, two)
    await lab.start()
    async with parts.raw_app(one, PORT, breaks_off), web_app(two, PORT, saying("two")):
        assert (await lab.get("/v1/apps", headers=HERE)).text == "two GET /v1/apps"


async def test_without_any_the_client_is_told_so_and_apps_are_served(lab: Lab) -> None:
    served_by(lab, next_address())
    lab.limits = QUICK
    fact = lab.machine("m1")
    async with web_app(fact.local_ipv4, lab.app_port):
        await lab.start()
        answer = await lab.get("/v1/apps", headers=HERE)
        assert answer.status_code == 503
        assert "no control answers" in answer.text
        assert (await lab.get()).status_code == 200


async def test_without_a_name_there_is_no_api(lab: Lab) -> None:
    await lab.start()
    assert (await lab.get(headers=HERE)).status_code == 404


async def test_the_catalog_tells_of_controls_and_of_those_that_were_removed(
    lab: Lab, bus: Bus
) -> None:
    stream = await on_bus(lab, bus)
    address = next_address()
    served_by(lab)
    await lab.start()
    await lab.shows(lambda view: view["bus_synced"])
    member = facts.MemberFact(
        epoch=1,
        revision=1,
        host_id="b2c3d4e5",
        host_number=65_538,
        region="iad",
        zone="0000",
        roles=("control",),
        keys={},
        services={"control": f"{address}:{PORT}"},
    )
    async with web_app(address, PORT, saying("told")):
        await stream.publish(member)
        await answers(lab, 200)
        await stream.publish(member.model_copy(update={"revision": 2, "state": "removed"}))
        await answers(lab, 503)


async def answers(lab: Lab, status: int) -> None:
    async with asyncio.timeout(parts.PATIENCE_S):
        while (await lab.get("/v1/apps", headers=HERE)).status_code != status:
            await asyncio.sleep(0.02)


async def test_a_control_that_stands_still_holds_no_read_up_for_long(lab: Lab) -> None:
    one, two = next_address(), next_address()

    asked: list[bytes] = []

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        await asyncio.Event().wait()

    served_by(lab, one, two)
    await lab.start()
    async with parts.raw_app(one, PORT, silent), web_app(two, PORT, saying("two")):
        # It is asked, and then how it is; once that is known it is asked no more.
        assert (await lab.get("/v1/apps", headers=HERE)).text == "two GET /v1/apps"
        assert [line.split()[1] for line in asked] == [b"/v1/apps", b"/x/v1/health"]
        assert (await lab.get("/v1/apps", headers=HERE)).text == "two GET /v1/apps"
        assert len(asked) == 2
