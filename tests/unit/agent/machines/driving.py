"""One machine on a fake host, and a test's conversation with it."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from godwit.testing import agents, clock

M = "0000000000000a"
NOTHING: dict[str, list[Any]] = {"vms": [], "taps": [], "prepared": [], "saved": []}
NO_IMAGE = "sha256:" + "0" * 64

Body = Callable[[agents.FakeHost, agents.Agent], Awaitable[None]]


def scenario(body: Body) -> None:
    """Run a body with a host and its first agent; no lie may have come about."""

    async def whole() -> None:
        host = agents.FakeHost()
        try:
            await body(host, await host.agent())
            assert host.world.lies == []
        finally:
            await host.close()

    clock.run(whole())


def events(host: agents.FakeHost) -> list[dict[str, Any]]:
    return [
        json.loads(row["record"]) for row in host.rows("SELECT record FROM events ORDER BY id")
    ]


def types(host: agents.FakeHost) -> list[str]:
    return [event["type"] for event in events(host)]


def intervals(host: agents.FakeHost) -> list[dict[str, Any]]:
    return host.rows("SELECT * FROM usage ORDER BY id")
