"""A command at this terminal in a machine that is made for it, and is gone afterwards.

What `godwit console` and `godwit machine run --shell` share.
"""

import contextlib
from typing import Any

from godwit.base import errors
from godwit.cli import terminal
from godwit.cli.session import Session
from godwit.client.api import Api
from godwit.client.records import Machine

SHELL = "/bin/sh"
_LONGEST_S = 43_200
_WAIT_S = 300.0


def idle() -> dict[str, Any]:
    """Return the part of a config with which a machine waits; it ends by itself after 12 hours."""
    return {
        "init": {"exec": ["sleep", str(_LONGEST_S)]},
        "restart": {"policy": "no"},
        "auto_destroy": True,
        "stop_config": {"signal": "SIGKILL"},
    }


async def inside(
    here: Session, api: Api, app_name: str, made: Machine, words: list[str], *, user: str
) -> int:
    """Run a command in a machine that was just made, destroy it, and return the exit code.

    Raises:
        Failure: The machine does not start, or the command does not.
    """
    try:
        here.out.say(f"{made.id} is made for this console")
        await _started(here, api, app_name, made)
        return await terminal.open_and_attach(here, api, app_name, made.id, words, user=user)
    finally:
        with contextlib.suppress(errors.Failure):
            await api.machines.destroy(app_name, made.id, force=True)
            here.out.say(f"{made.id} is destroyed")


async def _started(here: Session, api: Api, app_name: str, made: Machine) -> None:
    deadline = here.clock.monotonic() + _WAIT_S
    while True:
        try:
            await api.machines.wait(app_name, made.id, ["started"])
        except errors.Failure as failure:
            if failure.code != "deadline_exceeded" or here.clock.monotonic() >= deadline:
                raise
        else:
            return
