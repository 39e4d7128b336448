"""The requests of `wire.host_rpc`, answered: parse, look up, call one function, wrap.

Every handler takes the `Principal` that the request carries. What a principal may not see does
not exist for it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from pydantic import Field, ValidationError

from godwit.agent import logs, ports
from godwit.agent.checks import Checks
from godwit.agent.machines import config, run_spec, views, waits
from godwit.agent.machines.driver import Driver
from godwit.agent.machines.lifecycle import Request
from godwit.agent.machines.registry import Machines
from godwit.base import errors
from godwit.base.principal import Principal, Scope
from godwit.wire import host_rpc
from godwit.wire.record import Record

R = TypeVar("R", bound=Record)

Handler = Callable[[Principal, dict[str, Any]], Awaitable[Record | dict[str, Any]]]

_INTENT_S = 30.0
_LONGEST_WAIT_S = 60.0
_LONGEST_EXEC_S = 300.0
_MOST_EVENTS = 50
_MOST_INTERVALS = 1_000


class OfMachine(Record):
    """Body of requests about one machine."""

    machine_id: str


class OfApp(Record):
    """Body of `machine.list`."""

    app_id: str


class Stop(OfMachine):
    """Body of `machine.stop` and `machine.restart`."""

    signal: str | None = None
    timeout_ms: int | None = Field(None, ge=0)


class Signal(OfMachine):
    """Body of `machine.signal`."""

    signal: str


class Destroy(OfMachine):
    """Body of `machine.destroy`."""

    force: bool = False


class Events(OfMachine):
    """Body of `machine.events`."""

    limit: int = 20


class Usage(Record):
    """Body of `usage.read`."""

    org_id: str | None = None
    after: int = 0
    limit: int = 100


class Rpc:
    """This host's answers.

    Args:
        identity: This host.
        machines: What it owns.
        checks: Their results.
        vmm: For exec and signals, and where the logs are.
    """

    def __init__(
        self, identity: views.Identity, machines: Machines, checks: Checks, vmm: ports.Vmm
    ) -> None:
        self._identity = identity
        self._machines = machines
        self._checks = checks
        self._vmm = vmm

    def handlers(self) -> Mapping[str, Handler]:
        """Return every verb and its handler."""
        return {
            "machine.reserve": self.reserve,
            "machine.get": self.get,
            "machine.list": self.list,
            "machine.update": self.update,
            "machine.start": self.start,
            "machine.stop": self.stop,
            "machine.restart": self.restart,
            "machine.signal": self.signal,
            "machine.destroy": self.destroy,
            "machine.cordon": self.cordon,
            "machine.uncordon": self.uncordon,
            "machine.wait": self.wait,
            "machine.exec": self.exec,
            "machine.events": self.events,
            "logs.read": self.read_logs,
            "usage.read": self.read_usage,
        }

    # -- machines -----------------------------------------------------------------------

    async def reserve(self, who: Principal, body: dict[str, Any]) -> Record:
        """Take on a machine; idempotent by its id."""
        offer = _parse(host_rpc.Offer, body)
        return self._view(await self._machines.reserve(who, offer))

    async def get(self, who: Principal, body: dict[str, Any]) -> Record:
        """Return one machine."""
        return self._view(self._find(who, "machines:read", _parse(OfMachine, body).machine_id))

    async def list(self, who: Principal, body: dict[str, Any]) -> dict[str, Any]:
        """Return an app's machines."""
        app_id = _parse(OfApp, body).app_id
        found = self._machines.of_app(who, app_id)
        for driver in found:
            who.require("machines:read", driver.machine.org_id)
        return {"machines": [self._view(driver).model_dump(mode="json") for driver in found]}

    async def update(self, who: Principal, body: dict[str, Any]) -> Record:
        """Begin to replace a machine's version."""
        update = _parse(host_rpc.Update, body)
        request: Request = "replace" if update.skip_launch else "update"
        given = {"update": update.model_dump(mode="json")}
        driver = self._find(who, "machines:write", update.machine_id)
        if driver.snapshot.version != update.instance_id:
            await self._ask(who, driver, request, given)
        return self._view(driver)

    async def start(self, who: Principal, body: dict[str, Any]) -> dict[str, Any]:
        """Begin to start a machine."""
        driver = self._find(who, "machines:write", _parse(OfMachine, body).machine_id)
        return {"previous_state": await self._ask(who, driver, "start", {})}

    async def stop(self, who: Principal, body: dict[str, Any]) -> dict[str, Any]:
        """Begin to stop a machine."""
        return await self._end(who, "stop", body)

    async def restart(self, who: Principal, body: dict[str, Any]) -> dict[str, Any]:
        """Begin to stop and start a machine."""
        return await self._end(who, "restart", body)

    async def destroy(self, who: Principal, body: dict[str, Any]) -> dict[str, Any]:
        """Begin to destroy a machine; one that runs only with force."""
        asked = _parse(Destroy, body)
        driver = self._find(who, "machines:write", asked.machine_id)
        if asked.force:
            # Force does not wait for the app: its process is killed, its disks are still synced.
            await self._ask(who, driver, "kill", {"signal": "SIGKILL", "timeout_ms": 1_000})
        else:
            await self._ask(who, driver, "destroy", {})
        return {}

    async def cordon(self, who: Principal, body: dict[str, Any]) -> dict[str, Any]:
        """Keep the edges' traffic away."""
        driver = self._find(who, "machines:write", _parse(OfMachine, body).machine_id)
        await driver.set_cordoned(cordoned=True)
        return {}

    async def uncordon(self, who: Principal, body: dict[str, Any]) -> dict[str, Any]:
        """Let the edges' traffic in again."""
        driver = self._find(who, "machines:write", _parse(OfMachine, body).machine_id)
        await driver.set_cordoned(cordoned=False)
        return {}

    async def signal(self, who: Principal, body: dict[str, Any]) -> dict[str, Any]:
        """Send a signal to the main process."""
        asked = _parse(Signal, body)
        driver = self._find(who, "machines:write", asked.machine_id)
        name = config.signal_name(asked.signal)
        if name is None:
            raise errors.invalid(f"{asked.signal!r} is not a signal")
        session = await self._session(driver)
        try:
            await session.signal(name)
        finally:
            await session.close()
        return {}

    async def exec(self, who: Principal, body: dict[str, Any]) -> Record:
        """Run one command in a machine to its end."""
        asked = _parse(host_rpc.ExecRequest, body)
        driver = self._find(who, "machines:exec", asked.machine_id)
        if not asked.command:
            raise errors.invalid("command is empty")
        if not 0 < asked.timeout_s <= _LONGEST_EXEC_S:
            raise errors.invalid(f"timeout must be within 0..{_LONGEST_EXEC_S:g} s")
        session = await self._session(driver)
        try:
            return await session.exec(asked, _environment(driver))
        finally:
            await session.close()

    async def wait(self, who: Principal, body: dict[str, Any]) -> Record:
        """Wait for one of several states."""
        asked = _parse(host_rpc.WaitRequest, body)
        driver = self._find(who, "machines:read", asked.machine_id)
        wanted = waits.Wanted(
            asked.states or ("started",), asked.version or None, asked.from_event_id or None
        )
        try:
            async with asyncio.timeout(max(0.0, min(asked.timeout_s, _LONGEST_WAIT_S))):
                answer = await driver.wait(wanted)
        except TimeoutError as error:
            message = waits.DEADLINE.format(
                want=", ".join(wanted.states), have=driver.snapshot.shown
            )
            raise errors.Failure("deadline_exceeded", message) from error
        if isinstance(answer, waits.Reached):
            return host_rpc.WaitAnswer(
                state=answer.state, version=answer.version, event_id=answer.event_id
            )
        if isinstance(answer, waits.Impossible):
            raise errors.Failure("conflict", answer.sentence)
        raise errors.not_found(f"machine {asked.machine_id} is destroyed")

    async def events(self, who: Principal, body: dict[str, Any]) -> dict[str, Any]:
        """Return a machine's history, the newest first."""
        asked = _parse(Events, body)
        driver = self._find(who, "machines:read", asked.machine_id)
        limit = max(1, min(asked.limit, _MOST_EVENTS))
        found = await self._machines.store.events(driver.machine.machine_id, limit)
        return {"events": [event.public().model_dump(mode="json") for event in found]}

    # -- logs and usage -----------------------------------------------------------------

    async def read_logs(self, who: Principal, body: dict[str, Any]) -> Record:
        """Return log lines of an app's machines."""
        asked = _parse(host_rpc.LogsRequest, body)
        sources = []
        for driver in self._machines.of_app(who, asked.app_id):
            machine = driver.machine
            who.require("logs:read", machine.org_id)
            if asked.machine_id in (None, machine.machine_id):
                sources.append(
                    logs.Source(
                        directory=self._vmm.logs_directory(machine.machine_id),
                        org_id=machine.org_id,
                        app=machine.app,
                        machine_id=machine.machine_id,
                        region=machine.region,
                    )
                )
        return await logs.read(sources, asked.after, asked.limit)

    async def read_usage(self, who: Principal, body: dict[str, Any]) -> dict[str, Any]:
        """Return usage intervals of the organizations the principal may see."""
        asked = _parse(Usage, body)
        org_ids = who.org_ids
        if asked.org_id is not None:
            # Whose usage it is decides, whatever else the principal may see.
            org_ids = frozenset({asked.org_id}) if who.may_see(asked.org_id) else frozenset()
        limit = max(1, min(asked.limit, _MOST_INTERVALS))
        found = await self._machines.store.usage(org_ids, asked.after, limit)
        return {"intervals": [interval.model_dump(mode="json") for interval in found]}

    # -- shared -------------------------------------------------------------------------

    def _find(self, who: Principal, scope: Scope, machine_id: str) -> Driver:
        driver = self._machines.get(who, machine_id)
        who.require(scope, driver.machine.org_id)
        return driver

    def _view(self, driver: Driver) -> host_rpc.MachineView:
        results = self._checks.results(driver.machine.machine_id)
        return views.view(self._identity, driver.snapshot, results)

    async def _end(self, who: Principal, request: Request, body: dict[str, Any]) -> dict[str, Any]:
        asked = _parse(Stop, body)
        if asked.signal and config.signal_name(asked.signal) is None:
            raise errors.invalid(f"{asked.signal!r} is not a signal")
        driver = self._find(who, "machines:write", asked.machine_id)
        given = {"signal": asked.signal, "timeout_ms": asked.timeout_ms}
        await self._ask(who, driver, request, given)
        return {}

    async def _ask(
        self, who: Principal, driver: Driver, request: Request, given: Mapping[str, Any]
    ) -> str:
        source = "flyd" if who.subject.startswith("component:") else "user"
        try:
            async with asyncio.timeout(_INTENT_S):
                return await driver.ask(request, {**given, "source": source})
        except TimeoutError as error:
            raise errors.Failure(
                "deadline_exceeded",
                f"the machine is busy: {driver.snapshot.shown}, {driver.snapshot.sentence}",
            ) from error

    async def _session(self, driver: Driver) -> ports.ShimSession:
        session = await self._vmm.connect(driver.machine.machine_id)
        if session is None:
            raise errors.Failure(
                "failed_precondition", f"the machine is not running: it is {driver.snapshot.shown}"
            )
        return session


def _environment(driver: Driver) -> dict[str, str]:
    machine = driver.machine
    if machine.image_config is None:
        return {}
    return run_spec.environment(machine, machine.image_config, driver.snapshot.private_ip)


def _parse(kind: type[R], body: dict[str, Any]) -> R:
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise errors.invalid(wrong) from error
