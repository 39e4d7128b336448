"""Random deploys, disturbed at random, against what must hold whatever happens.

An app has four machines of `web` and a worker with its standby, on two hosts. Deploys follow one
another: of releases that work or do not, by any strategy, while somebody cancels, controls die,
hosts go and come back, and machines end. The model knows only this:

* at most one deploy holds the app; each ends, and its release with it;
* as long as no host and no machine is at fault, no more of `web` is away than may be;
* afterwards nobody holds a lease, nothing is left of what deploys make for themselves, and every
  machine of `web` has a successor or is there itself: four of them.
"""

import copy
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from godwit.base import errors
from godwit.control import upkeep
from godwit.control.deploys import configs, plan, service
from godwit.testing import clock
from godwit.testing.control import world
from godwit.testing.deploys import ScriptedHost, Yard, refused
from tests.unit.control.deploys.conftest import CHANGED, GROUPS, STRATEGIES
from tests.unit.control.deploys.copies import Base

OTHER = "b2b2b2b2"
WEB = 4
TESTED = {**GROUPS, "machine_checks": [{"command": ["exit", "0"], "processes": ["web"]}]}
LARGER = {**GROUPS, "vm": [{"memory": "512mb"}]}


@dataclass(frozen=True)
class Event:
    """What happens after so many requests of a deploy."""

    what: str
    after: int


@dataclass(frozen=True)
class Step:
    """One deploy and what disturbs it."""

    definition: dict[str, Any]
    image: str
    strategy: str
    max_unavailable: float
    auto_rollback: bool
    events: tuple[Event, ...]

    @property
    def at_fault(self) -> bool:
        """Tell whether hosts or machines are."""
        return any(one.what in ("host goes", "machine ends") for one in self.events)


EVENTS = st.builds(
    Event,
    st.sampled_from(["cancel", "control dies", "another deploy", "host goes", "host is back"])
    | st.just("machine ends"),
    st.integers(1, 60),
)
STEPS = st.builds(
    Step,
    definition=st.sampled_from([GROUPS, CHANGED, TESTED, LARGER]),
    image=st.sampled_from(["nginx:2", "nginx:3", "nginx:sick", "nginx:crash"]),
    strategy=st.sampled_from(STRATEGIES),
    max_unavailable=st.sampled_from([0.33, 1.0, 2.0]),
    auto_rollback=st.booleans(),
    events=st.lists(EVENTS, max_size=3).map(tuple),
)


@dataclass
class Play:
    """The app while it is deployed, watched after every answer of a host."""

    yard: Yard
    other: ScriptedHost
    step: Step | None = None
    run_id: str = ""
    asked: int = 0
    most_away: int = 0
    serving: int = WEB
    canaries_left: bool = False
    wrong: list[str] = field(default_factory=list)

    async def notice(self, verb: str, body: dict[str, Any]) -> None:
        """Look at what serves, and let happen what is due."""
        del verb, body
        if self.step is None:
            return
        self.asked += 1
        watched = self.step.strategy != "immediate" and not self.step.at_fault
        if watched and len(self.well()) < self.serving - self.most_away:
            self.wrong.append(f"{self.well()} serve after {self.asked} requests")
        for event in self.step.events:
            if event.after == self.asked:
                await self.happen(event.what)

    async def happen(self, what: str) -> None:
        """Let one thing happen."""
        yard = self.yard
        if what == "cancel":
            with_no_return = refused_or_none(
                service.cancel(yard.ctx, yard.who, "shop", self.run_id)
            )
            assert await with_no_return in (None, "failed_precondition")
        elif what == "control dies":
            yard.mortal.dead.set()
        elif what == "another deploy":
            failure = await refused(yard.begin(GROUPS, "nginx:9"))
            assert failure.code == "conflict"
        elif what == "host goes":
            self.other.away = True
        elif what == "host is back":
            self.other.away = False
        else:
            for host in (self.other, yard.host):
                for machine_id, one in list(host.machines.items()):
                    if one.state == "started" and group(one) == "web":
                        await host.crash(machine_id)
                        return

    def well(self) -> list[str]:
        """Return the machines of `web` that answer requests."""
        return [
            machine_id
            for machine_id, one in self.living().items()
            if group(one) == "web"
            and not one.config["metadata"].get(configs.CANARY)
            and one.state == "started"
            and not (one.cordoned or one.draining)
            and one.config["image"] not in ("nginx:sick", "nginx:crash")
        ]

    def living(self) -> dict[str, Any]:
        """Return every machine on either host."""
        return {
            machine_id: one
            for host in (self.yard.host, self.other)
            for machine_id, one in host.machines.items()
            if one.state != "destroyed"
        }

    async def deploy(self, step: Step) -> None:
        """Deploy once, whatever happens, and look at what is left."""
        yard = self.yard
        self.other.away, self.asked = False, 0
        self.serving = len(self.well())
        away = plan.at_once(step.max_unavailable, self.serving)
        self.most_away = 0 if step.strategy == "bluegreen" else away
        try:
            self.run_id = await yard.begin(
                step.definition,
                step.image,
                strategy=step.strategy,
                max_unavailable=step.max_unavailable,
                auto_rollback=step.auto_rollback,
                wait_timeout_s=30,
            )
        except errors.Failure as failure:
            # Leftovers of an aborted deploy run other images: bluegreen says so.
            assert step.strategy == "bluegreen", failure.message  # noqa: PT017
            return
        self.step = step
        for _ in range(1 + len(step.events)):
            await yard.carry()
            await yard.let_holds_lapse()
        self.step = None
        self.other.away = False
        await yard.clock.sleep(700)
        await upkeep.Upkeep(yard.ctx).sweep()
        await self.check(step)

    async def check(self, step: Step) -> None:
        """Look at what a deploy has left."""
        done = await self.yard.look(self.run_id)
        assert done.row.ended_at_ms is not None
        assert done.release.status in ("complete", "failed", "interrupted")
        assert self.wrong == []
        living = self.living()
        groups = [group(one) for one in living.values()]
        assert not configs.INTERNAL & set(groups), groups
        canaries = [one for one in living.values() if one.config["metadata"].get(configs.CANARY)]
        # Those of deploys that failed are left to be looked at, where that is wanted.
        complete = done.row.outcome == "complete"
        kept = step.strategy == "canary" and not step.auto_rollback
        self.canaries_left = not complete and (self.canaries_left or kept)
        assert self.canaries_left or not canaries
        groups = [group(one) for one in living.values() if one not in canaries]
        assert groups.count("web") == WEB, (done.row.message, groups)
        if not step.at_fault:
            assert self.yard.leased() == []
            if complete:
                web = [one for one in living.values() if group(one) == "web"]
                assert {one.config["image"] for one in web} == {step.image}
                assert {one.state for one in web} == {"started"} or step.image == "nginx:crash"
                assert not any(one.cordoned for one in web)


