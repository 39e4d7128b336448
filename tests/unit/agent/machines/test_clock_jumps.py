"""The host's wall clock is set forward and back while machines run: nothing depends on luck."""

import pytest

from godwit.agent.machines import leases, policy, records, waits
from godwit.base import errors
from godwit.testing import agents
from godwit.testing.world import Boot
from godwit.wire import host_rpc
from tests.unit.agent.machines.driving import NOTHING, M, scenario, types

DAY_MS = 86_400_000
JUMPS = pytest.mark.parametrize("jump_ms", [DAY_MS, -DAY_MS, -365 * DAY_MS])


@JUMPS
def test_a_running_machine_goes_on_and_stops_when_asked(jump_ms: int) -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        await agent.create(M)
        await agent.reach(M, "started")
        host.clock.skew_ms += jump_ms
        await agent.machines.still_alive()
        assert agent.driver(M).snapshot.shown == "started"
        began = host.clock.monotonic()
        await agent.ask(M, "stop")
        assert isinstance(await agent.wait(M, "stopped"), waits.Reached)
        assert host.clock.monotonic() - began < 60
        assert host.world.remains() == NOTHING
        # The history is in the order in which things happened.
        ids = [row["id"] for row in host.rows("SELECT id FROM events ORDER BY rowid")]
        assert ids == sorted(ids)
        (usage,) = host.rows("SELECT started_at_ms, ended_at_ms FROM usage")
        assert usage["ended_at_ms"] >= usage["started_at_ms"]

    scenario(body)


@JUMPS
def test_an_operation_in_the_middle_comes_to_its_end(jump_ms: int) -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        host.world.scripts[M].append(Boot(boot_s=20))
        await agent.create(M)
        await agent.reach(M, "starting")
        host.clock.skew_ms += jump_ms
        await agent.reach(M, "started", within_s=60)
        assert types(host)[:2] == ["launch", "start"]

    scenario(body)


@JUMPS
def test_waits_before_a_restart_are_as_long_as_ever(jump_ms: int) -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        host.world.scripts[M].extend([Boot(exit_after_s=5, exit_code=1), Boot()])
        await agent.create(M, config={"restart": {"policy": "on-failure"}})
        await agent.reach(M, "started")
        await agent.reach(M, "restarting")
        host.clock.skew_ms += jump_ms
        began = host.clock.monotonic()
        await agent.reach(M, "started", within_s=60)
        assert host.clock.monotonic() - began < 10

    scenario(body)


@pytest.mark.parametrize("jump_ms", [DAY_MS, -DAY_MS])
def test_restarts_of_another_time_are_not_held_against_a_machine(jump_ms: int) -> None:
    config = {"restart": {"policy": "on-failure", "max_retries": 2}}
    machine = records.Machine.model_construct(
        config=config, restarts=records.Restarts(count=2, recent=(1_000, 2_000), waited_ms=0)
    )
    assert isinstance(policy.after_exit(machine, 1, 3_000), policy.Settle)
    assert isinstance(policy.after_exit(machine, 1, 3_000 + jump_ms), policy.Relaunch)


def test_a_lease_ends_when_the_clock_is_past_it_and_no_sooner() -> None:
    async def body(host: agents.FakeHost, agent: agents.Agent) -> None:
        driver = await agent.create(M)
        held_by = leases.Leases(agent.database, host.clock, lambda count: b"n" * count)
        asked = host_rpc.LeaseRequest(machine_id=M, ttl_s=60)
        held = await held_by.acquire(driver.machine, asked)
        host.clock.skew_ms -= DAY_MS
        held_by.check(M, held.nonce)
        with pytest.raises(errors.Failure, match="lease"):
            held_by.check(M, None)
        host.clock.skew_ms += 2 * DAY_MS
        held_by.check(M, None)

    scenario(body)
