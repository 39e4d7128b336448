"""What the agent stores of a machine. Frozen; replaced whole with every change."""

from collections.abc import Mapping
from typing import Any

from godwit.agent import ports
from godwit.agent.machines import lifecycle, schedules
from godwit.images.config import ImageConfig
from godwit.wire import host_rpc
from godwit.wire.record import Record


class Restarts(Record):
    """Restarts by policy since somebody last asked for a start.

    Attributes:
        count: All of them.
        waited_ms: How long they waited, all together; that time does not count below.
        recent: When each was, in Unix milliseconds less the waiting.
    """

    count: int = 0
    waited_ms: int = 0
    recent: tuple[int, ...] = ()


class Machine(Record):
    """A machine as its owner stores it.

    Attributes:
        slot: Its place in the network; free again once it is destroyed.
        config: As submitted.
        pull_token: For the platform's registry; only as good as its life.
        min_secrets_version: The oldest secrets of its app that will do for this version.
        secrets_version: Of its app's secrets that this version has; 0 for none.
        state: Where it rests; what it is going through is in the journal.
        sentence: Why it rests there, for people.
        exit_code: Of the last exit.
        container_images: As in the offer.
        image_files: As in the offer.
        image_config: Of the image it was last started from.
        container_configs: Those of its containers' images then.
        started_at_ms: When its process was last started, or resumed.
        due_ms: When its schedule starts it next.
        forgotten: Its directory and logs are gone as well.
    """

    v: int = 1
    machine_id: str
    instance_id: str
    name: str
    org_id: str
    org_slug: str
    network_id: str
    network_number: int
    app_id: str
    app: str
    region: str
    slot: int
    image: host_rpc.ImageRef
    resources: host_rpc.Resources
    config: dict[str, Any]
    container_images: tuple[host_rpc.ImageRef, ...] = ()
    image_files: dict[str, str] = {}
    pull_token: str | None = None
    min_secrets_version: int | None = None
    secrets_version: int = 0
    state: lifecycle.State = "created"
    sentence: str = ""
    cordoned: bool = False
    restarts: Restarts = Restarts()
    exit_code: int | None = None
    image_config: ImageConfig | None = None
    container_configs: tuple[ImageConfig, ...] = ()
    started_at_ms: int | None = None
    due_ms: int | None = None
    created_at_ms: int
    updated_at_ms: int
    destroyed_at_ms: int | None = None
    forgotten: bool = False

    @property
    def about(self) -> dict[str, str]:
        """Return what log lines about the machine carry."""
        return {
            "org_id": self.org_id,
            "network_id": self.network_id,
            "app": self.app,
            "machine_id": self.machine_id,
        }

    @property
    def plumbing(self) -> ports.Plumbing:
        """Return its place in the network."""
        return ports.Plumbing(
            machine_id=self.machine_id,
            org_id=self.org_id,
            network_id=self.network_id,
            network_number=self.network_number,
            slot=self.slot,
        )


def launched(fetched: Mapping[str, Any]) -> dict[str, Any]:
    """Return what changes of a machine that was started from the images that were fetched."""
    of_containers = (one["config"] for one in fetched.get("containers", ()))
    return {
        "image_config": ImageConfig.model_validate(fetched["config"]),
        "container_configs": tuple(map(ImageConfig.model_validate, of_containers)),
    }


class Event(Record):
    """One entry of a machine's history, as stored.

    Attributes:
        key: Unique within the machine; writing the same event again does nothing.
        instance_id: The version it is about.
    """

    id: str
    machine_id: str
    instance_id: str
    key: str
    type: str
    status: str
    source: str
    timestamp: int
    request: dict[str, Any] | None = None

    def public(self) -> host_rpc.MachineEvent:
        """Return the event as clients see it."""
        return host_rpc.MachineEvent(
            id=self.id,
            type=self.type,
            status=self.status,
            source=self.source,
            timestamp=self.timestamp,
            request=self.request,
        )


def from_offer(offer: host_rpc.Offer, slot: int, now_ms: int) -> Machine:
    """Return the record of a machine that was just taken on."""
    return Machine(
        machine_id=offer.machine_id,
        instance_id=offer.instance_id,
        name=offer.name,
        org_id=offer.org_id,
        org_slug=offer.org_slug,
        network_id=offer.network_id,
        network_number=offer.network_number,
        app_id=offer.app_id,
        app=offer.app,
        region=offer.region,
        slot=slot,
        image=offer.image,
        resources=offer.resources,
        config=offer.config,
        container_images=offer.container_images,
        image_files=offer.image_files,
        pull_token=offer.pull_token,
        min_secrets_version=offer.min_secrets_version,
        secrets_version=offer.secrets_version,
        cordoned=offer.cordoned,
        due_ms=schedules.next_due(offer.config, now_ms, now_ms),
        created_at_ms=now_ms,
        updated_at_ms=now_ms,
    )


def updated(machine: Machine, update: host_rpc.Update, now_ms: int) -> Machine:
    """Return the record with a new version in place."""
    return machine.model_copy(
        update={
            "instance_id": update.instance_id,
            "image": update.image,
            "resources": update.resources,
            "config": update.config,
            "container_images": update.container_images,
            "image_files": update.image_files,
            "pull_token": update.pull_token,
            "min_secrets_version": update.min_secrets_version,
            "secrets_version": update.secrets_version,
            "due_ms": schedules.next_due(update.config, machine.created_at_ms, now_ms),
            "updated_at_ms": now_ms,
        }
    )
