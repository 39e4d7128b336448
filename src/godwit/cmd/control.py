"""The control plane of one server: `python -m godwit.cmd.control --settings FILE`.

Builds everything in order of dependency, serves the API, and leaves within ten seconds of
SIGTERM. The API starts and reads also while the bus is away; the bus is dialled in the background.
"""

import argparse
import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path

import uvicorn

from godwit.api import app as api
from godwit.api import joining as join_endpoint
from godwit.api.guest_requests import GuestRequests
from godwit.base import clock, errors, log, notify, private_memory, settings, tasks
from godwit.bus.regions import Hosts, Regions
from godwit.cmd.building import HostBuilder
from godwit.cmd.regions import RegionLinks
from godwit.control import (
    address_pools,
    edge_authority,
    machine_signer,
    registry,
    registry_tokens,
    residence,
    sealing,
    seed,
)
from godwit.control.context import Context, Options
from godwit.control.deploys.worker import Worker
from godwit.control.evacuation import Evacuation
from godwit.control.host_requests import HostRequests
from godwit.control.keeping import Keeping
from godwit.control.moves import Moves
from godwit.control.network_policies import PolicyTeller
from godwit.control.records import Host
from godwit.control.secret_keys import Sweeper
from godwit.control.standbys import Standbys
from godwit.control.upkeep import Upkeep
from godwit.host import cluster_certificate, joining, membership, relay
from godwit.host.distant_registry import DistantRegistry
from godwit.host.identity import HostIdentity, ensure_keys
from godwit.host.registry_keeper import RegistryKeeper
from godwit.images.resolver import Resolver
from godwit.keyring import client as keyring
from godwit.store import database, moving
from godwit.wire import guest_api, members

logger = logging.getLogger("godwit.control")

_DRAIN_S = 5
_NOT_YET = "EXTEND_TIMEOUT_USEC=60000000"
"""Rows are being carried: the supervisor gives another minute."""


@dataclass(frozen=True)
class Parts:
    """What control is made of."""

    ctx: Context
    store: database.Database
    regions: Regions
    here: Host


class Unsignalled(uvicorn.Server):
    """Uvicorn that ends by our word instead of by its own signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `_stop_on_signals`."""
        yield


class Server(Unsignalled):
    """The API's, which says when it answers."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then tell the supervisor."""
        await super().startup(sockets)
        if self.started:
            _tell("READY=1")
            logger.info("serving the API")


async def run(resolved: settings.Settings) -> int:
    """Serve until told to stop; return the exit code."""
    parts = await build(resolved)
    faults: list[str] = []
    listening = _listen(resolved.listen.api)
    served = api.create(parts.ctx)
    server = Server(
        uvicorn.Config(
            served,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            timeout_keep_alive=75,
            timeout_graceful_shutdown=_DRAIN_S,
        )
    )

    def on_fault(name: str, error: BaseException) -> None:
        faults.append(f"{name}: {error!r}")
        server.should_exit = True

    _stop_on_signals(server)
    try:
        async with tasks.Tasks("control", on_failure=on_fault, grace_s=2.0) as owned:
            asked = {
                **HostRequests(parts.ctx).handlers(),
                guest_api.VERB: GuestRequests(parts.ctx, served).answer,
            }
            links = RegionLinks(parts.ctx, parts.regions, asked, owned)
            owned.spawn(links.follow(parts.here, resolved.listen.bus), name="regions")
            _start(parts, links, owned)
            if resolved.listen.join is not None:
                owned.spawn(_let_join(parts.ctx, resolved, resolved.listen.join), name="join")
            for at, to in _passed_on(resolved, parts.here):
                owned.spawn(relay.share(at, to), name="relay")
            await server.serve(sockets=[listening])
            _tell("STOPPING=1")
        await links.close()
    finally:
        await parts.regions.close()
        await parts.store.close()
    logger.info("ended%s", f" for {faults[0]}" if faults else "")
    return 1 if faults or not server.started else 0


