"""What others see of a machine: the owner's view, and the fact for edges and DNS. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from godwit.agent.machines import config as settings
from godwit.agent.machines import holdings, lifecycle, records, service_ports, statics
from godwit.base import clock, encoded, errors
from godwit.durable.journal import Run
from godwit.wire import facts, host_rpc
from godwit.wire.guest_containers import Standing

_EMBEDDED_EVENTS = 5
_AUTOSTOPS: Mapping[str, Literal["off", "stop", "suspend"]] = {
    "true": "stop",
    "stop": "stop",
    "suspend": "suspend",
}
_DEFAULT_SOFT_LIMIT = 20
_PORTS = range(1, 65_536)
_AROUND_BYTES = 2_048
"""Room in a fact for all but metadata and services: ids, names, addresses."""


@dataclass(frozen=True)
class Identity:
    """Whose host this is: what every view and fact carries.

    Attributes:
        backhaul: Where its edge takes what other hosts' edges send, `address:port`.
    """

    host_id: str
    region: str
    zone: str
    epoch: int
    backhaul: str = ""


@dataclass(frozen=True)
class Snapshot:
    """A machine at one moment, replaced whole with every change.

    Attributes:
        events: The newest first.
        sentence: What it is doing right now, or why it rests.
        shown: Its public state.
        revision: Grows with every change on this host.
        public_ip: Under which it is seen outside, empty without a way out.
    """

    machine: records.Machine
    run: Run | None
    events: tuple[records.Event, ...]
    shown: str
    sentence: str
    revision: int
    private_ip: str
    local_ipv4: str
    public_ip: str = ""

    @property
    def version(self) -> str:
        """Return the version that is in place, or on its way."""
        update = _pending(self.run)
        return update.instance_id if update is not None else self.machine.instance_id

    @property
    def config(self) -> dict[str, Any]:
        """Return the config of that version, as submitted."""
        update = _pending(self.run)
        return update.config if update is not None else self.machine.config


_KINDS: dict[str, lifecycle.Kind] = {kind: kind for kind in lifecycle.KINDS}


def kind_of(name: str) -> lifecycle.Kind:
    """Return an operation's kind; one this build does not know counts as `clear`."""
    return _KINDS.get(name, "clear")


def operation(run: Run | None) -> lifecycle.Kind | None:
    """Return the kind of a run."""
    return None if run is None else kind_of(run.kind)


def needs(machine: records.Machine, run: Run | None) -> host_rpc.Resources | None:
    """Return what the machine takes from its host now; `None` when it takes nothing.

    While a new version replaces a running one it is the larger of both.
    """
    if not lifecycle.holds_memory(machine.state, operation(run)):
        return None
    update = _pending(run)
    if update is None:
        return machine.resources
    if machine.state != "started":
        return update.resources
    return larger(machine.resources, update.resources)


def larger(one: host_rpc.Resources, other: host_rpc.Resources) -> host_rpc.Resources:
    """Return resources that satisfy both."""
    kinds = (one.cpu_kind, other.cpu_kind)
    return host_rpc.Resources(
        cpu_kind="performance" if "performance" in kinds else "shared",
        cpus=max(one.cpus, other.cpus),
        memory_mb=max(one.memory_mb, other.memory_mb),
        max_memory_mb=max(one.max_memory_mb, other.max_memory_mb),
    )


def _pending(run: Run | None) -> host_rpc.Update | None:
    """Return the version a run is bringing, until it is in place."""
    if run is None or run.kind not in ("update", "replace") or "adopt_version" in run.done:
        return None
    return host_rpc.Update.model_validate(run.input["update"])


def resumed(snapshot: Snapshot) -> bool:
    """Tell whether a machine's process runs on from a snapshot, as far as kept events tell."""
    began = (event.type for event in snapshot.events if event.type in ("launch", "resume"))
    return next(began, "") == "resume"


def view(
    identity: Identity,
    snapshot: Snapshot,
    checks: Sequence[host_rpc.CheckStatus],
    *,
    written: holdings.Written | None = None,
    lease: host_rpc.Lease | None = None,
    containers: Sequence[Standing] = (),
) -> host_rpc.MachineView:
    """Return a machine as its owner sees it; a version on its way is shown already.

    Args:
        identity: This host.
        snapshot: The machine.
        checks: Their last results.
        written: What its metadata became since that version was submitted.
        lease: The one that is held.
        containers: What they do now.
    """
    machine, update = snapshot.machine, _pending(snapshot.run)
    updated_at_ms = max(machine.updated_at_ms, written.updated_at_ms if written else 0)
    config = effective(snapshot.config, written)
    return host_rpc.MachineView(
        machine_id=machine.machine_id,
        instance_id=snapshot.version,
        name=machine.name,
        org_id=machine.org_id,
        network_id=machine.network_id,
        app_id=machine.app_id,
        app=machine.app,
        host_id=identity.host_id,
        region=machine.region,
        state=snapshot.shown,
        sentence=snapshot.sentence,
        cordoned=machine.cordoned,
        private_ip=snapshot.private_ip,
        image=machine.image if update is None else update.image,
        config=config,
        created_at=clock.rfc3339(machine.created_at_ms),
        updated_at=clock.rfc3339(updated_at_ms),
        events=tuple(event.public() for event in snapshot.events[:_EMBEDDED_EVENTS]),
        checks=tuple(checks),
        containers=tuple(Standing(name=one.name, state=one.state) for one in containers),
        metadata=settings.metadata(config),
        lease=lease,
        secrets_version=(machine if update is None else update).secrets_version,
        epoch=identity.epoch,
        revision=snapshot.revision,
    )


