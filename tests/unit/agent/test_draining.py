"""Drains: begun, waited for, ended by whatever comes first; scripted edges, virtual time."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from godwit.agent.draining import Drains, InFlight
from godwit.base import tasks
from godwit.testing.clock import FakeClock, run
from tests.unit.agent.bench import M

NOTHING = InFlight(edges=1)
BUSY = InFlight(requests=2, tunnels=1, edges=1)


class Scripted:
    """Edges that answer by a script; its last answer stays."""

    def __init__(self) -> None:
        self.answers = deque([NOTHING])
        self.hang = False

    async def in_flight(self, machine_id: str) -> InFlight:
        assert machine_id == M
        if self.hang:
            await asyncio.Event().wait()
        return self.answers[0] if len(self.answers) == 1 else self.answers.popleft()


class Lab:
    """Drains, with machine M started."""

    def __init__(self, owned: tasks.Tasks) -> None:
        self.clock = FakeClock()
        self.edges = Scripted()
        self.told: list[bool] = []
        self.boot: str | None = "1"
        self.tasks = owned
        self.drains = Drains(self.clock, owned, self.edges, self._changed)
        self.drains.follow(M, "1")

    def _changed(self, machine_id: str) -> None:
        self.told.append(self.drains.follow(machine_id, self.boot))

    def answers(self, *answers: InFlight) -> None:
        self.edges.answers = deque(answers)

    def move(self, boot: str | None) -> bool:
        self.boot = boot
        return self.drains.follow(M, boot)

    async def took(self, timeout_s: float) -> tuple[InFlight, float]:
        begun = self.clock.monotonic()
        return await self.drains.drain(M, timeout_s), self.clock.monotonic() - begun


def scenario(play: Callable[[Lab], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with tasks.Tasks("test") as owned:
            await play(Lab(owned))

    run(whole())


def test_a_machine_without_requests_is_drained_at_once() -> None:
    async def play(lab: Lab) -> None:
        found, took_s = await lab.took(30)
        assert (found, lab.told) == (NOTHING, [True])
        assert took_s < 0.1

    scenario(play)


def test_a_drain_ends_with_the_last_request_and_waits_for_no_tunnel() -> None:
    async def play(lab: Lab) -> None:
        tunnel = InFlight(tunnels=1, edges=1)
        lab.answers(BUSY, BUSY, BUSY, tunnel)
        found, took_s = await lab.took(30)
        assert found == tunnel
        assert took_s < 1

    scenario(play)


def test_a_request_that_was_not_counted_at_first_is_waited_for() -> None:
    async def play(lab: Lab) -> None:
        late = InFlight(requests=1, edges=1)
        lab.answers(NOTHING, late, NOTHING, NOTHING)
        assert (await lab.took(30))[0] == NOTHING
        assert list(lab.edges.answers) == [NOTHING]

    scenario(play)


def test_what_is_left_at_the_time_limit_is_told() -> None:
    async def play(lab: Lab) -> None:
        lab.answers(BUSY)
        assert await lab.took(5) == (BUSY, 5)
        assert await lab.took(0) == (BUSY, 0)
        assert lab.told == [True]

    scenario(play)


def test_an_edge_that_does_not_answer_may_have_requests() -> None:
    async def play(lab: Lab) -> None:
        lab.answers(InFlight(edges=1, silent=1))
        assert (await lab.took(5))[1] == 5

    scenario(play)


def test_an_edge_that_cannot_tell_is_given_a_moment() -> None:
    async def play(lab: Lab) -> None:
        lab.answers(InFlight())
        found, took_s = await lab.took(30)
        assert found == InFlight()
        assert 1 <= took_s < 2

    scenario(play)


def test_a_machine_that_is_not_started_has_nothing_to_drain() -> None:
    async def play(lab: Lab) -> None:
        lab.move(None)
        assert await lab.took(30) == (InFlight(), 0)
        assert lab.told == []

    scenario(play)


def test_a_drain_ends_with_the_boot_it_was_begun_for() -> None:
    async def play(lab: Lab) -> None:
        for boot in (None, "2"):
            await lab.drains.drain(M, 30)
            assert lab.move(lab.boot)
            assert not lab.move(boot)
            assert not lab.move("1")

    scenario(play)


def test_a_stop_ends_the_wait_of_a_drain() -> None:
    async def play(lab: Lab) -> None:
        lab.answers(BUSY)
        draining = lab.tasks.spawn(lab.took(300), name="drain")
        await lab.clock.sleep(1)
        lab.move(None)
        assert (await draining)[1] < 2

    scenario(play)


def test_a_word_ends_a_drain_and_its_wait() -> None:
    async def play(lab: Lab) -> None:
        lab.drains.undrain(M)
        assert lab.told == []
        lab.answers(BUSY)
        draining = lab.tasks.spawn(lab.took(300), name="drain")
        await lab.clock.sleep(1)
        lab.drains.undrain(M)
        assert lab.told == [True, False]
        assert (await draining)[1] < 2

    scenario(play)


def test_a_drain_that_nothing_followed_ends_by_itself() -> None:
    async def play(lab: Lab) -> None:
        await lab.drains.drain(M, 30)
        await lab.clock.sleep(89)
        assert lab.told == [True]
        await lab.clock.sleep(2)
        assert lab.told == [True, False]

    scenario(play)


def test_a_second_drain_prolongs_the_first() -> None:
    async def play(lab: Lab) -> None:
        await lab.drains.drain(M, 30)
        await lab.clock.sleep(80)
        await lab.drains.drain(M, 30)
        await lab.clock.sleep(80)
        assert lab.told == [True]
        await lab.clock.sleep(11)
        assert lab.told == [True, False]

    scenario(play)


def test_a_stop_waits_for_edges_only_a_moment() -> None:
    async def play(lab: Lab) -> None:
        begun = lab.clock.monotonic()
        await lab.drains.acted_upon(M)
        assert lab.clock.monotonic() == begun
        lab.edges.hang = True
        await lab.drains.acted_upon(M)
        assert lab.clock.monotonic() - begun == 0.25

    scenario(play)
