"""Takes their votes from bus servers that are gone for good.

A server that has been one of a region's counts in every vote of theirs until it is struck off;
with a third one in its place all three would be needed else. Asked of the servers' system account,
whose one user may do nothing else. To ask again changes nothing: a server that came back for a
moment, because it had not heard yet of its removal, is struck off once more.
"""

import asyncio
import json
import logging
from collections.abc import Iterable

import nats.errors
from nats.aio.client import Client

from godwit.base import errors

logger = logging.getLogger(__name__)

USER = "godwit-votes"
SUBJECT = "$JS.API.SERVER.REMOVE"
_CONNECT_S = 3
_ASK_S = 5.0
_NO_MEMBER = 10_044


async def strike_off(url: str, password: str, names: Iterable[str]) -> list[str]:
    """Take the votes of the servers with these names; return those that still had one.

    Args:
        url: One of the region's servers.
        password: Of the system account's user.
        names: As the servers are named.

    Raises:
        Failure: `unavailable`: too few servers are there to decide anything; ask again later.
    """
    client, struck = Client(), []
    try:
        async with asyncio.timeout(2 * _CONNECT_S):
            await client.connect(
                url,
                user=USER,
                password=password,
                inbox_prefix=f"_INBOX_{USER}",
                allow_reconnect=False,
                connect_timeout=_CONNECT_S,
            )
        struck = [name for name in names if await _struck_off(client, name)]
    except (nats.errors.Error, OSError, TimeoutError) as error:
        raise errors.Failure("unavailable", f"the bus servers decide nothing: {error}") from error
    finally:
        if not client.is_closed:
            await client.close()
    return struck


async def _struck_off(client: Client, name: str) -> bool:
    asked = json.dumps({"peer": name}).encode()
    answer = json.loads((await client.request(SUBJECT, asked, timeout=_ASK_S)).data)
    refusal = answer.get("error") or {}
    if refusal and refusal.get("err_code") != _NO_MEMBER:
        raise errors.Failure(
            "unavailable", f"bus server {name} keeps its vote: {refusal.get('description')}"
        )
    return not refusal
