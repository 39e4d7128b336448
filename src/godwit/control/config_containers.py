"""Containers of a machine, and the volumes they share (spec/machines.md §2). Pure.

What one field says is checked by its part; what containers say of each other by
`check_containers`, which `machine_config` calls with what the rest of the config has.
"""

import graphlib
import re
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from godwit.base import errors
from godwit.control.config_fields import (
    AbsolutePath,
    CheckHeader,
    EnvFrom,
    File,
    Port,
    ProcessSecret,
    Restart,
    StopConfig,
    Variables,
)
from godwit.control.config_part import Part

MOST_CONTAINERS = 8
"""Each may have an image of its own, which is a disk: both VMMs have room for so many more."""
_MOST_CHECKS = 16
_MOST_MOUNTS = 16
_LONGEST_VOLUME_MB = 65_536
_DAY_S = 86_400
_METHOD = re.compile(r"[A-Z]{1,20}")
_PATH = re.compile(r"/[\x21-\x7e]{0,2000}")
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?")


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError("must be 1 to 63 of a-z, 0-9, - and _, first and last a letter or digit")
    return text


def _method(text: str) -> str:
    if not _METHOD.fullmatch(text):
        raise ValueError("must be a method, such as GET")
    return text


def _path(text: str) -> str:
    if not _PATH.fullmatch(text):
        raise ValueError("must be a path, such as /up")
    return text


Name = Annotated[str, AfterValidator(_name)]
Seconds = Annotated[int, Field(ge=0, le=_DAY_S)]
Threshold = Annotated[int, Field(ge=1, le=100)]


class HttpQuestion(Part):
    """A request of a check; a status from 200 to 299 is a good answer."""

    port: Port
    method: Annotated[str, AfterValidator(_method)] = "GET"
    path: Annotated[str, AfterValidator(_path)] = "/"
    scheme: Literal["http", "https"] = "http"
    headers: list[CheckHeader] = Field([], max_length=50)
    tls_skip_verify: bool = False
    tls_server_name: str = Field("", max_length=253)


class TcpQuestion(Part):
    """A connection that a check makes."""

    port: Port


class ExecQuestion(Part):
    """A command that a check runs in the container."""

    command: list[str] = Field(min_length=1, max_length=100)


class HealthCheck(Part):
    """Whether a container is well; times are whole seconds, unlike those of machines' checks."""

    name: str = Field("", max_length=100)
    kind: Literal["readiness", "liveness"] | None = None
    interval: Seconds | None = None
    timeout: Seconds | None = None
    grace_period: Seconds | None = None
    success_threshold: Threshold | None = None
    failure_threshold: Threshold | None = None
    unhealthy: Literal["stop"] | None = None
    http: HttpQuestion | None = None
    tcp: TcpQuestion | None = None
    exec: ExecQuestion | None = None

    @model_validator(mode="after")
    def _one_question(self) -> "HealthCheck":
        if sum(one is not None for one in (self.http, self.tcp, self.exec)) != 1:
            raise ValueError("give one of http, tcp and exec")
        return self


class Dependency(Part):
    """A container that another one waits for."""

    name: str
    condition: Literal["started", "healthy", "exited_successfully"] = "started"


class ContainerMount(Part):
    """A volume in a container."""

    name: str
    path: AbsolutePath


class Container(Part):
    """One of a machine's containers."""

    name: Name
    image: str = Field(min_length=1, max_length=1024)
    exec: list[str] = []
    entrypoint: list[str] = []
    cmd: list[str] = []
    user: str = ""
    env: Variables = {}
    env_from: list[EnvFrom] = Field([], max_length=100)
    secrets: list[ProcessSecret] = Field([], max_length=100)
    files: list[File] = Field([], max_length=100)
    restart: Restart | None = None
    stop: StopConfig | None = None
    depends_on: list[Dependency] = Field([], max_length=MOST_CONTAINERS)
    mounts: list[ContainerMount] = Field([], max_length=_MOST_MOUNTS)
    healthchecks: list[HealthCheck] = Field([], max_length=_MOST_CHECKS)


