"""Network policies of apps: what machines may send and be sent, told by control to hosts.

    policies.set      AppPolicies                   → {} (an older version changes nothing)

An offer and an update bring them too, so that no machine begins without. A host keeps them by app
and decides for each of its machines which ones select it: it knows their metadata best.
"""

from typing import Literal

from godwit.wire.record import Record

Protocol = Literal["tcp", "udp"]
Direction = Literal["ingress", "egress"]

MOST_BYTES = 16_384
"""Of an app's policies as JSON: they are part of every offer."""


class Port(Record):
    """A port that may be used."""

    protocol: Protocol
    port: int


class Rule(Record):
    """What is allowed in a direction; without any port nothing is."""

    action: Literal["allow"] = "allow"
    direction: Direction
    ports: tuple[Port, ...]


class OneMachine(Record):
    """A machine that is meant by its id."""

    id: str


class Selector(Record):
    """Which of an app's machines are meant: those that every part which is given agrees on.

    Attributes:
        all: All of them.
        machines: One of these.
        metadata: One of these pairs.
    """

    all: bool = False
    machines: tuple[OneMachine, ...] = ()
    metadata: dict[str, str] = {}


class NetworkPolicy(Record):
    """One policy."""

    id: str
    name: str
    selector: Selector
    rules: tuple[Rule, ...]


class AppPolicies(Record):
    """All policies of an app.

    Attributes:
        version: Grows with every change.
    """

    v: int = 1
    app_id: str
    version: int
    policies: tuple[NetworkPolicy, ...] = ()
