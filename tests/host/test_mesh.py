"""The network across hosts: real namespaces, taps, nftables and WireGuard."""

import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from godwit.agent import ports
from godwit.agent.network import mesh_device, mesh_rules, peers
from tests.host import mesh_lab as mesh
from tests.host import network_lab as lab
from tests.host.mesh_lab import until

pytestmark = pytest.mark.host
MTU = 1420
HEADERS = 48
BY_ITSELF_S = 14
"""WireGuard alone takes longer, fifteen seconds, to notice that the other side has forgotten everything."""
SOON_S = peers.KEEPALIVE_S - 5
"""Before what keeps a way open would bring it about anyway."""


def test_machines_of_one_network_talk_across_hosts_and_no_others(tmp_path):
    with mesh.two_hosts(tmp_path) as (net, way):
        one, two = net.hosts
        here, there, other = way.guest, way.heard_by, two.guest(3, 2)
        way.send(b"hello")
        heard = there.hear(lambda h: h.protocol == 17 and h.data == b"hello")
        assert (heard.source, heard.destination) == (one.six(2), two.six(2))
        there.send(lab.udp_packet(two.six(2), 9000, one.six(2), 4000, b"hello yourself"))
        heard = here.hear(lambda h: h.protocol == 17)
        assert (heard.source, heard.destination) == (two.six(2), one.six(2))
        here.send(lab.udp_packet(one.six(2), 4000, two.six(3, 2), 9000, b"stranger"))
        assert not other.hears_udp(b"stranger")
        assert one.counted("refused_on_the_way") == 1
        assert "9000" not in one.output("conntrack", "-L", "-f", "ipv6")


def test_another_network_of_the_same_hosts_is_apart(tmp_path):
    """A custom network of an organization is a network like any other."""
    with mesh.two_hosts(tmp_path) as (net, way):
        one, two = net.hosts
        custom = mesh.Way(one, one.guest(3, 9), two, two.guest(3, 9), slot=3, network=9)
        assert custom.passes(b"among ourselves")
        custom.guest.send(lab.udp_packet(one.six(3, 9), 1, two.six(2, 1), 2, b"across"))
        assert not way.heard_by.hears_udp(b"across")


def test_checksums_stay_right(tmp_path):
    with mesh.two_hosts(tmp_path) as (net, way):
        source, target = (host.six(2) for host in net.hosts)
        for sent, protocol in (
            (lab.udp_packet(source, 4000, target, 9000, b"odd"), 17),
            (lab.tcp_packet(source, 4000, target, 9000, 0x02), 6),
            (lab.echo(source, target), 58),
        ):
            way.guest.send(sent)
            heard = way.heard_by.hear(lambda h, p=protocol: h.protocol == p)
            pseudo = lab._pseudo(heard.source, heard.destination, protocol, len(heard.payload))
            assert lab.checksum(pseudo + heard.payload) == 0


def test_packets_up_to_the_mtu_pass_and_larger_ones_are_told(tmp_path):
    with mesh.two_hosts(tmp_path) as (net, way):
        source, target = (host.six(2) for host in net.hosts)
        assert way.passes(bytes(MTU - HEADERS))
        sent = lab.udp_packet(source, 4000, target, 9000, bytes(MTU - HEADERS + 1))
        way.guest.send(sent)
        told = way.guest.hear(lambda h: h.protocol == 58 and h.payload[0] == 2)
        assert int.from_bytes(told.payload[4:8], "big") == MTU
        quoted = told.payload[8:]
        assert quoted[8:] == sent[8 : len(quoted)]
        pseudo = lab._pseudo(told.source, told.destination, 58, len(told.payload))
        assert lab.checksum(pseudo + told.payload) == 0


def fragments(source: str, target: str, data: bytes, size: int) -> list[bytes]:
    """Return a UDP datagram in fragments (RFC 8200, section 4.5)."""
    whole = lab.udp_packet(source, 4000, target, 9000, data)[40:]
    made = []
    for at in range(0, len(whole), size):
        piece = whole[at : at + size]
        more = int(at + size < len(whole))
        head = bytes([17, 0]) + (at | more).to_bytes(2, "big") + b"\x00\x00\x00\x2a"
        made.append(lab.packet(source, target, 44, head + piece))
    return made


def test_fragments_arrive(tmp_path):
    with mesh.two_hosts(tmp_path) as (net, way):
        data = os.urandom(4_000)
        for piece in fragments(net.hosts[0].six(2), net.hosts[1].six(2), data, 1_280):
            way.guest.send(piece)
        offset: dict[int, bytes] = {}
        while sum(map(len, offset.values())) < 8 + len(data):
            piece = way.heard_by.hear(lambda h: h.protocol == 44)
            assert piece is not None, sorted(offset)
            assert piece.source == net.hosts[0].six(2)
            offset[int.from_bytes(piece.payload[2:4], "big") & ~7] = piece.payload[8:]
        whole = b"".join(offset[at] for at in sorted(offset))
        assert whole[8:] == data


