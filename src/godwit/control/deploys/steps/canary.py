"""Canaries: one more machine of each group, watched for a while and destroyed."""

from collections.abc import Mapping

from godwit.control.deploys import configs, gates, testing_machines
from godwit.control.deploys.order import Slot
from godwit.control.deploys.steps import machines
from godwit.control.deploys.work import Work, together
from godwit.durable.runner import Output


async def canaries(work: Work, done: Mapping[str, Output]) -> None:
    """Ensure that the release was well in one machine of each group, and that it is gone again."""
    del done
    slots = work.order.plan.canaries
    groups = ", ".join(slot.group for slot in slots)
    await work.say("step", f"Try the release in a canary of {groups}")
    await together((_canary(work, slot) for slot in slots), machines.CREATES_AT_ONCE)


async def _canary(work: Work, slot: Slot) -> None:
    mark = f"canary/{slot.group}"
    if mark not in work.marks:
        await _watch(work, slot, mark)
    for machine_id in await work.made(slot):
        await machines.destroy_gently(work, machine_id)


async def _watch(work: Work, slot: Slot, mark: str) -> None:
    """Ensure that a group's canary was seen to be well."""
    config = configs.of_group(work.config, slot.group, work.order.image, work.mark)
    if "guest" not in config:
        config = {**config, **await _guest(work, slot.group)}
    config = configs.unlisted(configs.with_metadata(config, **{configs.CANARY: "true"}))
    machine_id = await machines.create_and_see(work, slot, config)
    view = await gates.until_well(work, machine_id, slot.group, smoke=work.settings.smoke_checks)
    tests = configs.machine_checks(work.config, slot.group)
    await testing_machines.run(work, view, tests, key=slot.key)
    told = "was well, and is destroyed"
    await work.journal.mark(mark, told, group=slot.group, machine_id=machine_id)
    work.marks.add(mark)


async def _guest(work: Work, group: str) -> dict[str, object]:
    """Return the size that the group's machines have, when the config names none."""
    for one in work.order.plan.update:
        if one.group == group:
            former = await work.former(one)
            return {"guest": former["guest"]} if "guest" in former else {}
    return {}
