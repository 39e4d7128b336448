"""Machines: bodies and answers of spec/machines.md §1.2."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from godwit.api.schemas.common import In, Json, Out, ShortText, Text
from godwit.base import clock, errors
from godwit.control import config_fields, leases, listing, machine_actions, machines
from godwit.wire import host_rpc

_EMBEDDED_EVENTS = 5
_SHOWN_OF_LEASE = {"description", "expires_at", "owner"}
_LISTED_OF_CONFIG = ("image", "guest", "metadata")


class _NewConfig(In):
    """What creating and updating share. `lsvd` and `skip_secrets` change nothing here."""

    config: Json = {}
    name: ShortText = ""
    region: ShortText = ""
    skip_launch: bool = False
    skip_service_registration: bool = False
    skip_secrets: bool = False
    lsvd: bool = False
    lease_ttl: int = Field(0, ge=0, le=leases.LONGEST_TTL_S)
    min_secrets_version: int | None = Field(None, ge=0, lt=2**63)


class CreateMachine(_NewConfig):
    """A new machine. `config` is kept and returned exactly as submitted.

    With `lease_ttl` in seconds it begins under a lease, whose nonce is in the answer.
    """

    def wanted(self) -> machines.NewMachine:
        """Return what the service is asked."""
        return machines.NewMachine(
            config=self.config,
            name=self.name,
            region=self.region,
            skip_launch=self.skip_launch,
            cordoned=self.skip_service_registration,
            lease_ttl_s=self.lease_ttl,
            min_secrets_version=self.min_secrets_version,
        )


class UpdateMachine(_NewConfig):
    """A whole new config; name and region cannot change."""

    current_version: ShortText = ""

    def wanted(self, nonce: str | None) -> machines.NewVersion:
        """Return what the service is asked."""
        return machines.NewVersion(
            config=self.config,
            name=self.name,
            region=self.region,
            skip_launch=self.skip_launch,
            current_version=self.current_version or None,
            lease_ttl_s=self.lease_ttl,
            min_secrets_version=self.min_secrets_version,
            nonce=nonce,
        )


def _seconds_or_duration(value: object) -> object:
    """Take `10s`, or a bare number of seconds as older clients send it."""
    if isinstance(value, str) and value.isdecimal():
        return config_fields.duration_ms(f"{value[:9]}s")
    return config_fields.duration_ms(value)


Grace = Annotated[
    int,
    BeforeValidator(_seconds_or_duration),
    Field(ge=0, le=config_fields.LONGEST_STOP_MS, json_schema_extra={"type": "string"}),
]


class StartMachine(In):
    """How to start. Secrets older than `min_secrets_version` will not do."""

    min_secrets_version: int | None = Field(None, ge=0, lt=2**63)


class StopMachine(In):
    """How to stop; what is left out is the config's."""

    signal: ShortText | None = None
    timeout: Grace | None = None

    def grace(self) -> machine_actions.Grace:
        """Return what the service is asked."""
        return machine_actions.Grace(machine_actions.stop_signal(self.signal), self.timeout)


class SignalMachine(In):
    """A signal by name or number."""

    signal: int | ShortText


class ExecMachine(In):
    """A command: a list, or (deprecated) one line as `cmd`. `timeout` in seconds.

    `container` names one of several containers, `machine` means beside them: not both. Without
    either a machine of containers runs it in its main one: `app`, else the first.
    """

    command: list[Text] = []
    cmd: Text = ""
    stdin: str = ""
    timeout: int = Field(10, ge=1, le=machine_actions.LONGEST_EXEC_S)
    container: ShortText = ""
    machine: bool = False

    def wanted(self) -> machine_actions.Command:
        """Return what the service is asked."""
        if self.container and self.machine:
            raise errors.invalid("container: give container or machine, not both")
        return machine_actions.Command(
            argv=machine_actions.command(self.command, self.cmd),
            stdin=self.stdin,
            timeout_s=float(self.timeout),
            container=self.container,
            machine=self.machine,
        )


class ImageRef(Out):
    """The image a machine runs."""

    registry: str
    repository: str
    tag: str
    digest: str
    labels: dict[str, str]


class Event(Out):
    """One entry of a machine's history; `timestamp` in milliseconds."""

    id: str
    type: str
    status: str
    source: str
    timestamp: int
    request: dict[str, Any] | None = None

    @classmethod
    def of(cls, event: host_rpc.MachineEvent) -> "Event":
        """Return an event as the API shows it."""
        found = event.model_dump(mode="json")
        if found["request"] is None:
            del found["request"]
        return cls(**found)


