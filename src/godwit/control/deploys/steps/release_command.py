"""Commands of a release, each once in a machine of its own, before anything else is touched.

The release command runs in every deploy; the seed command after it, until it has succeeded once.
"""

from collections.abc import Mapping

from godwit.control.deploys import configs, order, testing_machines
from godwit.control.deploys.order import Slot
from godwit.control.deploys.steps.machines import RELEASE_KEY, SEED_KEY
from godwit.control.deploys.work import Work
from godwit.durable import runner
from godwit.durable.runner import Output


async def release_command(work: Work, done: Mapping[str, Output]) -> None:
    """Run the release command to its end (spec/config-cli.md §3.3).

    Raises:
        Abort: It fails or takes too long; its last lines are told.
    """
    del done
    await _run(work, work.order.plan.release_command, RELEASE_KEY, "release command")


async def seed_command(work: Work, done: Mapping[str, Output]) -> None:
    """Run the seed command to its end, as the release command before it.

    Raises:
        Abort: It fails or takes too long; its last lines are told.
    """
    del done
    await _run(work, work.order.plan.seed_command, SEED_KEY, "seed command")


async def _run(work: Work, command: str, key: str, what: str) -> None:
    await work.say("step", f"Run the {what}: {command}")
    machines = await work.patiently(work.all_machines, work.settings.wait_timeout_s)
    mine = order.machine_id(work.run_id, key)
    for left in machines:
        if configs.group_of(left) == configs.RELEASE_COMMAND and (
            configs.release_of(left) != work.order.release_id
        ):
            await work.destroy(left.machine_id)
    slot = Slot(
        key=key,
        machine_id=mine,
        group=configs.RELEASE_COMMAND,
        region=work.order.region,
        start=False,
    )
    config = configs.release_command(work.config, command, work.order.image, work.mark, machines)
    # Whoever follows the deploy shows what this machine prints.
    await work.say("state", "runs it", group=configs.RELEASE_COMMAND, machine_id=mine)
    code = await testing_machines.to_its_end(
        work,
        slot,
        config,
        limit_s=work.settings.release_command_timeout_s,
        what=f"the {what}",
    )
    if code != 0:
        raise runner.Abort(f"the {what} failed with exit code {code}")
    await work.say("state", f"The {what} has succeeded")
