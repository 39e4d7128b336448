"""Terminals of simulated machines: real ones, before a command that answers what is typed."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from godwit.agent import ports
from godwit.agent.terminals import Terminal, Terminals
from godwit.base import clock, tasks
from godwit.testing.typed_back import TypedBack
from godwit.wire import terminals
from godwit.wire.record import Record


class _Session:
    """All that a terminal asks of a shim."""

    async def open_exec(
        self,
        argv: tuple[str, ...],
        env: dict[str, str],
        *,
        user: str = "",
        working_directory: str = "/",
        tty: ports.Window | None = None,
        container: str = "",
    ) -> TypedBack:
        """Start the command."""
        del env, working_directory
        where = f" in {container}" if container else ""
        return TypedBack(f"{' '.join(argv)} for {user or 'root'}{where}", tty)


class SimulatedTerminals:
    """A host's."""

    def __init__(self) -> None:
        self._held = Terminals(clock.SystemClock(), tasks.Tasks("terminals"))

    def handlers(self) -> dict[str, Callable[[dict[str, Any]], Awaitable[Any]]]:
        """Return every verb and its handler."""
        return {
            "machine.terminal.open": self.open,
            "machine.terminal.read": self.read,
            "machine.terminal.write": self.write,
            "machine.terminal.close": self.close,
        }

    async def open(self, body: dict[str, Any]) -> Record:
        """Start a command."""
        asked = terminals.OpenTerminal.model_validate(body)
        made = await self._held.open(_session, asked, {}, org_id="", subject="")
        return terminals.OfTerminal(machine_id=made.machine_id, terminal_id=made.terminal_id)

    async def read(self, body: dict[str, Any]) -> Record:
        """Return output."""
        asked = terminals.ReadTerminal.model_validate(body)
        return await self._found(asked).read(asked.after, asked.wait_s)

    async def write(self, body: dict[str, Any]) -> Record:
        """Take input."""
        asked = terminals.WriteTerminal.model_validate(body)
        return terminals.Typed(position=await self._found(asked).write(asked))

    async def close(self, body: dict[str, Any]) -> dict[str, Any]:
        """End it."""
        self._held.close(self._found(terminals.OfTerminal.model_validate(body)))
        return {}

    def _found(self, asked: terminals.OfTerminal) -> Terminal:
        return self._held.get("", asked.machine_id, asked.terminal_id)


@contextlib.asynccontextmanager
async def _session() -> AsyncIterator[Any]:
    yield _Session()
