"""What is asked of machines: waits, commands, signals, ends."""

import asyncio

import pytest

from godwit.base import errors, tasks
from godwit.control import machine_actions, machines
from godwit.wire import host_rpc
from tests.unit.control.conftest import Town, listed


@pytest.fixture
async def machine_id(town: Town) -> str:
    new = machines.NewMachine(config={"image": "nginx"})
    return (await machines.create(town.world.ctx, town.acme, "shop", new)).view.machine_id


def wait_for(machine_id: str, *states: str, timeout_s: float = 5.0) -> host_rpc.WaitRequest:
    return host_rpc.WaitRequest(machine_id=machine_id, states=states, timeout_s=timeout_s)


async def test_a_wait_outlasts_a_host_that_is_away_for_a_moment(
    town: Town, machine_id: str
) -> None:
    host = town.world.host
    host.away = True
    async with tasks.Tasks("test") as owned:
        waiting = owned.spawn(
            machine_actions.wait(
                town.world.ctx, town.acme, "shop", wait_for(machine_id, "started")
            ),
            name="wait",
        )
        await asyncio.sleep(0.1)
        host.away = False
        assert (await waiting).state == "started"


async def test_a_wait_past_its_time_says_what_is(town: Town, machine_id: str) -> None:
    request = wait_for(machine_id, "stopped", timeout_s=0.1)
    with pytest.raises(errors.Failure, match="currently started") as caught:
        await machine_actions.wait(town.world.ctx, town.acme, "shop", request)
    assert caught.value.code == "deadline_exceeded"


async def test_a_wait_for_a_host_that_never_answers_ends(town: Town, machine_id: str) -> None:
    town.world.host.away = True
    request = wait_for(machine_id, "started", timeout_s=0.6)
    with pytest.raises(errors.Failure) as caught:
        await machine_actions.wait(town.world.ctx, town.acme, "shop", request)
    assert caught.value.code == "unavailable"


async def test_the_destroyed_can_be_waited_for_and_nothing_else_of_it(
    town: Town, machine_id: str
) -> None:
    ctx = town.world.ctx
    await machine_actions.destroy(ctx, town.acme, "shop", machine_id, force=True)
    await machines.get(ctx, town.acme, "shop", machine_id)
    town.world.host.machines.clear()
    done = await machine_actions.wait(ctx, town.acme, "shop", wait_for(machine_id, "destroyed"))
    assert done.state == "destroyed"
    for coroutine in (
        machine_actions.wait(ctx, town.acme, "shop", wait_for(machine_id, "started")),
        machine_actions.start(ctx, town.acme, "shop", machine_id),
    ):
        with pytest.raises(errors.Failure) as caught:
            await coroutine
        assert caught.value.code == "not_found"
    await machine_actions.destroy(ctx, town.acme, "shop", machine_id, force=False)


async def test_destroying_what_the_host_never_knew_is_done(town: Town, machine_id: str) -> None:
    town.world.host.machines.clear()
    await machine_actions.destroy(town.world.ctx, town.acme, "shop", machine_id, force=False)
    found = await listed(town)
    assert found == []


async def test_commands_run_and_are_audited(town: Town, machine_id: str) -> None:
    command = machine_actions.Command(argv=("echo", "hi"), stdin="!")
    answer = await machine_actions.execute(town.world.ctx, town.acme, "shop", machine_id, command)
    assert (answer.exit_code, answer.stdout) == (0, "hi!")
    async with town.world.store.read() as rows:
        newest = (await rows.audit.page(None, before="", limit=1))[0]
    assert newest.action == "machines.exec"
    assert newest.detail["command"] == ["echo", "hi"]


async def test_events_are_there_while_the_host_is_away(town: Town, machine_id: str) -> None:
    ctx = town.world.ctx
    await machines.get(ctx, town.acme, "shop", machine_id)
    town.world.host.away = True
    found = await machine_actions.events(ctx, town.acme, "shop", machine_id, limit=20)
    assert [event.type for event in found] == ["start", "launch", "launch"]


@pytest.mark.parametrize(
    ("given", "name"),
    [(9, "SIGKILL"), ("SIGHUP", "SIGHUP"), ("term", "SIGTERM"), ("usr1", "SIGUSR1")],
)
def test_signals_are_names_or_numbers(given: str | int, name: str) -> None:
    assert machine_actions.any_signal(given) == name


@pytest.mark.parametrize("given", [0, -1, 64, "SIGSTOP", "", "SIG", "9"])
def test_other_signals_are_refused(given: str | int) -> None:
    with pytest.raises(errors.Failure, match="must be one of"):
        machine_actions.any_signal(given)


def test_a_stop_signal_is_one_that_may_end_a_machine() -> None:
    assert machine_actions.stop_signal(None) is None
    assert machine_actions.stop_signal("int") == "SIGINT"
    with pytest.raises(errors.Failure):
        machine_actions.stop_signal("SIGALRM")


@pytest.mark.parametrize(
    ("argv", "line", "found"),
    [(["a", "b c"], None, ("a", "b c")), (None, "a 'b c'", ("a", "b c")), ([], "ls", ("ls",))],
)
def test_both_forms_of_a_command(argv: list[str] | None, line: str | None, found: tuple) -> None:
    assert machine_actions.command(argv, line) == found


@pytest.mark.parametrize(
    ("argv", "line"), [(None, None), ([], ""), (["a"], "b"), (None, "'"), (["a\0"], None)]
)
def test_commands_that_are_none(argv: list[str] | None, line: str | None) -> None:
    with pytest.raises(errors.Failure):
        machine_actions.command(argv, line)
