"""Containers of a machine, as its init is told of them: several images beside each other.

The Rust twin is `rust/crates/wire/src/containers.rs`; they are part of `guest.RunSpec`.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from godwit.wire.guest_process import File, Process
from godwit.wire.record import Record

MAIN = "app"
"""What the container is called that a machine is about, unless it is the first."""


class CheckStanding(Record):
    """How a health check of a running container is, and the answer that made it so.

    Attributes:
        status: `warning` until it has passed or failed by its thresholds, `passing`, `critical`;
            another word is a newer release's.
    """

    status: str
    output: str = ""


class Standing(Record):
    """A container by its name, and what it does now.

    Attributes:
        state: `created` (it waits for others, and has not run yet), `starting` (it has ended and
            is started again in a moment), `started`, `stopped` (for good); another word is a
            newer release's.
        run: How often it was started.
        checks: While it runs, in the order of the run spec; `None` is an init of a former
            release, which tells of none.
    """

    name: str
    state: str
    run: int = 0
    checks: tuple[CheckStanding, ...] | None = None


class SharedVolume(Record):
    """A directory that containers share: empty at each boot, or an image that is read.

    Attributes:
        memory_mb: In memory, at most so much; 0 is a directory on the scratch disk.
        image: Virtio serial of the disk of its image, of which nothing is changed; or empty.
        disk: Virtio serial of an empty disk of its own, which bounds it; or empty.
    """

    name: str
    memory_mb: int = 0
    image: str = ""
    disk: str = ""


class Dependency(Record):
    """A container that is waited for: until it runs, is well, or has ended with exit code 0."""

    container: str
    condition: Literal["started", "healthy", "exited_successfully"]


class Bind(Record):
    """A shared volume in a container."""

    volume: str
    path: str


class Header(Record):
    """A header of a check's request."""

    name: str
    value: str


class HttpQuestion(Record):
    """A request to a port of the machine; a status from 200 to 299 is a good answer."""

    type: Literal["http"] = "http"
    port: int
    method: str
    path: str
    headers: tuple[Header, ...] = ()


class TcpQuestion(Record):
    """A connection to a port of the machine."""

    type: Literal["tcp"] = "tcp"
    port: int


class ExecQuestion(Record):
    """A command in the container; exit code 0 is a good answer."""

    type: Literal["exec"] = "exec"
    argv: tuple[str, ...]


class HostQuestion(Record):
    """Asked by the host, which tells init each answer: what guests have no means for, as TLS."""

    type: Literal["host"] = "host"


Question = Annotated[
    HttpQuestion | TcpQuestion | ExecQuestion | HostQuestion, Field(discriminator="type")
]


class HealthCheck(Record):
    """Asked again and again while its container runs, in whole seconds.

    Until it passes it is asked every second for a minute, of which failures count as seldom.

    Attributes:
        grace_s: From the start of the container; failures before that do not count.
        stops: The container is stopped when it fails, which counts as a failure of its own.
    """

    name: str
    question: Question
    interval_s: int
    timeout_s: int
    grace_s: int
    success_threshold: int
    failure_threshold: int
    stops: bool = False


class Container(Record):
    """One of a machine's containers.

    The machine ends with the first that ends for good; one that others wait for to succeed, and
    that did, has only done its work.

    Attributes:
        image: Virtio serial of its image's disk.
        max_retries: Restarts after failures, until it has run for five minutes.
        stop_signal: Empty is that of the machine's stop.
    """

    name: str
    image: str
    process: Process
    files: tuple[File, ...] = ()
    restart: Literal["no", "always", "on-failure"]
    max_retries: int
    stop_signal: str = ""
    stop_timeout_ms: int
    depends_on: tuple[Dependency, ...] = ()
    binds: tuple[Bind, ...] = ()
    healthchecks: tuple[HealthCheck, ...] = ()


def main_of(names: Sequence[str]) -> int:
    """Return the place of the container that a machine is about: `app`, else the first."""
    return names.index(MAIN) if MAIN in names else 0
