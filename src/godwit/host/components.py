"""The programs of one host: how each is started, and how it says that it is ready.

Pure: turns settings and identity into a list; `host.supervisor` runs it, `host.layout` writes
the files it names.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from godwit.base.settings import Settings
from godwit.host.identity import HostIdentity, Keys
from godwit.wire import components


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
    """

    name: str
    argv: tuple[str, ...]
    ready_at: str | None = None
    after: tuple[str, ...] = ()
    start_s: float = 60.0
    stop_s: float = 15.0
    settings_file: Path | None = None


def plan(settings: Settings) -> tuple[Component, ...]:
    """Return the host's components in the order they are started; stopping goes backwards."""
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
            "edge", (str(programs / "godwit-edge"), "--config", str(run / "edge.json")), stop_s=20
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
        listeners=(components.Listener(address=settings.listen.edge, port=80),),
        status_address=settings.listen.edge_status,
        agent_socket=str(settings.paths.run / "catalog.sock"),
        bus=_bus_client(settings, keys, "edge"),
        view_file=str(settings.paths.data / "edge" / "view.json"),
    )


def dns_config(
    settings: Settings, identity: HostIdentity, keys: Keys, upstreams: tuple[str, ...]
) -> components.DnsConfig:
    """Return what the DNS server is told."""
    return components.DnsConfig(
        host_id=identity.host_id,
        region=identity.region,
        addresses=("[fdaa::3]:53",),
        upstreams=upstreams,
        agent_socket=str(settings.paths.run / "catalog.sock"),
        bus=_bus_client(settings, keys, "dns"),
        view_file=str(settings.paths.data / "dns" / "view.json"),
    )


def registry_config(settings: Settings) -> str:
    """Return docker-registry's configuration: disk storage, tokens signed by control."""
    keys = settings.paths.data / "keys"
    secret = (keys / "registry.secret").read_text().strip()
    return f"""\
version: 0.1
log: {{level: warn, accesslog: {{disabled: true}}}}
storage:
  filesystem: {{rootdirectory: {_quoted(settings.paths.data / "registry")}}}
  delete: {{enabled: true}}
http:
  addr: {_quoted(settings.listen.registry)}
  secret: {_quoted(secret)}
auth:
  token:
    realm: {_quoted(f"http://{settings.listen.api}/registry/token")}
    service: godwit-registry
    issuer: godwit
    rootcertbundle: {_quoted(keys / "registry.crt")}
"""


def _quoted(text: object) -> str:
    """Return a YAML string: JSON's are."""
    return json.dumps(str(text))


def _bus_client(settings: Settings, keys: Keys, component: str) -> components.BusClient:
    return components.BusClient(
        servers=(f"nats://{settings.listen.bus}",), seed_file=str(keys.seed(component))
    )
