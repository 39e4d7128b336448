"""One registry over HTTP: authorization, redirects, retries with back-off, errors in words.

Knows nothing of images. `registry.py` puts the verbs of the distribution spec on top.
"""

import asyncio
import contextlib
import json
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urljoin, urlsplit

import httpx

from godwit.base import clock, errors
from godwit.base.errors import Failure
from godwit.images import auth, reference

T = TypeVar("T")
Use = Callable[[httpx.Response], Awaitable[T]]
Headers = Callable[[], Mapping[str, str]]

_HUB_HOST: Final = "registry-1.docker.io"
_MAX_REDIRECTS: Final = 5
_MAX_TOKEN: Final = 1 << 20
_PIECE: Final = 1 << 20
_BUSY: Final = frozenset({408, 429, 500, 502, 503, 504})
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_LONGEST_PAUSE_S: Final = 10.0
_LOGIN: Final = "a private image needs credentials: `godwit registries login HOST`"
_ERRNO: Final = re.compile(r"^\[Errno -?\d+\] ")


@dataclass(frozen=True)
class Patience:
    """How long to wait and how often to ask again.

    Attributes:
        connect_s: For a connection.
        silence_s: Between two pieces of an answer.
        attempts: How often one request is made.
        pause_s: Before the second attempt; doubled for each further one.
    """

    connect_s: float = 10.0
    silence_s: float = 30.0
    attempts: int = 5
    pause_s: float = 0.25


@dataclass(frozen=True)
class Call:
    """One request: what to say, and what to call the thing it is about.

    Attributes:
        path: Below `/v2/`, or a whole address.
        name: For messages.
        scope: What a token must allow: `repository:library/python:pull`.
        headers: Asked again for each attempt.
        body: Bytes, or a file to be streamed.
    """

    method: str
    path: str
    name: str
    scope: str
    headers: Headers = dict
    body: bytes | Path = b""


class Interrupted(Exception):
    """The registry could not answer now; asking again may help."""

    def __init__(self, reason: str, *, pause_s: float = 0.0, limited: bool = False) -> None:
        super().__init__(reason)
        self.pause_s = pause_s
        self.limited = limited


