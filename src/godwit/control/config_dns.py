"""A machine's names, and how it finds others: `dns` of its config. Pure."""

import ipaddress
import re
from typing import Annotated

from pydantic import AfterValidator, Field

from godwit.control.config_part import Part

_DOMAIN = re.compile(r"(?=.{1,254}$)(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?")
_WITH_PORT = re.compile(r"(?:(?P<v4>[0-9.]+)|\[(?P<v6>[0-9A-Fa-f:.]+)\]):(?P<port>[0-9]{1,5})")
_PORTS = 65_536
_NO_RESOLVER = "must be an IP address, or one with a port, such as 10.0.0.1:53"


def _address(text: str) -> str:
    try:
        ipaddress.ip_address(text)
    except ValueError as error:
        raise ValueError("must be an IP address") from error
    return text


def _domain(text: str) -> str:
    if not _DOMAIN.fullmatch(text):
        raise ValueError("must be a domain, such as corp.example.com")
    return text


def _resolver(text: str) -> str:
    """Take `ADDRESS`, `IPV4:PORT` or `[IPV6]:PORT`."""
    split = _WITH_PORT.fullmatch(text)
    try:
        if split is None:
            ipaddress.ip_address(text)
        elif split["v4"]:
            ipaddress.IPv4Address(split["v4"])
        else:
            ipaddress.IPv6Address(split["v6"])
    except ValueError as error:
        raise ValueError(_NO_RESOLVER) from error
    if "%" in text or (split is not None and not 0 < int(split["port"]) < _PORTS):
        raise ValueError(_NO_RESOLVER)
    return text


class DnsOption(Part):
    """An option of the resolver."""

    name: str = ""
    value: str = ""


class ForwardRule(Part):
    """Names that a machine asks a resolver of their own for."""

    basename: Annotated[str, AfterValidator(_domain)]
    addr: Annotated[str, AfterValidator(_resolver)]


class Dns(Part):
    """Names of the machine, and how it finds others."""

    skip_registration: bool = False
    nameservers: list[Annotated[str, AfterValidator(_address)]] = Field([], max_length=8)
    searches: list[str] = []
    options: list[DnsOption] = []
    hostname: str = ""
    hostname_fqdn: str = ""
    dns_forward_rules: list[ForwardRule] = Field([], max_length=32)
