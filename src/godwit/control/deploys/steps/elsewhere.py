"""Machines whose host cannot have the release: a new one elsewhere takes the place.

Their host has no room for what the release asks for, or has been silent for too long.

    decided ──► the new one is made, and rests ──► the old one is drained and stopped, if its host
    answers ──► the new one starts, and is well ──► (confirm) ──► the old one is destroyed

So a place is never served twice, but by a host that nobody can reach. Until the deploy has looked
once more, the old one only rests: on the way back it starts again. One whose host is still silent
by then gives its place up for good: the new one gets its config. Whoever gave up a place is
destroyed, by upkeep where its host has to come back first.
"""

from collections.abc import Mapping, Sequence

from godwit.base import errors
from godwit.control.deploys import configs, gates, order, refusals, testing_machines
from godwit.control.deploys.order import Slot, Update
from godwit.control.deploys.steps import machines
from godwit.control.deploys.work import HostAway, Work, together
from godwit.durable import runner
from godwit.durable.runner import Output
from godwit.wire import host_rpc

_RESTING = frozenset({"created", "stopped", "suspended", "failed", "destroying", "destroyed"})
_THERE = frozenset({"stopped", "suspended", "started", "failed"})


def slot(work: Work, update: Update) -> Slot:
    """Return the machine that takes another one's place."""
    key = order.elsewhere_key(update.machine_id)
    return Slot(
        key=key,
        machine_id=order.machine_id(work.run_id, key),
        group=update.group,
        region=update.region,
        start=False,
        replaces=update.machine_id,
    )


def decided(work: Work, update: Update) -> bool:
    """Tell whether another machine takes this one's place."""
    return order.elsewhere_key(update.machine_id) in work.marks


def stays(work: Work, update: Update) -> bool:
    """Tell whether the other one keeps the place though the deploy goes back."""
    return order.stays_mark(update.machine_id) in work.marks


async def decide(work: Work, update: Update, why: str, *, away: str = "") -> bool:
    """Decide that another machine takes the place; `False` when its host has come back.

    Args:
        work: The run.
        update: Whose place.
        why: A sentence.
        away: The host that is silent; empty for one that has no room.

    Raises:
        Abort: It has a volume; no host has room; the run was begun by a release that could not.
    """
    if "retire_replaced" not in work.steps:
        raise runner.Abort(why)
    former = await work.former(update)
    if former.get("mounts"):
        raise runner.Abort(f"{why}; its volume is there, so it cannot be made elsewhere")
    config = work.released(former, update.group)

    async def bids() -> list[host_rpc.Bid]:
        found = await refusals.bids(
            work.ctx, work.order.org_id, work.order.app_id, update.region, config
        )
        if not found:
            raise errors.Failure("unavailable", f"{why}; nor does any other in {update.region}")
        return found

    found = await work.patiently(bids, work.settings.wait_timeout_s)
    if away and any(bid.host_id == away for bid in found):
        return False
    if not any(bid.fits for bid in found):
        reasons = "; ".join(dict.fromkeys(reason for bid in found for reason in bid.reasons))
        raise runner.Abort(f"{why}; no other host in {update.region} has room: {reasons}")
    key = order.elsewhere_key(update.machine_id)
    told = f"{why}: a new machine takes its place"
    await work.journal.mark(key, told, group=update.group, machine_id=update.machine_id)
    work.marks.add(key)
    return True


async def take_over(work: Work, update: Update, *, wait: bool) -> None:
    """Ensure that the new machine runs the release in the old one's place.

    Args:
        work: The run.
        update: Whose place.
        wait: Whether it has to be well.

    Raises:
        Abort: It cannot be made, or is not well.
    """
    limit, new = work.settings.wait_timeout_s, slot(work, update)
    config = work.released(await work.former(update), update.group)
    machine_id = await machines.create_and_see(work, new, config, cordoned=update.cordoned)
    view = await gates.until_state(work, machine_id, _THERE, limit)
    told = f"has v{work.order.version} in place of {update.machine_id}"
    if update.start:
        await _rest(work, update.machine_id, update.group)
        await _serve(work, machine_id, update)
        if wait:
            view = await work.see(machine_id)
            await testing_machines.see_well(work, view, update.group, key=new.key)
            told += ", and is well"
    mark = order.well_mark(update.machine_id)
    await work.journal.mark(mark, told, group=update.group, machine_id=machine_id)
    work.marks.add(mark)


async def retire_replaced(work: Work, done: Mapping[str, Output]) -> None:
    """Ensure that machines that gave up their place are gone, or go when their host is back."""
    del done
    gone = [one for one in work.order.plan.update if decided(work, one)]
    await _retire(work, gone)


async def settle_replaced(work: Work, done: Mapping[str, Output]) -> None:
    """Ensure that each place has one machine, where a failed deploy does not go back.

    The new one, unless it never ran: then the old one goes on.
    """
    del done
    gone: list[Update] = []
    for one in work.order.plan.update:
        if not decided(work, one):
            continue
        if await _has_begun(work, one):
            gone.append(one)
            continue
        try:
            await go_on(work, one)
        except HostAway as away:
            await work.say("warning", away.message, machine_id=one.machine_id)
        for machine_id in await work.made(slot(work, one)):
            await machines.let_go(work, machine_id, one.group)
    await _retire(work, gone)


