"""A Dockerfile from the web: fetched once, kept for as long as the build needs it."""

import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import httpx

from godwit.base import errors

MOST_BYTES = 10 << 20
_TIMEOUT_S = 30.0
_OK = 200


def is_address(named: str) -> bool:
    """Tell whether a Dockerfile is on the web."""
    return named.startswith(("http://", "https://"))


@contextlib.asynccontextmanager
async def fetched(
    address: str, *, http: httpx.AsyncBaseTransport | None = None
) -> AsyncIterator[Path]:
    """Give the path of a file with what is at an address; the file is gone afterwards.

    Raises:
        Failure: It cannot be had, or is larger than 10 MiB.
    """
    content = await _content(address, http)
    with tempfile.TemporaryDirectory(prefix="godwit-") as directory:
        path = Path(directory) / "Dockerfile"
        path.write_bytes(content)
        yield path


async def _content(address: str, http: httpx.AsyncBaseTransport | None) -> bytes:
    content = bytearray()
    try:
        async with (
            httpx.AsyncClient(timeout=_TIMEOUT_S, follow_redirects=True, transport=http) as client,
            client.stream("GET", address) as response,
        ):
            if response.status_code != _OK:
                raise errors.not_found(f"{address} answers {response.status_code}")
            async for piece in response.aiter_bytes():
                content += piece
                if len(content) > MOST_BYTES:
                    raise errors.invalid(f"{address} has more than {MOST_BYTES >> 20} MiB")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        told = str(error) or type(error).__name__
        raise errors.Failure("unavailable", f"cannot fetch {address}: {told}") from error
    return bytes(content)
