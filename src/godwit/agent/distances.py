"""How far other hosts and regions are, as the edge of this host measures it.

Asked of the edge now and then; told to the DNS server, which answers with the nearest machines
first, and to the operator in the mesh's report.
"""

import logging
from collections.abc import Callable, Mapping

import httpx
from pydantic import ValidationError

from godwit.wire.record import Record

logger = logging.getLogger(__name__)

_ANSWER_S = 5.0
_FARTHEST = 2**32 - 1
"""Where a host is that does not answer now."""

Tell = Callable[[Mapping[str, int], Mapping[str, int]], None]
"""Takes the round trips to hosts and to regions, in microseconds."""


class _Distance(Record):
    micros: int
    silent: bool = False


class _Distances(Record):
    hosts: dict[str, _Distance] = {}
    regions: dict[str, int] = {}


class Distances:
    """What the edge said last.

    Args:
        edge: Where its status page is, `host:port`.
        tell: Told of it.
    """

    def __init__(self, edge: str, tell: Tell) -> None:
        self._url = f"http://{edge}/distances"
        self._tell = tell
        self._hosts: Mapping[str, int] = {}

    def of(self, host_id: str) -> int | None:
        """Return the round trip to a host, in microseconds; `None` when it is not known."""
        return self._hosts.get(host_id)

    async def look(self) -> None:
        """Ask the edge; while it is away, what it said before holds. To be done now and then."""
        try:
            # No certificates are read for plain HTTP on this host.
            client = httpx.AsyncClient(verify=False, timeout=_ANSWER_S, trust_env=False)  # noqa: S501
            async with client:
                answer = await client.get(self._url)
            answer.raise_for_status()
            told = _Distances.model_validate_json(answer.content)
        except (httpx.HTTPError, ValidationError) as error:
            logger.debug("the edge does not tell its distances: %s", error)
            return
        measured = {host: one for host, one in told.hosts.items() if one.micros}
        self._hosts = {host: one.micros for host, one in measured.items() if not one.silent}
        silent = {host: _FARTHEST for host, one in measured.items() if one.silent}
        self._tell({**self._hosts, **silent}, told.regions)
