"""A run's leases of its machines."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from godwit.base.tasks import Tasks
from godwit.control import leases
from godwit.control.deploys import holding
from godwit.testing.deploys import Yard
from tests.unit.control.deploys.conftest import WEB


class Impatient:
    """A clock whose sleeps end at once."""

    def __init__(self, plain: Any) -> None:
        self._plain = plain

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)

    async def sleep(self, _: float) -> None:
        await asyncio.sleep(0)


async def test_a_lease_that_is_just_being_prolonged_is_given_back_for_good(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = await yard.deploy(WEB, "nginx:1")
    machine_id = next(
        one.offer.machine_id
        for host in yard.world.hosts.by_id.values()
        for one in host.machines.values()
    )
    ctx = replace(yard.ctx, clock=Impatient(yard.ctx.clock))
    held = holding.MachineLeases(ctx, done.order, done.row.id)
    await held.take(machine_id)
    begun, go_on, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
    acquire = leases.acquire

    async def slow(*arguments: Any) -> Any:
        begun.set()
        await go_on.wait()
        try:
            return await acquire(*arguments)
        finally:
            ended.set()

    monkeypatch.setattr(leases, "acquire", slow)
    async with asyncio.timeout(60), Tasks("test") as owned:
        keeping = owned.spawn(held.keep(), name="keep")
        await begun.wait()
        giving = owned.spawn(held.give_back(machine_id), name="give")
        # Without its turn it would be done in that time.
        await asyncio.wait({giving}, timeout=0.5)
        go_on.set()
        await ended.wait()
        await giving
        keeping.cancel()
        await asyncio.wait({keeping})
    assert yard.leased() == []