class CheckStatus(Out):
    """The last result of a check."""

    name: str
    status: str
    output: str
    updated_at: str


class HeldLease(Out):
    """The lease of a machine, to those who do not hold it; `expires_at` in Unix seconds."""

    description: str
    expires_at: int
    owner: str


class Container(Out):
    """A container of a machine that runs: `created`, `starting`, `started` or `stopped`."""

    name: str
    state: str


class Machine(Out):
    """A machine. With `summary`, config, events, checks and host_status are left out.

    `nonce` is there when the request acquired a lease, `lease` when it is asked for and held.
    """

    id: str
    name: str
    state: str
    region: str
    image_ref: ImageRef
    instance_id: str
    version: str
    private_ip: str
    created_at: str
    updated_at: str
    cordoned: bool
    config: Json = {}
    incomplete_config: Json | None = None
    events: list[Event] = []
    checks: list[CheckStatus] = []
    containers: list[Container] = []
    host_status: str = "ok"
    host_features: list[str] = []
    nonce: str = ""
    lease: HeldLease | None = None

    @classmethod
    def of(
        cls, machine: machines.Machine, *, summary: bool = False, leases: bool = False
    ) -> "Machine":
        """Return a machine as the API shows it."""
        view = machine.view
        found: dict[str, Any] = {
            "id": view.machine_id,
            "name": view.name,
            "state": view.state,
            "region": view.region,
            "image_ref": _image(view.image),
            "instance_id": view.instance_id,
            "version": view.instance_id,
            "private_ip": view.private_ip,
            "created_at": view.created_at,
            "updated_at": view.updated_at,
            "cordoned": view.cordoned,
        }
        if leases and view.lease is not None:
            found["lease"] = HeldLease(**view.lease.model_dump(include=_SHOWN_OF_LEASE))
        if summary:
            return cls(**found)
        found |= {
            "config": view.config,
            "events": [Event.of(event) for event in view.events[:_EMBEDDED_EVENTS]],
            "checks": [CheckStatus(**check.model_dump()) for check in view.checks],
            "host_status": machine.host_status,
            "host_features": [],
        }
        if view.containers:
            found["containers"] = [
                Container(name=one.name, state=one.state) for one in view.containers
            ]
        if machine.host_status != "ok":
            found["incomplete_config"] = view.config
        if view.lease is not None and view.lease.nonce:
            found["nonce"] = view.lease.nonce
        return cls(**found)


class OrgMachine(Out):
    """A machine in the list of an organization; of its config, what is listed by."""

    id: str
    name: str
    app_name: str
    region: str
    state: str
    version: str
    private_ip: str
    created_at: str
    updated_at: str
    config: Json = {}

    @classmethod
    def of(cls, found: listing.OrgMachine, *, summary: bool = False) -> "OrgMachine":
        """Return a machine as the API shows it."""
        view = found.view
        shown: dict[str, Any] = {
            "id": view.machine_id,
            "name": view.name,
            "app_name": found.app,
            "region": view.region,
            "state": view.state,
            "version": view.instance_id,
            "private_ip": view.private_ip,
            "created_at": view.created_at,
            "updated_at": clock.rfc3339(found.changed_at_ms),
        }
        if not summary:
            shown["config"] = {
                key: view.config[key] for key in _LISTED_OF_CONFIG if key in view.config
            }
        return cls(**shown)


class OrgMachines(Out):
    """Machines of an organization by last change.

    `last_machine_id` and `last_updated_at` are the newest change looked at: ask for what is
    `updated_after` it. `error_regions` are those where a host is silent.
    """

    machines: list[OrgMachine]
    next_cursor: str = ""
    last_machine_id: str = ""
    last_updated_at: str = ""
    error_regions: list[str] = []


class Started(Out):
    """What a started machine was before."""

    previous_state: str
    migrated: bool = False
    new_host: str = ""


class Waited(Out):
    """The state that was reached."""

    ok: bool = True
    event_id: str
    state: str
    version: str


class Ran(Out):
    """How a command ended."""

    exit_code: int
    exit_signal: int | None = None
    stdout: str
    stderr: str


class Version(Out):
    """A config a machine has had."""

    version: str
    user_config: Json


class Progress(Out):
    """What a machine's host does with it right now, in words."""

    id: str
    name: str
    state: str
    sentence: str
    host_id: str
    host_status: str


def _image(image: host_rpc.ImageRef) -> ImageRef:
    return ImageRef(
        registry=image.registry,
        repository=image.repository,
        tag=image.tag,
        digest=image.digest,
        labels=image.labels,
    )
