"""An agent in a process of its own, killed with SIGKILL in the middle of its work."""

import asyncio
import contextlib
import os
import signal
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

from godwit.agent.vmm import running
from tests.vm import vm_lab
from tests.vm.test_agent import Life, life

WITHIN_S = 300.0

Act = Callable[[Life], Awaitable[None]]


async def killed(here: vm_lab.Host, act: Act, when: Callable[[], bool]) -> None:
    """Let an agent live and act, and kill it at the first moment at which something is so."""
    agent = os.fork()
    if agent == 0:
        asyncio.set_event_loop(None)
        try:
            asyncio.run(_live(here, act))
        finally:
            os._exit(1)
    try:
        async with asyncio.timeout(WITHIN_S):
            while not when():
                assert running.is_alive(agent), "the agent ended by itself"
                await asyncio.sleep(0.001)
    finally:
        os.kill(agent, signal.SIGKILL)
        await asyncio.to_thread(os.waitpid, agent, 0)


async def _live(here: vm_lab.Host, act: Act) -> None:
    async with life(here.of_another_agent()) as agent:
        await act(agent)
        await asyncio.sleep(WITHIN_S)


def step_done(here: vm_lab.Host, kind: str, step: str) -> Callable[[], bool]:
    """Return what tells whether the journal says that a step of an operation is done."""
    query = (
        "SELECT 1 FROM entries JOIN operations ON operations.id = operation_id"
        " WHERE entries.kind = 'done' AND operations.kind = ? AND step = ?"
    )

    def is_done() -> bool:
        # Before the agent made the file and its tables there is nothing to read.
        with contextlib.suppress(sqlite3.OperationalError):
            file = f"file:{here.places.store / 'agent.db'}?mode=ro"
            with contextlib.closing(sqlite3.connect(file, uri=True)) as connection:
                return connection.execute(query, (kind, step)).fetchone() is not None
        return False

    return is_done


def half_saved(here: vm_lab.Host, machine_id: str) -> Callable[[], bool]:
    """Return what tells whether a machine stands still and its state is half on the disk.

    Or whole: where nobody looked in between, the kill comes a moment later.
    """
    state: Path = here.places.machines / machine_id / "snapshot" / "state"

    def is_half() -> bool:
        with contextlib.suppress(FileNotFoundError):
            return state.stat().st_size > 0
        return False

    return is_half
