"""What former releases left on disk: every operation killed after every write is finished here.

The data are in `tests/data/release-<n>`, each written by that release (`tests/data/generate.py`).
"""

import asyncio
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from godwit.agent import ports
from godwit.agent.machines import records, steps
from godwit.testing import agents, clock
from godwit.testing.world import Boot, Saved, Vm
from godwit.wire import guest, shim

DATA = Path(__file__).parents[3] / "data"
RELEASES = pytest.mark.parametrize("release", ["0.1", "0.2"])
KINDS = {
    *("prepare", "start", "relaunch", "stop", "restart", "update", "replace"),
    *("settle", "fail", "clear", "destroy"),
}
LATER_MS = 3_600_000


def worlds_of(release: str) -> list[dict[str, Any]]:
    """Return what surrounded each machine."""
    found: list[dict[str, Any]] = json.loads(
        (DATA / f"release-{release}" / "worlds.json").read_text()
    )
    return found


def restored(path: Path, release: str) -> agents.FakeHost:
    """Return a host with the former release's database, opened and migrated by this one."""
    former = sqlite3.connect(path)
    former.executescript((DATA / f"release-{release}" / "journals.sql").read_text())
    former.close()
    host = agents.FakeHost(path, memory_mb=1_000_000, cpus=64)
    host.clock.skew_ms = LATER_MS
    return host


def plan(machine: records.Machine, instance_id: str) -> ports.VmPlan:
    return ports.VmPlan(
        machine_id=machine.machine_id,
        instance_id=instance_id,
        org_id=machine.org_id,
        app_id=machine.app_id,
        slot=machine.slot,
        tap=machine.plumbing.tap,
        resources=machine.resources,
        image=Path("/images/x"),
        scratch_bytes=1,
        run_spec=guest.RunSpec.model_construct(),
    )


def surround(host: agents.FakeHost, machine: records.Machine, told: dict[str, Any]) -> None:
    """Let exist what existed around a machine when its agent was killed."""
    world, machine_id = host.world, machine.machine_id
    boot = Boot("refuses") if told["case"] == "fail without program" else Boot()
    world.scripts[machine_id].extend([boot] * 3)
    if told["tap"]:
        world.taps.add(machine.slot)
    if told["disk"]:
        world.prepared[machine_id] = plan(machine, machine.instance_id)
        world.disks[machine_id] = machine.slot
    saved = told.get("saved")
    if saved is not None:
        kept = plan(machine, saved["instance_id"])
        world.saved[machine_id] = Saved(kept, boot, machine.slot, usable=saved["usable"])
    if told["exit"] is not None:
        world.exits[machine_id] = shim.ExitRecord.model_validate(told["exit"])
    if told["vm"] is not None:
        vm = Vm(plan(machine, told["vm"]["instance_id"]), boot, machine.slot)
        vm.phase, vm.started_at_ms = told["vm"]["phase"], told["vm"]["started_at_ms"]
        vm.paused = told["vm"].get("paused", False)
        world.vms[machine_id] = vm
        if vm.phase == "booting":
            asyncio.get_running_loop().call_later(1.0, host.machinery.boots, vm)


async def settled(agent: agents.Agent) -> None:
    for _ in range(3):
        for each in agent.machines:
            await agent.rest(each.machine.machine_id)
        await asyncio.sleep(5)


@RELEASES
def test_every_step_that_it_journaled_can_still_be_run(release: str, tmp_path: Path) -> None:
    host = restored(tmp_path / "agent.db", release)
    listed = {
        step
        for row in host.rows("SELECT steps FROM operations")
        for step in json.loads(row["steps"])
    }
    host.connection.close()
    assert listed >= {"log_launch", "boot", "adopt_version", "wait_before_restart"}
    assert listed <= set(steps.CATALOGUE)


@RELEASES
def test_the_data_hold_every_operation_at_every_step(release: str, tmp_path: Path) -> None:
    host = restored(tmp_path / "agent.db", release)
    found: dict[str, set[int]] = {}
    for row in host.rows(
        "SELECT kind, (SELECT count(*) FROM entries WHERE operation_id = id AND entries.kind ="
        " 'done') AS done, json_array_length(steps) AS steps FROM operations"
    ):
        found.setdefault(row["kind"], set()).add(row["done"])
        assert row["done"] <= row["steps"]
    host.connection.close()
    assert set(found) == (KINDS if release == "0.1" else KINDS | {"suspend", "resume"})
    for kind, done in found.items():
        assert done == set(range(max(done) + 1)), kind


@RELEASES
def test_everything_that_it_left_unfinished_is_finished_as_it_would_have_been(
    release: str, tmp_path: Path
) -> None:
    worlds = worlds_of(release)

    async def whole() -> None:
        host = restored(tmp_path / "agent.db", release)
        stored = {
            row["machine_id"]: records.Machine.model_validate_json(row["record"])
            for row in host.rows("SELECT * FROM machines")
        }
        assert set(stored) == {told["machine_id"] for told in worlds}
        for told in worlds:
            surround(host, stored[told["machine_id"]], told)
        agent = await host.agent()
        await settled(agent)
        for told in worlds:
            machine = agent.driver(told["machine_id"]).machine
            ends = {"state": machine.state, "instance_id": machine.instance_id}
            assert ends == told["ends"], told
        check(host, agent)
        await host.close()

    clock.run(whole())


def check(host: agents.FakeHost, agent: agents.Agent) -> None:
    """Check that states are true and nothing is left."""
    world = host.world
    assert world.lies == []
    assert host.rows("SELECT * FROM operations WHERE ended_at_ms IS NULL") == []
    alive = [each.machine for each in agent.machines if each.machine.state == "started"]
    ids = sorted(machine.machine_id for machine in alive)
    resting = [each.machine for each in agent.machines if each.machine.state == "suspended"]
    assert sorted(world.vms) == ids
    assert sorted(world.saved) == sorted(machine.machine_id for machine in resting)
    assert sorted(world.prepared) == sorted([*ids, *world.saved])
    assert world.taps == {machine.slot for machine in alive}
    assert all(world.vms[each.machine_id].plan.instance_id == each.instance_id for each in alive)
    opened = host.rows("SELECT machine_id FROM usage WHERE ended_at_ms IS NULL")
    assert sorted(row["machine_id"] for row in opened) == ids
