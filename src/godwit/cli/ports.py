"""Ports of `machine run --port`: `80:8080/tcp:http:tls` as a service of a machine config."""

import re
from typing import Any

from godwit.base import errors

_FORM = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?::(\d{1,5}))?(?:/(tcp|udp)((?::[a-z_]+)*))?")
_HANDLERS = frozenset({"http", "tls", "pg_tls", "proxy_proto"})
_HIGHEST = 65_535


def services(
    given: list[str] | None, *, autostop: str | None = None, autostart: bool | None = None
) -> list[dict[str, Any]]:
    """Return the services that ports stand for, one for each internal port and protocol.

    Args:
        given: `external[-end][:internal][/protocol[:handler…]]`.
        autostop: `off`, `stop` or `suspend`; `None` for not saying.
        autostart: Whether the edge may start the machine; `None` for not saying.

    Raises:
        Failure: One is not of that form.
    """
    found: dict[tuple[int, str], dict[str, Any]] = {}
    for text in given or ():
        internal, protocol, port = _port(text)
        service = found.setdefault(
            (internal, protocol), {"protocol": protocol, "internal_port": internal, "ports": []}
        )
        service["ports"].append(port)
    for service in found.values():
        if autostop is not None:
            service["autostop"] = {"off": False, "stop": True}.get(autostop, autostop)
        if autostart is not None:
            service["autostart"] = autostart
    return list(found.values())


def _port(text: str) -> tuple[int, str, dict[str, Any]]:
    match = _FORM.fullmatch(text)
    numbers = [int(one) for one in match.groups()[:3] if one] if match else []
    if match is None or not all(1 <= one <= _HIGHEST for one in numbers):
        raise errors.invalid(
            f'--port {text}: expected EXTERNAL[:INTERNAL][/PROTOCOL[:HANDLER…]], got "{text}"',
            hint="for example --port 80:8080/tcp:http, --port 5432/tcp, --port 53:53/udp",
        )
    start, end, internal, protocol, tail = match.groups()
    handlers = [one for one in (tail or "").split(":") if one]
    unknown = [one for one in handlers if one not in _HANDLERS]
    if unknown:
        raise errors.invalid(
            f'--port {text}: there is no handler "{unknown[0]}"',
            hint=f"handlers are {', '.join(sorted(_HANDLERS))}",
        )
    port: dict[str, Any] = (
        {"start_port": int(start), "end_port": int(end)} if end else {"port": int(start)}
    )
    if handlers:
        port["handlers"] = handlers
    return int(internal or start), protocol or "tcp", port
