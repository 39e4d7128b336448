"""What is asked of a running machine's guest: signals, commands, processes, memory."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import Field

from godwit.agent.machines import config, memory, run_containers
from godwit.agent.machines.driver import Driver
from godwit.agent.rpc.desk import Change, Desk, OfMachine, parse
from godwit.base import errors
from godwit.base.principal import Principal
from godwit.wire import host_rpc, terminals
from godwit.wire.record import Record

_LONGEST_EXEC_S = 300.0
R = TypeVar("R", host_rpc.ExecRequest, terminals.OpenTerminal)


class Signal(OfMachine):
    """Body of `machine.signal`."""

    signal: str


class SetMemory(Change):
    """Body of `machine.memory.set`."""

    limit_mb: int


class Reclaim(Change):
    """Body of `machine.memory.reclaim`."""

    amount_mb: int = Field(ge=1)


class Guests:
    """Answers what only the guest can tell or do."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def signal(self, who: Principal, body: dict[str, Any]) -> dict[str, Any]:
        """Send a signal to the main process."""
        asked = parse(Signal, body)
        driver = self._desk.find(who, "machines:write", asked.machine_id)
        name = config.signal_name(asked.signal)
        if name is None:
            raise errors.invalid(f"{asked.signal!r} is not a signal")
        async with self._desk.session(driver) as session:
            await session.signal(name)
        return {}

    async def exec(self, who: Principal, body: dict[str, Any]) -> Record:
        """Run one command in a machine to its end."""
        asked = parse(host_rpc.ExecRequest, body)
        driver = self._desk.find(who, "machines:exec", asked.machine_id)
        if not asked.command:
            raise errors.invalid("command is empty")
        if not 0 < asked.timeout_s <= _LONGEST_EXEC_S:
            raise errors.invalid(f"timeout must be within 0..{_LONGEST_EXEC_S:g} s")
        self._desk.permit(who, asked.machine_id, asked.nonce)
        asked = meant(driver, asked)
        secrets = await self._desk.secrets.opened(driver.machine)
        async with self._desk.session(driver) as session:
            return await session.exec(asked, environment(driver, secrets, asked.container))

    async def ps(self, who: Principal, body: dict[str, Any]) -> dict[str, Any]:
        """Return the machine's processes."""
        driver = self._desk.find(who, "machines:read", parse(OfMachine, body).machine_id)
        async with self._desk.session(driver) as session:
            found = await session.ps()
        return {"processes": [each.model_dump(mode="json") for each in found]}

    async def memory(self, who: Principal, body: dict[str, Any]) -> Record:
        """Return what memory the guest has left, and its limit."""
        return await self._memory(
            self._desk.find(who, "machines:read", parse(OfMachine, body).machine_id)
        )

    async def set_memory(self, who: Principal, body: dict[str, Any]) -> Record:
        """Let a machine use more or less of its memory, until its next update."""
        asked = parse(SetMemory, body)
        driver = self._desk.change(who, asked)
        _require_running(driver)
        try:
            await self._desk.memory.set(driver.snapshot, asked.limit_mb)
        finally:
            driver.touch()
        return await self._memory(driver)

    async def reclaim(self, who: Principal, body: dict[str, Any]) -> dict[str, Any]:
        """Take memory that a guest can spare back to the host."""
        asked = parse(Reclaim, body)
        driver = self._desk.change(who, asked)
        _require_running(driver)
        actual_mb = await self._desk.vmm.reclaim(asked.machine_id, asked.amount_mb)
        return {"actual_mb": actual_mb}

    async def _memory(self, driver: Driver) -> host_rpc.Memory:
        async with self._desk.session(driver) as session:
            stats = await session.stats()
        return memory.told(self._desk.memory.sized(driver.machine), stats)


def _require_running(driver: Driver) -> None:
    if driver.snapshot.shown != "started":
        raise errors.Failure(
            "failed_precondition",
            f"the machine is not running: it is {driver.snapshot.shown}",
            hint="start it first",
        )


def meant(driver: Driver, asked: R) -> R:
    """Return a command with the container it is to run in: the main one unless it says.

    Raises:
        Failure: `invalid_argument` when there is none of that name.
    """
    config = driver.machine.config
    container = run_containers.meant(config, asked.container, machine=asked.machine)
    return asked.model_copy(update={"container": container})


def environment(
    driver: Driver, secrets: Mapping[str, bytes], container: str = ""
) -> dict[str, str]:
    """Return what a command in a machine, or one of its containers, finds in its environment."""
    snapshot = driver.snapshot
    addresses = run_containers.Addresses(snapshot.private_ip, snapshot.public_ip)
    return run_containers.environment(driver.machine, container, addresses, secrets)
