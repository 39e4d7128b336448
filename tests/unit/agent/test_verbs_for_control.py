"""What control asks of a host for itself: some machines of many, the end of a lease."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from godwit.base import errors, principal
from tests.unit.agent.bench import STRANGER, USER, Bench, M, running

CONTROL = principal.component("control")


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with running(tmp_path) as made:
        await made.create()
        await made.reach("started")
        yield made


async def test_a_list_may_be_of_some_machines(bench: Bench) -> None:
    async def listed(**body: object) -> list[str]:
        found = await bench.call("machine.list", USER, app_id="app_a", **body)
        return [view["machine_id"] for view in found["machines"]]

    assert await listed() == [M]
    assert await listed(machine_ids=[M, "0" * 14]) == [M]
    assert await listed(machine_ids=[]) == []


async def test_the_platform_ends_a_lease_without_its_nonce(bench: Bench) -> None:
    held = await bench.call("machine.lease.acquire", USER, machine_id=M, ttl_s=60)
    assert held["lease"]["nonce"]
    for who, code in ((USER, "invalid_argument"), (STRANGER, "not_found")):
        with pytest.raises(errors.Failure) as caught:
            await bench.call("machine.lease.release", who, machine_id=M)
        assert caught.value.code == code
    told = await bench.call("machine.lease.get", CONTROL, machine_id=M)
    assert told["lease"]["nonce"] == held["lease"]["nonce"]
    seen = await bench.call("machine.lease.get", USER, machine_id=M)
    assert seen["lease"]["nonce"] is None
    await bench.call("machine.lease.release", CONTROL, machine_id=M)
    assert await bench.call("machine.lease.get", USER, machine_id=M) == {"lease": None}
    await bench.call("machine.lease.release", CONTROL, machine_id=M)
