"""What a hostile machine, a hostile host and a stranger beside the mesh may not do."""

import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv6Address

import pytest

from godwit.agent.network.addresses import PrivateAddress
from godwit.wire.members import mesh_address
from tests.host import mesh_lab as mesh
from tests.host import network_lab as lab
from tests.host.test_mesh import fragments

pytestmark = pytest.mark.host
ATTACKER, VICTIM = 5, 6
"""Slots on the first and the second host; their networks are 1 and 2."""


@dataclass
class Ground:
    """An attacker, a friend of its own network and a victim of another, the two far away."""

    net: mesh.Internet
    attacker: lab.FakeGuest
    friend: lab.FakeGuest
    victim: lab.FakeGuest
    near: lab.FakeGuest

    @property
    def here(self) -> mesh.Host:
        return self.net.hosts[0]

    @property
    def there(self) -> mesh.Host:
        return self.net.hosts[1]

    @property
    def own(self) -> str:
        return self.here.six(ATTACKER, 1)

    @property
    def friends(self) -> str:
        return self.there.six(ATTACKER, 1)

    @property
    def victims(self) -> str:
        return self.there.six(VICTIM, 2)

    def nobody_heard(self) -> bool:
        """Tell whether nothing at all reached a machine, and what is right still does."""
        quiet = all(lab.silent_guest(g) for g in (self.friend, self.victim, self.near))
        self.attacker.send(lab.udp_packet(self.own, 1, self.friends, 2, b"as ever"))
        return quiet and self.friend.hears_udp(b"as ever", lab.PATIENCE_S)


@contextmanager
def ground(tmp_path) -> Iterator[Ground]:
    with mesh.internet(tmp_path, 2) as net:
        one, two = net.hosts
        attacker, near = one.guest(ATTACKER, 1), one.guest(VICTIM, 2)
        friend, victim = two.guest(ATTACKER, 1), two.guest(VICTIM, 2)
        net.join(one, two)
        mesh.Way(one, attacker, two, friend, slot=ATTACKER).opened()
        mesh.Way(one, near, two, victim, slot=VICTIM, network=2).opened()
        for guest in (friend, victim, near):
            list(guest.frames(lab.QUIET_S))
        yield Ground(net, attacker, friend, victim, near)


def private(network: int, host: mesh.Host, slot: int) -> PrivateAddress:
    return PrivateAddress(network, host.number, slot)


def test_no_protocol_leads_to_another_network(tmp_path):
    with ground(tmp_path) as at:
        for protocol in range(256):
            at.attacker.send(lab.packet(at.own, at.victims, protocol, os.urandom(64)))
            at.attacker.send(lab.packet(at.own, at.here.six(VICTIM, 2), protocol, os.urandom(64)))
        assert at.nobody_heard()


def test_no_forged_source_leads_anywhere(tmp_path):
    with ground(tmp_path) as at:
        claims = [
            at.here.six(VICTIM, 2),
            at.there.six(VICTIM, 2),
            at.there.six(ATTACKER, 1),
            str(private(2, at.here, ATTACKER).address),
            str(private(1, at.here, VICTIM).address),
            str(private(1, at.here, ATTACKER).between_hosts),
            str(private(2, at.here, VICTIM).between_hosts),
            str(private(2, at.there, VICTIM).between_hosts),
            str(PrivateAddress(1, at.here.number + 7, ATTACKER).address),
            str(mesh_address(at.here.number)),
            str(mesh_address(at.there.number)),
            "fdaa::3",
            "fe80::1",
            "::",
            "::1",
        ]
        targets = [at.victims, at.friends, at.here.six(VICTIM, 2)]
        targets += [str(private(n, at.there, s).between_hosts) for n, s in ((1, 5), (2, 6))]
        for claim in claims:
            for target in targets:
                at.attacker.send(lab.udp_packet(claim, 4000, target, 9000, b"forged"))
        assert at.nobody_heard()


def test_addresses_between_hosts_are_no_guests_to_name(tmp_path):
    with ground(tmp_path) as at:
        for host in at.net.hosts:
            for network, slot in ((1, ATTACKER), (2, VICTIM)):
                wire = private(network, host, slot).between_hosts
                at.attacker.send(lab.udp_packet(at.own, 4000, str(wire), 9000, b"by the wire"))
                other = IPv6Address(int(wire) + 1)
                at.attacker.send(lab.udp_packet(at.own, 4000, str(other), 9000, b"by the wire"))
        assert at.nobody_heard()


