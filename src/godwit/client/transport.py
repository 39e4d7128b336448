"""One HTTP exchange with the API: authorization, deadlines, retries, failures.

Retries are those of spec/machines.md §1.1: 502 and 503 up to three times whatever the method, and
broken connections twice for reads. 429 is a queue rather than a refusal: the API says when to ask
again, and that is done up to 30 times. A streamed body is sent once.
"""

import json as json_
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx

import godwit
from godwit.base import clock, errors
from godwit.client import failures

_AGAIN = frozenset({502, 503})
_TOO_MANY = 429
_MOST_AGAIN = 3
_MOST_QUEUED = 30
_MOST_PAGES = 10_000
_MOST_RECONNECTS = 2
_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 5.0
_CONNECT_S = 10.0
_READ_S = 30.0
_ERROR_FROM = 400

Query = Mapping[str, str | int | bool | None]


class Transport:
    """Speaks to one API with one token.

    Args:
        base_url: `http://host:port`; a path in it is discarded.
        token: Opaque; `None` for the few calls that need none.
        http: What carries the requests; a real network when omitted.
        pauses: The clock that pauses between tries wait on.
    """

    def __init__(
        self,
        base_url: str,
        token: str | None,
        *,
        http: httpx.AsyncBaseTransport | None = None,
        pauses: clock.Clock | None = None,
    ) -> None:
        headers = {"User-Agent": f"godwit/{godwit.__version__}"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self.base_url = base_url
        self._pauses = pauses or clock.SystemClock()
        self._client = httpx.AsyncClient(
            base_url=httpx.URL(base_url).copy_with(path="/"),
            headers=headers,
            timeout=_timeout(_READ_S),
            transport=http,
            trust_env=False,
        )

    async def close(self) -> None:
        """End every connection."""
        await self._client.aclose()

    async def get(
        self, path: str, *, query: Query | None = None, timeout_s: float = _READ_S
    ) -> Any:
        """Return what a resource is, parsed."""
        return await self.call("GET", path, query=query, timeout_s=timeout_s)

    async def pages(self, path: str, *, query: Query | None = None) -> AsyncIterator[Any]:
        """Yield a list page by page, each parsed, following the header `fly-next-cursor`."""
        cursor: str | None = None
        for _ in range(_MOST_PAGES):
            response = await self._ask("GET", path, query={**(query or {}), "cursor": cursor})
            yield _parsed(response)
            cursor = response.headers.get("fly-next-cursor")
            if not cursor:
                return
        raise errors.Failure("internal", f"{path} has no end", hint="report this")

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = _READ_S,
    ) -> Any:
        """Send a request and return the answer's JSON, or `None` for an empty answer.

        Raises:
            ApiFailure: The API refused.
            Failure: `unavailable` or `deadline_exceeded` when it could not be asked.
        """
        response = await self._ask(
            method, path, query=query, body=body, headers=headers, timeout_s=timeout_s
        )
        return _parsed(response)

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = _READ_S,
    ) -> httpx.Response:
        request = self._client.build_request(
            method,
            path,
            params=_query(query),
            json=body,
            headers=dict(headers) if headers else None,
            timeout=_timeout(timeout_s),
        )
        response = await self._send_again(request)
        if response.status_code >= _ERROR_FROM:
            raise failures.from_response(response)
        return response

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        query: Query | None,
        content: AsyncIterator[bytes],
        headers: Mapping[str, str],
        timeout_s: float,
    ) -> AsyncIterator[AsyncIterator[str]]:
        """Send a streamed body once and give the answer's lines as they come.

        The other side may be silent for `timeout_s`.
        """
        request = self._client.build_request(
            method,
            path,
            params=_query(query),
            content=content,
            headers=dict(headers),
            timeout=_timeout(timeout_s),
        )
        try:
            response = await self._client.send(request, stream=True)
            try:
                if response.status_code >= _ERROR_FROM:
                    await response.aread()
                    raise failures.from_response(response)
                yield response.aiter_lines()
            finally:
                await response.aclose()
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    async def _send_again(self, request: httpx.Request) -> httpx.Response:
        refused = broken = queued = 0
        while True:
            try:
                response = await self._client.send(request)
            except httpx.TransportError as error:
                broken += 1
                if not _may_reconnect(request, error) or broken > _MOST_RECONNECTS:
                    raise self._unreachable(error) from error
                await self._pauses.sleep(_pause(broken))
                continue
            if response.status_code == _TOO_MANY and queued < _MOST_QUEUED:
                queued += 1
                await self._pauses.sleep(_asked_pause(response) or _pause(queued))
                continue
            refused += 1
            if refused > _MOST_AGAIN or not _passing(response):
                return response
            await self._pauses.sleep(_asked_pause(response) or _pause(refused))

    def _unreachable(self, error: httpx.HTTPError) -> errors.Failure:
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return errors.Failure(
                "unavailable",
                f"nothing answers at {self.base_url}",
                hint="start Godwit on this host with `godwit up`, or point GODWIT_API_URL at "
                "the API you mean",
            )
        if isinstance(error, httpx.TimeoutException):
            return errors.Failure("deadline_exceeded", f"{self.base_url} did not answer in time")
        reason = str(error) or type(error).__name__
        return errors.Failure(
            "unavailable", f"the connection to {self.base_url} broke: {reason}", hint="try again"
        )


def _timeout(read_s: float) -> httpx.Timeout:
    return httpx.Timeout(read_s, connect=_CONNECT_S)


def _query(query: Query | None) -> dict[str, str]:
    """Return the parameters that are set; booleans as `true` and `false`."""
    found = {}
    for name, value in (query or {}).items():
        if value is None:
            continue
        found[name] = str(value).lower() if isinstance(value, bool) else str(value)
    return found


def _may_reconnect(request: httpx.Request, error: httpx.TransportError) -> bool:
    return request.method == "GET" and isinstance(
        error, httpx.ReadError | httpx.RemoteProtocolError | httpx.WriteError
    )


def _passing(response: httpx.Response) -> bool:
    """Tell whether a refusal may be gone a moment later; a full region is not one."""
    return response.status_code in _AGAIN and b"insufficient_capacity" not in response.content


def _pause(tries: int) -> float:
    return float(min(_FIRST_PAUSE_S * 2 ** (tries - 1), _LONGEST_PAUSE_S))


def _asked_pause(response: httpx.Response) -> float:
    asked = response.headers.get("retry-after", "")
    return min(float(asked), _LONGEST_PAUSE_S) if asked.isdecimal() else 0.0


def _parsed(response: httpx.Response) -> Any:
    if not response.content:
        return None
    try:
        return response.json()
    except (json_.JSONDecodeError, UnicodeDecodeError) as error:
        raise errors.Failure(
            "internal",
            f"{response.request.url} answered something that is not JSON",
            hint="is this address really Godwit's API?",
        ) from error