def test_errors_of_the_far_machine_come_back(tmp_path):
    with mesh.two_hosts(tmp_path) as (net, way):
        source, target = (host.six(2) for host in net.hosts)
        sent = lab.udp_packet(source, 4000, target, 9, b"anybody?")
        way.guest.send(sent)
        way.heard_by.hear(lambda h: h.protocol == 17)
        way.heard_by.send(lab.icmp(target, source, 1, bytes(4) + sent, code=4))
        # What its own host said while it knew of no other is older.
        told = way.guest.hear(lambda h: h.protocol == 58 and h.source == target)
        assert told.payload[0] == 1
        assert told.payload[8:] == sent


def test_a_host_without_others_has_no_mesh(tmp_path):
    with mesh.internet(tmp_path, 1) as net:
        (one,) = net.hosts
        one.follow(one.peer())
        one.settled()
        assert one.device.name not in one.output("ip", "link")
        assert "mesh" not in one.output("nft", "list", "ruleset")


def test_when_the_last_other_host_goes_nothing_of_the_mesh_is_left(tmp_path):
    with mesh.two_hosts(tmp_path) as (net, way):
        one, two = net.hosts
        carrier = one.daemon()
        rules_before = one.output("nft", "list", "chain", "inet", "godwit", "through")
        one.follow(one.peer())
        one.settled()
        assert one.device.name not in one.output("ip", "link")
        assert not Path(f"/var/run/wireguard/{one.device.name}.sock").exists()
        assert not Path(f"/proc/{carrier}/exe").exists()
        assert "mesh" not in one.output("nft", "list", "ruleset")
        assert "mesh" in rules_before
        one.follow(one.peer(), two.peer())
        way.opened()


def test_stopping_the_network_takes_the_mesh_with_it(tmp_path):
    with mesh.two_hosts(tmp_path) as (net, _):
        one = net.hosts[0]
        carrier = one.daemon()
        one.end_agent()
        one.do(one.network.stop())
        assert one.device.name not in one.output("ip", "link")
        assert not Path(f"/proc/{carrier}/exe").exists()
        assert not Path(f"/var/run/wireguard/{one.device.name}.sock").exists()
        assert "fdab" not in one.output("ip", "-6", "route", "show", "table", "all")


def test_one_more_host_touches_each_of_the_others_once(tmp_path, monkeypatch):
    with mesh.two_hosts(tmp_path) as (net, way):
        one, two = net.hosts
        told = []
        tell = mesh_device.MeshDevice.tell

        async def noting(self, changes):
            told.append((self.name, list(changes)))
            await tell(self, told[-1][1])

        monkeypatch.setattr(mesh_device.MeshDevice, "tell", noting)
        three = net.add()
        three.start()
        third = three.guest(2)
        way.send(b"before")
        net.join(one, two, three)
        mesh.Way(one, way.guest, three, third).opened()
        for host in (one, two):
            changes = [
                change for name, each in told if name == host.device.name for change in each
            ]
            assert [change.public_key for change in changes] == [three.keys.public]
        assert way.passes(b"after")


def test_a_removed_host_is_out_at_once_and_its_neighbours_go_on(tmp_path):
    with mesh.two_hosts(tmp_path) as (net, way):
        one, two = net.hosts
        three = net.add()
        three.start()
        outcast = mesh.Way(one, way.guest, three, three.guest(2))
        net.join(one, two, three)
        outcast.opened()
        for host in (one, two):
            host.follow(one.peer(), two.peer())
            host.settled()
        assert not outcast.passes(b"to it", lab.QUIET_S)
        back = mesh.Way(three, outcast.heard_by, one, way.guest)
        assert not back.passes(b"from it", lab.QUIET_S)
        assert set(one.look().peers) == {two.keys.public}
        assert way.passes(b"among us")


def test_a_killed_daemon_costs_a_moment_and_no_address(tmp_path):
    with mesh.two_hosts(tmp_path) as (net, way):
        one = net.hosts[0]
        before = one.output("ip", "-6", "route"), one.output("ip", "-br", "-6", "addr")
        with mesh.Stream(way) as stream:
            for host in net.hosts:
                first = host.daemon()
                os.kill(first, signal.SIGKILL)
                until(lambda host=host, first=first: host.daemon() not in (0, first))
            stream.flows()
        after = one.output("ip", "-6", "route"), one.output("ip", "-br", "-6", "addr")
        assert after == before
        assert max(stream.gaps) < BY_ITSELF_S
        assert way.passes(b"still here")


