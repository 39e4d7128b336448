import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.agent.network import links
from godwit.agent.network.addresses import PrivateAddress

PRIVATE = PrivateAddress(1, 65_537, 5)


def test_a_tap_is_the_way_to_its_machine_and_to_nothing_else():
    commands = links.tap_commands("gw5", PRIVATE, 1420)
    assert all("dev gw5" in command for command in commands)
    routes = [command for command in commands if command.startswith("route")]
    assert [route.split()[2] for route in routes] == [f"{PRIVATE}/128", "172.16.0.5/32"]


def test_taps_differ_only_in_what_is_the_machines_own():
    def general(slot: int) -> str:
        private = PrivateAddress(1, 65_537, slot)
        text = "\n".join(links.tap_commands(f"gw{slot}", private, 1420))
        return text.replace(f"gw{slot}", "TAP").replace(str(private), "SIX")

    one, two = general(5), general(6)
    assert one.replace("172.16.0.5", "X").replace("00:05", "M").replace("fe00:5", "L") == (
        two.replace("172.16.0.6", "X").replace("00:06", "M").replace("fe00:6", "L")
    )


def test_every_command_may_run_twice():
    commands = links.host_commands() + links.tap_commands("gw5", PRIVATE, 1420)
    assert all(c.split()[1] in ("replace", "set") for c in commands)


@pytest.mark.parametrize(
    ("name", "slot"),
    [
        ("gw2", 2),
        ("gw1048574", 1_048_574),
        ("gw1", None),
        ("gw0", None),
        ("gw1048575", None),
        ("gw", None),
        ("gwan0", None),
        ("gw02", None),
        ("gw٣", None),
        ("eth0", None),
        ("5", None),
    ],
)
def test_only_our_own_names_are_taps(name, slot):
    assert links.slot_of(name) == slot


@given(st.text(max_size=15))
def test_any_interface_name_is_judged(name):
    slot = links.slot_of(name)
    assert slot is None or name == f"gw{slot}"


def test_plumbed_machines_are_read_from_the_routes():
    shown = [
        {"dst": str(PRIVATE), "dev": "gw5"},
        {"dst": "fdaa:0:1:1:1:0:6:2/128", "dev": "gw6"},
        {"dst": "fdaa::/16", "dev": "lo", "type": "unreachable"},
        {"dst": "fdaa:0:1:1:1:0:9:2", "dev": "eth0"},
        {"dst": "fdaa:0:1:1:1:0:9:9", "dev": "gw9"},
    ]
    found = links.plumbed_taps(json.dumps(shown).encode())
    assert [(f.tap, f.private.slot) for f in found] == [("gw5", 5), ("gw6", 6)]


def test_no_routes_are_no_machines():
    assert links.plumbed_taps(b"") == []
    assert links.plumbed_taps(b"[]") == []
