"""Each strategy from its beginning to its end, and back when the release does not work."""

import pytest

from godwit.control import upkeep
from godwit.control.deploys import service, view
from godwit.testing.deploys import Yard
from godwit.wire.deploys import Options
from tests.unit.control.deploys.conftest import GROUPS, WEB

STRATEGIES = ["rolling", "immediate", "canary", "bluegreen"]


def ended(deploy: service.Deploy) -> tuple[str | None, str]:
    return deploy.row.outcome, deploy.row.message


def told(deploy: service.Deploy) -> list[str]:
    return [f"{one.level}: {one.message}" for one in view.events(deploy)]


async def test_a_first_deploy_makes_what_each_group_needs(yard: Yard) -> None:
    done = await yard.deploy(GROUPS, "nginx:1")
    assert ended(done) == ("complete", "")
    assert [(one["group"], one["state"], one["standby"]) for one in yard.machines()] == [
        ("web", "started", False),
        ("web", "started", False),
        ("worker", "started", False),
        ("worker", "stopped", True),
    ]
    standby = next(one for one in yard.host.machines.values() if one.config.get("standbys"))
    (watched,) = standby.config["standbys"]
    assert standby.config["env"]["FLY_STANDBY_FOR"] == watched
    assert yard.host.machines[watched].config["metadata"]["fly_process_group"] == "worker"
    assert done.release.status == "complete"
    assert yard.leased() == []


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_the_next_release_runs_everywhere(yard: Yard, strategy: str) -> None:
    await yard.deploy(GROUPS, "nginx:1")
    before = set(yard.host.machines)
    done = await yard.deploy(GROUPS, "nginx:2", strategy=strategy)
    assert ended(done) == ("complete", ""), told(done)
    assert [
        (one["group"], one["state"], one["standby"], one["version"], one["image"])
        for one in yard.machines()
    ] == [
        ("web", "started", False, "2", "nginx:2"),
        ("web", "started", False, "2", "nginx:2"),
        ("worker", "started", False, "2", "nginx:2"),
        ("worker", "stopped", True, "2", "nginx:2"),
    ]
    assert not any(one["cordoned"] for one in yard.machines())
    living = {k for k, one in yard.host.machines.items() if one.state != "destroyed"}
    assert (living == before) == (strategy != "bluegreen")
    assert yard.leased() == []


@pytest.mark.parametrize("strategy", ["rolling", "canary", "bluegreen"])
@pytest.mark.parametrize("image", ["nginx:crash", "nginx:sick"])
async def test_a_release_that_does_not_work_leaves_everything_as_it_was(
    yard: Yard, strategy: str, image: str
) -> None:
    await yard.deploy(GROUPS, "nginx:1")
    before = {key: one.config for key, one in yard.host.machines.items()}
    done = await yard.deploy(GROUPS, image, strategy=strategy, wait_timeout_s=20)
    assert done.row.outcome == "failed"
    assert done.row.message.endswith("; rolled back"), done.row.message
    assert done.release.status == "failed"
    # One whose making was cut off is ended by upkeep, which knows where it may be.
    await upkeep.Upkeep(yard.ctx).sweep()
    living = {k: one for k, one in yard.host.machines.items() if one.state != "destroyed"}
    assert {key: one.config for key, one in living.items()} == before
    assert [one["state"] for one in yard.machines()].count("started") == 3
    assert not any(one["cordoned"] for one in yard.machines())
    assert yard.leased() == []


