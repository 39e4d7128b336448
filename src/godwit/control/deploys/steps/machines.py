"""Machines made and destroyed: those of new groups, of groups that are gone, of failed deploys."""

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

from godwit.base import errors
from godwit.control.deploys import configs, gates, order, testing_machines
from godwit.control.deploys.order import Slot
from godwit.control.deploys.work import HostAway, Work, together
from godwit.durable import runner
from godwit.durable.runner import Output

CREATES_AT_ONCE = 5
DESTROYS_AT_ONCE = 8
LEASES_AT_ONCE = 20
SETTLE_S = 2.0
"""How long the edges get to hear of machines that serve, or do no more."""
PREPARED = frozenset({"stopped", "suspended"})
_GONE = frozenset({"destroyed"})
_RESTING = frozenset({"stopped", "suspended", "destroyed", "failed"})
RELEASE_KEY = "release_command"
SEED_KEY = "seed_command"


async def take_leases(work: Work, done: Mapping[str, Output]) -> None:
    """Ensure that nobody else changes the machines that the deploy will touch.

    Those whose host is silent nobody can change.
    """
    del done
    limit = work.settings.wait_timeout_s

    async def take(machine_id: str) -> None:
        async def attempt() -> None:
            await work.host(machine_id)
            await work.leases.take(machine_id)

        try:
            await work.patiently(attempt, limit, of=machine_id)
        except HostAway as away:
            await work.say("warning", away.message, machine_id=machine_id)

    await together((take(one) for one in work.order.plan.touched), LEASES_AT_ONCE)


async def create_machines(work: Work, done: Mapping[str, Output]) -> None:
    """Ensure that every new group has its machines, and that they are well."""
    del done
    slots = work.order.plan.create
    watched = [slot for slot in slots if not slot.standby_for]
    await work.say("step", f"Make {counted(len(slots))}")
    await together((_create(work, slot) for slot in watched), CREATES_AT_ONCE)
    # A standby names the machine it watches, which is there now.
    standbys = [slot for slot in slots if slot.standby_for]
    await together((_create(work, slot) for slot in standbys), CREATES_AT_ONCE)


async def _create(work: Work, slot: Slot) -> None:
    config = configs.of_group(work.config, slot.group, work.order.image, work.mark)
    config = configs.with_standbys(config, await watched_ids(work, slot))
    machine_id = await create_and_see(work, slot, config)
    if work.settings.strategy == "immediate":
        told = f"is made in {slot.region}"
    elif slot.start:
        view = await work.see(machine_id)
        await testing_machines.see_well(work, view, slot.group, key=slot.key)
        told = f"is made in {slot.region}, and well"
    else:
        await gates.until_state(work, machine_id, PREPARED, work.settings.wait_timeout_s)
        told = f"is made in {slot.region}, and stands by"
    await work.say("state", told, group=slot.group, machine_id=machine_id)


async def create_and_see(
    work: Work, slot: Slot, config: dict[str, Any], *, cordoned: bool = False
) -> str:
    """Ensure that a slot's machine is there, and return its id."""
    machine_id = await work.patiently(
        lambda: work.ensure(slot, config, cordoned=cordoned), work.settings.wait_timeout_s
    )
    view = await work.see(machine_id)
    if view.state == "destroyed":
        raise runner.Abort(f"machine {machine_id} was destroyed by somebody else")
    return machine_id


async def watched_ids(work: Work, slot: Slot) -> list[str]:
    """Return the machines a slot's machine stands by for: this deploy's own, or older ones."""
    keys = {one.key: one for one in work.order.plan.slots}
    replaced = {one.replaces: one for one in work.order.plan.greens}
    found: list[str] = []
    for name in slot.standby_for:
        other = keys.get(name) or replaced.get(name)
        found += [name] if other is None else (await work.made(other))[:1]
    return found


async def destroy_removed(work: Work, done: Mapping[str, Output]) -> None:
    """Ensure that machines which the release has no place for are gone."""
    del done
    doomed = work.order.plan.destroy
    await work.say("step", f"Destroy {counted(len(doomed))} that have no place any more")

    await together((retire(work, one.machine_id, one.group) for one in doomed), DESTROYS_AT_ONCE)