def test_no_other_address_of_a_machine_is_taken_for_it(tmp_path):
    """Only ::2 of a machine's /112 is one; the others would come to it with wrong checksums."""
    with ground(tmp_path) as at:
        base = int(IPv6Address(at.friends)) & ~0xFFFF
        for last in (0, 1, 3, 0xFFFF):
            target = str(IPv6Address(base | last))
            at.attacker.send(lab.udp_packet(at.own, 4000, target, 9000, b"beside"))
        assert at.nobody_heard()


def test_hosts_are_closed_to_machines_of_other_hosts_too(tmp_path):
    with ground(tmp_path) as at:
        listeners = [
            host.call(lab.udp, "::", port) for host in at.net.hosts for port in (53, 4222)
        ]
        targets = [str(mesh_address(host.number)) for host in at.net.hosts]
        targets += [f"2001:db8:5::{host.index}" for host in at.net.hosts]
        for target in targets:
            for port in (53, 4222, 51820):
                at.attacker.send(lab.udp_packet(at.own, 4000, target, port, b"knock"))
                at.attacker.send(lab.tcp_packet(at.own, 4000, target, port, 0x02))
        assert at.nobody_heard()
        assert all(lab.silent(each) for each in listeners[:2])
        # A host seen from outside is of the world; what its operator opens there is open.
        heard = [each for each in listeners[2:] if not lab.silent(each)]
        assert {each.recvfrom(10)[1][0] for each in heard} <= {"2001:db8:5::1"}
        for each in listeners:
            each.close()


def extended(source: str, target: str, kind: int, body: bytes) -> bytes:
    """Return a datagram behind an extension header."""
    datagram = lab.udp_packet(source, 4000, target, 9000, b"extended")[40:]
    head = bytes([17, (2 + len(body)) // 8 - 1]) + body
    return lab.packet(source, target, kind, head + datagram)


def test_extension_headers_open_nothing(tmp_path):
    with ground(tmp_path) as at:
        victim = IPv6Address(at.victims).packed
        wire = private(2, at.there, VICTIM).between_hosts.packed
        for final in (victim, wire):
            home = b"\x01\x02\x00\x00\xc9\x10" + final
            for kind, body in (
                *((43, bytes([t, 1]) + bytes(4) + final) for t in (0, 2, 3)),
                (43, bytes([4, 1, 0, 0, 0, 0]) + final),
                (60, home),
                (0, b"\x05\x02\x00\x00\x01\x00"),
                (0, b"\x01\x04\x00\x00\x00\x00"),
                (135, bytes(6)),
                (139, bytes(6)),
                (140, bytes(6)),
            ):
                for target in (at.victims, at.here.six(VICTIM, 2)):
                    at.attacker.send(extended(at.own, target, kind, body))
                # What is for a friend may arrive there, and nowhere else.
                at.attacker.send(extended(at.own, at.friends, kind, body))
        assert lab.silent_guest(at.victim)
        assert lab.silent_guest(at.near)


def test_fragments_open_nothing(tmp_path):
    with ground(tmp_path) as at:
        pieces = fragments(at.own, at.victims, os.urandom(3_000), 1_024)
        for piece in (*pieces, pieces[0], pieces[-1]):
            at.attacker.send(piece)
        # The first to a friend, the rest to a victim; both with the same identification.
        at.attacker.send(fragments(at.own, at.friends, bytes(3_000), 1_024)[0])
        for piece in fragments(at.own, at.victims, bytes(3_000), 1_024)[1:]:
            at.attacker.send(piece)
        # All fields of a tiny first fragment beyond the IPv6 header are missing.
        tiny = lab.packet(at.own, at.victims, 44, b"\x11\x00\x00\x01\x00\x00\x00\x07")
        at.attacker.send(tiny)
        assert at.nobody_heard()


def test_an_error_message_is_bound_like_any_packet(tmp_path):
    with ground(tmp_path) as at:
        quoted = lab.udp_packet(at.victims, 9000, at.here.six(VICTIM, 2), 4000, b"theirs")
        too_big = bytes([0, 0, 5, 0]) + quoted
        at.attacker.send(lab.icmp(at.own, at.victims, 2, too_big))
        at.attacker.send(lab.icmp(at.own, at.here.six(VICTIM, 2), 2, too_big))
        heard = at.victim.hear(lambda h: h.protocol == 58 and h.payload[0] == 2, lab.QUIET_S)
        assert heard is None
        heard = at.near.hear(lambda h: h.protocol == 58 and h.payload[0] == 2, lab.QUIET_S)
        assert heard is None


def test_a_machine_does_not_reach_what_is_behind_the_mesh_by_ipv4(tmp_path):
    with ground(tmp_path) as at:
        for host in at.net.hosts:
            for slot in (ATTACKER, VICTIM):
                target = host.network.local_ipv4(mesh.ports.Plumbing("m", "o", "n", 1, slot))
                source = f"172.16.0.{ATTACKER}"
                at.attacker.send(lab.udp_packet(source, 4000, target, 9000, b"by v4"))
        assert at.nobody_heard()


def raw(host: mesh.Host) -> socket.socket:
    """Return a socket that sends whole packets into the mesh: a host in the wrong hands."""

    def opened() -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x86DD))
        made.bind((host.device.name, 0x86DD))
        return made

    return host.call(opened)