def effective(config: dict[str, Any], written: holdings.Written | None) -> dict[str, Any]:
    """Return a config with its metadata as they are now; untouched while nobody wrote to them."""
    return config if written is None else config | {"metadata": dict(written.values)}


def fact(
    identity: Identity,
    snapshot: Snapshot,
    passing: Mapping[int, bool],
    written: holdings.Written | None = None,
    *,
    draining: bool = False,
) -> facts.MachineFact:
    """Return a machine as edges and DNS need it.

    Args:
        identity: This host.
        snapshot: The machine.
        passing: By the service's place in the config, whether its checks let traffic through.
        written: What the metadata of the version in place became since it was submitted.
        draining: It is kept from new requests for a moment.
    """
    machine = snapshot.machine
    config = effective(machine.config, written)
    return facts.MachineFact(
        owner=identity.host_id,
        epoch=identity.epoch,
        revision=snapshot.revision,
        deleted=machine.state == "destroyed",
        org_id=machine.org_id,
        network_id=machine.network_id,
        network_number=machine.network_number,
        app_id=machine.app_id,
        app=machine.app,
        machine_id=machine.machine_id,
        instance_id=machine.instance_id,
        name=machine.name,
        host_id=identity.host_id,
        region=machine.region,
        state=snapshot.shown,
        # An edge that knows of no drains keeps away all the same.
        cordoned=machine.cordoned or draining,
        draining=draining,
        in_dns=settings.in_dns(machine.config),
        private_ip=snapshot.private_ip,
        local_ipv4=snapshot.local_ipv4,
        process_group=settings.process_group(config),
        metadata=settings.metadata(config),
        services=services(machine.config, passing),
        autostop=autostop(machine.config),
        min_running=_min_running(machine.config, machine.region),
        statics=statics.told(machine.config),
    )


def check_told(config: Mapping[str, Any]) -> None:
    """Return if the bus would take the fact about a machine of this config.

    Control refuses one that is too long before it is offered; this is the owner's own word.

    Raises:
        Failure: `invalid_argument`.
    """
    said = [
        settings.metadata(config),
        settings.process_group(config),
        services(config, {}),
        statics.told(config),
    ]
    if sum(encoded.size(each) for each in said) > facts.MOST_BYTES - _AROUND_BYTES:
        raise errors.invalid(
            "config: its services and metadata are too long to be told of",
            hint="give fewer ports, or less metadata",
        )


def autostop(config: Mapping[str, Any]) -> Literal["off", "stop", "suspend"]:
    """Return what a machine's services allow, of which the one that allows least counts."""
    asked = [str(one.get("autostop")).lower() for one in settings.items(config.get("services"))]
    allowed = [_AUTOSTOPS.get(word, "off") for word in asked]
    if not allowed or "off" in allowed:
        return "off"
    return "stop" if "stop" in allowed else "suspend"


def _min_running(config: Mapping[str, Any], region: str) -> int:
    primary = settings.mapping(config.get("env")).get("PRIMARY_REGION")
    if primary and primary != region:
        return 0
    asked = [
        settings.number(one.get("min_machines_running"), 0)
        for one in settings.items(config.get("services"))
    ]
    return max(0, *asked, 0)


def services(config: Mapping[str, Any], passing: Mapping[int, bool]) -> tuple[facts.Service, ...]:
    """Return a config's services; one that makes no sense is left out."""
    found = []
    for index, given in enumerate(settings.items(config.get("services"))):
        internal_port = settings.number(given.get("internal_port"), 0)
        if internal_port not in _PORTS:
            continue
        limits = settings.mapping(given.get("concurrency"))
        hard_limit = settings.number(limits.get("hard_limit"), 0)
        kind: Literal["connections", "requests"] = (
            "requests" if limits.get("type") == "requests" else "connections"
        )
        try:
            found.append(
                facts.Service(
                    protocol="udp" if given.get("protocol") == "udp" else "tcp",
                    internal_port=internal_port,
                    ports=service_ports.ports(given),
                    passing=passing.get(index, True),
                    autostart=given.get("autostart") is not False
                    and config.get("disable_machine_autostart") is not True,
                    concurrency=kind,
                    soft_limit=settings.number(limits.get("soft_limit"), _DEFAULT_SOFT_LIMIT),
                    hard_limit=hard_limit or None,
                )
            )
        except ValidationError:
            continue
    return tuple(found)
