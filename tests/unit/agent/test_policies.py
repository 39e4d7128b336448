"""Network policies at an agent: kept, resolved by id and metadata, brought about at once."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from godwit.agent.judging import FREE, Judgement
from godwit.base import errors, processes
from tests.unit.agent.bench import STRANGER, USER, Bench, M, N, running


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with running(tmp_path) as made:
        yield made


WEB = Judgement(egress=frozenset({("tcp", 443)}))


def policies(version: int, selector: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return what control tells; without a selector that there is none any more."""
    rule = {"direction": "egress", "ports": [{"protocol": "tcp", "port": 443}]}
    policy = {"id": "npl_1", "name": "web", "selector": selector, "rules": [rule]}
    return {
        "app_id": "app_a",
        "version": version,
        "policies": [policy] if selector is not None else [],
    }


def judged(bench: Bench, machine_id: str = M) -> Judgement:
    """Return what the network lets a machine do that is plumbed."""
    driver = bench.app.machines.find(machine_id)
    assert driver is not None
    assert driver.machine.slot in bench.world.taps
    return bench.world.judged[driver.machine.slot]


async def start(bench: Bench, machine_id: str = M, **changes: Any) -> None:
    await bench.create(machine_id, **changes)
    await bench.reach("started", machine_id)


async def test_a_machine_begins_with_the_policies_of_its_offer(bench: Bench) -> None:
    await start(bench, policies=policies(1, {"all": True}))
    assert judged(bench) == WEB


async def test_a_change_counts_at_once_and_an_older_word_does_not(bench: Bench) -> None:
    await start(bench)
    assert judged(bench) == FREE
    await bench.call("policies.set", **policies(2, {"all": True}))
    assert judged(bench) == WEB
    await bench.call("policies.set", **policies(1))
    assert judged(bench) == WEB
    await start(bench, N, policies=policies(1))
    assert judged(bench, N) == WEB
    await bench.call("policies.set", **policies(3))
    assert judged(bench) == judged(bench, N) == FREE


async def test_a_policy_holds_the_machines_it_selects(bench: Bench) -> None:
    await start(bench)
    await start(bench, N)
    await bench.call("policies.set", **policies(1, {"machines": [{"id": N}]}))
    assert judged(bench) == FREE
    assert judged(bench, N) == WEB


async def test_metadata_that_is_written_counts_at_once(bench: Bench) -> None:
    await start(bench, policies=policies(1, {"metadata": {"role": "web"}}))
    assert judged(bench) == FREE
    await bench.call("machine.metadata.patch", machine_id=M, metadata={"role": "web"})
    await settled(bench)
    assert judged(bench) == WEB
    await bench.call("machine.metadata.patch", machine_id=M, metadata={"role": None})
    await settled(bench)
    assert judged(bench) == FREE


async def test_the_next_agent_holds_machines_to_them_before_control_is_there(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as first:
        await start(first, policies=policies(4, {"metadata": {"role": "web"}}))
        await first.call("machine.metadata.patch", machine_id=M, metadata={"role": "web"})
    first.world.judged.clear()
    async with running(tmp_path, first) as second:
        assert judged(second) == WEB
        await second.call("policies.set", **policies(3))
        assert judged(second) == WEB


async def test_what_could_not_be_brought_about_is_tried_again(bench: Bench) -> None:
    await start(bench)
    failed = processes.ProgramFailed(("nft",), "exit 1", "busy")
    bench.world.faults["network.judge"].append(failed)
    await bench.call("policies.set", **policies(1, {"all": True}))
    assert judged(bench) == FREE
    await settled(bench)
    assert judged(bench) == WEB


async def test_a_slot_is_given_to_the_next_machine_without_its_policies(bench: Bench) -> None:
    await start(bench, policies=policies(1, {"machines": [{"id": M}]}))
    driver = bench.app.machines.find(M)
    assert driver is not None
    await bench.call("machine.destroy", machine_id=M, force=True)
    await bench.reach("destroyed")
    assert bench.app._policies.of_slot(driver.machine.slot) == FREE


@pytest.mark.parametrize("who", [USER, STRANGER])
async def test_only_the_platform_tells_policies(bench: Bench, who: Any) -> None:
    with pytest.raises(errors.Failure) as refused:
        await bench.call("policies.set", who, **policies(1, {"all": True}))
    assert refused.value.code == "permission_denied"


async def test_another_apps_policies_are_not_taken_with_an_offer(bench: Bench) -> None:
    told = {**policies(1, {"all": True}), "app_id": "app_other"}
    with pytest.raises(errors.Failure) as refused:
        await bench.create(policies=told)
    assert refused.value.code == "invalid_argument"
    assert bench.app.machines.find(M) is None


async def settled(bench: Bench) -> None:
    """Return once the network was asked for everything that has changed."""
    await bench.app._policies.settle()
