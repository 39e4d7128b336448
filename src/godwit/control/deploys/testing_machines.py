"""Machines that run one command and end: the release command's, and tests of other machines.

Made at rest, started once, waited for; they destroy themselves. One that was started before
control died is waited for, not started again.
"""

from collections.abc import Sequence
from typing import Any

from godwit.appconfig.model import MachineCheck
from godwit.base import errors
from godwit.control import machines
from godwit.control.deploys import configs, gates, order
from godwit.control.deploys.order import Slot
from godwit.control.deploys.work import POLL_S, Work
from godwit.durable import runner
from godwit.wire import health
from godwit.wire.host_rpc import MachineView

TESTED = ("rolling", "canary")
"""Strategies that run the tests of machines (spec/config-cli.md §1.8)."""
_PREPARED = frozenset({"stopped", "started", "destroying", "destroyed", "failed"})
_OVER = frozenset({"destroying", "destroyed", "failed"})
_LINES = 100


async def run(
    work: Work, tested: MachineView, checks: Sequence[MachineCheck], *, key: str
) -> None:
    """Run the tests of a machine.

    Raises:
        Abort: One fails; its last lines are told.
    """
    group = configs.group_of(tested)
    for number, check in enumerate(checks):
        name = order.check_key(key, number)
        slot = Slot(
            key=name,
            machine_id=order.machine_id(work.run_id, name),
            group=group,
            region=tested.region,
            start=False,
        )
        command = " ".join(check.command)
        await work.say(
            "state", f"is tested by {command!r}", group=group, machine_id=tested.machine_id
        )
        config = configs.test_machine(work.config, check, tested)
        limit = work.settings.wait_timeout_s
        try:
            code = await to_its_end(work, slot, config, limit_s=limit, what="the test")
        except errors.Failure as failure:
            if failure.code != "insufficient_capacity":
                raise
            # The test's machine has no room, not the tested one, which need not go elsewhere.
            raise runner.Abort(
                f"machine {tested.machine_id} cannot be tested: {failure.message}"
            ) from failure
        if code != 0:
            raise runner.Abort(
                f"machine {tested.machine_id} fails its test {command!r}: exit code {code}"
            )


async def see_well(
    work: Work, view: MachineView, group: str, *, key: str, leave: bool = False
) -> None:
    """Return once a machine that was given the release passes its tests and is well.

    Args:
        work: The run.
        view: The machine.
        group: Whose tests it has to pass.
        key: Tells its test machines from others.
        leave: Whether to give up on a host that is silent before the deploy's time is over.

    Raises:
        Abort: It does not, or not in time.
        HostAway: Its host is silent, and is left.
    """
    machine_id, limit = view.machine_id, work.settings.wait_timeout_s
    tests = configs.machine_checks(work.config, group)
    if tests and work.order.kind != "secrets" and work.settings.strategy in TESTED:
        up = frozenset({"started", "failed", "stopped"})
        view = await gates.until_state(work, machine_id, up, limit, leave=leave)
        await run(work, view, tests, key=key)
    smoke = work.settings.smoke_checks
    await gates.until_well(work, machine_id, group, smoke=smoke, leave=leave)


async def to_its_end(
    work: Work, slot: Slot, config: dict[str, Any], *, limit_s: float | None, what: str
) -> int:
    """Run a machine's command once and return its exit code; it is gone afterwards.

    Args:
        work: The run.
        slot: The machine.
        config: With restart `no` and auto_destroy.
        limit_s: How long the command may take; `None` for ever.
        what: Names it in sentences.

    Raises:
        Abort: It does not end in time and is killed, or never ran.
    """
    wait_s = work.settings.wait_timeout_s
    machine_id = await work.patiently(lambda: work.ensure(slot, config), wait_s)
    view = await gates.until_state(work, machine_id, _PREPARED, wait_s)
    if view.state == "stopped" and health.exit_code(view) is None and not _started(view):
        await work.patiently(lambda: work.act(machine_id, "start"), wait_s)
    view = await _ended(work, machine_id, limit_s, what)
    code = health.exit_code(view)
    if code != 0:
        await work.say_lines(machine_id, _LINES, group=slot.group)
    if view.state != "destroyed":
        await work.patiently(lambda: work.destroy(machine_id), wait_s)
    if code is None:
        raise runner.Abort(f"{what} did not run: machine {machine_id} is {view.state}", "system")
    return code


def _started(view: MachineView) -> bool:
    return any(event.type == "start" for event in view.events)


async def _ended(work: Work, machine_id: str, limit_s: float | None, what: str) -> MachineView:
    time = work.ctx.clock
    begun = time.monotonic()
    while True:
        try:
            view = await work.look(machine_id)
        except errors.Failure as failure:
            if failure.code not in machines.SILENT:
                raise
        else:
            over = view.state == "stopped" and health.exit_code(view) is not None
            if over or view.state in _OVER:
                return view
        if limit_s is not None and time.monotonic() - begun >= limit_s:
            await work.say_lines(machine_id, _LINES)
            wait_s = work.settings.wait_timeout_s
            await work.patiently(lambda: work.destroy(machine_id), wait_s)
            raise runner.Abort(f"{what} did not end within {limit_s:g}s and was killed")
        await time.sleep(POLL_S)
