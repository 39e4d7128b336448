"""What a machine's own processes get at `/.fly/api`, over a whole agent on a fake host."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from godwit.agent.guest_api import connections
from godwit.agent.machines import holdings
from godwit.base import errors, ids
from godwit.testing.guest_call import GuestCall
from godwit.wire import guest_api
from tests.unit.agent.bench import USER, Bench, M, running

OWN = f"/v1/apps/hello/machines/{M}"


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with running(tmp_path) as made:
        await made.create()
        await made.reach("started")
        yield made


class Slow(GuestCall):
    """A process whose answer is long on its way."""

    def __init__(self, said: bytes, ended: Callable[[], bool]) -> None:
        super().__init__(said)
        self._ended = ended
        self.ended_meanwhile: bool | None = None

    async def write(self, data: bytes) -> None:
        await asyncio.sleep(0.1)
        self.ended_meanwhile = self._ended()
        await super().write(data)


def call(bench: Bench, said: bytes) -> GuestCall:
    made = GuestCall(said)
    bench.world.vms[M].calls.put_nowait(made)
    return made


def request(method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{method} {path} HTTP/1.1", "Host: anything"]
    lines += [f"{name}: {value}" for name, value in named.items()]
    lines += [f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


async def ask(bench: Bench, method: str, path: str, body: bytes = b"", **headers: str) -> Any:
    answer = await call(bench, request(method, path, body, **headers)).answer()
    head, _, said = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(said)


async def test_a_machine_suspends_itself_and_is_told_so_first(bench: Bench) -> None:
    vm = bench.world.vms[M]
    made = Slow(request("POST", f"{OWN}/suspend"), lambda: vm.paused)
    vm.calls.put_nowait(made)
    assert (await made.answer()).endswith(b'{"ok":true}')
    assert made.ended_meanwhile is False
    await bench.reach("suspended")
    await bench.call("machine.start", machine_id=M)
    await bench.reach("started")
    assert (await ask(bench, "POST", f"{OWN}/suspend"))[0] == 200


async def test_a_machine_stops_itself_as_it_says(bench: Bench) -> None:
    vm = bench.world.vms[M]
    body = b'{"signal":"SIGTERM","timeout":"2s"}'
    assert await ask(bench, "POST", f"{OWN}/stop", body) == (200, {"ok": True})
    await bench.reach("stopped")
    assert vm.signals == ["SIGTERM"]


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'{"signal":"SIGSEGV"}',
        b'{"signal":{"a":1}}',
        b'{"timeout":"6m"}',
        b'{"timeout":["1s"]}',
    ],
)
async def test_a_stop_that_makes_no_sense_is_refused(bench: Bench, body: bytes) -> None:
    status, said = await ask(bench, "POST", f"{OWN}/stop", body)
    assert (status, said["error"].partition(":")[0]) == (400, "invalid_argument")


async def test_a_lease_keeps_a_machine_from_ending_itself(bench: Bench) -> None:
    held = await bench.call("machine.lease.acquire", USER, machine_id=M, ttl_s=60)
    assert (await ask(bench, "POST", f"{OWN}/suspend"))[0] == 409
    nonce = held["lease"]["nonce"]
    status, _ = await ask(bench, "POST", f"{OWN}/suspend", fly_machine_lease_nonce=nonce)
    assert status == 200


async def told(bench: Bench, how_many: int) -> list[tuple[str, dict[str, Any]]]:
    """Return what control has heard that the machine did, once it is that many."""
    async with asyncio.timeout(60):
        while len(bench.world.deeds) < how_many:
            await asyncio.sleep(0.01)
    assert {deed.machine_id for deed in bench.world.deeds} == {M}
    return [(deed.verb, deed.detail) for deed in bench.world.deeds]


async def test_control_hears_of_what_a_machine_did_to_itself(bench: Bench) -> None:
    body = b'{"signal":"SIGTERM","timeout":"2s"}'
    await ask(bench, "POST", f"{OWN}/stop", body)
    stop = ("stop", {"signal": "SIGTERM", "timeout_ms": 2_000})
    assert await told(bench, 1) == [stop]
    await bench.reach("stopped")
    await bench.call("machine.start", machine_id=M)
    await bench.reach("started")
    await ask(bench, "POST", f"{OWN}/suspend")
    assert await told(bench, 2) == [stop, ("suspend", {})]


async def test_control_hears_nothing_of_what_was_refused(bench: Bench) -> None:
    held = await bench.call("machine.lease.acquire", USER, machine_id=M, ttl_s=60)
    assert (await ask(bench, "POST", f"{OWN}/suspend"))[0] == 409
    nonce = held["lease"]["nonce"]
    await ask(bench, "POST", f"{OWN}/stop", fly_machine_lease_nonce=nonce)
    assert await told(bench, 1) == [("stop", {})]


async def test_what_control_did_not_hear_it_hears_from_the_next_agent(tmp_path: Path) -> None:
    async with running(tmp_path) as first:
        await first.create()
        await first.reach("started")
        away = errors.Failure("unavailable", "away")
        first.world.faults["control.deed"].append(away)
        assert (await ask(first, "POST", f"{OWN}/suspend"))[0] == 200
        await first.reach("suspended")
        async with asyncio.timeout(60):
            while first.world.asked["control.deed"] == 0:
                await asyncio.sleep(0.01)
        assert first.world.deeds == []
    async with running(tmp_path, first) as second:
        assert await told(second, 1) == [("suspend", {})]
        assert await second.database.read(holdings.deeds) == []


async def test_what_control_will_never_take_keeps_nothing_from_it(bench: Bench) -> None:
    bench.world.faults["control.deed"].append(errors.Failure("invalid_argument", "what?"))
    await ask(bench, "POST", f"{OWN}/suspend")
    await bench.reach("suspended")
    await bench.call("machine.start", machine_id=M)
    await bench.reach("started")
    await ask(bench, "POST", f"{OWN}/stop")
    assert await told(bench, 1) == [("stop", {})]


async def test_a_machine_that_ends_itself_for_ever_fills_no_disk(bench: Bench) -> None:
    for at in range(150):
        deed = guest_api.Deed(id=ids.ulid(at), machine_id=M, verb="stop", at_ms=at)
        await bench.database.write(lambda tx, deed=deed: holdings.put_deed(tx, deed))
    kept = await bench.database.read(holdings.deeds)
    assert [deed.at_ms for deed in kept] == list(range(50, 150))


async def test_everything_else_is_controls_to_answer(bench: Bench) -> None:
    for method, path in (
        ("GET", OWN),
        ("POST", "/v1/tokens/oidc"),
        ("POST", "/v1/tokens/kms"),
        ("PATCH", f"{OWN}/metadata"),
        ("POST", f"/v1/apps/other/machines/{M}/suspend"),
        ("POST", "/v1/apps/hello/machines/0000000000000b/stop"),
        ("GET", f"{OWN}/suspend"),
    ):
        assert await ask(bench, method, path) == (200, {"asked": f"{method} {path}"})
    assert {asked.machine_id for asked in bench.world.guests_asked} == {M}


async def test_who_sends_a_token_is_not_the_machine(bench: Bench) -> None:
    token = "Bearer godwit_x"
    status, _ = await ask(bench, "POST", f"{OWN}/suspend", Authorization=token)
    assert status == 200
    (asked,) = bench.world.guests_asked
    assert asked.header("authorization") == token
    assert (await bench.call("machine.get", machine_id=M))["state"] == "started"


async def test_a_control_that_is_away_is_said_to_be(bench: Bench) -> None:
    bench.world.faults["control.guest_request"].append(errors.Failure("unavailable", "away"))
    assert await ask(bench, "GET", OWN) == (
        503,
        {"error": "unavailable: away", "status": "unknown"},
    )


async def test_garbage_is_answered_and_the_next_is_served(bench: Bench) -> None:
    answer = await call(bench, b"\xff\x00 what\r\n\r\n").answer()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert (await ask(bench, "GET", OWN))[0] == 200


async def test_who_says_nothing_is_hung_up_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_REQUEST_S", 0.05)
    silent = [call(bench, b"GET / HT") for _ in range(connections.AT_ONCE)]
    for each in silent:
        assert (await each.answer()).startswith(b"HTTP/1.1 408 ")
    monkeypatch.setattr(connections, "_REQUEST_S", 60.0)
    assert (await ask(bench, "GET", OWN))[0] == 200


async def test_a_flood_waits_in_the_guest(bench: Bench) -> None:
    silent = [call(bench, b"") for _ in range(50)]
    waiting = bench.world.vms[M].calls
    async with asyncio.timeout(60):
        while waiting.qsize() > len(silent) - connections.AT_ONCE:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    assert waiting.qsize() == len(silent) - connections.AT_ONCE
    for each in silent[: connections.AT_ONCE]:
        each.hang_up()
    async with asyncio.timeout(60):
        while waiting.qsize() > len(silent) - 2 * connections.AT_ONCE:
            await asyncio.sleep(0.01)


async def test_who_speaks_in_crumbs_waits_longer_for_its_next_turn(bench: Bench) -> None:
    said = request("GET", OWN)
    crumbs = GuestCall()
    for at in range(len(said)):
        crumbs.say(said[at : at + 1])
    for _ in range(1_000):
        crumbs.say(b"")
    bench.world.vms[M].calls.put_nowait(crumbs)
    assert (await crumbs.answer()).startswith(b"HTTP/1.1 200 ")
    waiting = [call(bench, said) for _ in range(3)]
    # One was offered a place before the crumbs were counted.
    assert (await waiting[0].answer()).startswith(b"HTTP/1.1 200 ")
    await asyncio.sleep(0.2)
    assert bench.world.vms[M].calls.qsize() == len(waiting) - 1


async def test_a_machine_that_rests_is_not_served(bench: Bench) -> None:
    vm = bench.world.vms[M]
    await bench.call("machine.stop", machine_id=M)
    await bench.reach("stopped")
    vm.calls.put_nowait(GuestCall(request("GET", OWN)))
    await bench.call("machine.start", machine_id=M)
    await bench.reach("started")
    assert (await ask(bench, "GET", OWN))[0] == 200
    assert vm.calls.qsize() == 1
