"""Every request that a deploy makes of a host goes wrong, or is when somebody cancels.

Each request of an undisturbed deploy is taken in turn. Whatever happens to it, the deploy ends, in
one of two worlds: the one before it or the one after it. Nobody holds a lease then, and nothing is
left of what it made on the way. Where a host refuses something for ever there may be no way to
either world; then the next deploy gets there, once that is over.
"""

import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from godwit.base import errors
from godwit.control.deploys import configs, service
from godwit.testing.deploys import ScriptedHost, Yard
from tests.unit.control.deploys.conftest import CHANGED, STRATEGIES
from tests.unit.control.deploys.copies import Base, finished

TESTED = {**CHANGED, "machine_checks": [{"command": ["exit", "0"]}]}
AWAY = errors.Failure("unavailable", "nobody answers")
REFUSED = errors.Failure("failed_precondition", "not like this")
FULL = errors.Failure("insufficient_capacity", "no room")
FOR_EVER = 10**6
GROWING = ("machine.reserve", "machine.update", "machine.start")
"""What a full host refuses."""
REPEATED = ("machine.get", "machine.lease.acquire")
"""What is asked again and again while a deploy waits."""


@dataclass(frozen=True)
class Trouble:
    """What happens to a request, and to how many like it.

    Attributes:
        failure: What it is answered; `None` has somebody cancel instead.
        lost: Whether it is done all the same.
        verbs: Which requests it may happen to; empty for all.
    """

    failure: errors.Failure | None
    times: int = 1
    lost: bool = False
    verbs: tuple[str, ...] = ()


TROUBLES = {
    "cancelled": Trouble(None),
    "lost": Trouble(AWAY, lost=True),
    "away once": Trouble(AWAY),
    "away twice": Trouble(AWAY, 2),
    "away for ever": Trouble(AWAY, FOR_EVER),
    "refused once": Trouble(REFUSED),
    "refused twice": Trouble(REFUSED, 2),
    "refused for ever": Trouble(REFUSED, FOR_EVER),
    "full once": Trouble(FULL, verbs=GROWING),
    "full for ever": Trouble(FULL, FOR_EVER, verbs=GROWING),
}


class Disturbed:
    """A host that troubles befall, from the n-th request of a verb on.

    Attributes:
        seen: How many requests of each verb there were, those of the platform's own aside.
    """

    def __init__(self, host: ScriptedHost, verb: str, number: int, trouble: Trouble) -> None:
        self._verb, self._number, self._trouble = verb, number, trouble
        self._left = trouble.times
        self._answer = host.answer
        self.seen: Counter[str] = Counter()
        self.cancel: Callable[[], Awaitable[Any]] | None = None
        host.answer = self.answer  # type: ignore[method-assign]

    async def answer(self, verb: str, body: dict[str, Any], who: Any = None) -> dict[str, Any]:
        """Answer, or not."""
        if who is not None and who.subject.startswith("component:"):
            return await self._answer(verb, body, who)
        self.seen[verb] += 1
        if verb != self._verb or self.seen[verb] < self._number or not self._left:
            return await self._answer(verb, body, who)
        self._left -= 1
        failure = self._trouble.failure
        if failure is not None and not self._trouble.lost:
            raise failure
        answer = await self._answer(verb, body, who)
        if failure is not None:
            raise failure
        assert self.cancel is not None
        await self.cancel()
        return answer

    def heal(self) -> None:
        """Trouble the host no more."""
        self._left = 0


async def cancel(yard: Yard, run_id: str) -> None:
    """Cancel a deploy, if it still can be."""
    with contextlib.suppress(errors.Failure):
        await service.cancel(yard.ctx, yard.who, yard.app, run_id)


async def carried(
    yard: Yard, strategy: str, verb: str, number: int, trouble: Trouble
) -> tuple[dict[str, Any], Disturbed]:
    """Return what a troubled deploy has left, once its host is as it was."""
    run_id = await yard.begin(TESTED, "nginx:2", strategy=strategy, wait_timeout_s=60)
    disturbed = Disturbed(yard.host, verb, number, trouble)
    disturbed.cancel = partial(cancel, yard, run_id)
    await yard.carry()
    disturbed.heal()
    # Longer than an offer can be on its way.
    await yard.clock.sleep(700)
    return await finished(yard, run_id), disturbed


