"""What is read of machines: themselves, their versions, events, waits, logs, usage."""

import asyncio
from typing import Any

from godwit.agent import logs
from godwit.agent.machines import versions, waits
from godwit.agent.rpc.desk import Desk, OfMachine, parse
from godwit.base import errors
from godwit.base.principal import Principal
from godwit.wire import host_rpc
from godwit.wire.record import Record

_LONGEST_WAIT_S = 60.0
_MOST_EVENTS = 50
_MOST_INTERVALS = 1_000


class OfVersion(OfMachine):
    """Body of `machine.get`."""

    version: str | None = None


class Versions(OfMachine):
    """Body of `machine.versions`.

    Attributes:
        before: Only versions older than this one.
    """

    before: str | None = None


class OfApp(Record):
    """Body of `machine.list`.

    Attributes:
        machine_ids: Only these, so that the answer fits the bus; all when left out.
    """

    app_id: str
    machine_ids: tuple[str, ...] | None = None


class Events(OfMachine):
    """Body of `machine.events`.

    Attributes:
        before: Only events older than this one.
    """

    limit: int = 20
    before: str | None = None


class Usage(Record):
    """Body of `usage.read`."""

    org_id: str | None = None
    after: int = 0
    limit: int = 100


class Look:
    """Answers what changes nothing."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def get(self, who: Principal, body: dict[str, Any]) -> Record:
        """Return one machine; of an old version, as `replaced`."""
        asked = parse(OfVersion, body)
        driver = self._desk.find(who, "machines:read", asked.machine_id)
        present = self._desk.view(driver)
        if asked.version in (None, "", present.instance_id):
            return present
        return await versions.replaced(
            self._desk.database, driver.snapshot, present, asked.version or ""
        )

    async def list(self, who: Principal, body: dict[str, Any]) -> dict[str, Any]:
        """Return an app's machines."""
        asked = parse(OfApp, body)
        found = self._desk.machines.of_app(who, asked.app_id)
        for driver in found:
            who.require("machines:read", driver.machine.org_id, app_id=asked.app_id)
        if asked.machine_ids is not None:
            wanted = set(asked.machine_ids)
            found = [each for each in found if each.machine.machine_id in wanted]
        return {"machines": [self._desk.view(each).model_dump(mode="json") for each in found]}

    async def versions(self, who: Principal, body: dict[str, Any]) -> dict[str, Any]:
        """Return a machine's versions, the newest first; as many as fit an answer."""
        asked = parse(Versions, body)
        driver = self._desk.find(who, "machines:read", asked.machine_id)
        found = await versions.all_of(self._desk.database, driver.snapshot)
        if asked.before:
            known = [each.version for each in found]
            found = found[known.index(asked.before) + 1 :] if asked.before in known else []
        told = versions.fitting(found)
        return {
            "versions": [each.model_dump(mode="json") for each in told],
            "more": len(told) < len(found),
        }

    async def wait(self, who: Principal, body: dict[str, Any]) -> Record:
        """Wait for one of several states."""
        asked = parse(host_rpc.WaitRequest, body)
        driver = self._desk.find(who, "machines:read", asked.machine_id)
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
        asked = parse(Events, body)
        driver = self._desk.find(who, "machines:read", asked.machine_id)
        limit = max(1, min(asked.limit, _MOST_EVENTS))
        found = await self._desk.machines.store.events(
            driver.machine.machine_id, limit, asked.before or None
        )
        return {"events": [event.public().model_dump(mode="json") for event in found]}

    async def read_logs(self, who: Principal, body: dict[str, Any]) -> Record:
        """Return log lines of an app's machines."""
        asked = parse(host_rpc.LogsRequest, body)
        sources = []
        for driver in self._desk.machines.of_app(who, asked.app_id):
            machine = driver.machine
            who.require("logs:read", machine.org_id, app_id=asked.app_id)
            if asked.machine_id in (None, machine.machine_id):
                sources.append(
                    logs.Source(
                        directory=self._desk.vmm.logs_directory(machine.machine_id),
                        org_id=machine.org_id,
                        app=machine.app,
                        machine_id=machine.machine_id,
                        region=machine.region,
                    )
                )
        return await logs.read(sources, asked.after, asked.limit)

    async def read_usage(self, who: Principal, body: dict[str, Any]) -> dict[str, Any]:
        """Return usage intervals of the organizations the principal may see."""
        asked = parse(Usage, body)
        org_ids = who.org_ids
        if asked.org_id is not None:
            # Whose usage it is decides, whatever else the principal may see.
            org_ids = frozenset({asked.org_id}) if who.may_see(asked.org_id) else frozenset()
        limit = max(1, min(asked.limit, _MOST_INTERVALS))
        found = await self._desk.machines.store.usage(org_ids, asked.after, limit)
        return {"intervals": [interval.model_dump(mode="json") for interval in found]}
