"""The step that sees to a machine's secrets before anything is done for its start."""

from collections.abc import Mapping
from typing import Any

from godwit.agent.machines.work import Work
from godwit.base import errors
from godwit.durable.runner import Abort, Step

_ASK_S = 15.0
_PATIENCE_S = 60.0


async def check_secrets(work: Work, _: Mapping[str, Mapping[str, Any]]) -> None:
    """Ensure secrets at least as new as the machine's version or this start needs are here.

    Raises:
        Abort: Control has none that would do.
        Failure: They are not here and control is away: tried again.
    """
    secrets, machine = work.host.secrets, work.machine
    least = int(work.input.get("min_secrets_version") or 0)
    why = await secrets.lack(machine, least)
    if not why:
        return
    try:
        sealed = await work.host.control.secrets(machine.machine_id)
    except errors.Failure as failure:
        if failure.code in ("unavailable", "deadline_exceeded"):
            message = f"{why}, and newer ones cannot be had now: {failure.message}"
            raise errors.Failure(failure.code, message) from failure
        raise Abort(
            f"{why}, and control gives no others: {failure.message}", "system"
        ) from failure
    if sealed is None:
        raise Abort(f"{why}, and its app has none any more")
    await secrets.keep(machine, machine.instance_id, sealed)
    await work.store(machine.model_copy(update={"secrets_version": sealed.version}))
    why = await secrets.lack(work.machine, least)
    if why:
        raise Abort(f"{why}, and control has no newer ones", "system")


STEPS: tuple[Step[Work], ...] = (
    Step("check_secrets", "looking for its secrets", check_secrets, _ASK_S, _PATIENCE_S),
)