async def build(resolved: settings.Settings) -> Parts:
    """Open the database, make what is missing, and put everything together."""
    data = resolved.paths.data
    keys = data / "keys"
    identity = HostIdentity.model_validate_json((data / "host.json").read_text())
    (data / "control").mkdir(mode=0o700, parents=True, exist_ok=True)
    moving_hooks = moving.Hooks(progress=lambda: _tell(_NOT_YET))
    setting = resolved.control.database or ""
    store = await moving.open_home(data / "control", setting, moving_hooks)
    regions = Regions((keys / "control.seed").read_text().strip(), "control")
    options = replace(
        _options(resolved, identity.region),
        database=residence.choose(residence.Files(data / "control"), setting),
    )
    signer, time = registry_tokens.ensure(keys), clock.SystemClock()
    ctx = Context(
        store=store,
        hosts=Hosts(regions, _regions_of_hosts(store), _taking_hosts(store)),
        images=Resolver(options.registry, own_insecure=True),
        builder=HostBuilder(resolved),
        warehouse=RegistryKeeper(
            resolved, lambda name: registry.delete_token(signer, name, time.now_ms())
        )
        if "registry" in identity.roles
        else DistantRegistry(),
        clock=time,
        signer=signer,
        machine_signer=machine_signer.ensure(keys),
        sealer=sealing.ensure(keys),
        keyring=keyring.Client(resolved.paths.run / "keyring.sock"),
        options=options,
        authority=edge_authority.ensure(keys, time.now_ms()),
    )
    here = _this_host(resolved, identity)
    await seed.ensure(
        ctx,
        seed.Seed(
            operator_secret=(keys / "admin.token").read_text().strip(),
            host=here if joining.read_cluster(data) is None else None,
        ),
    )
    _clear(options.uploads)
    return Parts(ctx, store, regions, here)


def _this_host(resolved: settings.Settings, identity: HostIdentity) -> Host:
    address = resolved.host.address or str(members.mesh_address(identity.host_number))
    services = members.services(address, membership.ports(resolved, identity.roles))
    if door := _join_address(resolved):
        services["join"] = door
    return Host(
        id=identity.host_id,
        number=identity.host_number,
        public_key=identity.public_key,
        region=identity.region,
        zone=identity.zone,
        created_at_ms=0,
        sealing_key=identity.sealing_key,
        roles=list(identity.roles),
        keys=ensure_keys(resolved.paths.data, identity.roles).public,
        mesh_key=identity.mesh_key,
        endpoints=list(resolved.host.endpoints),
        services=services,
    )


