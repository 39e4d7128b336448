"""Godwit on all hosts of a lab as one cluster: the first host founds it, the others join it."""

from collections.abc import Callable

from lab.laboratory import Lab
from lab.node import Host


def start(lab: Lab, told: Callable[[str], None]) -> None:
    """Bring Godwit up on every host of a lab that has just been made.

    Args:
        lab: Its first host is the one whose CLI speaks to the API.
        told: Called with one sentence for each stage.

    Raises:
        Failure: A host does not come up or may not join; the message says why.
    """
    founder, *others = lab.hosts.values()
    told(f"{founder.name} starts, the first of its cluster")
    founder.start()
    for host in others:
        told(f"{host.name} joins")
        join(founder, host)
        host.start()


def join(founder: Host, host: Host, *more: str) -> str:
    """Have a host join, with a token that the first one made; return its id.

    Args:
        founder: The first host.
        host: The one that joins.
        more: Options of `godwit host join`.
    """
    token = founder.json("host", "token", "--region", host.region)["token"]
    asked = ("host", "join", "--token", "-", "--region", host.region, *more)
    return host.exec("godwit", *asked, stdin=token, timeout_s=240).strip()