def test_the_receiving_host_judges_again(tmp_path):
    """Whatever a host in the wrong hands sends, it comes from that host and stays in a network."""
    with ground(tmp_path) as at:
        third = at.net.add()
        here, there = at.here, at.there
        mine = private(1, here, ATTACKER).between_hosts
        victims = private(2, there, VICTIM).between_hosts
        friends = private(1, there, ATTACKER).between_hosts
        forged = [
            (mine, victims),
            (private(2, third, VICTIM).between_hosts, victims),
            (private(1, third, ATTACKER).between_hosts, friends),
            (private(2, there, 9).between_hosts, victims),
            (private(2, here, VICTIM).address, victims),
            (private(2, here, VICTIM).between_hosts, private(2, there, VICTIM).address),
            (mesh_address(here.number), victims),
            (mesh_address(here.number), IPv6Address("fdaa::3")),
            (mesh_address(here.number), private(2, there, VICTIM).address),
            (mine, IPv6Address(int(friends) + 1)),
            (IPv6Address(int(mine) + 1), friends),
            (mine, mesh_address(there.number)),
            (IPv6Address("2001:db8:5::1"), friends),
            (IPv6Address("fe80::1"), friends),
            (mine, IPv6Address("2001:db8:5::99")),
            (mine, IPv6Address("ff02::1")),
            (mine, IPv6Address("fe80::1")),
        ]
        outsider = at.net.switch.call(lab.udp, "2001:db8:5::99", 9000)
        listener = there.call(lab.udp, "::", 9000)
        with raw(here) as sender:
            for source, target in forged:
                packet = lab.udp_packet(str(source), 4000, str(target), 9000, b"forged")
                sender.sendto(packet, (here.device.name, 0x86DD))
            v4 = lab.udp_packet("172.16.0.5", 1, "172.16.0.6", 2, b"forged")
            sender.sendto(v4, (here.device.name, 0x0800))
            for length in (0, 1, 39, 40, 41, 1_000):
                junk = struct.pack("!I", 6 << 28) + os.urandom(length)
                sender.sendto(junk, (here.device.name, 0x86DD))
        assert at.nobody_heard()
        assert lab.silent(outsider)
        assert lab.silent(listener)
        assert there.counted("refused_from_mesh") >= 5
        for each in (outsider, listener):
            each.close()


def test_what_a_host_may_send_is_what_its_machines_may(tmp_path):
    """The one above fails for the right reasons: such a packet, rightly made, arrives."""
    with ground(tmp_path) as at:
        source = str(private(2, at.here, 77).between_hosts)
        target = str(private(2, at.there, VICTIM).between_hosts)
        with raw(at.here) as sender:
            packet = lab.udp_packet(source, 4000, target, 9000, b"rightly made")
            sender.sendto(packet, (at.here.device.name, 0x86DD))
        assert at.victim.hears_udp(b"rightly made", lab.PATIENCE_S)


def test_a_machine_whose_host_is_not_known_is_unreachable_and_said_to_be(tmp_path):
    with ground(tmp_path) as at:
        nowhere = str(PrivateAddress(1, at.here.number + 50, 5).address)
        sent = lab.udp_packet(at.own, 4000, nowhere, 9000, b"anybody?")
        quoted = IPv6Address(nowhere).packed
        end, told = time.monotonic() + lab.PATIENCE_S, None
        while told is None:
            # The kernel tells it so often and no oftener, and may have told it of others just now.
            assert time.monotonic() < end
            at.attacker.send(sent)
            told = at.attacker.hear(lambda h: h.protocol == 58 and h.payload[32:48] == quoted, 1)
        assert told.payload[0] == 1
        at.attacker.send(lab.udp_packet(at.here.six(9, 1), 4000, nowhere, 9000, b"forged"))
        assert at.nobody_heard()
