"""Under which address machines are seen outside."""

import ipaddress

import pytest

from godwit.agent.network import outbound


def test_an_interface_that_is_not_there_is_no_way_out() -> None:
    assert outbound.public_ip("no-such-link") == ""


def test_what_the_kernel_says_is_an_address_or_nothing() -> None:
    found = outbound.public_ip(None)
    assert found == "" or ipaddress.ip_address(found)


@pytest.mark.parametrize(
    ("v6", "v4", "wanted"),
    [
        ("2001:db8::2", "198.51.100.2", "2001:db8::2"),
        ("fd00::2", "198.51.100.2", "198.51.100.2"),
        ("", "10.0.0.7", "10.0.0.7"),
        ("fd00::2", "", "fd00::2"),
        ("", "", ""),
    ],
)
def test_a_public_address_of_version_6_comes_first(v6: str, v4: str, wanted: str) -> None:
    assert outbound.preferred(v6, v4) == wanted


def test_it_is_looked_up_again_when_it_is_old() -> None:
    now, answers = [0.0], iter(["a", "b"])
    one = outbound.Outbound("eth0", monotonic=lambda: now[0], look=lambda _: next(answers))
    assert [one.address(), one.address()] == ["a", "a"]
    now[0] = 30.0
    assert one.address() == "b"
