"""Waiting until a machine is what the deploy needs: well, at rest, ended."""

import math

from godwit.base import errors
from godwit.control import machines
from godwit.control.deploys import sockets
from godwit.control.deploys.work import POLL_S, HostAway, Work
from godwit.durable import runner
from godwit.wire import health
from godwit.wire.host_rpc import MachineView

_LINES = 20


class NotWell(runner.Abort):
    """A machine did not become what it should.

    Attributes:
        view: The machine as it was last seen.
    """

    def __init__(self, machine_id: str, sentence: str, view: MachineView | None = None) -> None:
        super().__init__(f"machine {machine_id} {sentence}")
        self.machine_id = machine_id
        self.view = view


async def until_well(
    work: Work, machine_id: str, group: str, *, smoke: bool, leave: bool = False
) -> MachineView:
    """Return a machine once it is well (spec §3.4), and tell how it comes along.

    Args:
        work: The run.
        machine_id: Which.
        group: Whose.
        smoke: Whether it has to stay up for a while.
        leave: Whether to give up on a host that is silent before the deploy's time is over.

    Raises:
        NotWell: It will not be, or not within the deploy's time; its last lines are told.
        HostAway: Its host is silent, and is left.
    """
    try:
        view = await _well(work, machine_id, group, smoke=smoke, leave=leave)
    except NotWell as bad:
        await work.say("error", bad.message, group=group, machine_id=machine_id)
        if bad.view is not None:
            await sockets.warn(work, bad.view, group)
        await work.say_lines(machine_id, _LINES, group=group)
        raise
    if not sockets.checked(view.config):
        await sockets.warn(work, view, group, patience_s=sockets.PATIENCE_S)
    return view


async def _well(
    work: Work, machine_id: str, group: str, *, smoke: bool, leave: bool
) -> MachineView:
    time, limit = work.ctx.clock, work.settings.wait_timeout_s
    ends = time.monotonic() + limit
    started, up_since, sentence, steadying = "", time.monotonic(), "was not seen", False
    view: MachineView | None = None
    while True:
        try:
            view = await work.look(machine_id)
        except errors.Failure as failure:
            sentence, steadying = f"cannot be seen: {failure.message}", False
            if failure.code not in machines.SILENT:
                raise
            _leave(work, machine_id, leave=leave)
        else:
            if health.last_start(view, view.instance_id) != started or view.state != "started":
                started, up_since = health.last_start(view, view.instance_id), time.monotonic()
            verdict = health.judge(
                view, up_s=time.monotonic() - up_since, smoke=smoke, doing=view.sentence
            )
            if verdict.word == "well":
                work.well_starts[machine_id] = started
                return view
            sentence, steadying = verdict.sentence, verdict.steadying
            if verdict.word == "not well":
                raise NotWell(machine_id, sentence, view)
            if not steadying:
                await work.say("state", sentence, group=group, machine_id=machine_id)
        if time.monotonic() >= ends and not steadying:
            raise NotWell(machine_id, f"was not well within {limit:g}s: it {sentence}", view)
        await time.sleep(POLL_S)


def lost(work: Work, view: MachineView) -> str:
    """Return what happened to a machine since it was well; empty when it is as it was."""
    return health.lost(view, view.instance_id, work.well_starts.get(view.machine_id))


async def until_state(
    work: Work,
    machine_id: str,
    states: frozenset[str],
    limit_s: float | None,
    *,
    leave: bool = False,
) -> MachineView:
    """Return a machine once it is in one of several states.

    Args:
        work: The run.
        machine_id: Which.
        states: What is waited for.
        limit_s: How long; `None` for ever.
        leave: Whether to give up on a host that is silent before the time is over.

    Raises:
        NotWell: It is not in time.
        HostAway: Its host is silent, and is left.
    """
    time = work.ctx.clock
    ends = math.inf if limit_s is None else time.monotonic() + limit_s
    sentence = "was not seen"
    while True:
        try:
            view = await work.look(machine_id)
        except errors.Failure as failure:
            sentence = f"cannot be seen: {failure.message}"
            if failure.code not in machines.SILENT:
                raise
            _leave(work, machine_id, leave=leave)
        else:
            if view.state in states:
                return view
            sentence = f"is {view.state}"
        if time.monotonic() >= ends:
            wanted = " or ".join(sorted(states))
            raise NotWell(machine_id, f"was not {wanted} within {limit_s:g}s: it {sentence}")
        await time.sleep(POLL_S)


def _leave(work: Work, machine_id: str, *, leave: bool) -> None:
    host_id = work.away(machine_id)
    if leave and host_id:
        raise HostAway(machine_id, host_id)