def test_the_daemon_among_the_programs_is_preferred_to_the_installed_one(tmp_path):
    programs = tmp_path / "programs"
    programs.mkdir()
    (tmp_path / "host").mkdir()
    with mesh.internet(tmp_path, 1) as net:
        (host,) = net.hosts
        config = mesh.device_config(host.number + 500, tmp_path / "host")
        device = mesh_device.MeshDevice(replace(config, programs=programs))
        try:
            for own in (False, True):
                if own:
                    shutil.copy(shutil.which("wireguard-go"), programs)
                host.do(device.ensure())
                program = Path(f"/proc/{mesh.daemon_of(device)}/exe").readlink()
                assert (program == programs / "wireguard-go") == own
                host.do(device.remove())
        finally:
            host.do(device.remove())


def test_the_agents_death_changes_nothing(tmp_path):
    with mesh.two_hosts(tmp_path) as (net, way):
        carriers = [host.daemon() for host in net.hosts]
        for host in net.hosts:
            host.end_agent()
        assert way.passes(b"without agents")
        for host in net.hosts:
            host.start()
            host.settled()
        assert [host.daemon() for host in net.hosts] == carriers
        assert way.passes(b"with agents again")


def test_no_packet_is_lost_when_an_agent_comes_back(tmp_path):
    with mesh.two_hosts(tmp_path) as (net, way):
        one = net.hosts[0]
        one.end_agent()
        sent = 300
        for number in range(sent):
            if number == 100:
                one.start()
            way.send(b"number %d" % number)
            time.sleep(0.001)
        one.settled()
        missing = {b"number %d" % number for number in range(sent)}
        while missing:
            heard = way.heard_by.hear(lambda h: h.protocol == 17)
            assert heard is not None, missing
            missing.discard(heard.data)


def test_a_key_changes_under_traffic(tmp_path):
    with mesh.two_hosts(tmp_path) as (net, way):
        one, two = net.hosts
        former = one.keys.public
        following = one.keys.prepare()
        with mesh.Stream(way) as out, mesh.Stream(back(way)) as home:
            for host in net.hosts:
                host.follow(one.peer(next_key=following), two.peer())
            until(lambda: one.look().public_key == following)
            until(lambda: two.look().peers.get(following, peers.Seen()).prefixes)
            net.join(one, two)
            until(lambda: set(two.look().peers) == {following})
            out.flows()
            home.flows()
        assert one.keys.public == following != former
        assert one.keys.next_public == ""
        assert way.passes(b"with a new key")
        assert max(*out.gaps, *home.gaps) < BY_ITSELF_S


def back(way: mesh.Way) -> mesh.Way:
    """Return the way back."""
    return mesh.Way(way.receiver, way.heard_by, way.sender, way.guest)


def test_an_idle_mesh_learns_of_a_changed_key(tmp_path):
    """Else those that do not speak would speak to the former key until they are spoken to."""
    with mesh.two_hosts(tmp_path) as (net, way):
        one, two = net.hosts
        following = one.keys.prepare()
        for host in net.hosts:
            host.follow(one.peer(next_key=following), two.peer())
        until(lambda: two.look().peers.get(following, peers.Seen()).handshake_s > 0, SOON_S)
        until(lambda: two.look().peers[following].prefixes)
        assert back(way).passes(b"to the new key")


def test_a_host_that_moves_takes_its_flows_along(tmp_path):
    with mesh.two_hosts(tmp_path) as (net, way):
        one, two = net.hosts
        two.ip("addr del 192.0.2.2/24 dev up0", "addr add 192.0.2.22/24 dev up0")
        # Its WireGuard finds its new address once nothing was answered for fifteen seconds.
        back(way).opened()
        where = one.look().peers[two.keys.public].endpoint
        assert where == "192.0.2.22:51820"
        assert way.passes(b"where you are now")


def test_a_changed_record_leads_to_where_a_host_is_now(tmp_path):
    """Also when nothing is heard of the host itself, which is why its cable is out meanwhile."""
    with mesh.two_hosts(tmp_path) as (net, way):
        one, two = net.hosts
        net.cut(two)
        two.ip("addr del 192.0.2.2/24 dev up0", "addr add 192.0.2.22/24 dev up0")
        moved = two.peer(endpoints=("192.0.2.22:51820",))
        one.follow(one.peer(), moved)
        until(lambda: one.look().peers[two.keys.public].endpoint == "192.0.2.22:51820")
        net.mend(two)
        assert way.opened() < SOON_S


