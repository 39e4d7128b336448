"""The short way from the mesh to a machine: what takes it, what does not, and life without it."""

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from godwit.agent import ports
from godwit.agent.network import sysctls
from godwit.agent.network.addresses import PrivateAddress
from godwit.base import processes, settings
from tests.host import mesh_lab as mesh
from tests.host import network_lab as lab
from tests.host.mesh_lab import until
from tests.host.test_mesh_hostile import raw

pytestmark = pytest.mark.host
FORWARDING = "ipv6/conf/all/forwarding"
TAKE_IT_AWAY = ("nft", "delete", "table", "netdev", "godwit")


@contextlib.contextmanager
def no_long_way(host: mesh.Host) -> Iterator[None]:
    """Have a host forward nothing: what a machine hears now took the short way."""
    host.call(sysctls.set_all, [(FORWARDING, "0")])
    try:
        yield
    finally:
        host.call(sysctls.set_all, [(FORWARDING, "1")])


@contextlib.contextmanager
def two_hosts(folder: Path, **policy: int) -> Iterator[tuple[mesh.Internet, mesh.Way]]:
    """Return two hosts that have done all they have to."""
    with mesh.two_hosts(folder, **policy) as (net, way):
        for host in net.hosts:
            host.settled()
        yield net, way


def laid(host: mesh.Host) -> bool:
    return "chain arrive" in host.output("nft", "list", "ruleset", "netdev")


def test_what_is_plainly_for_a_machine_takes_the_short_way(tmp_path: Path) -> None:
    with two_hosts(tmp_path) as (net, way):
        one, two = net.hosts
        with no_long_way(two):
            way.send(b"hello")
            heard = way.heard_by.hear(lambda h: h.protocol == 17 and h.data == b"hello")
            assert heard is not None
            assert (heard.source, heard.destination) == (one.six(2), two.six(2))


WATCH = """
table inet watch {{
    counter forwarded {{ }}
    chain long_way {{
        type filter hook forward priority -200; ip6 daddr {to} meta length > 1420 counter name forwarded
    }}
}}
table netdev watch {{
    counter joined {{ }}
    chain arriving {{
        type filter hook ingress device "{device}" priority -200; meta length > 1420 counter name joined
    }}
}}
"""


def test_segments_that_the_daemon_joined_take_it_too(tmp_path: Path) -> None:
    if not (settings.from_process().paths.programs / "wireguard-go").exists():
        pytest.skip("set-up found no Go: Debian's daemon joins none")
    with mesh.internet(tmp_path) as net:
        one, two = net.hosts
        sender, receiver = (mesh.inhabitant(host) for host in net.hosts)
        try:
            for host in net.hosts:
                # An agent that starts adopts what is plumbed.
                host.end_agent()
                host.start()
            net.join(one, two)
            watch = WATCH.format(to=receiver.address, device=two.device.name)
            two.do(processes.run(["nft", "-f", "-"], stdin=watch.encode()))
            data = os.urandom(8 << 20)
            assert carried(data, sender, receiver) == data
            seen = [
                two.output("nft", "list", "counter", *name)
                for name in (
                    ("netdev", "watch", "joined"),
                    ("inet", "watch", "forwarded"),
                )
            ]
            joined, forwarded = (int(text.split("packets")[1].split()[0]) for text in seen)
            assert joined > 0
            assert forwarded == 0
        finally:
            sender.inside.close()
            receiver.inside.close()


def carried(data: bytes, sender: mesh.Inhabitant, receiver: mesh.Inhabitant) -> bytes:
    """Return what arrives of some data, sent by one connection."""
    where = receiver.address, 9000
    server = receiver.inside.call(lambda: socket.create_server(where, family=socket.AF_INET6))
    client = sender.inside.call(lambda: socket.socket(socket.AF_INET6))
    with server, client:
        for each in (server, client):
            each.settimeout(lab.PATIENCE_S)
        client.connect(where)
        accepted, _ = server.accept()
        sending = threading.Thread(target=lambda: (client.sendall(data), client.shutdown(1)))
        sending.start()
        with accepted:
            accepted.settimeout(lab.PATIENCE_S)
            received = b"".join(iter(lambda: accepted.recv(1 << 20), b""))
        sending.join()
    return received


def test_a_machine_that_came_later_is_reached_by_it_until_it_goes(tmp_path: Path) -> None:
    with two_hosts(tmp_path) as (net, _):
        one, two = net.hosts
        late = mesh.Way(one, one.guest(7, 4), two, two.guest(7, 4), slot=7, network=4)
        with no_long_way(two):
            assert late.passes(b"here I am")
            two.do(two.network.unplumb(ports.Plumbing("m7", "org4", "net4", 4, 7)))
            # The tap's next machine is of another network and has another address.
            following = two.guest(7, 5)
            late.send(b"anybody?")
            assert not following.hears_udp(b"anybody?")


def test_a_packet_without_a_hop_left_is_not_handed_over(tmp_path: Path) -> None:
    with two_hosts(tmp_path) as (net, way):
        one, two = net.hosts
        datagram = lab.udp_packet(one.six(2), 4000, two.six(2), 9000, b"far")
        for hops, arrives in ((2, False), (3, True)):
            way.guest.send(datagram[:7] + bytes([hops]) + datagram[8:])
            assert way.heard_by.hears_udp(b"far") == arrives


def test_what_comes_from_other_hosts_is_bounded_by_bytes_and_counted(tmp_path: Path) -> None:
    with two_hosts(tmp_path, mbit_each_way=8) as (net, _):
        one, two = net.hosts
        source, target = (_between(host) for host in (one, two))
        datagram = lab.udp_packet(source, 4000, target, 9000, bytes(1_000))

        def paced() -> bool:
            # Past what bounds the sender at its own host.
            for _ in range(500):
                sender.sendto(datagram, (one.device.name, 0x86DD))
            text = two.output("nft", "list", "counter", "netdev", "godwit", "paced_in")
            return int(text.split("packets")[1].split()[0]) > 0

        with raw(one) as sender:
            until(paced)


def _between(host: mesh.Host) -> str:
    """Return the form that the address of a host's machine has between hosts."""
    return str(PrivateAddress.parse(host.six(2)).between_hosts)


def test_without_it_all_goes_the_long_way_and_it_is_laid_again(tmp_path: Path) -> None:
    with two_hosts(tmp_path) as (net, way):
        one, two = net.hosts
        two.output(*TAKE_IT_AWAY)
        assert way.passes(b"the long way")
        late = mesh.Way(one, one.guest(7, 4), two, two.guest(7, 4), slot=7, network=4)
        assert late.passes(b"the long way too")
        two.settled()
        with no_long_way(two):
            assert way.passes(b"the short way")
            assert late.passes(b"the short way too")


def test_the_next_agent_lays_it_for_the_machines_that_are_there(tmp_path: Path) -> None:
    with two_hosts(tmp_path) as (net, way):
        _, two = net.hosts
        two.end_agent()
        two.output(*TAKE_IT_AWAY)
        two.start()
        with no_long_way(two):
            assert way.passes(b"after the agent's death")


def test_a_host_without_others_has_none(tmp_path: Path) -> None:
    with two_hosts(tmp_path) as (net, _):
        one, two = net.hosts
        assert laid(two)
        two.follow(two.peer())
        two.settled()
        assert not laid(two)
        assert laid(one)


def test_stopping_the_network_takes_it_away(tmp_path: Path) -> None:
    with two_hosts(tmp_path) as (net, _):
        two = net.hosts[1]
        two.end_agent()
        assert laid(two)
        two.do(two.network.stop())
        assert not laid(two)
        two.start()