def group(one: Any) -> str:
    """Return a machine's process group."""
    return str((one.config.get("metadata") or {}).get("fly_process_group"))


async def refused_or_none(doing: Any) -> str | None:
    """Return the code of what a request is refused with."""
    try:
        await doing
    except errors.Failure as failure:
        return failure.code
    return None


class Town:
    """The app on two hosts, copied for each play."""

    def __init__(self, base: Base, machines: dict[str, Any]) -> None:
        self._base = base
        self._machines = machines

    @asynccontextmanager
    async def copied(self) -> AsyncIterator[Play]:
        """Return the app as it was."""
        async with self._base.copied() as yard:
            other = ScriptedHost(OTHER, memory_mb=4096, time=yard.clock)
            other.machines = copy.deepcopy(self._machines)
            yard.world.hosts.by_id[OTHER] = other
            play = Play(yard, other)
            for host in (yard.host, other):
                host.after.append(play.notice)
            yield play


@pytest.fixture
async def town(tmp_path: Path, database_url: str) -> AsyncIterator[Town]:
    async with world(tmp_path, database_url) as around:
        acme = await around.organization("acme")
        await around.app("shop", "acme")
        yard = Yard(around, around.of(acme))
        await yard.deploy(GROUPS, "nginx:1")
        other = await yard.add_host(OTHER, memory_mb=4096)
        yard.host.memory_mb = 0
        web = next(one for one in yard.host.machines.values() if group(one) == "web")
        for _ in range(WEB - 2):
            await yard.make_machine(web.config)
        yard.host.memory_mb = 4096
        await around.store.close()
        yield Town(Base(tmp_path, database_url, around, yard), other.machines)


def play(town: Town, steps: list[Step]) -> None:
    """Play deploys one after another."""

    async def whole() -> None:
        async with town.copied() as one:
            for step in steps:
                await one.deploy(step)

    clock.run(whole())


def examples(count: int) -> Callable[[Any], Any]:
    return settings(
        max_examples=count,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@examples(8)
@given(st.lists(STEPS, min_size=1, max_size=2))
def test_whatever_happens_to_deploys_the_app_is_whole(town: Town, steps: list[Step]) -> None:
    play(town, steps)


@pytest.mark.full
@pytest.mark.timeout(1800)
@examples(200)
@given(st.lists(STEPS, min_size=1, max_size=3))
def test_whatever_happens_to_many_deploys_the_app_is_whole(town: Town, steps: list[Step]) -> None:
    play(town, steps)
