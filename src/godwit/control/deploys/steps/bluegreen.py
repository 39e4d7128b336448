"""Blue and green: as many new machines as there are, all well, then traffic, then the old ones go.

Up to `serve_greens` nothing but new machines was made, and the way back is to destroy them. Once
they take traffic there is no way back: the old ones go, and what resists is told.
"""

from collections.abc import Mapping

from godwit.control.deploys import configs, gates
from godwit.control.deploys.order import Slot
from godwit.control.deploys.steps import machines
from godwit.control.deploys.work import Work, together
from godwit.durable import runner
from godwit.durable.runner import Output

_UNCORDONS_AT_ONCE = 20


async def create_greens(work: Work, done: Mapping[str, Output]) -> None:
    """Ensure that there is a new machine for each old one, in no edge's routing yet."""
    del done
    slots = work.order.plan.greens
    await work.say("step", f"Make {len(slots)} new machines beside the old ones")
    at_once = min(-(-len(slots) // 3), work.settings.max_concurrent)
    for wave in (
        [slot for slot in slots if not slot.standby_for],
        [slot for slot in slots if slot.standby_for],
    ):
        await together((_create(work, slot) for slot in wave), max(at_once, 1))


async def _create(work: Work, slot: Slot) -> None:
    blue = next(one for one in work.order.plan.update if one.machine_id == slot.replaces)
    config = work.released(await work.former(blue), slot.group)
    config = configs.with_metadata(config, **{configs.DEPLOYMENT: work.order.release_id})
    if config.get("standbys"):
        config = configs.with_standbys(config, await machines.watched_ids(work, slot))
    machine_id = await machines.create_and_see(work, slot, config, cordoned=True)
    told = f"is made in {slot.region}, to replace {slot.replaces}"
    await work.say("state", told, group=slot.group, machine_id=machine_id)


async def greens_well(work: Work, done: Mapping[str, Output]) -> None:
    """Ensure that every new machine is well."""
    del done
    await work.say("step", "Wait until every new machine is well")

    async def see(slot: Slot) -> None:
        for machine_id in (await work.made(slot))[:1]:
            if slot.start:
                await gates.until_well(work, machine_id, slot.group, smoke=False)
                told = "is well"
            else:
                limit = work.settings.wait_timeout_s
                await gates.until_state(work, machine_id, machines.PREPARED, limit)
                told = "is ready, and rests"
            await work.say("state", told, group=slot.group, machine_id=machine_id)
            return
        raise runner.Abort(f"the machine that replaces {slot.replaces} is gone")

    slots = work.order.plan.greens
    await together((see(slot) for slot in slots), len(slots))


async def serve_greens(work: Work, done: Mapping[str, Output]) -> None:
    """Ensure that traffic goes to the new machines: the point of no return.

    Raises:
        Abort: One of them is gone, or not well any more.
    """
    del done
    await work.say("step", "Send traffic to the new machines")

    async def serve(slot: Slot) -> None:
        machine_id = (await work.made(slot))[0]
        limit = work.settings.wait_timeout_s
        await work.patiently(lambda: work.act(machine_id, "uncordon"), limit)

    await together((serve(slot) for slot in work.order.plan.greens), _UNCORDONS_AT_ONCE)
    for slot in work.order.plan.greens:
        for machine_id in (await work.made(slot))[:1]:
            view = await work.see(machine_id)
            sentence = gates.lost(work, view) if slot.start else ""
            if sentence:
                raise gates.NotWell(machine_id, sentence)


async def retire_blues(work: Work, done: Mapping[str, Output]) -> None:
    """Ensure that the old machines are gone, after what they are answering is answered."""
    del done
    await work.say("step", "Drain, stop and destroy the old machines")
    await work.ctx.clock.sleep(machines.SETTLE_S)

    updates = work.order.plan.update
    await together(
        (machines.retire(work, one.machine_id, one.group) for one in updates),
        machines.DESTROYS_AT_ONCE,
    )
