"""What goes wrong on the way: commands, hosts, other people, other controls, the database."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from godwit.base import errors
from godwit.control import leases, machine_actions, machines, upkeep
from godwit.control.deploys import configs, service, view, worker
from godwit.control.deploys.journal import Fenced, RunJournal
from godwit.testing.deploys import Yard, refused
from godwit.wire import host_rpc
from tests.unit.control.conftest import Town
from tests.unit.control.deploys.conftest import GROUPS, WEB

AWAY = errors.Failure("unavailable", "nobody answers")


def with_command(command: str, **more: Any) -> dict[str, Any]:
    return {**WEB, "deploy": {"release_command": command, **more}}


def told(deploy: service.Deploy) -> str:
    return "\n".join(one.message for one in view.events(deploy))


def living(yard: Yard) -> dict[str, dict[str, Any]]:
    return {k: one.config for k, one in yard.host.machines.items() if one.state != "destroyed"}


async def test_the_release_command_runs_before_anything_is_touched(yard: Yard) -> None:
    await yard.deploy(WEB, "nginx:1")
    yard.host.asked.clear()
    done = await yard.deploy(with_command("exit 0"), "nginx:2")
    assert done.row.outcome == "complete", done.row.message
    verbs = [verb for verb, _ in yard.host.asked]
    assert verbs.index("machine.start") < verbs.index("machine.update")
    offer = next(
        host_rpc.Offer.model_validate(body)
        for verb, body in yard.host.asked
        if verb == "machine.reserve"
    )
    assert offer.skip_launch
    assert offer.config["env"]["RELEASE_COMMAND"] == "1"
    assert offer.config["init"]["cmd"] == ["exit", "0"]
    assert offer.config["restart"] == {"policy": "no"}
    assert offer.config["auto_destroy"]
    assert offer.config["dns"] == {"skip_registration": True}
    assert "services" not in offer.config
    assert offer.config["metadata"]["fly_process_group"] == configs.RELEASE_COMMAND
    assert "services" not in offer.config
    assert len(living(yard)) == 2


async def test_a_release_command_that_fails_ends_the_deploy(yard: Yard) -> None:
    await yard.deploy(WEB, "nginx:1")
    before = living(yard)
    done = await yard.deploy(with_command("exit 3"), "nginx:2")
    assert done.row.outcome == "failed"
    assert done.row.message == ("the release command failed with exit code 3; nothing was changed")
    assert living(yard) == before
    assert yard.leased() == []


async def test_a_release_command_that_hangs_is_killed(yard: Yard) -> None:
    await yard.deploy(WEB, "nginx:1")
    before = living(yard)
    definition = with_command("hang", release_command_timeout="30s")
    done = await yard.deploy(definition, "nginx:2")
    assert "the release command did not end within 30s and was killed" in done.row.message
    assert living(yard) == before


async def test_the_seed_command_runs_until_it_has_succeeded_once(yard: Yard) -> None:
    def seeds() -> list[str]:
        offers = [body for verb, body in yard.host.asked if verb == "machine.reserve"]
        commands = [(one["config"].get("init") or {}).get("cmd") for one in offers]
        yard.host.asked.clear()
        return [" ".join(one) for one in commands if one]

    seeded = with_command("exit 0", seed_command="exit 4")
    failed = await yard.deploy(seeded, "nginx:1")
    assert failed.row.message == "the seed command failed with exit code 4; nothing was changed"
    assert seeds() == ["exit 0", "exit 4"]
    seeded = with_command("exit 0", seed_command="exit 0")
    failed = await yard.deploy(seeded, "nginx:crash")
    assert failed.row.outcome == "failed"
    assert seeds() == ["exit 0", "exit 0"]
    for image in ("nginx:1", "nginx:2"):
        done = await yard.deploy(seeded, image)
        assert done.row.outcome == "complete"
        assert seeds() == ["exit 0"]
    # The second machine may still have been offered when the first one crashed: that is given up,
    # and upkeep asks its host to destroy it.
    await upkeep.Upkeep(yard.ctx).sweep()
    assert len(living(yard)) == 2


async def test_a_seed_command_is_for_apps_that_were_never_deployed(yard: Yard) -> None:
    await yard.deploy(WEB, "nginx:1")
    done = await yard.deploy(with_command("exit 0", seed_command="exit 1"), "nginx:2")
    assert done.row.outcome == "complete"


async def test_its_last_lines_are_told(yard: Yard) -> None:
    run_id = await yard.begin(with_command("exit 1"), "nginx:2")

    async def print_lines(verb: str, body: dict[str, Any]) -> None:
        if verb == "machine.start":
            yard.host.lines.append(
                host_rpc.LogEntry(
                    t=1,
                    org_id="o",
                    app="shop",
                    machine_id=body["machine_id"],
                    region="lcl",
                    stream="stdout",
                    message="no such table",
                )
            )

    yard.host.after.append(print_lines)
    await yard.carry()
    assert "no such table" in told(await yard.look(run_id))


@pytest.mark.parametrize("verb", ["machine.get", "machine.update", "machine.lease.acquire"])
@pytest.mark.parametrize("times", [1, 2])
async def test_a_host_that_is_away_for_a_moment_is_asked_again(
    yard: Yard, verb: str, times: int
) -> None:
    await yard.deploy(WEB, "nginx:1")
    run_id = await yard.begin(WEB, "nginx:2")
    yard.host.troubles[verb] = [AWAY] * times
    await yard.carry()
    done = await yard.look(run_id)
    assert done.row.outcome == "complete", done.row.message


async def test_an_update_that_is_done_but_not_answered_is_seen(yard: Yard) -> None:
    await yard.deploy(WEB, "nginx:1")
    run_id = await yard.begin(WEB, "nginx:2")

    async def lose(verb: str, body: dict[str, Any]) -> None:
        del body
        if verb == "machine.update":
            yard.host.after.remove(lose)
            raise errors.Failure("deadline_exceeded", "no answer")

    yard.host.after.append(lose)
    await yard.carry()
    assert (await yard.look(run_id)).row.outcome == "complete"
    updates = [verb for verb, _ in yard.host.asked if verb == "machine.update"]
    assert len(updates) == 2


async def test_a_host_that_stays_away_ends_the_deploy_and_the_rest_goes_back(yard: Yard) -> None:
    await yard.deploy(WEB, "nginx:1")
    run_id = await yard.begin(WEB, "nginx:2", wait_timeout_s=10)
    second = sorted(yard.host.machines)[1]
    answer = yard.host.answer

    async def deaf(verb: str, body: dict[str, Any], who: Any = None) -> dict[str, Any]:
        if verb == "machine.update" and body["machine_id"] == second:
            raise AWAY
        return await answer(verb, body, who)

    yard.host.answer = deaf  # type: ignore[method-assign]
    await yard.carry()
    done = await yard.look(run_id)
    assert done.row.message == "nobody answers; rolled back"
    assert {one["image"] for one in yard.machines()} == {"nginx:1"}


async def test_a_full_host_in_the_middle_leaves_everything_as_it_was(yard: Yard) -> None:
    await yard.deploy(WEB, "nginx:1")
    before = living(yard)
    run_id = await yard.begin(GROUPS, "nginx:2", strategy="canary")
    yard.host.memory_mb = 256 * 3
    await yard.carry()
    done = await yard.look(run_id)
    assert done.row.outcome == "failed"
    assert "no host in lcl has room" in done.row.message
    await upkeep.Upkeep(yard.ctx).sweep()
    assert living(yard) == before


def once_updated(yard: Yard, machine_id: str, then: Callable[[], Awaitable[None]]) -> None:
    """Have something happen when a machine has been given its next version."""

    async def look(verb: str, body: dict[str, Any]) -> None:
        if verb == "machine.update" and body["machine_id"] == machine_id:
            yard.host.after.remove(look)
            await then()

    yard.host.after.append(look)


async def test_one_that_crashes_after_it_was_well_ends_the_deploy(yard: Yard) -> None:
    await yard.deploy(WEB, "nginx:1")
    before = living(yard)
    first, second = sorted(yard.host.machines)
    run_id = await yard.begin(WEB, "nginx:2")

    once_updated(yard, second, lambda: yard.host.crash(first))
    await yard.carry()
    done = await yard.look(run_id)
    assert done.row.message.startswith(f"machine {first} crashed after it was well")
    assert done.row.message.endswith("; rolled back")
    assert living(yard) == before


async def test_one_that_its_policy_started_again_has_crashed_all_the_same(yard: Yard) -> None:
    await yard.deploy(WEB, "nginx:1")
    before = living(yard)
    first, second = sorted(yard.host.machines)
    run_id = await yard.begin(WEB, "nginx:2")

    once_updated(yard, second, lambda: yard.host.crash_once(first))
    await yard.carry()
    done = await yard.look(run_id)
    said = (
        f"machine {first} crashed after it was well: its process exited with code 1; rolled back"
    )
    assert done.row.message == said
    assert living(yard) == before


async def test_the_time_it_has_to_stay_up_is_not_taken_from_its_time_to_become_well(
    yard: Yard,
) -> None:
    done = await yard.deploy(WEB, "nginx:1", wait_timeout_s=3)
    assert done.row.outcome == "complete", done.row.message


async def test_one_crash_before_it_is_well_is_forgiven(yard: Yard) -> None:
    await yard.deploy(WEB, "nginx:1")
    first, _ = sorted(yard.host.machines)
    run_id = await yard.begin(WEB, "nginx:2")

    once_updated(yard, first, lambda: yard.host.crash_once(first))
    await yard.carry()
    assert (await yard.look(run_id)).row.outcome == "complete"


async def test_what_is_away_goes_back_before_what_is_well(yard: Yard) -> None:
    await yard.deploy(WEB, "nginx:1")
    first, second = sorted(yard.host.machines)
    run_id = await yard.begin(WEB, "nginx:2")
    yard.host.asked.clear()

    once_updated(yard, second, lambda: yard.host.crash(second))
    await yard.carry()
    assert (await yard.look(run_id)).row.message.endswith("; rolled back")
    updated = [b["machine_id"] for verb, b in yard.host.asked if verb == "machine.update"]
    assert updated == [first, second, second, first]


async def test_a_host_that_refuses_for_a_moment_is_asked_again_on_the_way_back(
    yard: Yard,
) -> None:
    await yard.deploy(WEB, "nginx:1")
    before = living(yard)
    run_id = await yard.begin(WEB, "nginx:2")

    async def refuse(verb: str, body: dict[str, Any]) -> None:
        del body
        if verb == "machine.update":
            yard.host.after.remove(refuse)
            yard.host.troubles["machine.get"] = [
                errors.Failure("failed_precondition", "not like this")
            ] * 3

    yard.host.after.append(refuse)
    await yard.carry()
    done = await yard.look(run_id)
    assert done.row.message == "not like this; rolled back"
    assert living(yard) == before


@pytest.mark.parametrize("auto_rollback", [True, False])
async def test_the_next_deploy_makes_the_standby_that_one_before_did_not(
    yard: Yard, *, auto_rollback: bool
) -> None:
    def standbys() -> list[bool]:
        return sorted(bool(one.get("standbys")) for one in living(yard).values())

    definition: dict[str, Any] = {"app": "shop", "processes": {"worker": "work"}}
    run_id = await yard.begin(definition, "nginx:1", auto_rollback=auto_rollback)

    async def refuse(verb: str, body: dict[str, Any]) -> None:
        if verb == "machine.reserve":
            yard.host.refuse_reserve = [errors.Failure("failed_precondition", "no more of them")]

    yard.host.after.append(refuse)
    await yard.carry()
    yard.host.after.remove(refuse)
    yard.host.refuse_reserve = []
    assert (await yard.look(run_id)).row.outcome == "failed"
    assert standbys() == ([] if auto_rollback else [False])
    for image in ("nginx:2", "nginx:3"):
        done = await yard.deploy(definition, image)
        assert done.row.outcome == "complete", done.row.message
        assert standbys() == [False, True]
    (gone,) = (key for key, one in living(yard).items() if one.get("standbys"))
    await machine_actions.destroy(yard.ctx, yard.who, "shop", gone, force=True)
    await yard.deploy(definition, "nginx:4")
    assert standbys() == [False], "somebody took it away"


async def test_a_way_back_that_fails_says_which_machine_is_where(yard: Yard) -> None:
    await yard.deploy(WEB, "nginx:1")
    run_id = await yard.begin(WEB, "nginx:sick", wait_timeout_s=10)
    first = min(yard.host.machines)

    async def refuse(verb: str, body: dict[str, Any]) -> None:
        del body
        if verb == "machine.update":
            yard.host.troubles["machine.update"] = [
                errors.Failure("failed_precondition", "the disk is full")
            ] * 10

    yard.host.after.append(refuse)
    await yard.carry()
    done = await yard.look(run_id)
    assert f"rolled back, but {first}: the disk is full" in done.row.message


async def test_a_second_deploy_is_told_who_is_deploying(yard: Yard) -> None:
    await yard.begin(WEB, "nginx:1")
    failure = await refused(yard.begin(WEB, "nginx:2"))
    assert failure.code == "conflict"
    assert "release v1 by user:somebody@acme, since " in failure.message
    await yard.carry()
    await yard.begin(WEB, "nginx:2")


async def test_somebody_elses_lease_refuses_the_deploy_before_anything_is_touched(
    yard: Yard,
) -> None:
    await yard.deploy(WEB, "nginx:1")
    first = min(yard.host.machines)
    other = yard.who.model_copy(update={"subject": "user:other"})
    wanted = leases.NewLease(ttl_s=60, description="hands off")
    await leases.acquire(yard.ctx, other, "shop", first, wanted)
    failure = await refused(yard.begin(WEB, "nginx:2"))
    assert failure.code == "conflict"
    assert "is leased by user:other (hands off) until" in failure.message


async def test_one_that_is_changed_meanwhile_ends_the_deploy(yard: Yard) -> None:
    await yard.deploy(WEB, "nginx:1")
    run_id = await yard.begin(WEB, "nginx:2")
    second = sorted(yard.host.machines)[1]
    config = {**yard.host.machines[second].config, "env": {"A": "b"}}
    await machines.update(yard.ctx, yard.who, "shop", second, machines.NewVersion(config))
    await yard.carry()
    done = await yard.look(run_id)
    assert f"machine {second} was changed by somebody else" in done.row.message
    assert yard.host.machines[second].config == config


@pytest.mark.parametrize("strategy", ["rolling", "canary", "bluegreen", "immediate"])
async def test_a_deploy_can_be_cancelled_and_goes_back(yard: Yard, strategy: str) -> None:
    await yard.deploy(WEB, "nginx:1")
    before = living(yard)
    run_id = await yard.begin(WEB, "nginx:2", strategy=strategy)

    async def cancel(verb: str, body: dict[str, Any]) -> None:
        del body
        if verb in ("machine.update", "machine.reserve"):
            yard.host.after.remove(cancel)
            await service.cancel(yard.ctx, yard.who, "shop", run_id)

    yard.host.after.append(cancel)
    await yard.carry()
    done = await yard.look(run_id)
    assert (done.row.outcome, done.release.status) == ("cancelled", "interrupted")
    # One whose making was cut off is ended by upkeep, which knows where it may be.
    await upkeep.Upkeep(yard.ctx).sweep()
    assert living(yard) == before
    assert yard.leased() == []


async def test_past_the_point_of_no_return_it_goes_on(yard: Yard) -> None:
    await yard.deploy(WEB, "nginx:1")
    run_id = await yard.begin(WEB, "nginx:2", strategy="bluegreen")
    refusals: list[errors.Failure] = []

    async def cancel(verb: str, body: dict[str, Any]) -> None:
        del body
        if verb == "machine.drain":
            refusals.append(await refused(service.cancel(yard.ctx, yard.who, "shop", run_id)))

    yard.host.after.append(cancel)
    await yard.carry()
    assert (await yard.look(run_id)).row.outcome == "complete"
    assert {failure.code for failure in refusals} == {"failed_precondition"}


async def test_two_controls_carry_a_deploy_once(yard: Yard) -> None:
    await yard.begin(WEB, "nginx:1")
    first, second = worker.Worker(yard.ctx), worker.Worker(yard.ctx)
    assert len(await first.claim()) == 1
    assert await second.claim() == []
    await yard.let_holds_lapse()
    assert len(await second.claim()) == 1


async def test_who_has_lost_a_run_writes_nothing(yard: Yard) -> None:
    await yard.begin(WEB, "nginx:1")
    (row,) = await worker.Worker(yard.ctx).claim()
    await yard.let_holds_lapse()
    (mine,) = await worker.Worker(yard.ctx).claim()
    ordered = service.Order.model_validate(row.input)
    late = RunJournal(yard.ctx, row, ordered)
    run = await RunJournal(yard.ctx, mine, ordered).load()
    for attempt in (
        late.event("state", "x"),
        late.done(run, "confirm", {}),
        late.end("failed", "x"),
        late.hold(),
        late.load(),
    ):
        with pytest.raises(Fenced):
            await attempt
    assert await yard.entries(row.id) == []


class Flaky:
    """A database that is away for some writes."""

    def __init__(self, store: Any, away: range) -> None:
        self._store = store
        self._away = away
        self.writes = 0

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[Any]:
        async with self._store.read() as rows:
            yield rows

    @contextlib.asynccontextmanager
    async def write(self) -> AsyncIterator[Any]:
        self.writes += 1
        if self.writes in self._away:
            raise errors.Failure("unavailable", "the control database does not answer")
        async with self._store.write() as rows:
            yield rows


@pytest.mark.parametrize("begin", [3, 6, 9, 14, 19, 24])
async def test_a_database_that_is_away_for_a_while_is_waited_for(yard: Yard, begin: int) -> None:
    await yard.deploy(WEB, "nginx:1")
    run_id = await yard.begin(WEB, "nginx:2")
    flaky = Flaky(yard.ctx.store, range(begin, begin + 4))
    one = worker.Worker(replace(yard.ctx, store=flaky))  # type: ignore[arg-type]
    for row in await one.claim():
        await one.carry(row)
    await yard.let_holds_lapse()
    await yard.carry()
    done = await yard.look(run_id)
    assert done.row.outcome == "complete", done.row.message
    assert yard.leased() == []


async def test_a_run_acts_as_who_asked_and_no_more(yard: Yard, town: Town) -> None:
    town.world.hosts.principals.clear()
    run_id = await yard.begin(WEB, "nginx:1")
    town.world.hosts.principals.clear()
    await yard.carry()
    ordered = (await yard.look(run_id)).order
    assert ordered.who.org_ids == frozenset({town.shop.org_id})
    assert {one.subject for one in town.world.hosts.principals} == {yard.who.subject}
    async with town.world.store.read() as rows:
        page = await rows.audit.page(None, before="", limit=50)
    actions = {row.action: row.principal for row in page}
    assert actions["deploys.begin"] == yard.who.subject
    assert actions["deploys.end"] == yard.who.subject
    assert actions["machines.create"] == yard.who.subject
