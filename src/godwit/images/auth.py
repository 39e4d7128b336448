"""Proving to a registry who asks: credentials, challenges and bearer tokens.

Sources: distribution spec "Token Authentication", RFC 7235 §2.1. The parsing is pure; the one
request for a token goes through the client that `registry.py` hands in.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from godwit.base import errors

TOKEN_USER: Final = "x"  # noqa: S105 - a user name
"""The user name beside a platform token used as a password; the platform ignores it."""

_LOGIN: Final = "login:"
"""Marks a user and password; no bearer token (RFC 6750 §2.1) holds a colon."""

_PIECE: Final = re.compile(
    r'(?P<name>[A-Za-z]+)\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^\s,"]+))'
    r"|(?P<scheme>[A-Za-z]+)(?=\s|,|$)|."
)


@dataclass(frozen=True)
class Credentials:
    """Who pulls: a user and password, or one opaque token of the platform.

    Attributes:
        token: Sent as it is as a bearer token; where the registry does not take it so, sent as
            a password, which is how `docker login` uses a platform token.
    """

    username: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)

    def basic(self) -> str:
        """Return the value of a Basic Authorization header."""
        pair = f"{self.username or TOKEN_USER}:{self.password or self.token}"
        return "Basic " + base64.b64encode(pair.encode()).decode()

    def pull_token(self) -> str:
        """Return the one string that `of_pull_token` reads: how credentials travel to a pull."""
        if self.token:
            return self.token
        pair = json.dumps([self.username, self.password])
        return _LOGIN + base64.b64encode(pair.encode()).decode()


def of_pull_token(text: str | None) -> Credentials | None:
    """Return the credentials in a pull token, as control gives them out for one machine's image.

    A token of the platform's registry is the bearer token itself; a user and password for
    another registry are marked.

    Raises:
        Failure: `invalid_argument` when it is marked and cannot be read.
    """
    if not text:
        return None
    if not text.startswith(_LOGIN):
        return Credentials(token=text)
    try:
        username, password = json.loads(base64.b64decode(text[len(_LOGIN) :], validate=True))
    except (binascii.Error, ValueError, TypeError) as error:
        raise errors.invalid("the pull token cannot be read") from error
    return Credentials(username=str(username), password=str(password))


def is_login(text: str | None) -> bool:
    """Tell whether a pull token is a user and password: then it is nothing to keep."""
    return text is not None and text.startswith(_LOGIN)


@dataclass(frozen=True)
class Challenge:
    """What a registry asks for in WWW-Authenticate."""

    scheme: str
    parameters: Mapping[str, str]


def challenges(header: str) -> list[Challenge]:
    """Return the Basic and Bearer challenges of a WWW-Authenticate header, in order."""
    found: list[tuple[str, dict[str, str]]] = []
    for piece in _PIECE.finditer(header):
        if scheme := piece["scheme"]:
            found.append((scheme.lower(), {}))
        elif (name := piece["name"]) and found:
            value = re.sub(r"\\(.)", r"\1", piece["quoted"] or "") or piece["plain"] or ""
            found[-1][1][name.lower()] = value
    return [Challenge(*one) for one in found if one[0] in ("basic", "bearer")]


def token_query(challenge: Challenge, scope: str, *, insecure: bool) -> tuple[str, dict[str, str]]:
    """Return the address that gives out tokens and the query for it.

    Raises:
        Failure: `unavailable` when the registry names no such address, or one over plain HTTP
            although it does not speak that itself: else any registry could have this host asked.
    """
    realm = challenge.parameters.get("realm", "")
    parts = urlsplit(realm)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise errors.Failure(
            "unavailable", f"the registry names no usable token server: {realm!r}"
        )
    if parts.scheme == "http" and not insecure:
        raise errors.Failure(
            "unavailable", f"the registry's token server {parts.netloc} does not use TLS"
        )
    wanted = challenge.parameters.get("scope") or scope
    query = {"scope": wanted} if wanted else {}
    if service := challenge.parameters.get("service"):
        query["service"] = service
    return realm, query
