"""The rendered policy is held to `golden/policy.nft`; what it does is tested in tests/host.

After an intended change: `PYTHONPATH=. python tests/unit/agent/network/test_rules.py`.
"""

import re
from pathlib import Path

import pytest

from godwit.agent.network import rules
from godwit.agent.network.addresses import PrivateAddress

GOLDEN = Path(__file__).parent / "golden" / "policy.nft"
GUESTS = [rules.guest(PrivateAddress(n, 65_537, slot)) for n, slot in ((1, 5), (1, 6), (2, 7))]
POLICY = rules.Policy(uplink="eth0", allowed=("10.9.0.0/16", "fd12::/16"))


def test_the_policy_is_what_was_reviewed():
    assert rules.table(POLICY, GUESTS) == GOLDEN.read_text()


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


def test_admitting_adds_what_the_table_would_hold():
    text = rules.table(rules.Policy(), GUESTS[:1])
    for line in rules.admit(GUESTS[0]).splitlines():
        element = re.fullmatch(r"add element (inet|arp) godwit \w+ \{ (.*) \}", line)
        assert element is not None
        assert element[2] in text


@pytest.mark.parametrize("last", [True, False])
def test_expelling_takes_away_what_admitting_added(last):
    added = rules.admit(GUESTS[0]).splitlines()
    lines = rules.expel(GUESTS[0], last_of_network=last).splitlines()
    deleted = [line.replace("delete", "add") for line in lines if line.startswith("delete")]
    kept = [line for line in added if line not in deleted]
    assert bool(kept) != last
    assert all(" networks " in line for line in kept)


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


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(rules.table(POLICY, GUESTS))
