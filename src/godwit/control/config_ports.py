"""External ports of a machine's services, and how the edge speaks there. Pure."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from godwit.base import encoded
from godwit.control.config_fields import Port
from godwit.control.config_part import Part

MOST_OPTION_BYTES = 4_096
"""Of the options of all ports of a machine, see `option_bytes`: every edge is told of them."""
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_VALUE = re.compile(r"[\t\x20-\x7e]*")
_LONGEST_ALPN = 255
_SHORTEST_TTL_S = 10


def _header(name: str) -> str:
    if not _TOKEN.fullmatch(name):
        raise ValueError("is no name of a header")
    return name


def _value(text: str) -> str:
    if not _VALUE.fullmatch(text):
        raise ValueError("is not what a header may hold")
    return text


def _removal(value: object) -> object:
    if value is True:
        raise ValueError("must be false, a string or a list of strings")
    return value


def _protocol(text: str) -> str:
    if not (text.isascii() and 0 < len(text) <= _LONGEST_ALPN):
        raise ValueError("must have 1 to 255 characters of ASCII")
    return text


HeaderName = Annotated[str, AfterValidator(_header)]
HeaderValue = Annotated[str, AfterValidator(_value)]
Seconds = Annotated[int, Field(ge=1, le=2**31 - 1)]


class TlsOptions(Part):
    """How the edge speaks TLS at a port."""

    alpn: list[Annotated[str, AfterValidator(_protocol)]] = Field([], max_length=8)
    versions: list[Literal["TLSv1.2", "TLSv1.3"]] = Field([], max_length=2)
    default_self_signed: bool = False


class ReplayCache(Part):
    """For which requests the edge remembers where they were replayed."""

    path_prefix: str
    ttl_seconds: int = Field(ge=_SHORTEST_TTL_S, le=2**31 - 1)
    type: Literal["cookie", "header"]
    name: HeaderName
    allow_bypass: bool = False


class HttpResponse(Part):
    """What the edge does to responses; `False` takes a header away."""

    pristine: bool = False
    headers: dict[
        HeaderName, Annotated[bool | HeaderValue | list[HeaderValue], AfterValidator(_removal)]
    ] = Field({}, max_length=50)


class HttpOptions(Part):
    """How the edge speaks HTTP at a port."""

    compress: bool | None = None
    h2_backend: bool = False
    idle_timeout: Seconds | None = None
    headers_read_timeout: Seconds | None = None
    response: HttpResponse | None = None
    replay_cache: list[ReplayCache] = Field([], max_length=10)


class ProxyProtoOptions(Part):
    """Which PROXY header the app gets."""

    version: Literal["v1", "v2"] | None = None


class ServicePort(Part):
    """An external port, or a range of them."""

    port: Port | None = None
    start_port: Port | None = None
    end_port: Port | None = None
    handlers: list[Literal["http", "tls", "pg_tls", "proxy_proto", "tcp"]] = Field(
        [], max_length=5
    )
    force_https: bool = False
    tls_options: TlsOptions | None = None
    http_options: HttpOptions | None = None
    proxy_proto_options: ProxyProtoOptions | None = None

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> "ServicePort":
        ranged = self.start_port is not None or self.end_port is not None
        if self.port is not None and ranged:
            raise ValueError("give port, or start_port and end_port, not both")
        if ranged:
            if self.start_port is None or self.end_port is None:
                raise ValueError("start_port and end_port go together")
            if self.start_port > self.end_port:
                raise ValueError("start_port is after end_port")
        elif self.port is None:
            raise ValueError("port: is required")
        if self.force_https and "http" not in self.handlers:
            raise ValueError("force_https needs the http handler")
        self._fits_together()
        return self

    def _fits_together(self) -> None:
        if "http" in self.handlers and (
            "proxy_proto" in self.handlers or "pg_tls" in self.handlers
        ):
            raise ValueError("handlers: http goes with tls alone")
        if "pg_tls" in self.handlers and "tls" in self.handlers:
            raise ValueError("handlers: pg_tls and tls exclude each other")


def option_bytes(port: ServicePort) -> int:
    """Return how many bytes a port's options take as edges are told of them: each header whole."""
    told: list[object] = []
    if port.tls_options is not None:
        told.append(port.tls_options.model_dump())
    if port.http_options is not None:
        told.append(port.http_options.model_dump(exclude={"response"}))
        response = port.http_options.response or HttpResponse()
        told.extend(
            [name, value]
            for name, values in response.headers.items()
            for value in (values if isinstance(values, list) else [values])
        )
    return sum(map(encoded.size, told))
