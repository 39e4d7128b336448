"""Terminals: commands in guests that somebody types into, on a fake host."""

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from godwit.agent import terminals
from godwit.base import errors, tasks
from godwit.testing.typed_back import TypedBack
from tests.unit.agent.bench import READER, STRANGER, USER, Bench, M, running

GREETING = b"sh in hello at / for root\n"


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with running(tmp_path) as made:
        await made.create()
        await made.reach("started")
        yield made


class Client:
    """One who types."""

    def __init__(self, bench: Bench, terminal_id: str) -> None:
        self.bench = bench
        self.terminal_id = terminal_id
        self.position = 0
        self.at = 0
        self.said = {"stdout": b"", "stderr": b""}
        self.exit: int | None = None

    async def ask(self, verb: str, **body: Any) -> dict[str, Any]:
        return await self.bench.call(
            f"machine.terminal.{verb}",
            USER,
            machine_id=M,
            terminal_id=self.terminal_id,
            **body,
        )

    async def read(self, wait_s: float = 5) -> dict[str, Any]:
        came = await self.ask("read", after=self.position, wait_s=wait_s)
        for piece in came["pieces"]:
            self.said[piece["stream"]] += base64.b64decode(piece["data_base64"])
        self.position = came["position"]
        self.exit = came["exit_code"] if came["ended"] else None
        return came

    async def until(self, text: bytes) -> None:
        async with asyncio.timeout(60):
            while text not in self.said["stdout"]:
                await self.read()

    async def end(self) -> int | None:
        async with asyncio.timeout(60):
            while self.exit is None:
                await self.read()
        return self.exit

    async def type(self, text: bytes, **more: Any) -> None:
        answer = await self.ask(
            "write", at=self.at, data_base64=base64.b64encode(text).decode(), **more
        )
        self.at = answer["position"]


async def opened(bench: Bench, **body: Any) -> Client:
    asked = {"machine_id": M, "command": ["sh"], **body}
    answer = await bench.call("machine.terminal.open", USER, **asked)
    return Client(bench, answer["terminal_id"])


async def refused(bench: Bench, verb: str, who: Any = USER, **body: Any) -> str:
    with pytest.raises(errors.Failure) as failure:
        await bench.call(f"machine.terminal.{verb}", who, machine_id=M, **body)
    return failure.value.code


async def test_what_is_typed_is_answered_until_the_command_ends(bench: Bench) -> None:
    client = await opened(bench, window={"rows": 30, "cols": 90}, term="screen")
    await client.until(GREETING)
    await client.type(b"hello\nwarn beware\nsize\n")
    await client.until(b"30 x 90\n")
    await client.type(b"", window={"rows": 50, "cols": 132})
    await client.type(b"size\nexit 7\n")
    assert await client.end() == 7
    assert client.said["stdout"].endswith(b"hello\n30 x 90\n50 x 132\n")
    assert client.said["stderr"] == b"beware\n"


async def test_an_answer_that_was_lost_is_asked_for_again(bench: Bench) -> None:
    client = await opened(bench)
    first = await client.ask("read", after=0, wait_s=5)
    assert await client.ask("read", after=0, wait_s=5) == first
    await client.read()
    await client.type(b"once\n")
    client.at = 0
    await client.type(b"once\n")
    await client.type(b"", eof=True)
    assert await client.end() == 0
    assert client.said["stdout"] == GREETING + b"once\n"


async def test_positions_nobody_was_told_are_refused(bench: Bench) -> None:
    client = await opened(bench)
    await client.until(GREETING)
    of = {"terminal_id": client.terminal_id}
    assert await refused(bench, "read", **of, after=10_000) == "invalid_argument"
    await client.ask("read", after=5, wait_s=0)
    assert await refused(bench, "read", **of, after=0) == "invalid_argument"
    assert await refused(bench, "write", **of, at=1) == "conflict"
    assert await refused(bench, "write", **of, data_base64="?") == "invalid_argument"


async def test_a_terminal_is_its_openers_alone(bench: Bench) -> None:
    client = await opened(bench)
    of = {"terminal_id": client.terminal_id}
    other = USER.model_copy(update={"subject": "user:b@example.com"})
    assert await refused(bench, "read", other, **of) == "not_found"
    assert await refused(bench, "read", STRANGER, **of) == "not_found"
    assert await refused(bench, "open", READER, command=["sh"]) == "permission_denied"
    assert await refused(bench, "open", command=[]) == "invalid_argument"


async def test_anothers_lease_keeps_terminals_shut(bench: Bench) -> None:
    held = await bench.call("machine.lease.acquire", USER, machine_id=M, ttl_s=60)
    assert await refused(bench, "open", command=["sh"]) == "conflict"
    await opened(bench, nonce=held["lease"]["nonce"])


async def test_a_closed_terminal_is_gone_and_closing_it_twice_is_no_mistake(bench: Bench) -> None:
    client = await opened(bench)
    await client.ask("close")
    async with asyncio.timeout(60):
        while await client_is_there(client):
            await asyncio.sleep(0.01)
    await client.ask("close")


async def client_is_there(client: Client) -> bool:
    with contextlib.suppress(errors.Failure):
        await client.ask("read", after=client.position, wait_s=0)
        return True
    return False


async def test_a_machine_that_does_not_run_has_no_terminals(bench: Bench) -> None:
    await bench.call("machine.stop", USER, machine_id=M)
    await bench.reach("stopped")
    assert await refused(bench, "open", command=["sh"]) == "failed_precondition"


async def test_an_organization_has_so_many_terminals_and_no_more(bench: Bench) -> None:
    for _ in range(terminals.MOST_OF_ORG):
        await opened(bench)
    assert await refused(bench, "open", command=["sh"]) == "rate_limited"


async def test_output_that_nobody_reads_waits_in_the_guest(bench: Bench) -> None:
    stream = TypedBack("flood", None)
    terminal = terminals.Terminal(M, "org_a", "user:a", bench.clock)
    await stream.write(b"flood 1000\nexit\n")
    async with tasks.Tasks("test") as owned, asyncio.timeout(60):
        owned.spawn(terminal.follow(stream), name="follow")
        while stream.unread > 780_000:
            await asyncio.sleep(0.01)
        assert stream.unread > 700_000
        taken, ended = 0, False
        while not ended:
            came = await terminal.read(taken, 5)
            taken, ended = came.position, came.ended
    assert taken == len(b"flood\n") + 1000 * 1024


async def test_a_terminal_nobody_asks_about_is_closed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminals, "IDLE_S", 0.2)
    client = await opened(bench)
    async with asyncio.timeout(60):
        while bench.app.terminals:
            await asyncio.sleep(0.05)
    assert not await client_is_there(client)


async def test_a_command_that_is_lost_says_so(bench: Bench) -> None:
    terminal = terminals.Terminal(M, "org_a", "user:a", bench.clock)
    async with tasks.Tasks("test") as owned:
        owned.spawn(terminal.follow(TypedBack("sh", None)), name="follow")
        await terminal.read(0, 5)
        await terminal.lost("the machine's shim is gone")
        with pytest.raises(errors.Failure, match="shim is gone"):
            await terminal.read(len(b"sh\n"), 5)
