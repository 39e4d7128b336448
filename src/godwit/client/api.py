"""The API as one object: `async with Api(url, token) as api: await api.apps.get("x")`."""

from types import TracebackType
from typing import Self

import httpx

from godwit.base import clock
from godwit.client import (
    addresses,
    apps,
    builds,
    deploys,
    details,
    hosts,
    leases,
    logs,
    machines,
    moves,
    orgs,
    platform,
    registries,
    releases,
    secret_keys,
    secrets,
    terminals,
    tokens,
)
from godwit.client.transport import Transport


class Api:
    """Every resource of one API, for one token.

    Attributes:
        apps: Apps.
        addresses: Public addresses of apps.
        machines: Machines of apps.
        details: What a machine has beside its state.
        leases: The right to change a machine alone, for a time.
        moves: Machines that are made anew elsewhere.
        terminals: Commands in machines that somebody types into.
        orgs: Organizations.
        registries: Credentials for external registries.
        releases: Releases of apps.
        secret_keys: Keys that apps use by name.
        secrets: Secrets of apps, and the root keys under them.
        deploys: What replaces machines by those of a new release.
        builds: Building images from source.
        logs: What machines print.
        tokens: API tokens.
        platform: Regions.
        hosts: The servers of the cluster.
    """

    def __init__(
        self,
        base_url: str,
        token: str | None,
        *,
        http: httpx.AsyncBaseTransport | None = None,
        pauses: clock.Clock | None = None,
    ) -> None:
        self._transport = Transport(base_url, token, http=http, pauses=pauses)
        self.apps = apps.Apps(self._transport)
        self.addresses = addresses.Addresses(self._transport)
        self.machines = machines.Machines(self._transport)
        self.details = details.Details(self._transport)
        self.leases = leases.Leases(self._transport)
        self.moves = moves.Moves(self._transport)
        self.terminals = terminals.Terminals(self._transport)
        self.orgs = orgs.Orgs(self._transport)
        self.registries = registries.Registries(self._transport)
        self.releases = releases.Releases(self._transport)
        self.secret_keys = secret_keys.SecretKeys(self._transport)
        self.secrets = secrets.Secrets(self._transport)
        self.deploys = deploys.Deploys(self._transport)
        self.builds = builds.Builds(self._transport)
        self.logs = logs.Logs(self._transport)
        self.tokens = tokens.Tokens(self._transport)
        self.platform = platform.Platform(self._transport)
        self.hosts = hosts.Hosts(self._transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._transport.close()
