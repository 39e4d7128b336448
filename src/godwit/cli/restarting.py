"""Restarting one machine, and waiting until it is well again."""

from dataclasses import dataclass

from godwit.cli import waiting
from godwit.cli.rollout import watch
from godwit.cli.session import Session
from godwit.client.api import Api
from godwit.client.records import Machine

WAIT_S = 300.0


@dataclass(frozen=True)
class How:
    """How to restart.

    Attributes:
        force: Whether it is killed at once.
        grace: How long until it is killed, a Go duration; `None` for the config's.
        well: Whether to wait for its checks too.
    """

    force: bool = False
    grace: str | None = None
    well: bool = True


async def restart(here: Session, api: Api, app: str, machine: Machine, how: How) -> None:
    """Restart a machine, and return once it runs again.

    Raises:
        NotWell: It runs, but its checks do not pass.
        Failure: It does not run in time.
    """
    newest = machine.events[0].id if machine.events else ""
    await api.machines.restart(app, machine.id, force=how.force, grace=how.grace)
    await waiting.until(here, api, app, machine, ["started"], WAIT_S, after_event=newest)
    if how.well:
        watching = watch.Watch(api, app, here.clock, timeout_s=WAIT_S, smoke=False)
        await watching.until_well(machine, lambda _: None)
