"""The programs of one host: how each is started, and how it says that it is ready.

Pure: turns settings and identity into a list; `host.supervisor` runs it, `host.layout` writes
the files it names.
"""

import json
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from godwit.base.settings import ROLES, Role, Settings
from godwit.control import regions, registry_events
from godwit.host import bus_file, edge_keys, membership
from godwit.host.identity import HostIdentity, Keys
from godwit.images.auth import Credentials
from godwit.wire import components, fly_src, members
from godwit.wire.private import RESOLVER

_UPLOADS = {"enabled": True, "age": "24h", "interval": "6h", "dryrun": False}


@dataclass(frozen=True)
class Component:
    """One supervised program.

    Attributes:
        name: Names its log, its pid file and its line in `godwit status`.
        ready_at: `host:port` that accepts connections once it is ready; `None` when it says so
            itself by sd_notify.
        after: Components that must have been ready once before it is started.
        start_s: It is started again when it was not ready by then.
        stop_s: From SIGTERM to SIGKILL.
        hand_over: Where its successor takes over from it; such a component runs on when the
            supervising process hands over, until then.
    """

    name: str
    argv: tuple[str, ...]
    ready_at: str | None = None
    after: tuple[str, ...] = ()
    start_s: float = 60.0
    stop_s: float = 15.0
    hand_over: Path | None = None


def plan(settings: Settings, roles: Collection[Role] = ROLES) -> tuple[Component, ...]:
    """Return a host's components in the order they are started; stopping goes backwards."""
    everything = _everything(settings)
    here = {one.name for one in everything if _ROLE.get(one.name, one.name) in roles}
    return tuple(
        replace(one, after=tuple(name for name in one.after if name in here))
        for one in everything
        if one.name in here
    )


_ROLE: Mapping[str, Role] = {"catalog": "bus"}
"""The role of a component that has another name."""


def _everything(settings: Settings) -> tuple[Component, ...]:
    run = settings.paths.run
    python = (sys.executable, "-m")
    told = ("--settings", str(run / "settings.json"))
    programs = settings.paths.programs
    return (
        Component(
            "bus",
            (str(Path(sys.executable).parent / "nats-server"), "-c", str(run / "bus.conf")),
            ready_at=settings.listen.bus,
        ),
        Component("catalog", (*python, "godwit.cmd.catalog", *told), after=("bus",)),
        Component("keyring", (*python, "godwit.cmd.keyring", *told)),
        Component("control", (*python, "godwit.cmd.control", *told), after=("bus",)),
        Component(
            "registry",
            ("docker-registry", "serve", str(run / "registry.yml")),
            ready_at=settings.listen.registry,
            # Control makes the key that the registry trusts.
            after=("control",),
        ),
        Component("agent", (*python, "godwit.cmd.agent", *told), after=("bus",), start_s=180.0),
        Component(
            "edge",
            (str(programs / "godwit-edge"), "--config", str(run / "edge.json")),
            stop_s=20,
            hand_over=run / "edge.handover",
        ),
        Component(
            "dns",
            (str(programs / "godwit-dns"), "--config", str(run / "dns.json")),
            # The agent puts fdaa::3 on the loopback interface.
            after=("agent",),
        ),
    )


def edge_config(settings: Settings, identity: HostIdentity, keys: Keys) -> components.EdgeConfig:
    """Return what the edge is told."""
    return components.EdgeConfig(
        host_id=identity.host_id,
        region=identity.region,
        apps_domain=settings.apps_domain,
        listeners=_edge_listeners(settings),
        status_address=settings.listen.edge_status,
        agent_socket=str(settings.paths.run / "catalog.sock"),
        bus=_bus_client(settings, identity, keys, "edge"),
        view_file=str(settings.paths.data / "edge" / "view.json"),
        backhaul=members.backhaul(identity.host_number, settings.listen.backhaul),
        limits=components.EdgeLimits(autostop_ms=settings.limits.autostop_s * 1_000),
        region_aliases=regions.aliases(),
        region_ms=regions.round_trips(identity.region),
        addresses=settings.edge.addresses,
        reserved_ports=_reserved_ports(settings),
        proxies=settings.edge.trusted_proxies,
        forwarders=settings.edge.trusted_forwarders,
        tls=edge_keys.tls(settings.paths.data),
        handover_socket=str(settings.paths.run / "edge.handover"),
        api=_api(settings, identity),
        flycast=f"[{RESOLVER}]:{settings.listen.flycast}",
        fly_src_key_file=str(settings.paths.data / "keys" / fly_src.KEY_FILE),
    )


