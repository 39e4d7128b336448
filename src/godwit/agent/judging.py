"""What an app's network policies allow one machine. Pure.

A rule of a policy that selects the machine closes its direction; the ports of all such rules
together are open in it. Called by `agent.policies`, rendered by `policy_rules`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from godwit.wire import network_policies as wire

Ports = frozenset[tuple[wire.Protocol, int]]


@dataclass(frozen=True)
class Judgement:
    """What a machine may begin, by direction; `None` for anything.

    Attributes:
        ingress: What others may begin with it.
        egress: What it may begin with others.
    """

    ingress: Ports | None = None
    egress: Ports | None = None

    def __bool__(self) -> bool:
        """Tell whether there is anything to judge."""
        return self.ingress is not None or self.egress is not None


FREE = Judgement()


def judgement(
    policies: Iterable[wire.NetworkPolicy], machine_id: str, metadata: Mapping[str, str]
) -> Judgement:
    """Return what an app's policies allow a machine that has this metadata."""
    rules = [
        rule
        for policy in policies
        if selects(policy.selector, machine_id, metadata)
        for rule in policy.rules
    ]
    return Judgement(ingress=_open(rules, "ingress"), egress=_open(rules, "egress"))


def selects(selector: wire.Selector, machine_id: str, metadata: Mapping[str, str]) -> bool:
    """Tell whether a selector means a machine; one that says nothing means none."""
    if not (selector.all or selector.machines or selector.metadata):
        return False
    named = {one.id for one in selector.machines}
    pairs = selector.metadata.items()
    return (not named or machine_id in named) and (not pairs or bool(pairs & metadata.items()))


def _open(rules: Iterable[wire.Rule], direction: wire.Direction) -> Ports | None:
    found = [rule for rule in rules if rule.direction == direction]
    if not found:
        return None
    return frozenset((port.protocol, port.port) for rule in found for port in rule.ports)