def test_a_daemon_that_forgot_finds_a_peer_that_only_calls(tmp_path):
    """One behind a translating router has no endpoint in its record."""
    with mesh.internet(tmp_path, 2) as net:
        one, two = net.hosts
        way = mesh.Way(one, one.guest(2), two, two.guest(2))
        caller = two.peer(endpoints=())
        one.follow(one.peer(), caller)
        two.follow(one.peer(), caller)
        way.opened()
        one.settled()
        assert one.look().peers[two.keys.public].endpoint == "192.0.2.2:51820"
        one.settled()
        os.kill(one.daemon(), signal.SIGKILL)
        assert way.opened() < SOON_S


def test_hosts_reach_each_other_in_the_mesh_and_nobody_else_does(tmp_path):
    with mesh.two_hosts(tmp_path) as (net, way):
        one, two = net.hosts
        target = f"fdaa::{two.number >> 16:x}:{two.number & 0xFFFF:x}:0:0:1"
        listener = two.call(lab.udp, "::", 4222)
        caller = one.call(lab.udp, "::")
        caller.sendto(b"host to host", (target, 4222))
        data, sender = listener.recvfrom(100)
        assert data == b"host to host"
        assert sender[0].startswith(f"fdaa::{one.number >> 16:x}:")
        net.switch.ip(
            f"route add fdaa::/16 via 2001:db8:5::{two.index}",
            f"route add fdab::/16 via 2001:db8:5::{two.index}",
        )
        outsider = net.switch.call(lab.udp, "::")
        outsider.sendto(b"outsider", (target, 4222))
        outsider.sendto(b"outsider", ("fdaa::3", 4222))
        until(lambda: two.counted("refused_from_mesh") >= 2)
        assert lab.silent(listener)
        way.guest.send(lab.udp_packet(one.six(2), 4000, target, 4222, b"guest"))
        assert lab.silent(listener)
        for made in (listener, caller, outsider):
            made.close()


def test_wireguards_own_packets_are_not_tracked(tmp_path):
    with mesh.two_hosts(tmp_path) as (net, way):
        for host in net.hosts:
            # Those before the policy knew of a mesh were.
            host.settled()
            host.output("conntrack", "-F")
        assert way.passes(b"hello")
        for host in net.hosts:
            assert "51820" not in host.output("conntrack", "-L", "-p", "udp")


def test_a_device_that_forgot_its_mark_is_told_again(tmp_path):
    with mesh.two_hosts(tmp_path) as (net, _):
        one = net.hosts[0]
        one.output("wg", "set", one.device.name, "fwmark", "0")
        one.settled()
        assert one.look().mark == mesh_rules.MARK


def test_a_machine_may_use_wireguards_port_towards_the_world(tmp_path):
    """What comes back to that port of the host is WireGuard's, so the flow gets another one."""
    with mesh.two_hosts(tmp_path) as (net, way):
        one = net.hosts[0]
        outside = net.switch.call(lab.udp, mesh.OUTSIDER)
        where = outside.getsockname()[1]
        asked = lab.udp_packet(one.six(2), 51_820, mesh.OUTSIDER, where, b"what time is it?")
        way.guest.send(asked)
        data, (_, port, *_) = outside.recvfrom(100)
        assert data == b"what time is it?"
        assert port != 51_820
        outside.sendto(b"noon", (f"2001:db8:5::{one.index}", port))
        assert way.guest.hears_udp(b"noon")
        outside.close()


def test_a_machine_that_is_gone_is_not_reached(tmp_path):
    with mesh.two_hosts(tmp_path) as (net, way):
        two = net.hosts[1]
        plumbing = ports.Plumbing("m2", "org1", "net1", 1, 2)
        other = two.guest(3, 2)
        two.do(two.network.unplumb(plumbing))
        way.send(b"anybody?")
        assert not other.hears_udp(b"anybody?")
        until(lambda: two.counted("refused_from_mesh") > 0)


def test_the_report_tells_who_is_heard(tmp_path):
    with mesh.two_hosts(tmp_path) as (net, way):
        one, two = net.hosts
        way.passes(b"some bytes")
        stranger = peers.Peer(77, "A" * 43 + "=", endpoints=("192.0.2.77:51820",))
        one.follow(one.peer(), two.peer(), stranger)
        one.settled()
        never, heard = one.do(one.mesh.report())
        assert (never.host_number, never.silent, never.handshake_s) == (77, True, 0)
        assert never.endpoint == "192.0.2.77:51820"
        assert (heard.host_number, heard.silent) == (two.number, False)
        assert heard.endpoint == "192.0.2.2:51820"
        assert heard.received > 0
        assert heard.sent > 0