def main() -> int:
    """Read the settings and run; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=Path, required=True)
    arguments = parser.parse_args()
    log.set_up("control")
    logging.getLogger("alembic").setLevel("WARNING")
    try:
        # Values of secrets pass through.
        private_memory.keep_out_of_core_dumps()
        return asyncio.run(run(_read(arguments.settings)))
    except errors.Failure as failure:
        logger.error("%s%s", failure.message, f" ({failure.hint})" if failure.hint else "")  # noqa: TRY400
    except OSError as error:
        logger.error("cannot start: %s", error)  # noqa: TRY400 (the message says it all)
    return 1


def _options(resolved: settings.Settings, region: str) -> Options:
    data, keep = resolved.paths.data, resolved.keep
    cluster = cluster_certificate.ensure(data / "keys")
    joined = joining.read_cluster(data)
    registry = None if joined is None else joined.registry
    return Options(
        region=region,
        apps_domain=resolved.apps_domain,
        registry=resolved.listen.registry if registry is None else registry.name,
        keys=data / "keys",
        uploads=data / "control" / "uploads",
        registry_secret=_secret(data / "keys" / "registry.secret"),
        api_name=resolved.api.name,
        rate_limits=resolved.api.rate_limits,
        org_machines=resolved.limits.org_machines,
        org_disk_bytes=keep.org_disk_mb * 1024**2,
        kept_releases=keep.releases,
        pushed_ms=keep.pushed_hours * 3_600_000,
        audit_ms=keep.audit_days * 86_400_000,
        machines_ms=keep.machines_days * 86_400_000,
        join_address=_join_address(resolved),
        join_fingerprint=cluster.fingerprint,
        join_root=cluster.root(),
        addresses=address_pools.parse(
            resolved.addresses.v4, resolved.addresses.v6, resolved.addresses.shared_v4
        ),
    )


def _passed_on(resolved: settings.Settings, here: Host) -> list[tuple[str, str]]:
    """Return what is to be passed on between this host and others: from where, to where.

    Others reach what listens on loopback here; on a host that joined, the registry answers here
    under the name that it has on its own.
    """
    joined = joining.read_cluster(resolved.paths.data)
    if joined is None and resolved.listen.join is None:
        return []
    listens = {"registry": resolved.listen.registry, "control": resolved.listen.api}
    found = [
        (at, to)
        for role, to in listens.items()
        if (at := here.services.get(role)) is not None and membership.shares(to, at)
    ]
    distant = None if joined is None else joined.registry
    if distant is not None and membership.shares(distant.name, distant.at):
        found.append((distant.name, distant.at))
    return found


def _join_address(resolved: settings.Settings) -> str:
    """Return where new servers reach the joining endpoint, empty when they cannot."""
    listen, host = resolved.listen.join, resolved.host
    if listen is None or host.join_address is not None:
        return "" if listen is None else str(host.join_address)
    address, _, port = listen.rpartition(":")
    if not ip_address(address.strip("[]")).is_unspecified:
        return listen
    first = next(iter(host.endpoints), "")
    return f"{first.rpartition(':')[0]}:{port}" if first else ""


async def _let_join(ctx: Context, resolved: settings.Settings, address: str) -> None:
    """Answer servers that join, for ever."""
    certificate = cluster_certificate.ensure(resolved.paths.data / "keys")
    server = Unsignalled(
        uvicorn.Config(
            join_endpoint.create(ctx),
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            ssl_certfile=certificate.certificate,
            ssl_keyfile=certificate.key,
            limit_concurrency=64,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=1,
        )
    )
    await server.serve(sockets=[_listen(address)])


def _regions_of_hosts(store: database.Database) -> Callable[[str], Awaitable[str | None]]:
    """Return a function that tells a host's region; a host keeps its region for life."""
    known: dict[str, str] = {}

    async def region_of(host_id: str) -> str | None:
        if host_id not in known:
            async with store.read() as rows:
                host = await rows.hosts.get(host_id)
            if host is None:
                return None
            known[host_id] = host.region
        return known[host_id]

    return region_of


def _taking_hosts(store: database.Database) -> Callable[[str], Awaitable[list[str]]]:
    """Return a function that tells which hosts of a region take machines."""

    async def hosts_of(region: str) -> list[str]:
        async with store.read() as rows:
            return await rows.hosts.active(region)

    return hosts_of


def _start(parts: Parts, links: RegionLinks, owned: tasks.Tasks) -> None:
    owned.spawn(Upkeep(parts.ctx).run(), name="upkeep")
    owned.spawn(Keeping(parts.ctx, links).run(), name="keeping")
    owned.spawn(Standbys(parts.ctx).run(), name="standbys")
    owned.spawn(PolicyTeller(parts.ctx).run(), name="network-policies")
    owned.spawn(Evacuation(parts.ctx).run(), name="evacuation")
    owned.spawn(Moves(parts.ctx).run(), name="moves")
    owned.spawn(Worker(parts.ctx).run(), name="deploys")
    owned.spawn(Sweeper(parts.ctx).run(), name="root-keys")


def _tell(state: str) -> None:
    """Tell the supervisor; one that has ended is no reason to fail."""
    with contextlib.suppress(OSError):
        notify.notify(state)


def _stop_on_signals(server: uvicorn.Server) -> None:
    def stop() -> None:
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)


def _listen(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host.strip("[]"), int(port)))
    except OSError as error:
        listening.close()
        raise errors.Failure(
            "unavailable", f"the API cannot listen on {address}: {error.strerror}"
        ) from error
    listening.listen(256)
    listening.setblocking(False)
    return listening


def _secret(path: Path) -> str:
    """Return what a file holds, empty when there is none."""
    return path.read_text().strip() if path.exists() else ""


def _read(path: Path) -> settings.Settings:
    if path.suffix == ".toml":
        return settings.load(path, {}, {})
    return settings.read_resolved(path)


def _clear(directory: Path) -> None:
    """Remove contexts that a former run left half-way."""
    for left in directory.glob("*.tar"):
        left.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
