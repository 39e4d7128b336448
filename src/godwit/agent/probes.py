"""One probe of a check: a connection, an HTTP request, or a command in the guest.

Whatever comes of it is a result in words; nothing is raised but bugs.
"""

import asyncio
import functools
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import httpx

from godwit.agent.check_config import Check
from godwit.base import encoded, errors
from godwit.wire import host_rpc

_OUTPUT_BYTES = 1_024
_EXEC_GRACE_S = 2.0
"""What the way to the guest and back may take beside the command's own time."""

Run = Callable[[tuple[str, ...], float], Awaitable[host_rpc.ExecAnswer]]
"""Runs a command in the machine, at most so many seconds; raises `Failure`."""


async def cannot_run(command: tuple[str, ...], timeout_s: float) -> host_rpc.ExecAnswer:
    """Refuse: nothing here runs commands."""
    del command, timeout_s
    raise errors.Failure("failed_precondition", "commands cannot be run here")


@dataclass(frozen=True)
class Result:
    """What one probe found."""

    passing: bool
    output: str


async def probe(check: Check, address: str, run: Run = cannot_run) -> Result:
    """Make one check.

    Args:
        check: What to do.
        address: Where the machine is reached; an IP address.
        run: Runs a command in it.
    """
    grace_s = _EXEC_GRACE_S if check.type == "exec" else 0.0
    try:
        async with asyncio.timeout(check.timeout_s + grace_s):
            if check.type == "exec":
                return await _probe_exec(check, run)
            if check.type == "tcp":
                return await _probe_tcp(check, address)
            return await _probe_http(check, address)
    except (errors.Failure, OSError, httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        said = encoded.beginning(_in_words(check, error), _OUTPUT_BYTES)
        return Result(passing=False, output=said)


def _in_words(check: Check, error: Exception) -> str:
    if isinstance(error, errors.Failure):
        return error.message
    if isinstance(error, TimeoutError):
        return f"no answer within {check.timeout_s:g} s"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, httpx.HTTPError | httpx.InvalidURL):
        return str(error) or type(error).__name__
    # Headers, names and paths come from the config, and not all of them can be sent.
    return f"the check cannot be made: {error}"


async def _probe_exec(check: Check, run: Run) -> Result:
    """Pass with exit code 0; what the command says last is the most telling."""
    answer = await run(check.command, check.timeout_s)
    said = "\n".join(part for each in (answer.stdout, answer.stderr) if (part := each.strip()))
    said = encoded.beginning(said, _OUTPUT_BYTES)
    if answer.exit_code == 0:
        return Result(passing=True, output=said or "exit code 0")
    how = f"exit code {answer.exit_code}"
    if answer.exit_signal is not None:
        how = f"killed by signal {answer.exit_signal}"
    return Result(passing=False, output=f"{how}: {said}" if said else how)


async def _probe_tcp(check: Check, address: str) -> Result:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    # Half of what an idle agent does: no streams are made for it.
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, (address, check.port))
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
    # Making a verifying context costs 20 ms, and plain HTTP needs none.
    return tls_context(check) if check.tls else False


def tls_context(check: Check) -> ssl.SSLContext:
    """Return what speaks TLS for a check."""
    return _context(verify=check.verify)


@functools.cache
def _context(*, verify: bool) -> ssl.SSLContext:
    return httpx.create_ssl_context(verify=verify)


async def _beginning(answer: httpx.Response) -> str:
    taken = b""
    async for part in answer.aiter_raw(_OUTPUT_BYTES):
        taken += part
        if len(taken) >= _OUTPUT_BYTES:
            break
    text = taken[:_OUTPUT_BYTES].decode(errors="replace").strip()
    return encoded.beginning(text, _OUTPUT_BYTES)
