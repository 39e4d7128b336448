"""The settings of one host, parsed once into typed records.

Read from a TOML file, then the environment (`GODWIT_<SECTION>_<KEY>`), then flags; every
mistake is reported together. `godwit.host` turns them into each component's own file.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from godwit.base import errors

_STRICT = ConfigDict(frozen=True, extra="forbid")


def _programs() -> Path:
    built = Path(__file__).resolve().parents[3] / "build" / "programs"
    return built if built.is_dir() else Path("/usr/lib/godwit")


class Paths(BaseModel):
    """Where things lie. All absolute."""

    model_config = _STRICT

    data: Path = Path("/var/lib/godwit")
    """Everything that must survive: databases, keys, images, machines' disks."""
    run: Path = Path("/run/godwit")
    """Sockets and pids; gone after `godwit down`. Kept short: socket paths end at 108 bytes."""
    cache: Path = Path("/var/cache/godwit")
    """Rebuildable and shared by instances: guest kernel, base images, Rust programs."""
    programs: Path = Field(default_factory=_programs)
    """Where godwit-edge, godwit-dns, godwit-shim and godwit-init are: /usr/lib/godwit, or what
    `make programs` built when Godwit runs from its source."""

    @property
    def store(self) -> Path:
        """Images and machines' disks: on a reflink file system."""
        return self.data / "store"


class Listen(BaseModel):
    """Addresses the components listen on, `host:port`."""

    model_config = _STRICT

    api: str = "127.0.0.1:4280"
    """The REST API. 4280 is the port of the public Machines API inside a network."""
    edge: str = "0.0.0.0:8080"
    """Public HTTP; apps see it as external port 80."""
    edge_status: str = "127.0.0.1:8090"
    """The edge's readiness and metrics."""
    bus: str = "127.0.0.1:4222"
    registry: str = "127.0.0.1:5050"


class Host(BaseModel):
    """What this server is and may give to machines."""

    model_config = _STRICT

    region: str = Field("lcl", pattern=r"^[a-z]{3}$")
    """Three letters; `lcl` for a host that is nowhere in particular."""
    zone: str = Field("0000", pattern=r"^[0-9a-f]{4}$")
    memory_mb: int | None = Field(None, gt=0)
    """Memory for machines, MB; `None` means all but 1 GB of what the host has."""
    cpus: int | None = Field(None, gt=0)
    cpu_overcommit: float = Field(16.0, gt=0)
    """Virtual CPUs per real one: a shared vCPU has a baseline of 1/16 (spec/machines.md §6)."""
    first_vm_uid: int = Field(2_000_000, ge=100_000)
    """Machines run under uids from here on, one each."""
    uplink: str | None = None
    """Interface for NAT egress; `None` means whichever the route to the world uses."""
    dns_upstreams: tuple[str, ...] = ()
    """Resolvers for names outside; empty means those of /etc/resolv.conf."""
    accelerator: str = Field("auto", pattern="^(auto|kvm|tcg)$")


class Settings(BaseModel):
    """Everything `godwit up` can be told.

    Attributes:
        instance: Tells apart two Godwits on one server: cgroups and run directory carry it.
        apps_domain: Apps answer at `<app>.<apps_domain>`.
    """

    model_config = _STRICT

    instance: str = Field("godwit", pattern=r"^[a-z][a-z0-9-]{0,15}$")
    apps_domain: str = "godwit.localhost"
    paths: Paths = Paths()
    listen: Listen = Listen()
    host: Host = Host()


def load(path: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any]) -> Settings:
    """Return the settings from a file, the environment and flags, the last one winning.

    Args:
        path: A TOML file; `None` for none.
        environ: Variables such as `GODWIT_LISTEN_EDGE` or `GODWIT_INSTANCE`.
        flags: Dotted names to values, `None` values left out: `{"listen.edge": "…"}`.

    Raises:
        Failure: `invalid_argument`, naming every wrong setting.
    """
    merged: dict[str, Any] = {}
    if path is not None:
        try:
            merged = tomllib.loads(path.read_text())
        except OSError as error:
            raise errors.invalid(f"cannot read settings from {path}: {error.strerror}") from error
        except tomllib.TOMLDecodeError as error:
            raise errors.invalid(f"{path}: {error}") from error
    for name, value in environ.items():
        if name.startswith("GODWIT_"):
            _put_variable(merged, name.removeprefix("GODWIT_").lower(), value)
    for dotted, value in flags.items():
        if value is not None:
            _put(merged, dotted.split("."), value)
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise errors.invalid("these settings are wrong:\n  " + "\n  ".join(wrong)) from error


def from_process(flags: Mapping[str, Any] | None = None) -> Settings:
    """Return the settings for this process: $GODWIT_SETTINGS or /etc/godwit/godwit.toml."""
    named = os.environ.get("GODWIT_SETTINGS")
    standard = Path("/etc/godwit/godwit.toml")
    path = Path(named) if named else (standard if standard.exists() else None)
    return load(path, os.environ, flags or {})


def _put_variable(into: dict[str, Any], name: str, value: str) -> None:
    for section, model in (("paths", Paths), ("listen", Listen), ("host", Host)):
        key = name.removeprefix(f"{section}_")
        if key != name and key in model.model_fields:
            listed = key == "dns_upstreams"
            _put(into, [section, key], tuple(value.split(",")) if listed else value)
            return
    if name in ("instance", "apps_domain"):
        into[name] = value


def _put(into: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        into = into.setdefault(key, {})
    into[keys[-1]] = value


def read_resolved(path: Path) -> Settings:
    """Return the settings that `godwit up` resolved and wrote for its components (JSON)."""
    return Settings.model_validate_json(path.read_text())
