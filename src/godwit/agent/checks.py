"""Health checks of started machines: service checks gate routing, all of them gate deploys.

Each check is a task that probes the machine's local IPv4 address; results never touch the
machine's state. Fast until the first pass after a start, then at the check's own interval.
Sources: spec/config-cli.md §1.6.4, §1.7; spec/machines.md §2.
"""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import httpx

from godwit.agent.machines import config as settings
from godwit.base import clock, tasks
from godwit.wire import host_rpc

logger = logging.getLogger(__name__)

DEFAULT_INTERVAL_MS = 10_000
DEFAULT_TIMEOUT_MS = 2_000
_SERVICE_RANGE_MS = (1_000, 60_000)
_LEAST_INTERVAL_MS = 2_000
_LONGEST_TIMEOUT_MS = 60_000
_FAST_S = 0.25
_FAST_FOR_S = 60.0
_OUTPUT_BYTES = 1_024
_NOT_YET = "the first check has not been made yet"


@dataclass(frozen=True)
class Check:
    """One check of a machine.

    Attributes:
        service: Place of the service it gates; `None` for a top-level check.
        any_2xx: Service checks pass with 2xx; top-level ones with 200 alone.
    """

    name: str
    type: Literal["tcp", "http"]
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


@dataclass(frozen=True)
class Result:
    """What one probe found."""

    passing: bool
    output: str


def checks_of(config: Mapping[str, Any]) -> tuple[Check, ...]:
    """Return a config's checks; one that makes no sense is left out."""
    found = []
    number = 0
    for index, service in enumerate(settings.items(config.get("services"))):
        for given in settings.items(service.get("checks")):
            port = settings.number(
                given.get("port"), settings.number(service.get("internal_port"), 0)
            )
            kind = "http" if given.get("type") == "http" else "tcp"
            name = f"servicecheck-{number:02d}-{kind}-{port}"
            number += 1
            found.append(_check(name, given, port, service=index))
    for name, given in settings.mapping(config.get("checks")).items():
        port = settings.number(settings.mapping(given).get("port"), 0)
        found.append(_check(str(name), settings.mapping(given), port))
    return tuple(check for check in found if 0 < check.port < 65_536)  # noqa: PLR2004


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
        type="http" if given.get("type") == "http" else "tcp",
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
        server_name=str(given.get("tls_server_name") or "") or None,
        headers=_headers(given.get("headers")),
    )


def _clamped(milliseconds: int) -> int:
    least, most = _SERVICE_RANGE_MS
    return max(least, min(milliseconds, most))


def _path(value: Any) -> str:
    path = str(value or "/")
    return path if path.startswith("/") else f"/{path}"


def _headers(value: Any) -> tuple[tuple[str, str], ...]:
    if isinstance(value, Mapping):
        return tuple((str(key), str(one)) for key, one in value.items())
    return tuple(
        (str(given.get("name")), one)
        for given in settings.items(value)
        if given.get("name")
        for one in settings.strings(given.get("values"))
    )


async def probe(check: Check, address: str) -> Result:
    """Make one check against an address."""
    try:
        async with asyncio.timeout(check.timeout_s):
            if check.type == "tcp":
                return await _probe_tcp(check, address)
            return await _probe_http(check, address)
    except TimeoutError:
        return Result(passing=False, output=f"no answer within {check.timeout_s:g} s")
    except OSError as error:
        return Result(passing=False, output=error.strerror or str(error))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Result(passing=False, output=str(error) or type(error).__name__)


async def _probe_tcp(check: Check, address: str) -> Result:
    _, writer = await asyncio.open_connection(address, check.port)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return Result(passing=True, output="connected")


async def _probe_http(check: Check, address: str) -> Result:
    scheme = "https" if check.tls else "http"
    headers = [("User-Agent", "godwit-check"), *check.headers]
    if not any(name.lower() == "host" for name, _ in check.headers):
        headers.append(("Host", check.server_name or f"{address}:{check.port}"))
    extensions = {"sni_hostname": check.server_name} if check.server_name else {}
    async with (
        httpx.AsyncClient(
            verify=_tls(check),
            timeout=check.timeout_s,
            follow_redirects=False,
            trust_env=False,
        ) as client,
        client.stream(
            check.method,
            f"{scheme}://{address}:{check.port}{check.path}",
            headers=headers,
            extensions=extensions,
        ) as answer,
    ):
        said = await _beginning(answer)
    status = answer.status_code
    passing = 200 <= status < 300 if check.any_2xx else status == 200  # noqa: PLR2004
    return Result(passing=passing, output=said if passing and said else f"HTTP {status}: {said}")