async def go_on(work: Work, update: Update) -> None:
    """Ensure that the old machine has its place again; the new one rests.

    Raises:
        HostAway: The old one's host is silent.
    """
    await work.see_unless_away(update.machine_id)
    for made in await work.made(slot(work, update)):
        await _rest(work, made, update.group)
    await _serve(work, update.machine_id, update)


async def decide_to_stay(work: Work, update: Update, away: HostAway) -> None:
    """Decide that the new machine keeps the place, for the old one's host is silent."""
    mark = order.stays_mark(update.machine_id)
    told = f"{away.message}: what took its place keeps it, with what it had"
    await work.journal.mark(mark, told, group=update.group, machine_id=update.machine_id)
    work.marks.add(mark)


async def stay(work: Work, update: Update) -> None:
    """Ensure that the new machine keeps the place, with the config that the old one had.

    Raises:
        Abort: It is gone, cannot have that config, or is not well with it.
    """
    made = await work.made(slot(work, update))
    if not made:
        raise runner.Abort(f"what took the place of machine {update.machine_id} is gone")
    limit, machine_id = work.settings.wait_timeout_s, made[0]
    former = await work.former(update)

    async def attempt() -> None:
        view = await work.look(machine_id)
        if view.config == former:
            return
        await work.leases.take(machine_id)
        await work.drain(view)
        await work.update(view, former, start=update.start)

    await work.patiently(attempt, limit)
    await _serve(work, machine_id, update)
    if update.start:
        await gates.until_well(work, machine_id, update.group, smoke=False)
    else:
        await gates.until_state(work, machine_id, _THERE, limit)
    await work.leases.give_back(machine_id)


async def retire_stayed(work: Work) -> None:
    """Ensure that whoever lost its place on the way back goes when its host is back."""
    await _retire(work, [one for one in work.order.plan.update if stays(work, one)])


async def _retire(work: Work, updates: Sequence[Update]) -> None:
    if not updates:
        return
    await work.say("step", f"Destroy what was replaced: {machines.counted(len(updates))}")
    await together(
        (machines.retire(work, one.machine_id, one.group) for one in updates),
        machines.DESTROYS_AT_ONCE,
    )
    made = {one.machine_id: await work.made(slot(work, one)) for one in updates}
    await _watch(work, {old: new[0] for old, new in made.items() if new})


async def _watch(work: Work, replaced: Mapping[str, str]) -> None:
    """Ensure that what stood by for machines stands by for those in their place, and rests."""
    for view in await work.patiently(work.all_machines, work.settings.wait_timeout_s):
        watched = view.config.get("standbys") or []
        if replaced.keys().isdisjoint(watched) or view.machine_id in replaced:
            continue
        config = configs.with_standbys(view.config, [replaced.get(one, one) for one in watched])
        try:
            await work.leases.take(view.machine_id)
            await work.update(view, config, start=False)
            await work.leases.give_back(view.machine_id)
        except (errors.Failure, runner.Abort) as error:
            told = f"goes on standing by for what was replaced: {error}"
            await work.say("warning", told, machine_id=view.machine_id)


async def _has_begun(work: Work, update: Update) -> bool:
    """Tell whether the new machine has been running, or rests as the old one did."""
    for machine_id in await work.made(slot(work, update)):
        view = await work.see(machine_id)
        if not update.start or view.state not in machines.PREPARED:
            return view.state != "destroyed"
    return False


async def _rest(work: Work, machine_id: str, group: str) -> None:
    """Ensure that a machine serves nobody; where its host is silent, that is told."""
    limit = work.settings.wait_timeout_s
    try:
        view = await work.see_unless_away(machine_id)
        if view.state in _RESTING:
            return
        await work.patiently(lambda: work.leases.take(machine_id), limit, of=machine_id)
        await work.drain(view)
        await _act(work, machine_id, "cordon")
        await _act(work, machine_id, "stop")
        await gates.until_state(work, machine_id, _RESTING, limit, leave=True)
    except HostAway as away:
        told = f"{away.message}: it may go on running there until that is back"
        await work.say("warning", told, group=group, machine_id=machine_id)


async def _serve(work: Work, machine_id: str, update: Update) -> None:
    """Ensure that a machine holds a place: that it runs, and serves, as far as the former did.

    Raises:
        HostAway: Its host is silent.
    """
    view = await work.see_unless_away(machine_id)
    if view.cordoned and not update.cordoned:
        await _act(work, machine_id, "uncordon")
    if update.start and view.state in _RESTING:
        await _act(work, machine_id, "start")


async def _act(work: Work, machine_id: str, verb: str) -> None:
    limit = work.settings.wait_timeout_s
    await work.patiently(lambda: work.act(machine_id, verb), limit, of=machine_id)
