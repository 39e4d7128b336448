"""Giving one machine a new config, and waiting until it is well with it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from godwit.cli import waiting
from godwit.cli.held import Held
from godwit.cli.rollout import watch
from godwit.cli.session import Session
from godwit.client.api import Api
from godwit.client.records import Machine

WAIT_S = 300.0


@dataclass(frozen=True)
class Change:
    """A new config of a machine.

    Attributes:
        launch: Whether it is started with it; else it rests with it.
        wait_s: How long it may take.
        well: Whether to wait until it is well; else until it has begun.
    """

    machine: Machine
    config: dict[str, Any]
    launch: bool
    wait_s: float = WAIT_S
    well: bool = True


async def carry_out(
    here: Session, api: Api, app: str, change: Change, *, held: Held, told: Callable[[str], None]
) -> Machine:
    """Give a machine its new config, under its lease.

    Raises:
        NotWell: It did not come up.
        Failure: `conflict` when it was changed by somebody else meanwhile; what the API says.
    """
    old = change.machine
    new = await api.machines.update(
        app,
        old.id,
        change.config,
        current_version=old.version,
        skip_launch=not change.launch,
        nonce=await held.nonce(old.id),
    )
    watching = watch.Watch(api, app, here.clock, timeout_s=change.wait_s, smoke=False)
    if not change.launch:
        await watching.until_settled(new)
        told(f"{old.id} rests, with its new config")
        return await api.machines.get(app, old.id)
    if not change.well:
        await waiting.until(here, api, app, new, ["started"], change.wait_s, version=new.version)
        return await api.machines.get(app, old.id)
    return await watching.until_well(new, lambda text: told(f"{old.id} {text}"))