def _tls(check: Check) -> ssl.SSLContext | bool:
    if not check.tls:
        # Making a verifying context costs 20 ms, and plain HTTP needs none.
        return False
    return httpx.create_ssl_context() if check.verify else False


async def _beginning(answer: httpx.Response) -> str:
    taken = b""
    async for part in answer.aiter_raw(_OUTPUT_BYTES):
        taken += part
        if len(taken) >= _OUTPUT_BYTES:
            break
    return taken[:_OUTPUT_BYTES].decode(errors="replace").strip()


@dataclass
class _Watched:
    """A machine whose checks run."""

    boot: str
    checks: tuple[Check, ...]
    address: str
    results: dict[str, host_rpc.CheckStatus]
    tasks: list[asyncio.Task[None]]
    trusted: set[str]
    """Checks not made yet that let traffic through all the same."""


class Checks:
    """The checks of all machines here.

    Args:
        changed: Told the id of a machine when one of its checks turns.
    """

    def __init__(
        self, the_clock: clock.Clock, owned: tasks.Tasks, changed: Callable[[str], None]
    ) -> None:
        self._clock = the_clock
        self._tasks = owned
        self._changed = changed
        self._watched: dict[str, _Watched] = {}

    def follow(
        self,
        machine_id: str,
        boot: str | None,
        config: Mapping[str, Any],
        address: str,
        *,
        adopted: bool = False,
    ) -> None:
        """Check a machine from now on; `boot` names its present start, `None` ends it.

        One that was `adopted` ran before this agent did: it keeps its traffic until a check says
        otherwise, and gets no grace, or every restart of the agent would cut it off.
        """
        watched = self._watched.get(machine_id)
        if watched is not None and watched.boot == boot:
            return
        if watched is not None:
            for task in watched.tasks:
                task.cancel()
            del self._watched[machine_id]
        if boot is None:
            return
        checks = checks_of(config)
        now = clock.rfc3339(self._clock.now_ms())
        results = {
            check.name: host_rpc.CheckStatus(
                name=check.name, status="critical", output=_NOT_YET, updated_at=now
            )
            for check in checks
        }
        trusted = {check.name for check in checks} if adopted else set()
        watched = _Watched(boot, checks, address, results, [], trusted)
        self._watched[machine_id] = watched
        for check in checks:
            watched.tasks.append(
                self._tasks.spawn(
                    self._keep_checking(machine_id, watched, check),
                    name=f"check.{machine_id}.{check.name}",
                )
            )

    def results(self, machine_id: str) -> tuple[host_rpc.CheckStatus, ...]:
        """Return the last result of each check of a machine."""
        watched = self._watched.get(machine_id)
        return () if watched is None else tuple(watched.results.values())

    def passing(self, machine_id: str, config: Mapping[str, Any]) -> dict[int, bool]:
        """Return, by service, whether its checks let traffic through."""
        watched = self._watched.get(machine_id)
        found: dict[int, bool] = {}
        for check in watched.checks if watched is not None else checks_of(config):
            if check.service is not None:
                good = watched is not None and (
                    watched.results[check.name].status == "passing"
                    or check.name in watched.trusted
                )
                found[check.service] = found.get(check.service, True) and good
        return found

    async def _keep_checking(self, machine_id: str, watched: _Watched, check: Check) -> None:
        begun = self._clock.monotonic()
        await self._clock.sleep(0 if check.name in watched.trusted else check.grace_s)
        passed = False
        while True:
            result = await probe(check, watched.address)
            passed = passed or result.passing
            self._take_in(machine_id, watched, check, result)
            young = self._clock.monotonic() - begun < check.grace_s + _FAST_FOR_S
            fast = not passed and young
            await self._clock.sleep(min(_FAST_S, check.interval_s) if fast else check.interval_s)

    def _take_in(self, machine_id: str, watched: _Watched, check: Check, result: Result) -> None:
        before = watched.results[check.name]
        after = host_rpc.CheckStatus(
            name=check.name,
            status="passing" if result.passing else "critical",
            output=result.output,
            updated_at=clock.rfc3339(self._clock.now_ms()),
        )
        watched.results[check.name] = after
        was_trusted = check.name in watched.trusted
        watched.trusted.discard(check.name)
        if after.status != before.status or was_trusted:
            logger.info("%s: %s is %s: %s", machine_id, check.name, after.status, after.output)
            self._changed(machine_id)
