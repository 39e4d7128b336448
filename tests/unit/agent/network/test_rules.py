"""The rendered policy is held to `golden/policy.nft`; what it does is tested in tests/host.

After an intended change: `PYTHONPATH=. python tests/unit/agent/network/test_rules.py`.
"""

import itertools
import re
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.agent.judging import Judgement
from godwit.agent.network import mesh_rules, rules
from godwit.agent.network.addresses import PrivateAddress

GOLDEN = Path(__file__).parent / "golden" / "policy.nft"
GOLDEN_IN_MESH = GOLDEN.with_name("policy-in-mesh.nft")
MESH = mesh_rules.Mesh("mesh10001", 65_537, frozenset({65_538, 70_000}), 51_820)
GUESTS = [rules.guest(PrivateAddress(n, 65_537, slot)) for n, slot in ((1, 5), (1, 6), (2, 7))]
POLICY = rules.Policy(uplink="eth0", allowed=("10.9.0.0/16", "fd12::/16"))


def test_the_policy_is_what_was_reviewed():
    assert rules.table(POLICY, GUESTS) == GOLDEN.read_text()


def test_the_policy_of_a_host_in_a_mesh_is_what_was_reviewed():
    assert rules.table(POLICY, GUESTS, mesh=MESH) == GOLDEN_IN_MESH.read_text()


def test_other_hosts_only_add_to_the_policy():
    alone = rules.table(POLICY, GUESTS).splitlines()
    in_mesh = iter(rules.table(POLICY, GUESTS, mesh=MESH).splitlines())
    assert all(line in in_mesh for line in alone)


def test_the_order_of_guests_does_not_matter():
    assert rules.table(POLICY, GUESTS) == rules.table(POLICY, reversed(GUESTS))


def test_each_network_is_listed_once():
    text = rules.table(POLICY, GUESTS)
    assert text.count("fdaa:0:1:: . fdaa:0:1::") == 1
    assert text.count("fdaa:0:2:: . fdaa:0:2::") == 1


def test_an_empty_policy_has_no_empty_element_lists():
    text = rules.table(rules.Policy(), [])
    assert "elements = { }" not in text
    assert 'oifname "gw*" counter name refused_on_the_way drop\n        accept' in text


@pytest.mark.parametrize("mesh", [None, MESH])
def test_admitting_adds_what_the_table_would_hold(mesh):
    text = rules.table(rules.Policy(), GUESTS[:1], mesh=mesh)
    lines = rules.admit(GUESTS[0], in_mesh=mesh is not None).splitlines()
    assert any(" mesh_networks " in line for line in lines) == (mesh is not None)
    for line in lines:
        element = re.fullmatch(r"add element (inet|arp) godwit \w+ \{ (.*) \}", line)
        assert element is not None
        assert element[2] in text


@pytest.mark.parametrize("in_mesh", [True, False])
@pytest.mark.parametrize("last", [True, False])
def test_expelling_takes_away_what_admitting_added(last, in_mesh):
    added = rules.admit(GUESTS[0], in_mesh=in_mesh).splitlines()
    lines = rules.expel(GUESTS[0], last_of_network=last, in_mesh=in_mesh).splitlines()
    deleted = [line.replace("delete", "add") for line in lines if line.startswith("delete")]
    kept = [line for line in added if line not in deleted]
    assert bool(kept) != last
    assert all("networks " in line for line in kept)


def test_expelling_a_stranger_is_no_error():
    """Nothing is deleted that the same transaction did not add."""
    seen: set[str] = set()
    for line in rules.expel(GUESTS[0], last_of_network=True).splitlines():
        if line.startswith("add"):
            seen.add(line.removeprefix("add"))
        else:
            assert line.removeprefix("delete") in seen


def test_wrong_prefixes_are_refused():
    with pytest.raises(ValueError):
        rules.table(rules.Policy(allowed=("everything",)), [])


def test_traffic_is_only_paced_where_a_rate_is_given():
    assert "paced" not in rules.table(rules.Policy(), GUESTS)
    text = rules.table(rules.Policy(mbit_each_way=1_000), GUESTS)
    for way, device in (("out", "iifname"), ("in", "oifname")):
        assert f"update @paced_{way} {{ {device} limit rate over 125000 " in text


