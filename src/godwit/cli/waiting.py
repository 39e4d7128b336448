"""Waiting for a machine's state, for longer than one request may take."""

from collections.abc import Sequence

from godwit.base import errors
from godwit.cli.session import Session
from godwit.client.api import Api
from godwit.client.records import Machine


async def until(
    here: Session,
    api: Api,
    app: str,
    machine: Machine,
    states: Sequence[str],
    limit_s: float,
    *,
    version: str = "",
    after_event: str = "",
) -> str:
    """Return the state of several that a machine reached.

    Args:
        here: Whose clock is used.
        api: How to ask.
        app: Whose machine.
        machine: Which one.
        states: What to wait for.
        limit_s: How long.
        version: The version of its config that has to reach it; any when empty.
        after_event: What came before this event does not count.

    Raises:
        Failure: `deadline_exceeded`.
    """
    deadline = here.clock.monotonic() + limit_s
    while True:
        left = deadline - here.clock.monotonic()
        try:
            reached = await api.machines.wait(
                app,
                machine.id,
                states,
                version=version,
                after_event=after_event,
                timeout_s=left,
            )
        except errors.Failure as failure:
            if failure.code == "not_found" and "destroyed" in states:
                return "destroyed"
            if failure.code != "deadline_exceeded" or here.clock.monotonic() >= deadline:
                raise
        else:
            return reached.state or states[0]
