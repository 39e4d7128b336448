"""Network policies of apps: made, replaced, listed, removed; and told to the hosts they concern.

Called by the API. Hosts get an app's policies with each machine they are offered and with each
update; `PolicyTeller` tells them of changes between. A host keeps what it was told, and decides
itself which of its machines a policy selects. All of an app's policies are one row with one
version, so what a host knows is either what there is or older as a whole.
"""

import asyncio
import contextlib
import logging
from dataclasses import replace

from godwit.base import encoded, errors, ids, principal
from godwit.base.principal import Principal
from godwit.control import apps, audit
from godwit.control.context import Context
from godwit.control.records import App, AppNetworkPolicies, PoliciesOnHost
from godwit.control.rows import Rows
from godwit.wire import metadata
from godwit.wire.network_policies import MOST_BYTES, AppPolicies, NetworkPolicy

logger = logging.getLogger(__name__)

MOST = 64
"""Policies of one app."""
_ME = principal.component("control")
_EVERY_S = 10.0
_AGAIN_MS = 3_600_000
_AT_ONCE = 16


async def listed(ctx: Context, who: Principal, app_name: str) -> list[NetworkPolicy]:
    """Return an app's policies, the oldest first."""
    async with ctx.store.read() as rows:
        app = await apps.require(rows, who, "apps:read", app_name)
        return list((await _of(rows, app)).policies)


async def get(ctx: Context, who: Principal, app_name: str, policy_id: str) -> NetworkPolicy:
    """Return one policy.

    Raises:
        Failure: `not_found`.
    """
    for one in await listed(ctx, who, app_name):
        if one.id == policy_id:
            return one
    raise _unknown(app_name, policy_id)


async def put(ctx: Context, who: Principal, app_name: str, wanted: NetworkPolicy) -> NetworkPolicy:
    """Make a policy, or replace the one whose id is given; its machines are held to it soon.

    Raises:
        Failure: `invalid_argument`; `not_found` when there is none of that id.
    """
    _check(wanted)
    async with ctx.store.write() as rows:
        app = await apps.require(rows, who, "apps:write", app_name)
        known = await _of(rows, app)
        if not wanted.id:
            made = wanted.model_copy(update={"id": ids.tagged("npl")})
            policies = (*known.policies, made)
        else:
            made = wanted
            if all(one.id != wanted.id for one in known.policies):
                raise _unknown(app_name, wanted.id)
            policies = tuple(made if one.id == made.id else one for one in known.policies)
        await _store(rows, app, known, policies)
        await audit.record(
            rows,
            ctx.clock,
            who,
            "network_policies.put",
            made.id,
            org_id=app.org_id,
            app=app.name,
            name=made.name,
        )
    ctx.policies_wanted.set()
    return made


async def remove(ctx: Context, who: Principal, app_name: str, policy_id: str) -> None:
    """Remove a policy; what it alone forbade is allowed soon.

    Raises:
        Failure: `not_found`.
    """
    async with ctx.store.write() as rows:
        app = await apps.require(rows, who, "apps:write", app_name)
        known = await _of(rows, app)
        policies = tuple(one for one in known.policies if one.id != policy_id)
        if len(policies) == len(known.policies):
            raise _unknown(app_name, policy_id)
        await _store(rows, app, known, policies)
        await audit.record(
            rows,
            ctx.clock,
            who,
            "network_policies.remove",
            policy_id,
            org_id=app.org_id,
            app=app.name,
        )
    ctx.policies_wanted.set()


async def told(ctx: Context, app: App) -> AppPolicies | None:
    """Return what a host is told of an app's policies; `None` while it has never had any."""
    async with ctx.store.read() as rows:
        found = await _of(rows, app)
    return found if found.version else None


def _check(wanted: NetworkPolicy) -> None:
    selector = wanted.selector
    if not wanted.name:
        raise errors.invalid("name: a network policy needs a name")
    if not (selector.all or selector.machines or selector.metadata):
        raise errors.invalid(
            "selector: says which machines are meant",
            hint='by "all": true, by machines or by metadata',
        )
    for at, machine in enumerate(selector.machines):
        if not ids.is_machine_id(machine.id):
            raise errors.invalid(
                f"selector.machines[{at}].id: {machine.id!r} is not the id of a machine"
            )
    metadata.check(selector.metadata, "selector.metadata")
    if not wanted.rules:
        raise errors.invalid("rules: a network policy has at least one rule")


async def _of(rows: Rows, app: App) -> AppPolicies:
    """Return an app's policies, at version 0 while it has never had any."""
    found = await rows.network_policies.of_app(app.id)
    if found is None:
        return AppPolicies(app_id=app.id, version=0)
    return _policies(found)


def _policies(row: AppNetworkPolicies) -> AppPolicies:
    policies = tuple(NetworkPolicy.model_validate(one) for one in row.policies)
    return AppPolicies(app_id=row.app_id, version=row.version, policies=policies)


async def _store(
    rows: Rows, app: App, known: AppPolicies, policies: tuple[NetworkPolicy, ...]
) -> None:
    """Store an app's policies as they are from now on.

    Raises:
        Failure: `invalid_argument` when they are too many.
    """
    kept = [one.model_dump(mode="json") for one in policies]
    grown = len(policies) >= len(known.policies)
    if len(policies) > MOST or (grown and encoded.size(kept) > MOST_BYTES):
        raise errors.invalid(
            f"app {app.name!r} may have {MOST} network policies, of {MOST_BYTES} bytes in all",
            hint="remove one, or select machines by metadata instead of by their ids",
        )
    row = AppNetworkPolicies(
        app_id=app.id, org_id=app.org_id, version=known.version + 1, policies=kept
    )
    await rows.network_policies.put(row)


def _unknown(app_name: str, policy_id: str) -> errors.Failure:
    return errors.not_found(f"app {app_name!r} has no network policy {policy_id!r}")


class PolicyTeller:
    """Tells every host the policies of the apps it has machines of, until it has heard them."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._heard: dict[PoliciesOnHost, int] = {}

    async def run(self) -> None:
        """Tell for ever: at once what changes here, and what other replicas changed soon."""
        while True:
            self._ctx.policies_wanted.clear()
            try:
                await self.tell()
            except errors.Failure as failure:
                logger.warning("hosts are told network policies later: %s", failure.message)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_EVERY_S):
                    await self._ctx.policies_wanted.wait()

    async def tell(self) -> None:
        """Tell every host that has not heard the newest; one that has heard, once an hour."""
        async with self._ctx.store.read() as rows:
            there = await rows.network_policies.on_hosts()
        now_ms = self._ctx.clock.now_ms()
        self._heard = {one: at for one, at in self._heard.items() if one in set(there)}
        due = [one for one in there if now_ms - self._heard.get(one, -_AGAIN_MS) >= _AGAIN_MS]
        some = asyncio.Semaphore(_AT_ONCE)

        async def tell(one: PoliciesOnHost) -> None:
            async with some:
                await self._tell(one)

        await asyncio.gather(*(tell(one) for one in due))

    async def _tell(self, one: PoliciesOnHost) -> None:
        async with self._ctx.store.read() as rows:
            row = await rows.network_policies.of_app(one.app_id)
        if row is None:
            return
        try:
            await self._ctx.hosts.call(
                one.host_id, "policies.set", _policies(row), _ME, self._ctx.options.ask_s
            )
        except errors.Failure as failure:
            logger.debug(
                "host %s is told network policies later: %s", one.host_id, failure.message
            )
        else:
            self._heard[replace(one, version=row.version)] = self._ctx.clock.now_ms()