class TempDir(Part):
    """An empty directory that lasts as long as the machine runs."""

    storage_type: Literal["disk", "memory"] = "disk"
    size_mb: int | None = Field(None, ge=1, le=_LONGEST_VOLUME_MB)
    """On the disk it is that of a disk of its own; `None` shares the machine's."""

    @model_validator(mode="after")
    def _bounded_in_memory(self) -> "TempDir":
        if self.storage_type == "memory" and self.size_mb is None:
            raise ValueError("size_mb: is required in memory")
        return self


class SharedVolume(Part):
    """A directory that containers share: an image, which they read, or an empty one."""

    name: Name
    image: str = Field("", max_length=1024)
    temp_dir: TempDir | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "SharedVolume":
        if self.image and self.temp_dir is not None:
            raise ValueError("give one of image and temp_dir")
        return self

    @property
    def has_disk(self) -> bool:
        """Tell whether it has a disk of its own, which bounds it."""
        kept = self.temp_dir
        return kept is not None and kept.storage_type == "disk" and kept.size_mb is not None


def check_containers(
    containers: Sequence[Container], volumes: Sequence[SharedVolume], of_machine: set[str]
) -> None:
    """Return if containers and volumes fit together.

    Args:
        containers: At least one.
        volumes: Those they may mount.
        of_machine: Names of the machine's own mounts, which they may mount as well.

    Raises:
        Failure: `invalid_argument`, naming the first that does not fit.
    """
    _unique([one.name for one in containers], "config.containers")
    _unique([one.name for one in volumes], "config.volumes")
    _check_dependencies(containers)
    _check_disks(containers, volumes)
    known = {volume.name for volume in volumes} | of_machine
    for at, container in enumerate(containers):
        place = f"config.containers[{at}]"
        for index, mount in enumerate(container.mounts):
            if mount.name not in known:
                raise errors.invalid(
                    f"{place}.mounts[{index}].name: there is no volume {mount.name!r}",
                    hint="name one of config.volumes",
                )
        _unique([mount.path for mount in container.mounts], f"{place}.mounts", "path")
        named = [check.name for check in container.healthchecks if check.name]
        _unique(named, f"{place}.healthchecks")


def _check_disks(containers: Sequence[Container], volumes: Sequence[SharedVolume]) -> None:
    """Return if there is a disk for every image, one of which is the machine's, and every size."""
    images = {one.image for one in containers} | {one.image for one in volumes if one.image}
    bounded = sum(volume.has_disk for volume in volumes)
    if len(images) - 1 + bounded > MOST_CONTAINERS:
        raise errors.invalid(
            f"config.volumes: {len(images)} images and {bounded} volumes of a size on the disk are"
            f" more disks than the {MOST_CONTAINERS + 1} that a machine may have",
            hint="leave size_mb out where it need not be, or put volumes into memory",
        )


def _check_dependencies(containers: Sequence[Container]) -> None:
    by_name = {container.name: container for container in containers}
    for at, container in enumerate(containers):
        for index, wanted in enumerate(container.depends_on):
            place = f"config.containers[{at}].depends_on[{index}]"
            other = by_name.get(wanted.name)
            if other is None:
                raise errors.invalid(f"{place}.name: there is no container {wanted.name!r}")
            if wanted.condition == "healthy" and not other.healthchecks:
                raise errors.invalid(
                    f"{place}.condition: container {wanted.name!r} has no healthchecks",
                    hint="give it one, or wait until it is started",
                )
    needs = {one.name: [other.name for other in one.depends_on] for one in containers}
    try:
        graphlib.TopologicalSorter(needs).prepare()
    except graphlib.CycleError as error:
        circle = " waits for ".join(reversed(error.args[1]))
        raise errors.invalid(f"config.containers: depends_on is a circle: {circle}") from error


def _unique(names: Sequence[str], place: str, what: str = "name") -> None:
    for at, name in enumerate(names):
        if name in names[:at]:
            raise errors.invalid(f"{place}[{at}].{what}: {name!r} is there already")
