"""What the fact of a machine says of its services' ports: read from the config, tolerantly.

Pure; called by `views`. Control has checked what it took in; what an older release let through is
left out here where it makes no sense.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from godwit.agent.machines import config as settings
from godwit.wire import facts

_PORTS = range(1, 65_536)


def ports(service: Mapping[str, Any]) -> tuple[facts.ServicePort, ...]:
    """Return a service's external ports."""
    found = []
    for given in settings.items(service.get("ports")):
        single = settings.number(given.get("port"), 0)
        start = settings.number(given.get("start_port"), single)
        end = settings.number(given.get("end_port"), start)
        if start in _PORTS and end in _PORTS and start <= end:
            found.append(
                facts.ServicePort(
                    start_port=start,
                    end_port=end,
                    handlers=tuple(dict.fromkeys(settings.strings(given.get("handlers")))),
                    force_https=given.get("force_https") is True,
                    tls_options=_tls(settings.mapping(given.get("tls_options"))),
                    http_options=_http(settings.mapping(given.get("http_options"))),
                    proxy_version=_proxy_version(given),
                )
            )
    return tuple(found)


def _proxy_version(given: Mapping[str, Any]) -> Any:
    asked = settings.mapping(given.get("proxy_proto_options")).get("version")
    return "v2" if asked == "v2" else "v1"


def _tls(given: Mapping[str, Any]) -> facts.TlsOptions | None:
    if not given:
        return None
    asked = settings.strings(given.get("versions"))
    return facts.TlsOptions(
        alpn=settings.strings(given.get("alpn")),
        versions=tuple(one for one in facts.TLS_VERSIONS if one in asked),
        default_self_signed=given.get("default_self_signed") is True,
    )


def _http(given: Mapping[str, Any]) -> facts.HttpOptions | None:
    if not given:
        return None
    response = settings.mapping(given.get("response"))
    headers = settings.mapping(response.get("headers"))
    compress = given.get("compress")
    return facts.HttpOptions(
        compress=compress if isinstance(compress, bool) else None,
        h2_backend=given.get("h2_backend") is True,
        idle_timeout=_seconds(given.get("idle_timeout")),
        headers_read_timeout=_seconds(given.get("headers_read_timeout")),
        pristine=response.get("pristine") is True,
        remove=tuple(name for name, value in headers.items() if value is False),
        add=tuple(
            (name, value)
            for name, given_values in headers.items()
            for value in settings.strings(given_values)
        ),
        replay_cache=tuple(_caches(given.get("replay_cache"))),
    )


def _seconds(given: Any) -> int | None:
    return settings.number(given, 0) or None


def _caches(given: Any) -> list[facts.ReplayCache]:
    found = []
    for one in settings.items(given):
        try:
            found.append(facts.ReplayCache.model_validate(dict(one)))
        except ValidationError:
            continue
    return found
