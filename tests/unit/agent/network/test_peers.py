"""Which changes bring a WireGuard device to what the members' records say."""

import base64
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.agent.network import addresses, peers
from godwit.agent.network.peers import Change, Device, Peer, Seen

NOW_S = 1_700_000_000.0


def key(number: int) -> str:
    return base64.b64encode(number.to_bytes(32, "big")).decode()


def peer(number: int, *endpoints: str, **changed: str) -> Peer:
    return Peer(
        number, changed.get("key", key(number)), changed.get("next_key", ""), tuple(endpoints)
    )


def heard(of: Peer, endpoint: str = "192.0.2.1:51820", ago_s: int = 10, **changed: object) -> Seen:
    seen = Seen(endpoint, of.prefixes, int(NOW_S) - ago_s, 1, 1, peers.KEEPALIVE_S)
    return replace(seen, **changed)


def obey(device: Device, changes: Iterable[Change]) -> Device:
    """Return the device after changes, as WireGuard makes them: a prefix has one peer."""
    known = dict(device.peers)
    for change in changes:
        if change.remove:
            del known[change.public_key]
            continue
        now = known.get(change.public_key, Seen())
        if change.prefixes is not None:
            known = {
                k: replace(s, prefixes=s.prefixes - change.prefixes) for k, s in known.items()
            }
            now = replace(now, prefixes=change.prefixes)
        now = replace(now, endpoint=change.endpoint or now.endpoint)
        known[change.public_key] = replace(now, keepalive_s=peers.KEEPALIVE_S)
    return replace(device, peers=known)


def plan(device: Device, *wanted: Peer, **how: object) -> list[Change]:
    given = how.get("given", {p.host_number: p.endpoints for p in wanted})
    return peers.plan(device, wanted, given, NOW_S, how.get("remembered", {}))


numbers = st.integers(1, 40)
endpoints = st.sampled_from(["192.0.2.1:1", "[2001:db8::1]:2", "198.51.100.7:51820"])
wanted_peers = st.dictionaries(
    numbers,
    st.tuples(st.lists(endpoints, unique=True, max_size=3), st.booleans()),
    max_size=8,
).map(
    lambda chosen: [
        peer(n, *where, next_key=key(n + 1_000) if changing else "")
        for n, (where, changing) in chosen.items()
    ]
)
seen_peers = st.dictionaries(
    st.one_of(numbers, numbers.map(lambda n: n + 1_000), st.integers(5_000, 5_003)),
    st.builds(
        Seen,
        st.sampled_from(["", "192.0.2.1:1", "203.0.113.9:9"]),
        st.frozensets(numbers.map(lambda n: str(addresses.host_prefix(n))), max_size=2),
        st.sampled_from([0, int(NOW_S) - 10, int(NOW_S) - 1_000]),
        keepalive_s=st.sampled_from([0, 25]),
    ),
    max_size=8,
).map(lambda chosen: Device(key(9), 51820, {key(n): s for n, s in chosen.items()}))


@given(seen_peers, wanted_peers)
def test_whatever_the_device_had_it_ends_with_the_hosts_and_nothing_else(device, wanted):
    after = obey(device, plan(device, *wanted))
    assert set(after.peers) == {k for p in wanted for k in p.keys}
    for each in wanted:
        holders = [k for k in each.keys if after.peers[k].prefixes]
        assert holders == [peers.active_key(device, each)]
        assert after.peers[holders[0]].prefixes == each.prefixes
        if each.endpoints:
            assert after.peers[holders[0]].endpoint


@given(seen_peers, wanted_peers)
def test_a_device_that_is_right_is_told_nothing_but_to_try_other_endpoints(device, wanted):
    after = obey(device, plan(device, *wanted))
    again = plan(after, *wanted)
    assert all(c.endpoint and c.prefixes is None and not c.keepalive for c in again)
    woken = replace(
        after, peers={k: replace(s, handshake_s=int(NOW_S)) for k, s in after.peers.items()}
    )
    rest = [p for p in wanted if not p.next_key]
    assert [c for c in plan(woken, *rest) if not c.remove and not c.endpoint] == []


@given(wanted_peers, st.integers(50, 60))
def test_one_more_host_is_one_change(wanted, number):
    settled = Device(key(9), 51820, {k: heard(p) for p in wanted for k in p.keys})
    settled = obey(settled, plan(settled, *wanted))
    newcomer = peer(number, "192.0.2.77:51820")
    changes = plan(settled, *wanted, newcomer)
    assert changes == [
        Change(newcomer.public_key, False, "192.0.2.77:51820", newcomer.prefixes, True)
    ]


def test_one_host_less_is_one_change():
    one, two = peer(1), peer(2)
    device = Device(key(9), 51820, {p.public_key: heard(p) for p in (one, two)})
    assert plan(device, two) == [Change(one.public_key, remove=True)]


def test_an_endpoint_that_roamed_is_left_alone_while_the_peer_is_heard():
    one = peer(1, "192.0.2.1:51820")
    device = Device(key(9), 51820, {one.public_key: heard(one, "203.0.113.5:7777")})
    assert plan(device, one) == []


def test_a_changed_record_moves_the_endpoint_at_once():
    one = peer(1, "198.51.100.1:51820")
    device = Device(key(9), 51820, {one.public_key: heard(one, "192.0.2.1:51820")})
    changes = plan(device, one, given={1: ("192.0.2.1:51820",)})
    assert changes == [Change(one.public_key, endpoint="198.51.100.1:51820")]