async def test_removed_groups_go_after_the_others_are_well(yard: Yard) -> None:
    await yard.deploy(GROUPS, "nginx:1")
    smaller = {**GROUPS, "processes": {"web": "serve"}}
    done = await yard.deploy(smaller, "nginx:2")
    assert ended(done) == ("complete", "")
    assert [one["group"] for one in yard.machines()] == ["web", "web"]
    steps = [line for line in told(done) if line.startswith("step: ")]
    assert steps[0] == "step: Update 2 machines"
    assert steps[1].startswith("step: Destroy 2 machines")
    # Being destroyed with force says no goodbye; the standby has nobody to say it to.
    worker, *_ = (
        key
        for key, one in yard.host.machines.items()
        if one.config["metadata"]["fly_process_group"] == "worker"
        and not one.config.get("standbys")
    )
    ends = [
        (verb, body["machine_id"])
        for verb, body in yard.host.asked
        if verb in ("machine.stop", "machine.destroy")
    ]
    assert ends.index(("machine.stop", worker)) < ends.index(("machine.destroy", worker))
    assert [machine_id for verb, machine_id in ends if verb == "machine.stop"] == [worker]


async def test_a_running_machine_is_drained_before_it_is_updated(yard: Yard) -> None:
    await yard.deploy(WEB, "nginx:1")
    yard.host.asked.clear()
    await yard.deploy(WEB, "nginx:2")
    acts = [
        (verb, body["machine_id"])
        for verb, body in yard.host.asked
        if verb in ("machine.drain", "machine.update")
    ]
    first, second = sorted(yard.host.machines)
    assert acts == [
        ("machine.drain", first),
        ("machine.update", first),
        ("machine.drain", second),
        ("machine.update", second),
    ]


async def test_what_went_wrong_leaves_the_machines_last_lines(yard: Yard) -> None:
    await yard.deploy(WEB, "nginx:1")
    done = await yard.deploy(WEB, "nginx:crash")
    errors = [line for line in told(done) if line.startswith("error: ")]
    assert "keeps crashing" in done.row.message or "is failed" in done.row.message
    assert errors


async def test_without_rollback_what_was_reached_stays(yard: Yard) -> None:
    await yard.deploy(WEB, "nginx:1")
    done = await yard.deploy(WEB, "nginx:crash", auto_rollback=False)
    assert done.row.message.endswith("; not rolled back")
    assert [one["version"] for one in yard.machines()] == ["1", "2"]
    assert yard.leased() == []


async def test_a_release_can_be_rolled_back_to_the_one_before(yard: Yard) -> None:
    await yard.deploy(WEB, "nginx:1")
    await yard.deploy(WEB, "nginx:2")
    await yard.deploy(WEB, "nginx:crash")
    begun = await service.roll_back(yard.ctx, yard.who, yard.app, 1, Options())
    await yard.carry()
    done = await yard.look(begun.row.id)
    assert ended(done) == ("complete", "")
    assert (done.release.version, done.release.description) == (4, "rollback to v1")
    assert {one["image"] for one in yard.machines()} == {"nginx:1"}
    begun = await service.roll_back(yard.ctx, yard.who, yard.app, None, Options())
    assert begun.release.image_ref == "nginx:2"


async def test_new_secrets_restart_the_machines_as_they_are(yard: Yard) -> None:
    await yard.deploy(GROUPS, "nginx:1")
    wanted = service.NewDeploy(kind="secrets")
    begun = await service.begin(yard.ctx, yard.who, yard.app, wanted)
    before = {key: one.config["image"] for key, one in yard.host.machines.items()}
    await yard.carry()
    assert ended(await yard.look(begun.row.id)) == ("complete", "")
    assert {key: one.config["image"] for key, one in yard.host.machines.items()} == before
    assert {one["version"] for one in yard.machines()} == {"2"}


async def test_a_canary_that_was_left_to_be_looked_at_goes_with_the_next_deploy(
    yard: Yard,
) -> None:
    await yard.deploy(WEB, "nginx:1")
    failed = await yard.deploy(
        WEB, "nginx:sick", strategy="canary", auto_rollback=False, wait_timeout_s=20
    )
    assert failed.row.message.endswith("; not rolled back")
    assert [one["image"] for one in yard.machines()] == ["nginx:1", "nginx:1", "nginx:sick"]
    done = await yard.deploy(WEB, "nginx:2")
    assert any("destroyed: an earlier deploy left it" in one for one in done.order.plan.sentences)
    assert [one["image"] for one in yard.machines()] == ["nginx:2", "nginx:2"]
