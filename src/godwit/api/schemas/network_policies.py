"""Network policies of apps (spec/network.md §3.2)."""

from typing import Annotated, Literal

from pydantic import Field

from godwit.api.schemas.common import In, Out, ShortText, Text
from godwit.wire import network_policies as wire


class PortIn(In):
    """A port that may be used."""

    protocol: wire.Protocol
    port: Annotated[int, Field(ge=1, le=65_535)]


class RuleIn(In):
    """What is allowed in a direction; all else is not from then on, without ports nothing is."""

    action: Literal["allow"]
    direction: wire.Direction
    ports: Annotated[list[PortIn], Field(max_length=1_000)] = []


class OneMachineIn(In):
    """A machine by its id."""

    id: ShortText


class SelectorIn(In):
    """Which machines: those that all given parts agree on."""

    all: bool = False
    machines: Annotated[list[OneMachineIn], Field(max_length=1_000)] = []
    metadata: dict[Text, Text] = {}


class PutNetworkPolicy(In):
    """A policy to make, or with an id the one to replace."""

    name: ShortText
    id: ShortText = ""
    selector: SelectorIn
    rules: Annotated[list[RuleIn], Field(max_length=100)]

    def wanted(self) -> wire.NetworkPolicy:
        """Return what the service is asked."""
        return wire.NetworkPolicy.model_validate(self.model_dump())


class PortOut(Out):
    """A port that may be used."""

    protocol: wire.Protocol
    port: int


class RuleOut(Out):
    """What is allowed in a direction."""

    action: Literal["allow"]
    direction: wire.Direction
    ports: list[PortOut]


class OneMachineOut(Out):
    """A machine by its id."""

    id: str


class SelectorOut(Out):
    """Which machines."""

    all: bool
    machines: list[OneMachineOut]
    metadata: dict[str, str]


class NetworkPolicyOut(Out):
    """A policy."""

    id: str
    name: str
    selector: SelectorOut
    rules: list[RuleOut]

    @classmethod
    def of(cls, policy: wire.NetworkPolicy) -> "NetworkPolicyOut":
        """Return a policy as the API shows it."""
        return cls.model_validate(policy.model_dump())
