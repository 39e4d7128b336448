"""Whether an app's public name leads anywhere: a warning at the end of a deploy.

Asked of this computer's resolver, which sees what the user sees. Names below `localhost` are this
computer's own and not in the DNS.
"""

import asyncio
import socket

from godwit.cli.session import Session

_WAIT_S = 5.0


async def warn(here: Session, app: str) -> None:
    """Say so if an app's name has no address."""
    hostname = here.settings.hostname(app)
    if hostname.endswith(".localhost") or await has_address(hostname):
        return
    here.out.warn(
        f"{hostname} has no address in the DNS: nobody finds the app by its name until"
        f" *.{here.settings.apps_domain} leads to this platform's servers"
        " (--dns-checks=false does not look)"
    )


async def has_address(hostname: str) -> bool:
    """Tell whether a name has an address; one that nobody answers for in time may have."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_WAIT_S):
            return bool(await loop.getaddrinfo(hostname, None, type=socket.SOCK_STREAM))
    except TimeoutError:
        return True
    except OSError:
        return False
