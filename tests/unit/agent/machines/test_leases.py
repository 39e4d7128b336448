"""Leases against a model: one holder at a time, whatever comes in whatever order."""

import asyncio
import itertools
import sqlite3
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from godwit.agent.machines import holdings, leases, records
from godwit.base import errors
from godwit.testing import agents
from godwit.testing.world import Hands, World
from godwit.wire import host_rpc

M = "0000000000000a"
VERSION = f"01V{M}"


class Time:
    """Unix time by hand."""

    def __init__(self) -> None:
        self.ms = 1_790_000_000_000

    def now_ms(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return self.ms / 1000

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("leases never wait")


def machine() -> records.Machine:
    return records.from_offer(agents.offer(M), 2, 0)


class Bench:
    """Leases over a database in memory, one agent after the other."""

    def __init__(self) -> None:
        self.time = Time()
        self.connection = agents.memory_database()
        self.database = agents.InlineDatabase(self.connection, Hands(World()))
        self._counter = itertools.count(1)
        self.leases = self._fresh()

    def _fresh(self) -> leases.Leases:
        return leases.Leases(
            self.database, self.time, lambda size: next(self._counter).to_bytes(size, "big")
        )

    async def restart(self) -> None:
        self.leases = self._fresh()
        await self.leases.load()

    async def acquire(self, ttl_s: int = 60, **more: Any) -> holdings.Held:
        request = host_rpc.LeaseRequest(machine_id=M, ttl_s=ttl_s, **more)
        return await self.leases.acquire(machine(), request)

    async def release(self, nonce: str | None) -> None:
        await self.leases.release(machine(), nonce)

    def may_change(self, nonce: str | None) -> bool:
        try:
            self.leases.check(M, nonce)
        except errors.Failure as failure:
            return failure.code != "conflict"
        return True


@pytest.fixture
def bench() -> Bench:
    return Bench()


def code_of(caught: pytest.ExceptionInfo[errors.Failure]) -> str:
    return caught.value.code


async def test_a_held_machine_is_its_holders_alone(bench: Bench) -> None:
    held = await bench.acquire(owner="a@example.com", description="deploying")
    assert bench.may_change(held.nonce)
    for other in (None, "", "x"):
        assert not bench.may_change(other)
    with pytest.raises(errors.Failure) as caught:
        await bench.acquire()
    assert code_of(caught) == "conflict"
    assert "a@example.com (deploying)" in caught.value.message
    assert held.nonce not in caught.value.message


async def test_a_lease_ends_by_the_clock(bench: Bench) -> None:
    await bench.acquire(ttl_s=13)
    bench.time.ms += 12_999
    assert not bench.may_change(None)
    bench.time.ms += 1
    assert bench.may_change(None)
    assert bench.leases.held(M) is None


async def test_its_holder_prolongs_it_under_the_same_nonce(bench: Bench) -> None:
    held = await bench.acquire(ttl_s=13, owner="a", description="deploying")
    bench.time.ms += 10_000
    again = await bench.acquire(ttl_s=13, nonce=held.nonce)
    assert (again.nonce, again.owner, again.description) == (held.nonce, "a", "deploying")
    assert again.expires_at_ms == held.expires_at_ms + 10_000


async def test_a_late_holder_finds_it_again_unless_somebody_else_came(bench: Bench) -> None:
    held = await bench.acquire(ttl_s=1)
    bench.time.ms += 5_000
    assert (await bench.acquire(nonce=held.nonce)).nonce == held.nonce
    bench.time.ms += 61_000
    other = await bench.acquire()
    assert other.nonce != held.nonce
    with pytest.raises(errors.Failure) as caught:
        await bench.acquire(nonce=held.nonce)
    assert code_of(caught) == "conflict"


async def test_a_nonce_that_means_nothing_acquires_like_none(bench: Bench) -> None:
    assert (await bench.acquire(nonce="of-another-time")).nonce != "of-another-time"


async def test_releasing_is_for_its_holder_and_may_be_repeated(bench: Bench) -> None:
    held = await bench.acquire()
    for wrong, code in ((None, "invalid_argument"), ("", "invalid_argument"), ("x", "conflict")):
        with pytest.raises(errors.Failure) as caught:
            await bench.release(wrong)
        assert code_of(caught) == code
    await bench.release(held.nonce)
    await bench.release(held.nonce)
    assert bench.may_change(None)


async def test_an_offer_that_is_repeated_finds_its_own_lease(bench: Bench) -> None:
    request = host_rpc.LeaseRequest(machine_id=M, ttl_s=60)
    first = await bench.leases.acquire(machine(), request, VERSION)
    again = await bench.leases.acquire(machine(), request, VERSION)
    assert again.nonce == first.nonce
    with pytest.raises(errors.Failure):
        await bench.leases.acquire(machine(), request, "01ANOTHER")


@pytest.mark.parametrize("ttl_s", [-1, 0, leases.LONGEST_TTL_S + 1])
async def test_a_time_that_makes_no_sense_is_refused(bench: Bench, ttl_s: int) -> None:
    with pytest.raises(errors.Failure) as caught:
        await bench.acquire(ttl_s=ttl_s)
    assert code_of(caught) == "invalid_argument"


async def test_what_cannot_be_stored_is_not_held(bench: Bench) -> None:
    bench.database.trouble = sqlite3.OperationalError("database or disk is full")
    with pytest.raises(sqlite3.OperationalError):
        await bench.acquire()
    bench.database.trouble = None
    assert bench.may_change(None)
    held = await bench.acquire()
    await bench.restart()
    assert not bench.may_change(None)
    assert bench.may_change(held.nonce)


async def test_of_many_at_once_one_gets_it(bench: Bench) -> None:
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(lease_or_none(bench)) for _ in range(50)]
    assert len([one for one in asked if one.result() is not None]) == 1


