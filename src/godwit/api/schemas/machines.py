"""Machines: bodies and answers of spec/machines.md §1.2."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from godwit.api.schemas.common import In, Json, Out, ShortText, Text
from godwit.control import machine_actions, machine_config, machines
from godwit.wire import host_rpc

_EMBEDDED_EVENTS = 5


class CreateMachine(In):
    """A new machine. `config` is kept and returned exactly as submitted."""

    config: Json = {}
    name: ShortText = ""
    region: ShortText = ""
    skip_launch: bool = False
    skip_service_registration: bool = False

    def wanted(self) -> machines.NewMachine:
        """Return what the service is asked."""
        return machines.NewMachine(
            config=self.config,
            name=self.name,
            region=self.region,
            skip_launch=self.skip_launch,
            cordoned=self.skip_service_registration,
        )


class UpdateMachine(In):
    """A whole new config; name and region cannot change."""

    config: Json = {}
    name: ShortText = ""
    region: ShortText = ""
    skip_launch: bool = False
    skip_service_registration: bool = False
    current_version: ShortText = ""

    def wanted(self) -> machines.NewVersion:
        """Return what the service is asked."""
        return machines.NewVersion(
            config=self.config,
            name=self.name,
            region=self.region,
            skip_launch=self.skip_launch,
            current_version=self.current_version or None,
        )


def _seconds_or_duration(value: object) -> object:
    """Take `10s`, or a bare number of seconds as older clients send it."""
    if isinstance(value, str) and value.isdecimal():
        return machine_config.duration_ms(f"{value[:9]}s")
    return machine_config.duration_ms(value)


Grace = Annotated[
    int,
    BeforeValidator(_seconds_or_duration),
    Field(ge=0, le=machine_config.LONGEST_STOP_MS, json_schema_extra={"type": "string"}),
]


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
    """A command: a list, or (deprecated) one line as `cmd`. `timeout` in seconds."""

    command: list[Text] = []
    cmd: Text = ""
    stdin: str = ""
    timeout: int = Field(10, ge=1, le=machine_actions.LONGEST_EXEC_S)

    def wanted(self) -> machine_actions.Command:
        """Return what the service is asked."""
        return machine_actions.Command(
            argv=machine_actions.command(self.command, self.cmd),
            stdin=self.stdin,
            timeout_s=float(self.timeout),
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


class Machine(Out):
    """A machine. With `summary`, config, events, checks and host_status are left out."""

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
    host_status: str = "ok"

    @classmethod
    def of(cls, machine: machines.Machine, *, summary: bool = False) -> "Machine":
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
        if summary:
            return cls(**found)
        found |= {
            "config": view.config,
            "events": [Event.of(event) for event in view.events[:_EMBEDDED_EVENTS]],
            "checks": [CheckStatus(**check.model_dump()) for check in view.checks],
            "host_status": machine.host_status,
        }
        if machine.host_status != "ok":
            found["incomplete_config"] = view.config
        return cls(**found)


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


class Value(Out):
    """One value of a machine's metadata."""

    value: str


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
