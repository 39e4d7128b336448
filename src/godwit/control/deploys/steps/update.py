"""Machines updated in place: rolling, at once, and back to what they were.

Within a group two lanes go at the same time: machines at rest, many at once, and running ones, as
many as may be away. The first machine of each lane goes alone: a release that does not work meets
one machine, not a third of them (spec/config-cli.md §3.2).
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from godwit.base import errors
from godwit.control import machines
from godwit.control.deploys import configs, gates, order, testing_machines
from godwit.control.deploys.order import Update
from godwit.control.deploys.steps import elsewhere
from godwit.control.deploys.steps.machines import counted
from godwit.control.deploys.work import HostAway, Work, together
from godwit.durable import runner
from godwit.durable.runner import Output
from godwit.wire.host_rpc import MachineView

GROUPS_AT_ONCE = 16
COLD_AT_ONCE = 30
_TRIES_BACK = 3
_PAUSE_BACK_S = 2.0
_SETTLED = frozenset({"stopped", "suspended", "started", "created", "failed"})


async def update_machines(work: Work, done: Mapping[str, Output]) -> None:
    """Ensure that every machine in scope runs the release, some at a time, and is well."""
    del done
    await work.say("step", _updating(work.order.plan.update))
    lanes = [_group(work, group, lane) for group, lane in _groups(work).items()]
    await together(lanes, GROUPS_AT_ONCE)


async def update_at_once(work: Work, done: Mapping[str, Output]) -> None:
    """Ensure that every machine in scope was given the release; wait for none.

    Raises:
        Abort: Some refused; the others have it.
    """
    del done
    updates = work.order.plan.update
    await work.say("step", _updating(updates))
    refused: list[str] = []

    async def one(update: Update) -> None:
        try:
            await _give_at_once(work, update)
        except (errors.Failure, runner.Abort) as error:
            refused.append(f"{update.machine_id}: {error}")

    await together((one(update) for update in updates), work.settings.max_concurrent)
    if refused:
        raise runner.Abort(
            f"{len(refused)} of {len(updates)} machines were not updated: {'; '.join(refused)}"
        )


async def confirm(work: Work, done: Mapping[str, Output]) -> None:
    """Ensure that no machine has crashed since it was well.

    Raises:
        NotWell: One has.
    """
    del done
    plan = work.order.plan
    here = [one for one in plan.update if one.start and not elsewhere.decided(work, one)]
    ids = [(one.machine_id, one.group) for one in here]
    slots = [slot for slot in plan.create if slot.start]
    slots += [
        elsewhere.slot(work, one)
        for one in plan.update
        if one.start and elsewhere.decided(work, one)
    ]
    for slot in slots:
        ids += [(made, slot.group) for made in await work.made(slot)]
    for machine_id, group in ids:
        try:
            view = await work.see_unless_away(machine_id)
        except HostAway as away:
            # It was well. That its host went since is not the release's fault.
            await work.say("warning", away.message, group=group, machine_id=machine_id)
            continue
        sentence = gates.lost(work, view)
        if sentence:
            await work.say("error", sentence, group=group, machine_id=machine_id)
            await work.say_lines(machine_id, 20, group=group)
            raise gates.NotWell(machine_id, sentence)


async def restore_machines(work: Work, done: Mapping[str, Output]) -> Output:
    """Ensure that every machine has the config it had before; what resists is told."""
    del done
    troubles: list[str] = []
    back: list[str] = []
    await work.say("step", "Roll back: machines get what they had before")

    async def one(update: Update) -> None:
        try:
            if await _restore_at_last(work, update):
                back.append(update.machine_id)
        except (errors.Failure, runner.Abort) as error:
            message = str(error)
            named = message if update.machine_id in message else f"{update.machine_id}: {message}"
            troubles.append(named)

    async def group(name: str, updates: Sequence[Update]) -> None:
        well = [one for one in updates if order.well_mark(one.machine_id) in work.marks]
        # Those that are away first: otherwise more would be away than may be.
        for some in ([one for one in updates if one not in well], well):
            await together((one(each) for each in some), work.order.plan.at_once.get(name, 1))

    lanes = [group(name, updates) for name, updates in _groups(work).items()]
    await together(lanes, GROUPS_AT_ONCE)
    await elsewhere.retire_stayed(work)
    return {"troubles": troubles, "changed": len(back)}


def _groups(work: Work) -> dict[str, list[Update]]:
    found: dict[str, list[Update]] = {}
    for one in work.order.plan.update:
        found.setdefault(one.group, []).append(one)
    return found


async def _group(work: Work, group: str, updates: Sequence[Update]) -> None:
    cold = [one for one in updates if not one.start]
    warm = [one for one in updates if one.start]
    pool = work.order.plan.at_once.get(group, 1)
    await together((_lane(work, cold, COLD_AT_ONCE), _lane(work, warm, pool)), 2)


async def _lane(work: Work, updates: Sequence[Update], at_once: int) -> None:
    ordered = sorted(updates, key=lambda one: one.machine_id)
    for spearhead in ordered[:1]:
        await _update(work, spearhead)
    await together((_update(work, one) for one in ordered[1:]), at_once)


async def _update(work: Work, update: Update) -> None:
    """Ensure that one machine runs the release and is well."""
    mark = order.well_mark(update.machine_id)
    if mark in work.marks or not await _unless_elsewhere(work, update, _in_place, wait=True):
        return
    doing = "runs" if update.start else "has"
    told = f"{doing} v{work.order.version}, and {'is well' if update.start else 'goes on resting'}"
    await work.journal.mark(mark, told, group=update.group, machine_id=update.machine_id)
    work.marks.add(mark)
    await work.leases.give_back(update.machine_id)


async def _in_place(work: Work, update: Update) -> None:
    view = await _give(work, update)
    if update.start:
        await testing_machines.see_well(
            work, view, update.group, key=update.machine_id, leave=True
        )
    else:
        limit = work.settings.wait_timeout_s
        await gates.until_state(work, update.machine_id, _SETTLED, limit, leave=True)


async def _give_at_once(work: Work, update: Update) -> None:
    if await _unless_elsewhere(work, update, _give, wait=False):
        await work.leases.give_back(update.machine_id)


async def _unless_elsewhere(
    work: Work,
    update: Update,
    in_place: Callable[[Work, Update], Awaitable[object]],
    *,
    wait: bool,
) -> bool:
    """Update a machine in place, or have a new one take its place; tell whether it was the first.

    Raises:
        Abort: Neither can be.
    """
    ends = work.ctx.clock.monotonic() + work.settings.wait_timeout_s
    while not elsewhere.decided(work, update):
        try:
            await in_place(work, update)
        except HostAway as away:
            moves = await elsewhere.decide(work, update, away.message, away=away.host_id)
            if not moves and work.ctx.clock.monotonic() >= ends:
                # It bids, and yet tells nothing of its machines: it does not come back by that.
                raise
        except errors.Failure as failure:
            if failure.code != "insufficient_capacity":
                raise
            why = f"the host of machine {update.machine_id} has no room: {failure.message}"
            await elsewhere.decide(work, update, why)
        else:
            return True
    if order.well_mark(update.machine_id) not in work.marks:
        await elsewhere.take_over(work, update, wait=wait)
    return False


async def _give(work: Work, update: Update) -> MachineView:
    """Ensure that a machine was given the release, and return it.

    Raises:
        Abort: It is gone, or somebody else changed it.
    """

    async def attempt() -> MachineView:
        view = await work.look(update.machine_id)
        if configs.release_of(view) == work.order.release_id:
            return view
        if view.state in ("destroyed", "destroying"):
            raise runner.Abort(f"machine {update.machine_id} was destroyed by somebody else")
        if view.instance_id != update.version:
            raise runner.Abort(
                f"machine {update.machine_id} was changed by somebody else: it has version"
                f" {view.instance_id} instead of {update.version}"
            )
        await work.leases.take(update.machine_id)
        await work.say(
            "state",
            f"gets v{work.order.version}",
            group=update.group,
            machine_id=update.machine_id,
        )
        config = work.released(view.config, update.group)
        drained = await work.drain(view)
        try:
            return await work.update(view, config, start=update.start)
        except errors.Failure as failure:
            if drained and failure.code not in machines.SILENT:
                await work.undrain(view)
            raise

    limit = work.settings.wait_timeout_s
    return await work.patiently(attempt, limit, of=update.machine_id)


async def _restore_at_last(work: Work, update: Update) -> bool:
    """Restore a machine, again a few times where its host refuses.

    A refusal ends the way forward, for then there is the way back. After that there is none.

    Raises:
        Failure: It is refused every time.
        Abort: As `_restore`.
    """
    for _ in range(_TRIES_BACK - 1):
        try:
            return await _restore(work, update)
        except errors.Failure as failure:
            told = f"is tried again to be given what it had: {failure.message}"
            await work.say("warning", told, group=update.group, machine_id=update.machine_id)
        await work.ctx.clock.sleep(_PAUSE_BACK_S)
    return await _restore(work, update)


async def _restore(work: Work, update: Update) -> bool:
    """Ensure that a machine has its former config, or that whoever took its place has.

    Returns:
        Whether that had to be done.

    Raises:
        Abort: It cannot be, or is not well with it.
    """
    if elsewhere.stays(work, update):
        await elsewhere.stay(work, update)
        return True
    try:
        return await _restore_in_place(work, update)
    except HostAway as away:
        if not await work.made(elsewhere.slot(work, update)):
            raise
        await elsewhere.decide_to_stay(work, update, away)
    await elsewhere.stay(work, update)
    return True


async def _restore_in_place(work: Work, update: Update) -> bool:
    limit, gave_way = work.settings.wait_timeout_s, elsewhere.decided(work, update)
    view = await work.see_unless_away(update.machine_id)
    if view.state in ("destroyed", "destroying"):
        raise runner.Abort(f"machine {update.machine_id} was destroyed by somebody else")
    if view.instance_id == update.version and not gave_way:
        return False
    former = await work.former(update)

    async def attempt() -> None:
        view = await work.look(update.machine_id)
        if view.config == former:
            return
        if configs.release_of(view) != work.order.release_id:
            raise runner.Abort(
                f"machine {update.machine_id} was changed by somebody else, and is left alone"
            )
        await work.leases.take(update.machine_id)
        await work.drain(view)
        await work.update(view, former, start=update.start)

    await work.patiently(attempt, limit, of=update.machine_id)
    if gave_way:
        await elsewhere.go_on(work, update)
    if update.start:
        await gates.until_well(work, update.machine_id, update.group, smoke=False, leave=True)
    else:
        await gates.until_state(work, update.machine_id, _SETTLED, limit, leave=True)
    told = "is back to what it was"
    await work.say("state", told, group=update.group, machine_id=update.machine_id)
    await work.leases.give_back(update.machine_id)
    return True


def _updating(updates: Sequence[Update]) -> str:
    return f"Update {counted(len(updates))}"