class Transport:
    """Requests to one registry with one set of credentials."""

    def __init__(
        self,
        registry: str,
        *,
        credentials: auth.Credentials | None = None,
        insecure: bool = False,
        patience: Patience | None = None,
        time: clock.Clock | None = None,
    ) -> None:
        self.registry = registry
        self._credentials = credentials
        self._insecure = insecure
        self._patience = patience or Patience()
        self._clock = time or clock.SystemClock()
        self._tokens: dict[str, str] = {}
        host = _HUB_HOST if registry == reference.DOCKER_HUB else registry
        self._base = f"{'http' if insecure else 'https'}://{host}/v2/"
        self._http = httpx.AsyncClient(
            timeout=httpx.Timeout(self._patience.silence_s, connect=self._patience.connect_s),
            verify=_no_authorities() if insecure else ssl.create_default_context(),
            trust_env=not reference.is_loopback(host),
            headers={"User-Agent": "godwit", "Accept-Encoding": "identity"},
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def ask(self, call: Call, use: Use[T]) -> T:
        """Make a request, as often as patience allows, and return what `use` makes of it.

        `use` raises `Interrupted` when the answer broke off.

        Raises:
            Failure: `manifest_unknown`, `rate_limited`, `unavailable`, or what `use` raises.
        """
        for attempt in range(1, self._patience.attempts + 1):
            try:
                async with self._send(call) as answer:
                    self._refuse(answer, call.name)
                    return await use(answer)
            except (Interrupted, httpx.TransportError) as error:
                if attempt == self._patience.attempts:
                    raise self._given_up(error) from error
                await self._clock.sleep(self._pause(error, attempt))
        raise AssertionError("patience allows no attempt")

    def _pause(self, error: Exception, attempt: int) -> float:
        pause: float = self._patience.pause_s * 2.0 ** (attempt - 1)
        if isinstance(error, Interrupted):
            pause = max(pause, error.pause_s)
        return min(pause, _LONGEST_PAUSE_S)

    def _given_up(self, error: Exception) -> Failure:
        if isinstance(error, Interrupted) and error.limited:
            return Failure(
                "rate_limited",
                f"the registry {self.registry} refuses more requests for now",
                hint="wait some minutes, or give credentials",
            )
        reason = _ERRNO.sub("", str(error)) or type(error).__name__
        return Failure(
            "unavailable",
            f"the registry {self.registry} cannot be reached: {reason}",
            hint="check the name, this host's network and its DNS",
        )

    @contextlib.asynccontextmanager
    async def _send(self, call: Call) -> AsyncIterator[httpx.Response]:
        for may_authorize in (True, True, False):
            async with self._follow(call) as answer:
                if answer.status_code != httpx.codes.UNAUTHORIZED or not may_authorize:
                    yield answer
                    return
                if not await self._authorize(answer, call.scope):
                    yield answer
                    return

    @contextlib.asynccontextmanager
    async def _follow(self, call: Call) -> AsyncIterator[httpx.Response]:
        address = urljoin(self._base, call.path)
        for _ in range(_MAX_REDIRECTS):
            request = self._request(call, address)
            answer = await self._http.send(request, stream=True)
            try:
                target = answer.headers.get("location")
                if answer.status_code not in _REDIRECTS or target is None:
                    yield answer
                    return
            finally:
                await answer.aclose()
            address = self._redirected(address, target)
        raise Interrupted("it redirects in a circle")

    def _request(self, call: Call, address: str) -> httpx.Request:
        headers = dict(call.headers())
        if urlsplit(address).netloc == urlsplit(self._base).netloc and (
            known := self._tokens.get(call.scope) or self._first_token()
        ):
            headers["Authorization"] = known
        if isinstance(call.body, Path):
            headers["Content-Length"] = str(call.body.stat().st_size)
            return self._http.build_request(
                call.method, address, headers=headers, content=_stream(call.body)
            )
        return self._http.build_request(call.method, address, headers=headers, content=call.body)

    def _first_token(self) -> str:
        token = self._credentials.token if self._credentials else ""
        return f"Bearer {token}" if token else ""

    def _redirected(self, address: str, target: str) -> str:
        target = urljoin(address, target)
        if urlsplit(target).scheme != "https" and not self._insecure:
            raise Failure(
                "unavailable", f"the registry {self.registry} redirects to an address without TLS"
            )
        return target

    async def _authorize(self, answer: httpx.Response, scope: str) -> bool:
        """Get what the challenge asks for; false when nothing new can be tried."""
        before = self._tokens.get(scope)
        for challenge in auth.challenges(answer.headers.get("www-authenticate", "")):
            value = None
            if challenge.scheme == "bearer":
                value = f"Bearer {await self._token(challenge, scope)}"
            elif self._credentials is not None:
                value = self._credentials.basic()
            if value is not None and value != before:
                self._tokens[scope] = value
                return True
        return False

    async def _token(self, challenge: auth.Challenge, scope: str) -> str:
        address, query = auth.token_query(challenge, scope, insecure=self._insecure)
        headers = {}
        if self._credentials is not None:
            headers["Authorization"] = self._credentials.basic()
        try:
            request = self._http.build_request("GET", address, params=query, headers=headers)
            answer = await self._http.send(request, stream=True)
        except httpx.InvalidURL as error:
            raise Interrupted(f"its token server has no usable address: {error}") from error
        try:
            if answer.status_code in _BUSY:
                raise _interrupted(answer, "its token server")
            if answer.is_success and (token := _given(await self._short(answer))):
                return token
        finally:
            await answer.aclose()
        raise Failure(
            "manifest_unknown",
            f"the registry {self.registry} gives no access ({answer.status_code})",
            hint="check the user name and password or token" if self._credentials else _LOGIN,
        )

    async def _short(self, answer: httpx.Response) -> bytes:
        content = bytearray()
        async for piece in answer.aiter_raw():
            content += piece
            refuse_more_than(_MAX_TOKEN, len(content), f"the token of {self.registry}")
        return bytes(content)

    def _refuse(self, answer: httpx.Response, name: str) -> None:
        status = answer.status_code
        if answer.is_success:
            return
        if status in _BUSY:
            raise _interrupted(answer, "it")
        if status == httpx.codes.NOT_FOUND:
            raise Failure("manifest_unknown", f"{name} does not exist")
        if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise Failure(
                "manifest_unknown",
                f"{name} does not exist, or these credentials may not use it",
                hint=f"check the name; {_LOGIN}",
            )
        raise Failure("unavailable", f"the registry answered {status} about {name}")


def _given(content: bytes) -> str:
    """Return the token in a token server's answer, empty when there is none."""
    try:
        document = json.loads(content)
    except ValueError:
        return ""
    found = isinstance(document, dict) and (document.get("token") or document.get("access_token"))
    return found if isinstance(found, str) else ""


def _no_authorities() -> ssl.SSLContext:
    """Trusts nobody, and costs nothing to make: for clients that will not use TLS."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _interrupted(answer: httpx.Response, who: str) -> Interrupted:
    after = answer.headers.get("retry-after", "")
    return Interrupted(
        f"{who} answered {answer.status_code}",
        pause_s=float(after) if after.isdigit() else 0.0,
        limited=answer.status_code == httpx.codes.TOO_MANY_REQUESTS,
    )


async def _stream(file: Path) -> AsyncIterator[bytes]:
    with file.open("rb") as source:
        while piece := await asyncio.to_thread(source.read, _PIECE):
            yield piece


def refuse_more_than(limit: int, seen: int, name: str) -> None:
    """Stop reading an answer that is longer than it may be.

    Raises:
        Failure: `invalid_argument`.
    """
    if seen > limit:
        raise errors.invalid(f"{name} is longer than the {limit} bytes it may be")
