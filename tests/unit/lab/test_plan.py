"""Labs that can be, labs that cannot, and the addresses that follow."""

from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.base import errors
from lab import addressing, plan, wiring

CODES = st.lists(
    st.text("abcdefghijklmnopqrstuvwxyz", min_size=3, max_size=3),
    min_size=1,
    max_size=plan.MOST_REGIONS,
    unique=True,
)


def test_delays_follow_from_the_distance_unless_they_are_given() -> None:
    lab = plan.Plan(
        regions={code: plan.Region() for code in ("fra", "iad", "nrt")}, delays={"nrt-fra": 5}
    )
    assert lab.delay_ms("fra", "nrt") == lab.delay_ms("nrt", "fra") == 5
    assert 30 < lab.delay_ms("fra", "iad") < 60
    assert lab.delay_ms("fra", "iad") == lab.delay_ms("iad", "fra")
    assert 50 < lab.delay_ms("iad", "nrt") < 100


def test_a_place_that_nobody_knows_is_near() -> None:
    assert plan.distance_ms("fra", "zzz") == plan.distance_ms("zzz", "lcl") == 10.0


def test_a_plan_is_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "lab.toml"
    file.write_text(
        'name = "three"\n[regions.fra]\nhosts = [{zone = "00a1"}, {}]\nclients = 2\n'
        '[regions.iad]\n[delays]\nfra-iad = 40\n[settings]\n"host.memory_mb" = 512\n'
    )
    read = plan.read(file)
    assert list(read.hosts("fra")) == ["fra-1", "fra-2"]
    assert read.hosts("fra")["fra-1"].zone == "00a1"
    assert read.clients("fra") == ("fra-c1", "fra-c2")
    assert read.delay_ms("iad", "fra") == 40
    assert read.settings == {"host.memory_mb": 512}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name = 'Lab'\n[regions.fra]", "name: "),
        ("", "regions: Field required"),
        ("[regions]", "regions: "),
        ("[regions.frankfurt]", "regions.frankfurt"),
        ("[regions.fra]\nclients = 99", "regions.fra.clients: "),
        ("[regions.fra]\nhosts = [{zone = 'x'}]", "regions.fra.hosts.0.zone: "),
        ("[regions.fra]\n[delays]\nfra-iad = 1", "fra-iad is not a pair"),
        ("[regions.fra]\n[regions.iad]\n[delays]\nfra-iad = 1\niad-fra = 2", "in both orders"),
        ("[regions.fra]\n[regions.iad]\n[delays]\nfra-iad = -1", "delays.fra-iad: "),
        ("[regions.fra", "lab.toml: "),
    ],
)
def test_a_mistake_in_a_plan_is_named(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "lab.toml"
    file.write_text(text)
    with pytest.raises(errors.Failure, match="lab") as failure:
        plan.read(file)
    assert failure.value.code == "invalid_argument"
    assert said in failure.value.message


def test_a_region_named_twice_is_a_mistake() -> None:
    with pytest.raises(errors.Failure, match="named twice: fra"):
        plan.simple("lab", ("fra", "iad", "fra"))


@given(CODES, st.integers(0, plan.MOST_HOSTS), st.integers(0, plan.MOST_CLIENTS))
def test_every_node_has_addresses_of_its_own_within_its_regions_prefixes(
    codes: list[str], hosts: int, clients: int
) -> None:
    lab = plan.simple("lab", tuple(codes), hosts=hosts, clients=clients)
    everyone = addressing.everywhere(lab)
    assert len(everyone) == len(codes) * (1 + hosts + clients)
    assert len({one.v4 for one in everyone.values()}) == len(everyone)
    assert len({one.v6 for one in everyone.values()}) == len(everyone)
    for code in codes:
        prefixes = addressing.prefixes(lab, code)
        usable = list(prefixes.v4.hosts())
        for one in addressing.of_region(lab, code).values():
            assert one.v4 in usable
            assert one.v6 in prefixes.v6


def test_addresses_are_those_the_documentation_shows() -> None:
    lab = plan.simple("lab", ("fra", "iad"))
    assert addressing.everywhere(lab) == {
        "fra-r1": addressing.Addresses(IPv4Address("192.0.2.1"), IPv6Address("2001:db8:1::1")),
        "fra-1": addressing.Addresses(IPv4Address("192.0.2.4"), IPv6Address("2001:db8:1::4")),
        "fra-c1": addressing.Addresses(IPv4Address("192.0.2.20"), IPv6Address("2001:db8:1::14")),
        "iad-r1": addressing.Addresses(IPv4Address("192.0.2.33"), IPv6Address("2001:db8:2::1")),
        "iad-1": addressing.Addresses(IPv4Address("192.0.2.36"), IPv6Address("2001:db8:2::4")),
        "iad-c1": addressing.Addresses(IPv4Address("192.0.2.52"), IPv6Address("2001:db8:2::14")),
    }


def test_a_router_has_a_way_to_every_other_region_and_none_to_itself() -> None:
    lab = plan.simple("lab", ("fra", "iad", "nrt"))
    lines = wiring.router(lab, "iad")
    assert [line.split()[3] for line in lines if "tuntap" in line] == ["to-fra", "to-nrt"]
    routes = [line.split()[2] for line in lines if line.startswith("route")]
    assert routes == ["192.0.2.0/27", "2001:db8:1::/48", "192.0.2.64/27", "2001:db8:3::/48"]


def test_a_cut_is_undone_whether_or_not_it_was_made() -> None:
    assert wiring.cut("fra-1", sends=False, gets=False).splitlines() == [
        'add element inet lab from { "fra-1" }',
        'delete element inet lab from { "fra-1" }',
        'add element inet lab to { "fra-1" }',
        'delete element inet lab to { "fra-1" }',
    ]
