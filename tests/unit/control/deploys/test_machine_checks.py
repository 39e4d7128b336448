"""Tests of machines by other machines, before a release counts as well."""

from typing import Any

import pytest

from godwit.base import errors
from godwit.control import upkeep
from godwit.control.deploys import configs
from godwit.testing.deploys import Yard
from godwit.wire import host_rpc
from tests.unit.control.deploys.conftest import WEB


def checked_by(*commands: list[str], **more: Any) -> dict[str, Any]:
    service = {**WEB["http_service"], "machine_checks": [{"command": c} for c in commands]}
    return {**WEB, "http_service": service, **more}


def offered_tests(yard: Yard) -> list[host_rpc.Offer]:
    offers = [
        host_rpc.Offer.model_validate(body)
        for verb, body in yard.host.asked
        if verb == "machine.reserve"
    ]
    return [one for one in offers if one.config["metadata"]["fly_process_group"] == configs.TEST]


async def test_every_machine_is_tested_by_one_that_knows_its_address(yard: Yard) -> None:
    await yard.deploy(WEB, "nginx:1")
    done = await yard.deploy(checked_by(["exit", "0"]), "nginx:2")
    assert done.row.outcome == "complete", done.row.message
    made = offered_tests(yard)
    assert len(made) == 2
    slots = {f"fdaa::1:{one.slot}" for one in list(yard.host.machines.values())[:2]}
    assert {one.config["env"]["FLY_TEST_MACHINE_IP"] for one in made} == slots
    for one in made:
        assert one.config["env"]["FLY_TEST_COMMAND"] == "1"
        assert (one.config["image"], one.config["auto_destroy"]) == ("nginx:2", True)
        assert one.config["dns"] == {"skip_registration": True}
        assert "services" not in one.config
        assert yard.host.machines[one.machine_id].state == "destroyed"


async def test_new_machines_are_tested_as_well(yard: Yard) -> None:
    done = await yard.deploy(checked_by(["exit", "0"]), "nginx:1")
    assert done.row.outcome == "complete", done.row.message
    assert len(offered_tests(yard)) == 2
    done = await yard.deploy({**checked_by(["exit", "7"]), "app": "shop"}, "nginx:2")
    assert "fails its test 'exit 7': exit code 7; rolled back" in done.row.message


async def test_a_first_release_that_fails_its_test_is_not_there_afterwards(yard: Yard) -> None:
    done = await yard.deploy(checked_by(["exit", "7"]), "nginx:1")
    assert "fails its test 'exit 7'" in done.row.message
    await upkeep.Upkeep(yard.ctx).sweep()
    assert {one.state for one in yard.host.machines.values()} == {"destroyed"}


@pytest.mark.parametrize("strategy", ["rolling", "canary"])
async def test_a_test_that_fails_takes_the_release_back(yard: Yard, strategy: str) -> None:
    await yard.deploy(WEB, "nginx:1")
    before = {key: one.config for key, one in yard.host.machines.items()}
    done = await yard.deploy(checked_by(["exit", "7"]), "nginx:2", strategy=strategy)
    assert "fails its test 'exit 7': exit code 7; rolled back" in done.row.message
    await upkeep.Upkeep(yard.ctx).sweep()
    living = {k: one for k, one in yard.host.machines.items() if one.state != "destroyed"}
    assert {key: one.config for key, one in living.items()} == before


async def test_a_test_without_room_does_not_send_the_tested_machine_elsewhere(yard: Yard) -> None:
    await yard.deploy(WEB, "nginx:1")
    other = await yard.add_host("b2b2b2b2")
    before = {key: one.config for key, one in yard.host.machines.items()}
    run_id = await yard.begin(checked_by(["exit", "0"]), "nginx:2")
    yard.host.troubles["machine.start"] = [errors.Failure("insufficient_capacity", "no room")]
    other.troubles["machine.start"] = [errors.Failure("insufficient_capacity", "no room")]
    await yard.carry()
    done = await yard.look(run_id)
    assert "cannot be tested: no room; rolled back" in done.row.message
    await upkeep.Upkeep(yard.ctx).sweep()
    living = {
        key: one.config
        for host in (yard.host, other)
        for key, one in host.machines.items()
        if one.state != "destroyed"
    }
    assert living == before


async def test_a_test_that_hangs_is_killed(yard: Yard) -> None:
    await yard.deploy(WEB, "nginx:1")
    done = await yard.deploy(checked_by(["hang"]), "nginx:2", wait_timeout_s=15)
    assert "the test did not end within 15s and was killed" in done.row.message
    assert len(yard.machines()) == 2


async def test_bluegreen_and_immediate_run_no_tests(yard: Yard) -> None:
    await yard.deploy(WEB, "nginx:1")
    for number, strategy in enumerate(("bluegreen", "immediate")):
        image = f"nginx:{number + 2}"
        done = await yard.deploy(checked_by(["exit", "7"]), image, strategy=strategy)
        assert done.row.outcome == "complete", done.row.message
        said = f"machine_checks are not run: {strategy} has none; rolling and canary do"
        assert said in done.order.plan.sentences
    assert offered_tests(yard) == []