@pytest.mark.parametrize("mesh", [None, MESH])
def test_whatever_is_let_through_to_or_from_a_machine_is_paced(mesh):
    text = rules.table(rules.Policy(mbit_each_way=1_000), GUESTS, mesh=mesh)
    before, _, rest = text.partition("    chain to_host {")
    judged = before + rest.partition("    }\n")[2].partition("table arp")[0]
    last_met = re.compile(
        r"@(sources[46]|links6|networks)|ct state (established|untracked) |notrack$"
    )
    through = [line for line in judged.splitlines() if line.endswith(" accept")]
    assert not [line for line in through if last_met.search(line.removesuffix(" accept") + " ")]
    assert judged.count("goto pace_out") == (8 if mesh else 6)
    assert judged.count("goto pace_in") == (7 if mesh else 4)


def test_a_host_that_routed_before_goes_on_and_another_routes_for_machines_alone():
    assert "counter name strangers drop" not in rules.table(POLICY, GUESTS)
    text = rules.table(POLICY, GUESTS, closed=("ipv6",))
    assert "meta nfproto ipv6 counter name strangers drop" in text
    assert "meta nfproto ipv4 counter name strangers drop" not in text


ports = st.frozensets(
    st.tuples(st.sampled_from(("tcp", "udp")), st.integers(1, 65_535)), max_size=4
)
judgements = st.builds(Judgement, st.none() | ports, st.none() | ports)
any_mesh = st.sampled_from([None, MESH])


def changed(elements: set[str], transaction: str) -> set[str]:
    """Return a table's elements after a transaction; what is deleted has to be there."""
    after = set(elements)
    for line in transaction.splitlines():
        found = re.fullmatch(r"(add|delete) element (.*)", line)
        if found is None:
            assert re.match(r"(add chain|flush chain|add rule) inet godwit judge\b", line)
        elif found[1] == "add":
            after.add(found[2])
        else:
            after.remove(found[2])
    return after


@given(judgements, judgements, any_mesh)
def test_a_changed_judgement_leaves_what_a_new_machine_would_have(before, after, mesh):
    private, in_mesh = GUESTS[0].private, mesh is not None
    former, machine = rules.guest(private, before), rules.guest(private, after)
    there = changed(set(), rules.admit(former, in_mesh=in_mesh))
    there = changed(there, rules.admit(machine, in_mesh=in_mesh, former=before))
    assert there == changed(set(), rules.admit(machine, in_mesh=in_mesh))
    assert not changed(there, rules.expel(machine, last_of_network=True, in_mesh=in_mesh))


@given(judgements, any_mesh)
def test_a_judged_machine_is_in_the_table_as_it_is_admitted(judgement, mesh):
    machine = rules.guest(GUESTS[0].private, judgement)
    text = rules.table(rules.Policy(), [machine], mesh=mesh)
    for element in changed(set(), rules.admit(machine, in_mesh=mesh is not None)):
        assert element.partition("{ ")[2].removesuffix(" }") in text
    assert ("chain judge {" in text) == (bool(judgement) and mesh is not None)


def test_judged_machines_are_elements_and_no_rules():
    judgement = Judgement(ingress=frozenset({("tcp", 80)}), egress=frozenset())
    few, many = (
        rules.table(
            POLICY,
            [rules.guest(PrivateAddress(1, 9, 5 + n), judgement) for n in range(count)],
            mesh=MESH,
        )
        for count in (1, 50)
    )
    assert re.sub("elements = {.*}", "", few) == re.sub("elements = {.*}", "", many)


@pytest.mark.parametrize("prefixes", [rules.REFUSED_V4, rules.REFUSED_V6])
def test_refused_prefixes_do_not_overlap(prefixes):
    """An interval set takes no overlapping elements."""
    networks = [ip_network(each) for each in prefixes]
    for one, other in itertools.combinations(networks, 2):
        assert not one.overlaps(other)


@given(st.ip_addresses(v=6))
def test_an_ipv6_address_outside_the_world_is_refused(address):
    refused = any(address in ip_network(each) for each in rules.REFUSED_V6)
    if not refused:
        assert address in ip_network("2000::/3")
        assert address.sixtofour is None
        assert address.teredo is None
        assert address.ipv4_mapped is None


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(rules.table(POLICY, GUESTS))
    GOLDEN_IN_MESH.write_text(rules.table(POLICY, GUESTS, mesh=MESH))
