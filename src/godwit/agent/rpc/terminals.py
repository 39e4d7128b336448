"""What is asked of terminals: opened under a machine's lease, used by who opened them."""

from typing import Any

from godwit.agent.rpc.desk import Desk, Handler, parse
from godwit.agent.rpc.guests import environment, meant
from godwit.agent.terminals import Terminal, Terminals
from godwit.base import errors
from godwit.base.principal import Principal
from godwit.wire import terminals
from godwit.wire.record import Record

_TERM = "xterm-256color"


class TerminalDesk:
    """Answers requests about terminals."""

    def __init__(self, desk: Desk, held: Terminals) -> None:
        self._desk = desk
        self._held = held

    def handlers(self) -> dict[str, Handler]:
        """Return every verb and its handler."""
        return {
            "machine.terminal.open": self.open,
            "machine.terminal.read": self.read,
            "machine.terminal.write": self.write,
            "machine.terminal.close": self.close,
        }

    async def open(self, who: Principal, body: dict[str, Any]) -> Record:
        """Start a command in a machine; its output waits to be read."""
        asked = parse(terminals.OpenTerminal, body)
        driver = self._desk.find(who, "machines:exec", asked.machine_id)
        if not asked.command:
            raise errors.invalid("command is empty")
        self._desk.permit(who, asked.machine_id, asked.nonce)
        asked = meant(driver, asked)
        opened = await self._desk.secrets.opened(driver.machine)
        env = environment(driver, opened, asked.container)
        if asked.window is not None:
            env = {**env, "TERM": asked.term or _TERM}
        made = await self._held.open(
            lambda: self._desk.session(driver),
            asked,
            env,
            org_id=driver.machine.org_id,
            subject=who.subject,
        )
        return terminals.OfTerminal(machine_id=made.machine_id, terminal_id=made.terminal_id)

    async def read(self, who: Principal, body: dict[str, Any]) -> Record:
        """Return what a command said past a position."""
        asked = parse(terminals.ReadTerminal, body)
        return await self._found(who, asked).read(asked.after, asked.wait_s)

    async def write(self, who: Principal, body: dict[str, Any]) -> Record:
        """Take input for a command."""
        asked = parse(terminals.WriteTerminal, body)
        return terminals.Typed(position=await self._found(who, asked).write(asked))

    async def close(self, who: Principal, body: dict[str, Any]) -> dict[str, Any]:
        """End a terminal; one that is closed is no mistake."""
        asked = parse(terminals.OfTerminal, body)
        try:
            self._held.close(self._found(who, asked))
        except errors.Failure as failure:
            if failure.code != "not_found":
                raise
        return {}

    def _found(self, who: Principal, asked: terminals.OfTerminal) -> Terminal:
        self._desk.find(who, "machines:exec", asked.machine_id)
        return self._held.get(who.subject, asked.machine_id, asked.terminal_id)