async def retire(work: Work, machine_id: str, group: str) -> None:
    """Ensure that a machine which served is gone, after its app was told that it ends."""
    try:
        await _stop(work, machine_id)
    except HostAway:
        pass  # Which is told when it cannot be destroyed either.
    except (errors.Failure, runner.Abort) as error:
        told = f"is not stopped: {error}"
        await work.say("warning", told, group=group, machine_id=machine_id)
    if await let_go(work, machine_id, group):
        await work.say("state", "is destroyed", group=group, machine_id=machine_id)


async def _stop(work: Work, machine_id: str) -> None:
    """Ensure that a machine runs no more, after what it is answering is answered."""
    limit = work.settings.wait_timeout_s
    view = await work.see_unless_away(machine_id)
    if view.state != "started":
        return
    await work.patiently(lambda: work.leases.take(machine_id), limit, of=machine_id)
    if not await work.drain(view):
        # No edge is told to wait for what is in flight: it gets no more, and some time.
        await work.patiently(lambda: work.act(machine_id, "cordon"), limit, of=machine_id)
        await work.ctx.clock.sleep(SETTLE_S if view.config.get("services") else 0)
    signal = {"signal": work.settings.signal} if work.settings.signal else {}
    await work.patiently(lambda: work.act(machine_id, "stop", **signal), limit, of=machine_id)
    await gates.until_state(work, machine_id, _RESTING, limit, leave=True)


async def destroy_gently(work: Work, machine_id: str) -> None:
    """Ensure that a machine is gone; what it is answering is answered first.

    Raises:
        HostAway: Its host is silent.
        Abort: It is not gone in time.
    """
    limit = work.settings.wait_timeout_s
    view = await work.see_unless_away(machine_id)
    if view.state != "destroyed":
        await work.drain(view)
        await work.patiently(lambda: work.destroy(machine_id), limit, of=machine_id)
        await gates.until_state(work, machine_id, _GONE, limit, leave=True)
    work.leases.forget(machine_id)


async def let_go(work: Work, machine_id: str, group: str = "") -> bool:
    """Ensure that a machine is gone, or leave it to upkeep, which goes on; tell whether it is."""
    try:
        await destroy_gently(work, machine_id)
    except (errors.Failure, runner.Abort) as error:
        await work.patiently(lambda: work.want_gone(machine_id), work.settings.wait_timeout_s)
        told = f"is to be gone, and is destroyed as soon as that can be: {error}"
        await work.say("warning", told, group=group, machine_id=machine_id)
        return False
    return True


async def destroy_made(work: Work, done: Mapping[str, Output]) -> Output:
    """Ensure that nothing is left of what the deploy made, but what keeps another's place."""
    del done
    keys = [slot.key for slot in work.order.plan.slots]
    keys += [
        order.elsewhere_key(one.machine_id)
        for one in work.order.plan.update
        if order.stays_mark(one.machine_id) not in work.marks
    ]
    return await _destroy_all(work, [*keys, *helper_keys(work)], "what the deploy made")


async def destroy_helpers(work: Work, done: Mapping[str, Output]) -> Output:
    """Ensure that the machines of the release command and of tests are gone."""
    del done
    return await _destroy_all(work, helper_keys(work), "the deploy's own machines")


def helper_keys(work: Work) -> list[str]:
    """Return the keys of the machines that a deploy makes for itself."""
    keys = [RELEASE_KEY] if work.order.plan.release_command else []
    keys += [SEED_KEY] if work.order.plan.seed_command else []
    tested = [(one.machine_id, one.group) for one in work.order.plan.update]
    tested += [(order.elsewhere_key(one), group) for one, group in tested]
    tested += [(slot.key, slot.group) for slot in work.order.plan.slots]
    for name, group in tested:
        count = len(configs.machine_checks(work.config, group))
        keys += [order.check_key(name, number) for number in range(count)]
    return keys


async def _destroy_all(work: Work, keys: Iterable[str], which: str) -> Output:
    made = [machine_id for key in keys for machine_id in await work.made_for(key)]
    gone: list[str] = []

    async def destroy(machine_id: str) -> None:
        # One that cannot be seen is let go of like one that is there.
        with contextlib.suppress(errors.Failure, runner.Abort):
            if (await work.see_unless_away(machine_id)).state == "destroyed":
                return
        await work.say("state", f"is destroyed with {which}", machine_id=machine_id)
        await let_go(work, machine_id)
        gone.append(machine_id)

    await together((destroy(one) for one in made), DESTROYS_AT_ONCE)
    return {"changed": len(gone)}


def counted(count: int) -> str:
    """Return a number of machines in words."""
    return "1 machine" if count == 1 else f"{count} machines"
