"""A machine's life by request: taken on, updated, started, stopped, suspended, destroyed."""

from typing import Any

from pydantic import Field

from godwit.agent.machines import config, leases, views
from godwit.agent.machines.driver import Driver
from godwit.agent.machines.lifecycle import Request
from godwit.agent.rpc.desk import Change, Desk, parse
from godwit.base import errors, log
from godwit.base.principal import Principal
from godwit.wire import host_rpc
from godwit.wire.record import Record


class Stop(Change):
    """Body of `machine.stop` and `machine.restart`."""

    signal: str | None = None
    timeout_ms: int | None = Field(None, ge=0)


class Suspend(Change):
    """Body of `machine.suspend`.

    Attributes:
        or_stop: Stop it instead when it cannot be suspended.
    """

    or_stop: bool = False


class Start(Change):
    """Body of `machine.start`.

    Attributes:
        min_secrets_version: The oldest secrets of its app that will do for this start.
    """

    min_secrets_version: int | None = None


class Destroy(Change):
    """Body of `machine.destroy`."""

    force: bool = False


class Lifecycle:
    """Answers what changes where a machine is in its life."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def reserve(self, who: Principal, body: dict[str, Any]) -> Record:
        """Take on a machine; idempotent by its id, the lease it begins under included."""
        offer = parse(host_rpc.Offer, body)
        log.bind(org_id=offer.org_id, network_id=offer.network_id, machine_id=offer.machine_id)
        views.check_told(offer.config)
        self._desk.secrets.check(offer.secrets, offer.secrets_version, offer.app_id)
        who.require("machines:write", offer.org_id, app_id=offer.app_id)
        await self._desk.policies.keep(offer.policies, offer.app_id)
        driver = await self._desk.machines.reserve(who, offer)
        return self._desk.view(driver, await self._mint(driver, offer))

    async def update(self, who: Principal, body: dict[str, Any]) -> Record:
        """Begin to replace a machine's version."""
        update = parse(host_rpc.Update, body)
        views.check_told(update.config)
        driver = self._desk.find(who, "machines:write", update.machine_id)
        if driver.snapshot.version == update.instance_id:
            return self._desk.view(driver, await self._mint(driver, update))
        secrets = self._desk.secrets
        secrets.check(update.secrets, update.secrets_version, driver.machine.app_id)
        await secrets.keep(driver.machine, update.instance_id, update.secrets)
        await self._desk.policies.keep(update.policies, driver.machine.app_id)
        before = self._desk.leases.held(update.machine_id)
        minted = await self._mint(driver, update)
        request: Request = "replace" if update.skip_launch else "update"
        # The caller's nonce is for this request; what an operation is begun with is kept. Its
        # secrets and policies are kept beside, and not again with every step.
        kept = update.model_copy(update={"nonce": None, "secrets": None, "policies": None})
        given = {"update": kept.model_dump(mode="json")}
        nonce = update.nonce if minted is None else minted.nonce
        try:
            await self._desk.ask(who, driver, request, given, nonce)
        except errors.Failure:
            if minted is not None and before is None:
                await self._desk.leases.release(driver.machine, minted.nonce)
            raise
        return self._desk.view(driver, minted)

    async def start(self, who: Principal, body: dict[str, Any]) -> dict[str, Any]:
        """Begin to start a machine."""
        asked = parse(Start, body)
        driver = self._desk.change(who, asked)
        given = {}
        if asked.min_secrets_version:
            given["min_secrets_version"] = asked.min_secrets_version
            _require_fresh_start(driver, asked.min_secrets_version)
        before = await self._desk.ask(who, driver, "start", given, asked.nonce)
        return {"previous_state": before}

    async def stop(self, who: Principal, body: dict[str, Any]) -> dict[str, Any]:
        """Begin to stop a machine."""
        return await self._end(who, "stop", body)

    async def restart(self, who: Principal, body: dict[str, Any]) -> dict[str, Any]:
        """Begin to stop and start a machine."""
        return await self._end(who, "restart", body)

    async def suspend(self, who: Principal, body: dict[str, Any]) -> dict[str, Any]:
        """Begin to suspend a machine."""
        asked = parse(Suspend, body)
        driver = self._desk.change(who, asked)
        await self._desk.ask(who, driver, "suspend", {"or_stop": asked.or_stop}, asked.nonce)
        return {}

    async def destroy(self, who: Principal, body: dict[str, Any]) -> dict[str, Any]:
        """Begin to destroy a machine; one that runs only with force."""
        asked = parse(Destroy, body)
        driver = self._desk.change(who, asked)
        if asked.force:
            # Force does not wait for the app: its process is killed, its disks are still synced.
            given = {"signal": "SIGKILL", "timeout_ms": 1_000}
            await self._desk.ask(who, driver, "kill", given, asked.nonce)
        else:
            await self._desk.ask(who, driver, "destroy", {}, asked.nonce)
        return {}

    async def cordon(self, who: Principal, body: dict[str, Any]) -> dict[str, Any]:
        """Keep the edges' traffic away."""
        await self._desk.change(who, parse(Change, body)).set_cordoned(cordoned=True)
        return {}

    async def uncordon(self, who: Principal, body: dict[str, Any]) -> dict[str, Any]:
        """Let the edges' traffic in again."""
        await self._desk.change(who, parse(Change, body)).set_cordoned(cordoned=False)
        return {}

    async def _end(self, who: Principal, request: Request, body: dict[str, Any]) -> dict[str, Any]:
        asked = parse(Stop, body)
        if asked.signal and config.signal_name(asked.signal) is None:
            raise errors.invalid(f"{asked.signal!r} is not a signal")
        driver = self._desk.change(who, asked)
        given = {"signal": asked.signal, "timeout_ms": asked.timeout_ms}
        await self._desk.ask(who, driver, request, given, asked.nonce)
        return {}

    async def _mint(
        self, driver: Driver, asked: host_rpc.Offer | host_rpc.Update
    ) -> host_rpc.Lease | None:
        """Acquire the lease that an offer or update asks for; the same again for the same one."""
        if asked.lease_ttl_s <= 0:
            return None
        request = host_rpc.LeaseRequest(
            machine_id=asked.machine_id,
            ttl_s=min(asked.lease_ttl_s, leases.LONGEST_TTL_S),
            owner=asked.lease_owner,
            nonce=asked.nonce if isinstance(asked, host_rpc.Update) else None,
        )
        held = await self._desk.leases.acquire(driver.machine, request, asked.instance_id)
        return leases.public(held, driver.snapshot.version, to_holder=True)


def _require_fresh_start(driver: Driver, least: int) -> None:
    """Return if a start would give a machine secrets of that version, or it has them.

    Raises:
        Failure: `failed_precondition`: its process runs on with older ones.
    """
    machine = driver.machine
    if machine.state in ("started", "suspended") and machine.secrets_version < least:
        raise errors.Failure(
            "failed_precondition",
            f"the machine is {machine.state} with secrets of version {machine.secrets_version},"
            f" not {least}",
            hint="stop it first: a process gets its secrets when it is begun",
        )
