"""The machines of `fake_api`: what is kept of one, and what its image does when it starts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Script:
    """What machines of an image do.

    Attributes:
        exit_code: They exit by themselves with this code as soon as they start.
        restarts: How often the platform starts them again after that.
        checks: The status of each of their checks, look by look; the last one stays.
        output: What checks say.
        logs: What they print.
        never_starts: They stay in `starting`.
        fails: They end in `failed` with this message, and never start.
        labels: Of the image.
    """

    exit_code: int | None = None
    restarts: int = 0
    checks: tuple[str, ...] = ("passing",)
    output: str = "ok"
    logs: tuple[str, ...] = ()
    never_starts: bool = False
    fails: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass
class FakeMachine:
    """A machine of the fake."""

    id: str
    app: str
    name: str
    region: str
    config: Json
    version: str
    state: str = "created"
    cordoned: bool = False
    events: list[Json] = field(default_factory=list)
    looks: int = 0
    signals: list[str] = field(default_factory=list)
    versions: list[Json] = field(default_factory=list)
    lease: Json | None = None
    limit_mb: int = 256


def managed_config(image: str = "old:1", group: str = "app", version: int = 1) -> Json:
    """Return the config of a machine that deploys manage."""
    return {
        "image": image,
        "metadata": {
            "fly_platform_version": "v2",
            "fly_process_group": group,
            "fly_release_version": str(version),
        },
    }


def check_names(config: Json) -> list[str]:
    """Return the names of a config's checks, as the API shows them."""
    names = list(config.get("checks") or {})
    for number, service in enumerate(config.get("services") or []):
        names += [
            f"servicecheck-{number:02}-{one['type']}-{service['internal_port']}"
            for one in service.get("checks") or []
        ]
    return names