def test_a_silent_peer_is_tried_at_each_of_its_endpoints_in_turn():
    one = peer(1, "192.0.2.1:1", "192.0.2.2:2")
    tried = []
    where = "203.0.113.5:7777"
    for _ in range(3):
        device = Device(key(9), 51820, {one.public_key: heard(one, where, ago_s=181)})
        (change,) = plan(device, one)
        where = change.endpoint
        tried.append(where)
    assert tried == ["192.0.2.1:1", "192.0.2.2:2", "192.0.2.1:1"]


def test_a_silent_peer_with_one_endpoint_is_not_told_again_and_again():
    one = peer(1, "192.0.2.1:1")
    device = Device(key(9), 51820, {one.public_key: heard(one, "192.0.2.1:1", ago_s=9_999)})
    assert plan(device, one) == []


def test_a_peer_without_endpoint_is_looked_for_where_it_was_last_seen():
    one = peer(1)
    (change,) = plan(Device(), one, remembered={one.public_key: "203.0.113.5:7777"})
    assert change.endpoint == "203.0.113.5:7777"


def test_the_next_key_is_known_but_has_no_address_until_it_is_used():
    one = peer(1, "192.0.2.1:1", next_key=key(77))
    device = Device(key(9), 51820, {one.public_key: heard(one, "192.0.2.1:1")})
    device = obey(device, plan(device, one))
    assert device.peers[key(77)].prefixes == frozenset()
    assert device.peers[one.public_key].prefixes == one.prefixes
    used = {**device.peers, key(77): replace(device.peers[key(77)], handshake_s=int(NOW_S))}
    device = obey(replace(device, peers=used), plan(replace(device, peers=used), one))
    assert device.peers[key(77)].prefixes == one.prefixes
    assert device.peers[one.public_key].prefixes == frozenset()
    ended = peer(1, "192.0.2.1:1", key=key(77))
    assert plan(device, ended) == [Change(one.public_key, remove=True)]


def test_a_change_is_what_wg_set_takes():
    assert Change("K", remove=True, endpoint="x").arguments == ["peer", "K", "remove"]
    given = Change("K", endpoint="192.0.2.1:1", prefixes=frozenset({"b/48", "a/128"})).arguments
    assert given == ["peer", "K", "endpoint", "192.0.2.1:1", "allowed-ips", "a/128,b/48"]
    bare = Change("K", prefixes=frozenset(), keepalive=True).arguments
    assert bare == ["peer", "K", "allowed-ips", "", "persistent-keepalive", "25"]


GOOD = peer(1, "192.0.2.1:1")


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (peer(0), "host number 0"),
        (peer(2**32), "not within"),
        (peer(2, key="short"), "not a WireGuard key"),
        (peer(2, key=key(1)), "another has the key"),
        (peer(2, next_key=key(1)), "another has the key"),
        (peer(2, next_key="rubbish!"), "not a WireGuard key"),
        (peer(1, key=key(3)), "another has the same number"),
    ],
)
def test_a_bad_record_is_said_and_harms_no_other(bad, why):
    found, complaints = peers.usable([GOOD, bad, peer(4)], own_number=9)
    assert set(found) == {1, 4}
    assert found[1] == GOOD
    assert len(complaints) == 1
    assert why in complaints[0]


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("host.example:51820", "does not appear to be"),
        ("2001:db8::1:51820", "not `address:port`"),
        ("192.0.2.1:0", "port 0"),
        ("192.0.2.1:65536", "port 65536"),
        ("192.0.2.1:", "not `address:port`"),
        ("[192.0.2.1]:1", "not `address:port`"),
        ("", "does not appear to be"),
    ],
)
def test_a_bad_endpoint_is_said_and_the_others_of_its_host_are_used(bad, why):
    found, complaints = peers.usable([peer(2, "192.0.2.1:1", bad, "[2001:db8::1]:2")], 9)
    assert found[2].endpoints == ("192.0.2.1:1", "[2001:db8::1]:2")
    assert len(complaints) == 1
    assert why in complaints[0]


def test_the_host_itself_is_no_peer_of_its_own():
    assert peers.usable([peer(9), GOOD], own_number=9) == ({1: GOOD}, [])


DUMP = (
    f"private\t{key(9)}\t51820\t0x67\n"
    f"{key(1)}\t(none)\t192.0.2.1:51820\tfdab:0:1::/48,fdaa::1:0:0:1/128\t1700\t10\t20\t25\n"
    f"{key(2)}\t(none)\t(none)\t(none)\t0\t0\t0\toff\n"
)


def test_what_wg_says_is_read():
    device = peers.parse(DUMP)
    assert (device.public_key, device.port, device.mark) == (key(9), 51820, 0x67)
    assert device.peers[key(1)] == Seen(
        "192.0.2.1:51820",
        frozenset({"fdab:0:1::/48", "fdaa::1:0:0:1/128"}),
        1700,
        10,
        20,
        25,
    )
    assert device.peers[key(2)] == Seen()


def test_a_device_without_key_has_none():
    assert peers.parse("(none)\t(none)\t0\toff\n") == Device()


@pytest.mark.parametrize("text", ["", "rubbish", DUMP + "short\tline\n"])
def test_what_is_no_dump_is_refused(text):
    with pytest.raises(ValueError):
        peers.parse(text)


@given(numbers)
def test_prefixes_are_spelled_as_wg_spells_them(number):
    """They are compared as text."""
    for prefix in peer(number).prefixes:
        assert str(addresses.IPv6Network(prefix)) == prefix