async def requests(base: Base, strategy: str) -> tuple[dict[str, Any], list[tuple[str, int]]]:
    """Return what an undisturbed deploy leaves, and every request it makes."""
    async with base.copied() as yard:
        found, disturbed = await carried(yard, strategy, "", 0, Trouble(None))
    assert found["outcome"] == "complete", found
    every = [(verb, n + 1) for verb, count in disturbed.seen.items() for n in range(count)]
    return found, every


def strays(yard: Yard) -> list[str]:
    """Return machines that no deploy leaves behind."""
    return [
        machine_id
        for machine_id, one in yard.host.machines.items()
        if one.state != "destroyed"
        and (
            one.config["metadata"]["fly_process_group"] in configs.INTERNAL
            or one.config["metadata"].get(configs.CANARY)
        )
    ]


def chosen(every: list[tuple[str, int]], trouble: Trouble, step: int) -> Iterator[tuple[str, int]]:
    """Yield every so-many-eth request that may be troubled; of those that repeat, fewer."""
    mine = [
        (verb, number)
        for verb, number in every
        if (not trouble.verbs or verb in trouble.verbs)
        and (verb not in REPEATED or number <= 6 or number % 7 == 0)
    ]
    yield from mine[len(trouble.verbs) % step :: step]


async def check(base: Base, strategy: str, name: str, step: int) -> None:
    """Trouble one request after another."""
    trouble = TROUBLES[name]
    async with base.copied() as yard:
        before = yard.machines()
    after, every = await requests(base, strategy)
    worlds = {"complete": after["machines"], "failed": before, "cancelled": before}
    wrong = []
    for verb, number in chosen(every, trouble, step):
        async with base.copied() as yard:
            found, _ = await carried(yard, strategy, verb, number, trouble)
            try:
                assert_in_order(yard, found, verb, trouble)
                if found["machines"] != worlds[found["outcome"]]:
                    stays = strategy == "immediate" and found["outcome"] == "failed"
                    assert stays or trouble.times == FOR_EVER or trouble.failure is FULL, found
                    await assert_heals(yard, after["machines"])
            except AssertionError as error:
                wrong.append(f"{verb} {number}: {error}")
    assert wrong == []


def assert_in_order(yard: Yard, found: dict[str, Any], verb: str, trouble: Trouble) -> None:
    """The deploy has ended, and nothing is left of what it made on the way."""
    assert found["unfinished"] is None
    assert found["unwanted"] == []
    assert strays(yard) == []
    if verb != "machine.lease.release" or trouble.times == 1:
        assert found["leased"] == []


async def assert_heals(yard: Yard, wanted: list[dict[str, Any]]) -> None:
    """The next deploy leads where this one was to."""
    await yard.clock.sleep(20)
    done = await yard.deploy(TESTED, "nginx:2", strategy="rolling")
    assert done.row.outcome == "complete", done.row.message
    version = str(done.release.version)
    assert yard.machines() == [{**one, "version": version} for one in wanted]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", ["cancelled", "lost", "away for ever", "refused once"])
async def test_whatever_goes_wrong_the_deploy_ends_in_order(
    base: Base, strategy: str, name: str
) -> None:
    await check(base, strategy, name, step=17)


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_a_host_that_tells_nothing_of_machines_is_left_none_of_the_deploys_own(
    base: Base, strategy: str
) -> None:
    async with base.copied() as yard:
        trouble = TROUBLES["away for ever"]
        found, _ = await carried(yard, strategy, "machine.get", 1, trouble)
        assert found["outcome"] == "failed"
        assert strays(yard) == []


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", list(TROUBLES))
async def test_whatever_goes_wrong_with_any_request_the_deploy_ends_in_order(
    base: Base, strategy: str, name: str
) -> None:
    await check(base, strategy, name, step=1)