def _edge_listeners(settings: Settings) -> tuple[components.Listener, ...]:
    told = ((settings.listen.edge, 80), (settings.listen.edge_tls, 443))
    return tuple(
        components.Listener(address=address, port=port) for address, port in told if address
    )


def _reserved_ports(settings: Settings) -> tuple[int, ...]:
    """Return the ports that no app may get: what starts later than the edge needs its own."""
    listen = settings.listen
    own = [listen.api, listen.edge_status, listen.registry, listen.bus, bus_file.above(listen.bus)]
    own += [listen.join] if listen.join else []
    ports = {int(address.rpartition(":")[2]) for address in own}
    ports |= {listen.backhaul, listen.mesh, listen.flycast}
    return tuple(sorted(ports | set(settings.edge.reserved_ports)))


def _api(settings: Settings, identity: HostIdentity) -> components.Api | None:
    if settings.api.name is None:
        return None
    servers = membership.controls(settings, identity.host_id, identity.roles)
    return components.Api(name=settings.api.name, servers=tuple(servers))


def dns_config(
    settings: Settings, identity: HostIdentity, keys: Keys, upstreams: tuple[str, ...]
) -> components.DnsConfig:
    """Return what the DNS server is told."""
    return components.DnsConfig(
        host_id=identity.host_id,
        region=identity.region,
        addresses=(f"[{RESOLVER}]:53",),
        upstreams=upstreams,
        agent_socket=str(settings.paths.run / "catalog.sock"),
        bus=_bus_client(settings, identity, keys, "dns"),
        view_file=str(settings.paths.data / "dns" / "view.json"),
        region_ms=regions.round_trips(identity.region),
    )


def registry_config(settings: Settings, *, read_only: bool = False) -> str:
    """Return docker-registry's configuration: disk storage, tokens signed by control."""
    # Uploads that were given up are no organization's to keep; nor may the registry clear them
    # away while its garbage is collected.
    maintenance = json.dumps(
        {"readonly": {"enabled": True}, "uploadpurging": {"enabled": False}}
        if read_only
        else {"uploadpurging": _UPLOADS}
    )
    keys = settings.paths.data / "keys"
    secret = (keys / "registry.secret").read_text().strip()
    return f"""\
version: 0.1
log: {{level: warn, accesslog: {{disabled: true}}}}
storage:
  filesystem: {{rootdirectory: {_quoted(settings.paths.data / "registry")}}}
  delete: {{enabled: true}}
  maintenance: {maintenance}
http:
  addr: {_quoted(settings.listen.registry)}
  secret: {_quoted(secret)}
notifications:
  endpoints:
    - name: control
      url: {_quoted(f"http://{settings.listen.api}/registry/events")}
      headers: {{Authorization: [{_quoted(_events_login(secret))}]}}
      timeout: 5s
      threshold: 3
      backoff: 2s
      ignore: {{actions: [pull, mount], mediatypes: [application/octet-stream]}}
auth:
  token:
    realm: {_quoted(f"http://{settings.listen.api}/registry/token")}
    service: godwit-registry
    issuer: godwit
    rootcertbundle: {_quoted(keys / "registry.crt")}
"""


def _events_login(secret: str) -> str:
    return Credentials(registry_events.USER, registry_events.password(secret)).basic()


def _quoted(text: object) -> str:
    """Return a YAML string: JSON's are."""
    return json.dumps(str(text))


def _bus_client(
    settings: Settings, identity: HostIdentity, keys: Keys, component: str
) -> components.BusClient:
    servers = membership.own_bus(settings, identity)
    return components.BusClient(servers=tuple(servers), seed_file=str(keys.seed(component)))