async def lease_or_none(bench: Bench) -> holdings.Held | None:
    try:
        return await bench.acquire()
    except errors.Failure:
        return None


class LeaseModel(RuleBasedStateMachine):
    """Three clients, a clock and agents that restart, against the plain rule."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.bench = Bench()
        self.nonces: dict[str, str] = {}
        self.last: str | None = None
        self.until_ms = 0

    def teardown(self) -> None:
        self.bench.connection.close()
        self.loop.close()

    @property
    def holder(self) -> str | None:
        return self.last if self.bench.time.ms < self.until_ms else None

    def refused(self, asked: Coroutine[Any, Any, Any]) -> None:
        with pytest.raises(errors.Failure) as caught:
            self.loop.run_until_complete(asked)
        assert caught.value.code == "conflict"

    @rule(who=st.sampled_from("abc"), ttl_s=st.integers(1, 30), with_nonce=st.booleans())
    def acquire(self, who: str, ttl_s: int, with_nonce: bool) -> None:
        nonce = self.nonces.get(who) if with_nonce else None
        its_own = nonce is not None and self.last == who
        may = self.holder is None or its_own
        if not may:
            self.refused(self.bench.acquire(ttl_s, nonce=nonce, owner=who))
            return
        held = self.loop.run_until_complete(self.bench.acquire(ttl_s, nonce=nonce, owner=who))
        assert (held.nonce == nonce) == its_own
        assert held.nonce not in {n for other, n in self.nonces.items() if other != who}
        self.nonces[who] = held.nonce
        self.last, self.until_ms = who, self.bench.time.ms + ttl_s * 1000

    @rule(who=st.sampled_from("abc"))
    def release(self, who: str) -> None:
        nonce = self.nonces.get(who)
        if nonce is None:
            return
        if self.holder not in (None, who):
            self.refused(self.bench.release(nonce))
            return
        self.loop.run_until_complete(self.bench.release(nonce))
        if self.last == who:
            self.last = None
            del self.nonces[who]

    @rule(ms=st.integers(0, 20_000))
    def time_passes(self, ms: int) -> None:
        self.bench.time.ms += ms

    @rule()
    def agent_restarts(self) -> None:
        self.loop.run_until_complete(self.bench.restart())

    @invariant()
    def only_the_holder_may_change_the_machine(self) -> None:
        for who in "abc":
            nonce = self.nonces.get(who)
            assert self.bench.may_change(nonce) == (self.holder in (None, who))
        assert self.bench.may_change(None) == (self.holder is None)


LeaseModel.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestLeaseModel = LeaseModel.TestCase
