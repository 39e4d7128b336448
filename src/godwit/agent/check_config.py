"""The checks a machine's config asks for, read leniently. Pure.

Service checks gate their service; top-level ones are told and gate deploys, and with
`kind: readiness` every service of the machine, as containers' checks of that kind do. Sources:
spec/config-cli.md §1.6.4, §1.7; spec/machines.md §2. `exec` is Godwit's own: the form of a
container's health check there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from godwit.agent.machines import config as settings

DEFAULT_INTERVAL_MS = 10_000
DEFAULT_TIMEOUT_MS = 2_000
CONTAINER_INTERVAL_S = 10
CONTAINER_TIMEOUT_S = 5
_SERVICE_RANGE_MS = (1_000, 60_000)
_LEAST_INTERVAL_MS = 2_000
_LONGEST_TIMEOUT_MS = 60_000
_PORTS = range(1, 65_536)
_TYPES: dict[str, Literal["tcp", "http", "exec"]] = {"http": "http", "exec": "exec"}


@dataclass(frozen=True)
class Check:
    """One check of a machine.

    Attributes:
        service: Place of the service it gates; `None` for a top-level check.
        readiness: A top-level check that gates every service.
        command: What `exec` runs in the guest.
        any_2xx: Service checks pass with 2xx; top-level ones with 200 alone.
    """

    name: str
    type: Literal["tcp", "http", "exec"]
    port: int
    interval_s: float
    timeout_s: float
    grace_s: float
    service: int | None = None
    any_2xx: bool = True
    method: str = "GET"
    path: str = "/"
    tls: bool = False
    verify: bool = True
    server_name: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    readiness: bool = False
    command: tuple[str, ...] = ()

    @property
    def makes_sense(self) -> bool:
        """Tell whether there is anything to probe."""
        return bool(self.command) if self.type == "exec" else self.port in _PORTS


def checks_of(config: Mapping[str, Any]) -> tuple[Check, ...]:
    """Return a config's checks; one that makes no sense is left out."""
    found = []
    number = 0
    for index, service in enumerate(settings.items(config.get("services"))):
        for given in settings.items(service.get("checks")):
            port = settings.number(
                given.get("port"), settings.number(service.get("internal_port"), 0)
            )
            name = f"servicecheck-{number:02d}-{_type(given)}-{port}"
            number += 1
            found.append(_check(name, given, port, service=index))
    for name, given in settings.mapping(config.get("checks")).items():
        port = settings.number(settings.mapping(given).get("port"), 0)
        found.append(_check(str(name), settings.mapping(given), port))
    return tuple(check for check in found if check.makes_sense)


@dataclass(frozen=True)
class ContainerCheck:
    """A health check of a container, whose init counts its answers.

    Attributes:
        number: Its place among the container's checks.
        asked: What this host asks and tells init; `None` for what init asks by itself.
    """

    container: str
    number: int
    name: str
    readiness: bool
    interval_s: float
    asked: Check | None


def of_containers(config: Mapping[str, Any]) -> tuple[ContainerCheck, ...]:
    """Return the health checks of a config's containers."""
    found = []
    for container in settings.containers(config):
        for number, given in enumerate(settings.items(container.get("healthchecks"))):
            http = settings.mapping(given.get("http"))
            found.append(
                ContainerCheck(
                    container=str(container.get("name")),
                    number=number,
                    name=f"{container.get('name')}/{given.get('name') or number}",
                    readiness=given.get("kind") == "readiness",
                    interval_s=settings.number(given.get("interval"), CONTAINER_INTERVAL_S),
                    asked=_asked(given, http) if asked_by_host(http) else None,
                )
            )
    return tuple(found)


def asked_by_host(http: Mapping[str, Any]) -> bool:
    """Tell whether a container's check needs what its init has not: TLS."""
    return http.get("scheme") == "https"


def _asked(given: Mapping[str, Any], http: Mapping[str, Any]) -> Check:
    return Check(
        name="",
        type="http",
        port=settings.number(http.get("port"), 0),
        interval_s=0,
        timeout_s=min(
            settings.number(given.get("timeout"), CONTAINER_TIMEOUT_S), _LONGEST_TIMEOUT_MS / 1000
        ),
        grace_s=0,
        method=str(http.get("method") or "GET").upper(),
        path=_path(http.get("path")),
        tls=True,
        verify=http.get("tls_skip_verify") is not True,
        server_name=_server_name(http.get("tls_server_name")),
        headers=_headers(http.get("headers")),
    )


def _type(given: Mapping[str, Any]) -> Literal["tcp", "http", "exec"]:
    return _TYPES.get(str(given.get("type") or ""), "tcp")


def _check(name: str, given: Mapping[str, Any], port: int, *, service: int | None = None) -> Check:
    interval = settings.duration_ms(given.get("interval")) or DEFAULT_INTERVAL_MS
    timeout = settings.duration_ms(given.get("timeout")) or DEFAULT_TIMEOUT_MS
    grace = settings.duration_ms(given.get("grace_period")) or 0
    if service is None:
        interval = max(interval, _LEAST_INTERVAL_MS)
        timeout = min(timeout, _LONGEST_TIMEOUT_MS)
    else:
        interval, timeout = _clamped(interval), _clamped(timeout)
        grace = _clamped(grace) if grace else 0
    return Check(
        name=name,
        type=_type(given),
        port=port,
        interval_s=interval / 1000,
        timeout_s=timeout / 1000,
        grace_s=grace / 1000,
        service=service,
        any_2xx=service is not None,
        method=str(given.get("method") or "GET").upper(),
        path=_path(given.get("path")),
        tls=given.get("protocol") == "https",
        verify=given.get("tls_skip_verify") is not True,
        server_name=_server_name(given.get("tls_server_name")),
        headers=_headers(given.get("headers")),
        readiness=service is None and given.get("kind") == "readiness",
        command=settings.strings(given.get("command")),
    )


def _clamped(milliseconds: int) -> int:
    least, most = _SERVICE_RANGE_MS
    return max(least, min(milliseconds, most))


def _path(value: Any) -> str:
    path = str(value or "/")
    return path if path.startswith("/") else f"/{path}"


def _server_name(value: Any) -> str | None:
    """Return a name that TLS can ask for; another is as good as none."""
    try:
        return str(value or "").encode("idna").decode() or None
    except UnicodeError:
        return None


def _headers(value: Any) -> tuple[tuple[str, str], ...]:
    if isinstance(value, Mapping):
        return tuple((str(key), str(one)) for key, one in value.items())
    return tuple(
        (str(given.get("name")), one)
        for given in settings.items(value)
        if given.get("name")
        for one in settings.strings(given.get("values"))
    )
