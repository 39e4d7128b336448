"""Which machines a policy selects and what all of them together allow, against a slow reading."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.agent.judging import FREE, Judgement, judgement, selects
from godwit.wire.network_policies import NetworkPolicy, Selector

M, N = "0000000000000a", "0000000000000b"
ports = st.builds(
    lambda protocol, port: {"protocol": protocol, "port": port},
    st.sampled_from(["tcp", "udp"]),
    st.integers(1, 5),
)
rules = st.fixed_dictionaries(
    {
        "direction": st.sampled_from(["ingress", "egress"]),
        "ports": st.lists(ports, max_size=3),
    }
)
pairs = st.dictionaries(st.sampled_from("ab"), st.sampled_from("xy"), max_size=2)
selectors = st.fixed_dictionaries(
    {
        "all": st.booleans(),
        "machines": st.lists(st.sampled_from([{"id": M}, {"id": N}]), max_size=2),
        "metadata": pairs,
    }
)
policies = st.lists(
    st.builds(
        lambda selector, rules: NetworkPolicy.model_validate(
            {"id": "npl_1", "name": "x", "selector": selector, "rules": rules}
        ),
        selectors,
        st.lists(rules, max_size=3),
    ),
    max_size=4,
)


@pytest.mark.parametrize(
    ("selector", "meant"),
    [
        ({}, False),
        ({"all": True}, True),
        ({"machines": [{"id": N}, {"id": M}]}, True),
        ({"machines": [{"id": N}]}, False),
        ({"all": True, "machines": [{"id": N}]}, False),
        ({"metadata": {"role": "web"}}, True),
        ({"metadata": {"role": "db"}}, False),
        ({"metadata": {"role": "db", "env": "test"}}, True),
        ({"machines": [{"id": M}], "metadata": {"role": "db"}}, False),
        ({"machines": [{"id": M}], "metadata": {"role": "web", "env": "production"}}, True),
    ],
)
def test_a_selector_means_the_machines_that_all_its_parts_agree_on(selector, meant):
    metadata = {"role": "web", "env": "test"}
    assert selects(Selector.model_validate(selector), M, metadata) == meant


@given(policies, pairs)
def test_a_port_is_open_if_some_rule_opens_it_or_none_speaks_of_its_direction(made, metadata):
    found = judgement(made, M, metadata)
    spoken = [rule for one in made if selects(one.selector, M, metadata) for rule in one.rules]
    for direction, open_ports in (("ingress", found.ingress), ("egress", found.egress)):
        said = [rule for rule in spoken if rule.direction == direction]
        assert (open_ports is None) == (not said)
        if open_ports is not None:
            for protocol in ("tcp", "udp"):
                for port in range(1, 7):
                    opened = any(
                        (one.protocol, one.port) == (protocol, port)
                        for rule in said
                        for one in rule.ports
                    )
                    assert ((protocol, port) in open_ports) == opened


@given(policies, pairs)
def test_a_policy_that_selects_no_machine_changes_nothing_for_it(made, metadata):
    others = [one for one in made if selects(one.selector, M, metadata)]
    assert judgement(made, M, metadata) == judgement(others, M, metadata)


def test_only_what_says_nothing_at_all_is_free():
    assert not FREE
    assert Judgement(egress=frozenset())
    assert Judgement(ingress=frozenset())
