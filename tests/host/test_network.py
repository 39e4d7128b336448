"""The host's network against real taps, real nftables, and guests that do as they please."""

import asyncio
import os
import socket
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from godwit.agent import ports, slots
from godwit.agent.network import rules, sysctls
from godwit.agent.network.host_network import HostNetwork
from godwit.base import processes
from tests.host import network_lab as lab

pytestmark = pytest.mark.host
HOST_NUMBER = 65_537
PARAMETERS = (
    "ipv4/ip_forward",
    "ipv6/conf/all/forwarding",
    "ipv6/conf/up0/accept_ra",
)


def plumbing(slot: int, network: int = 1) -> ports.Plumbing:
    return ports.Plumbing(f"machine{slot}", f"org{network}", f"net{network}", network, slot)


@dataclass
class Site:
    """A host with its network up, a world outside, and guests as they are asked for."""

    network: HostNetwork
    world: lab.World
    guests: list[lab.FakeGuest] = field(default_factory=list)

    async def guest(self, slot: int, network: int = 1) -> lab.FakeGuest:
        await self.network.plumb(plumbing(slot, network))
        made = lab.FakeGuest(slot)
        self.guests.append(made)
        await made.attached()
        return made

    def six(self, slot: int, network: int = 1) -> str:
        return self.network.private_ip(plumbing(slot, network))

    def four(self, slot: int) -> str:
        return self.network.local_ipv4(plumbing(slot))

    def own(self, slot: int, like: str) -> str:
        return self.six(slot) if ":" in like else self.four(slot)


@asynccontextmanager
async def site(run_dir: Path, **policy: object) -> AsyncIterator[Site]:
    async with lab.world() as world:
        network = HostNetwork(HOST_NUMBER, run_dir=run_dir, policy=rules.Policy(**policy))
        await network.start()
        here = Site(network, world)
        try:
            yield here
        finally:
            for guest in here.guests:
                guest.close()


async def counted(name: str) -> int:
    text = await lab.output("nft", "list", "counter", "inet", "godwit", name)
    return int(text.split("packets")[1].split()[0])


@lab.own_namespace
async def test_stop_leaves_what_was_before_start(tmp_path):
    async with lab.world():
        before = await lab.snapshot(parameters=PARAMETERS)
        network = HostNetwork(HOST_NUMBER, run_dir=tmp_path)
        await network.start()
        for slot in (2, 3, 4):
            await network.plumb(plumbing(slot))
        assert await network.observed() == {2, 3, 4}
        await HostNetwork(HOST_NUMBER, run_dir=tmp_path).stop()
        await lab.becomes(before, parameters=PARAMETERS)
        assert list(tmp_path.iterdir()) == []


@lab.own_namespace
async def test_stop_without_start_does_nothing(tmp_path):
    async with lab.world():
        before = await lab.snapshot(parameters=PARAMETERS)
        await HostNetwork(HOST_NUMBER, run_dir=tmp_path).stop()
        await lab.becomes(before, parameters=PARAMETERS)


@lab.own_namespace
async def test_every_verb_may_run_twice(tmp_path):
    async with site(tmp_path) as here:
        await here.network.start()
        for _ in range(2):
            await here.network.plumb(plumbing(2))
        once = await lab.snapshot()
        await here.network.plumb(plumbing(2))
        await lab.becomes(once)
        for _ in range(2):
            await here.network.unplumb(plumbing(2))
        assert await here.network.observed() == frozenset()
        await here.network.unplumb(plumbing(9, 4))
        for _ in range(2):
            await here.network.stop()


@lab.own_namespace
async def test_plumb_and_unplumb_leave_nothing(tmp_path):
    async with site(tmp_path) as here:
        before = await lab.snapshot()
        for slot in (2, 3):
            await here.network.plumb(plumbing(slot, network=slot))
        for slot in (2, 3):
            await here.network.unplumb(plumbing(slot, network=slot))
        await lab.becomes(before)


@lab.own_namespace
async def test_the_hosts_router_advertisements_survive_forwarding(tmp_path):
    async with lab.world():
        accept = "ipv6/conf/up0/accept_ra"
        sysctls.set_all([(accept, "1")])
        network = HostNetwork(HOST_NUMBER, run_dir=tmp_path)
        await network.start()
        assert (await lab.snapshot(parameters=(accept,)))[accept] == "2\n"
        await network.stop()
        assert (await lab.snapshot(parameters=(accept,)))[accept] == "1\n"


@pytest.mark.parametrize(
    ("world", "host"), [(lab.WORLD_V4, lab.HOST_V4), (lab.WORLD_V6, lab.HOST_V6)]
)
@lab.own_namespace
async def test_a_guest_reaches_the_world_under_the_hosts_address(tmp_path, world, host):
    async with site(tmp_path) as here:
        guest = await here.guest(2)
        outside = here.world.udp(world, 9000)
        guest.send(lab.udp_packet(here.own(2, world), 4000, world, 9000, b"out"))
        data, sender = outside.recvfrom(100)
        assert (data, sender[0]) == (b"out", host)
        outside.sendto(b"back", sender)
        heard = guest.hear(lambda h: h.protocol == 17)
        assert heard is not None
        assert (heard.source, heard.destination) == (world, here.own(2, world))
        assert heard.ports == (9000, 4000)
        assert heard.data == b"back"
        outside.close()


@pytest.mark.parametrize("world", [lab.WORLD_V4, lab.WORLD_V6])
@lab.own_namespace
async def test_a_spoofed_source_goes_nowhere(tmp_path, world):
    async with site(tmp_path) as here:
        guest = await here.guest(2)
        await here.guest(3)
        six = ":" in world
        claims = [
            here.own(3, world),
            here.own(99, world),
            lab.HOST_V6 if six else lab.HOST_V4,
            "2001:db8:9::9" if six else "198.51.100.9",
            lab.RESOLVER if six else lab.GATEWAY_V4,
            "::1" if six else "127.0.0.1",
            "::" if six else "0.0.0.0",
        ]
        kernels_own = 1
        """`::1` from outside never reaches a chain."""
        outside = here.world.udp(world, 9000)
        for claim in claims:
            guest.send(lab.udp_packet(claim, 4000, world, 9000, b"spoofed"))
        assert lab.silent(outside)
        assert await counted("spoofed") >= len(claims) - kernels_own
        outside.close()


@lab.own_namespace
async def test_guests_of_one_network_reach_each_other_and_no_others(tmp_path):
    async with site(tmp_path) as here:
        one, two = await here.guest(2, 1), await here.guest(3, 1)
        other = await here.guest(4, 2)
        one.send(lab.udp_packet(here.six(2), 1, here.six(3), 2, b"neighbour"))
        assert two.hears_udp(b"neighbour", lab.PATIENCE_S)
        one.send(lab.udp_packet(here.six(2), 1, here.six(4, 2), 2, b"stranger"))
        other.send(lab.udp_packet(here.six(4, 2), 1, here.six(2), 2, b"stranger"))
        one.send(lab.udp_packet(here.four(2), 1, here.four(3), 2, b"by v4"))
        assert not other.hears_udp(b"stranger")
        assert not one.hears_udp(b"stranger")
        assert not two.hears_udp(b"by v4")


@lab.own_namespace
async def test_a_guest_cannot_claim_the_address_it_has_in_another_network(tmp_path):
    async with site(tmp_path) as here:
        guest, other = await here.guest(2, 1), await here.guest(3, 2)
        guest.send(lab.udp_packet(here.six(2, 2), 1, here.six(3, 2), 2, b"as if"))
        assert not other.hears_udp(b"as if")


HOST_ADDRESSES = [
    lab.GATEWAY_V4,
    lab.HOST_V4,
    "127.0.0.1",
    lab.RESOLVER,
    lab.HOST_V6,
    "::1",
]


@pytest.mark.parametrize("target", HOST_ADDRESSES)
@lab.own_namespace
async def test_the_hosts_ports_are_closed_to_guests(tmp_path, target):
    async with site(tmp_path) as here:
        guest = await here.guest(2)
        any_address = "::" if ":" in target else "0.0.0.0"
        listeners = [lab.udp(any_address, port) for port in (22, 4222, 5353, 8080)]
        server = socket.socket(lab.family(target), socket.SOCK_STREAM)
        server.bind((any_address, 4280))
        server.listen()
        source = here.own(2, target)
        for listener in listeners:
            port = listener.getsockname()[1]
            guest.send(lab.udp_packet(source, 4000, target, port, b"hello host"))
        guest.send(lab.tcp_packet(source, 4000, target, 4280, 0x02))
        guest.send(lab.tcp_packet(source, 4000, target, 4281, 0x02))
        assert all(lab.silent(listener) for listener in listeners)
        assert guest.hear(lambda h: h.protocol == 6, lab.QUIET_S) is None
        for made in (*listeners, server):
            made.close()


@lab.own_namespace
async def test_the_link_local_gateway_has_no_open_port(tmp_path):
    async with site(tmp_path) as here:
        guest = await here.guest(2)
        listener = lab.udp("::", 53)
        for source in (here.six(2), "fe80::67:ff:fe00:2"):
            guest.send(lab.udp_packet(source, 4000, lab.GATEWAY_V6, 53, b"hello host"))
        assert lab.silent(listener)
        listener.close()


@lab.own_namespace
async def test_the_resolver_answers_by_udp_and_tcp(tmp_path):
    async with site(tmp_path) as here:
        guest = await here.guest(2)
        resolver = lab.udp(lab.RESOLVER, 53)
        guest.send(lab.udp_packet(here.six(2), 4000, lab.RESOLVER, 53, b"who?"))
        data, asker = resolver.recvfrom(100)
        assert (data, asker[0]) == (b"who?", here.six(2))
        resolver.sendto(b"them", asker)
        assert guest.hears_udp(b"them", lab.PATIENCE_S)
        assert await lab.output("conntrack", "-L", "-f", "ipv6", "-p", "udp") == ""
        with socket.create_server((lab.RESOLVER, 53), family=socket.AF_INET6):
            guest.send(lab.tcp_packet(here.six(2), 4000, lab.RESOLVER, 53, 0x02))
            answer = guest.hear(lambda h: h.protocol == 6)
        assert answer is not None
        assert answer.payload[13] == 0x12
        resolver.close()


@pytest.mark.parametrize("target", [lab.GATEWAY_V4, lab.GATEWAY_V6, lab.RESOLVER])
@lab.own_namespace
async def test_a_guest_may_ping_its_gateway_and_resolver(tmp_path, target):
    async with site(tmp_path) as here:
        guest = await here.guest(2)
        guest.send(lab.echo(here.own(2, target), target))
        answer = guest.hear(lambda h: h.protocol in (1, 58) and h.payload[0] in (0, 129))
        assert answer is not None
        assert answer.source == target


@lab.own_namespace
async def test_the_host_reaches_a_guest_and_hears_its_answer(tmp_path):
    async with site(tmp_path) as here:
        guest = await here.guest(2)
        for target, source in ((here.four(2), lab.GATEWAY_V4), (here.six(2), lab.RESOLVER)):
            caller = socket.socket(lab.family(target), socket.SOCK_DGRAM)
            caller.settimeout(lab.PATIENCE_S)
            caller.connect((target, 8080))
            assert caller.getsockname()[0] == source
            caller.send(b"request")
            heard = guest.hear(lambda h: h.protocol == 17)
            assert heard is not None
            assert heard.data == b"request"
            port = heard.ports[0]
            guest.send(lab.udp_packet(target, 8080, heard.source, port, b"response"))
            assert caller.recv(100) == b"response"
            caller.close()


@lab.own_namespace
async def test_a_dead_port_of_a_guest_is_told_to_the_host_at_once(tmp_path):
    async with site(tmp_path) as here:
        guest = await here.guest(2)
        target = here.four(2)
        caller = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        caller.settimeout(lab.PATIENCE_S)
        caller.connect((target, 8080))
        caller.send(b"request")
        heard = guest.hear(lambda h: h.protocol == 17)
        assert heard is not None
        original = lab.packet(heard.source, target, 17, heard.payload)
        guest.send(lab.icmp(target, heard.source, 3, bytes(4) + original[:28], code=3))
        with pytest.raises(ConnectionRefusedError):
            caller.recv(100)
        caller.close()


@lab.own_namespace
async def test_a_guest_may_not_speak_about_the_flows_of_another(tmp_path):
    async with site(tmp_path) as here:
        victim, liar = await here.guest(2, 1), await here.guest(3, 2)
        caller = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        caller.connect((here.four(2), 8080))
        caller.send(b"request")
        heard = victim.hear(lambda h: h.protocol == 17)
        assert heard is not None
        original = lab.packet(heard.source, here.four(2), 17, heard.payload)
        liar.send(lab.icmp(here.four(3), heard.source, 3, bytes(4) + original[:28], code=3))
        assert lab.silent(caller)
        caller.close()
        peer = await here.guest(4, 1)
        sent = lab.udp_packet(here.six(2), 4000, here.six(4), 9000, b"among us")
        victim.send(sent)
        assert peer.hears_udp(b"among us", lab.PATIENCE_S)
        too_big = bytes([0, 0, 5, 0]) + sent
        liar.send(lab.icmp(here.six(3, 2), here.six(2), 2, too_big))
        assert victim.hear(lambda h: h.protocol == 58 and h.payload[0] == 2, lab.QUIET_S) is None
        peer.send(lab.icmp(here.six(4), here.six(2), 2, too_big))
        assert victim.hear(lambda h: h.protocol == 58 and h.payload[0] == 2) is not None


@lab.own_namespace
async def test_the_world_reaches_no_guest(tmp_path):
    async with site(tmp_path) as here:
        guest = await here.guest(2)
        for source, target in ((lab.WORLD_V4, here.four(2)), (lab.WORLD_V6, here.six(2))):
            outside = here.world.udp(source)
            outside.sendto(b"knock", (target, 8080))
            assert not guest.hears_udp(b"knock")
            outside.close()


@pytest.mark.parametrize(
    "target",
    ["169.254.169.254", "10.1.2.3", "192.168.1.1", "172.17.0.2", "100.64.0.1", "fd00::1"],
)
@lab.own_namespace
async def test_private_networks_behind_the_host_are_refused(tmp_path, target):
    async with site(tmp_path) as here:
        await lab.ip(f"route add {target} via {lab.WORLD_V6 if ':' in target else lab.WORLD_V4}")
        here.world.run(f"addr add {target} dev world0 {'nodad' if ':' in target else ''}")
        guest = await here.guest(2)
        outside = here.world.udp(target, 9000)
        guest.send(lab.udp_packet(here.own(2, target), 4000, target, 9000, b"inside"))
        assert lab.silent(outside)
        assert await counted("refused_on_the_way") > 0
        outside.close()


@lab.own_namespace
async def test_the_operator_may_open_a_private_network(tmp_path):
    async with site(tmp_path, allowed=("10.1.0.0/16",)) as here:
        here.world.run("addr add 10.1.2.3 dev world0")
        guest = await here.guest(2)
        outside = here.world.udp("10.1.2.3", 9000)
        guest.send(lab.udp_packet(here.four(2), 4000, "10.1.2.3", 9000, b"inside"))
        assert outside.recv(100) == b"inside"
        outside.close()


@lab.own_namespace
async def test_only_the_named_uplink_leads_out(tmp_path):
    async with site(tmp_path, uplink="elsewhere0") as here:
        guest = await here.guest(2)
        outside = here.world.udp(lab.WORLD_V4, 9000)
        guest.send(lab.udp_packet(here.four(2), 4000, lab.WORLD_V4, 9000, b"out"))
        assert lab.silent(outside)
        outside.close()


@lab.own_namespace
async def test_a_restarted_agent_cuts_no_flow(tmp_path):
    async with site(tmp_path) as here:
        guest, peer = await here.guest(2), await here.guest(3)
        outside = here.world.udp(lab.WORLD_V4, 9000)
        guest.send(lab.udp_packet(here.four(2), 4000, lab.WORLD_V4, 9000, b"before"))
        data, sender = outside.recvfrom(100)
        assert data == b"before"
        again = HostNetwork(HOST_NUMBER, run_dir=tmp_path)
        await again.start()
        outside.sendto(b"after", sender)
        assert guest.hears_udp(b"after", lab.PATIENCE_S)
        guest.send(lab.udp_packet(here.six(2), 1, here.six(3), 2, b"neighbour"))
        assert peer.hears_udp(b"neighbour", lab.PATIENCE_S)
        await again.unplumb(plumbing(3))
        assert await again.observed() == {2}
        outside.close()


@lab.own_namespace
async def test_no_packet_is_lost_while_the_policy_is_replaced(tmp_path):
    async with site(tmp_path) as here:
        guest, peer = await here.guest(2), await here.guest(3)
        sent = 0
        while sent < 100:
            restart = asyncio.get_running_loop().create_task(here.network.start())
            while not restart.done():
                # One by one: a tap holds no more than some hundred that nobody takes.
                guest.send(lab.udp_packet(here.six(2), 1, here.six(3), 2, b"%d" % sent))
                assert peer.hears_udp(b"%d" % sent, lab.PATIENCE_S)
                sent += 1
                await asyncio.sleep(0)
            await restart


@pytest.mark.parametrize("world", [lab.WORLD_V4, lab.WORLD_V6])
@lab.own_namespace
async def test_unplumbing_cuts_established_flows(tmp_path, world):
    async with site(tmp_path) as here:
        guest = await here.guest(2, 1)
        outside = here.world.udp(world, 9000)
        guest.send(lab.udp_packet(here.own(2, world), 4000, world, 9000, b"before"))
        _, sender = outside.recvfrom(100)
        await here.network.unplumb(plumbing(2, 1))
        assert await lab.output("conntrack", "-L") == ""
        assert await lab.output("conntrack", "-L", "-f", "ipv6") == ""
        heir = await here.guest(2, 1)
        outside.sendto(b"not yours", sender[:2])
        assert not heir.hears_udp(b"not yours")
        outside.close()


@lab.own_namespace
async def test_a_reused_slot_forgets_its_former_network(tmp_path):
    async with site(tmp_path) as here:
        await here.network.plumb(plumbing(2, 1))
        heir, former = await here.guest(2, 2), await here.guest(3, 1)
        heir.send(lab.udp_packet(here.six(2, 1), 1, here.six(3, 1), 2, b"old life"))
        assert not former.hears_udp(b"old life")
        listed = await lab.output("nft", "list", "set", "inet", "godwit", "sources6")
        assert here.six(2, 1) not in listed


@lab.own_namespace
async def test_arp_is_answered_for_the_gateway_and_heard_from_the_machine_alone(tmp_path):
    """Also where the host's own settings would have it learn from anybody."""
    sysctls.set_all([("ipv4/conf/all/rp_filter", "2"), ("ipv4/conf/all/arp_accept", "1")])
    async with site(tmp_path) as here:
        guest = await here.guest(2)
        await here.guest(3)
        assert guest.asks_arp(here.four(2), lab.GATEWAY_V4)
        assert not guest.asks_arp(here.four(2), here.four(3))
        assert not guest.asks_arp(here.four(2), lab.HOST_V4)
        assert not guest.asks_arp(here.four(3), lab.GATEWAY_V4)
        assert not guest.asks_arp("198.51.100.9", lab.GATEWAY_V4)
        neighbours = await lab.output("ip", "neigh", "show", "dev", "gw2")
        assert "198.51.100.9" not in neighbours
        assert f"{here.four(3)} " not in neighbours


@lab.own_namespace
async def test_neighbour_discovery_answers_the_machine_and_learns_nothing_else(tmp_path):
    async with site(tmp_path) as here:
        guest = await here.guest(2)
        before = await lab.output("ip", "neigh", "show", "dev", "gw2")
        for source in (here.six(2), "fe80::67:ff:fe00:2"):
            guest.send(lab.neighbour_solicitation(source, lab.GATEWAY_V6, guest.mac))
            heard = guest.hear(lambda h: h.protocol == 58 and h.payload[0] == 136)
            assert heard is not None
        for _ in range(300):
            source = lab.random_link_local()
            guest.send(lab.neighbour_solicitation(source, lab.GATEWAY_V6, guest.mac))
        thief = "02:67:00:00:00:99"
        guest.send(lab.neighbour_solicitation(here.six(2), lab.GATEWAY_V6, thief))
        assert guest.hear(lambda h: h.protocol == 58) is not None
        assert await lab.output("ip", "neigh", "show", "dev", "gw2") == before


@lab.own_namespace
async def test_a_guest_cannot_make_itself_the_hosts_router(tmp_path):
    async with site(tmp_path) as here:
        guest = await here.guest(2)
        before = await lab.output("ip", "-6", "route")
        body = struct.pack("!BBHII", 64, 0, 1800, 0, 0)
        prefix = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 1800, 1800, 0)
        body += prefix + bytes.fromhex("20010db80bad0000") + bytes(8)
        guest.send(lab.icmp("fe80::67:ff:fe00:2", "ff02::1", 134, body))
        guest.send(lab.icmp(here.six(2), "ff02::1", 134, body))
        assert lab.silent_guest(guest)
        assert await lab.output("ip", "-6", "route") == before


@lab.own_namespace
async def test_a_flood_of_flows_is_bounded_and_hurts_nobody_else(tmp_path):
    async with site(tmp_path, flows_per_machine=100) as here:
        flooder, other = await here.guest(2), await here.guest(3)
        outside = here.world.udp(lab.WORLD_V4, 9000)
        for port in range(2000, 3000):
            flooder.send(lab.udp_packet(here.four(2), port, lab.WORLD_V4, 9001, b"flood"))
        flows = await lab.output("conntrack", "-L", "--src", here.four(2))
        assert 90 <= flows.count("\n") <= 110
        assert await counted("flooded") >= 890
        other.send(lab.udp_packet(here.four(3), 1, lab.WORLD_V4, 9000, b"unhurt"))
        assert outside.recv(100) == b"unhurt"
        outside.close()


@lab.own_namespace
async def test_a_flood_of_questions_is_bounded(tmp_path):
    async with site(tmp_path, queries_per_second=50) as here:
        flooder, other = await here.guest(2), await here.guest(3)
        resolver = lab.udp(lab.RESOLVER, 53)
        resolver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_000_000)
        for _ in range(1000):
            flooder.send(lab.udp_packet(here.six(2), 4000, lab.RESOLVER, 53, b"?"))
        other.send(lab.udp_packet(here.six(3), 4000, lab.RESOLVER, 53, b"!"))
        heard = []
        while not lab.silent(resolver):
            heard.append(resolver.recv(100))
        assert heard.count(b"!") == 1
        assert 50 <= heard.count(b"?") < 500
        resolver.close()


@lab.own_namespace
async def test_a_vmm_process_has_no_network_of_its_own(tmp_path):
    async with site(tmp_path) as here:
        uid = rules.Policy().first_vm_uid + 2
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            code = (
                f"import socket; s = socket.socket(); s.settimeout(0.5); "
                f"s.connect(('127.0.0.1', {port}))"
            )
            argv = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
            python = str(Path(sys.base_prefix) / "bin/python3")
            kept = await processes.run([*argv, python, "-c", code], timeout_s=20, check=False)
            free = await processes.run([python, "-c", code], timeout_s=20, check=False)
        assert b"TimeoutError" in kept.stderr
        assert free.exit_code == 0
        assert await counted("escaped") > 0
        assert here.network.host_number == HOST_NUMBER


@lab.own_namespace
async def test_a_flushed_ruleset_is_noticed_and_healed(tmp_path):
    async with site(tmp_path) as here:
        guest, other = await here.guest(2, 1), await here.guest(3, 2)
        assert await here.network.intact()
        await lab.output("nft", "flush", "ruleset")
        assert not await here.network.intact()
        await here.network.start()
        guest.send(lab.udp_packet(here.six(2), 1, here.six(3, 2), 2, b"open?"))
        assert not other.hears_udp(b"open?")


@lab.own_namespace
async def test_garbage_frames_harm_nobody(tmp_path):
    async with site(tmp_path) as here:
        guest, other = await here.guest(2), await here.guest(3)
        for length in (0, 1, 13, 20, 39, 60, 1400):
            for kind in (0x0800, 0x86DD, 0x0806, 0x8100, 0x88CC, 0x0000):
                guest.send_frame(kind, os.urandom(length))
        guest.send(lab.udp_packet(here.six(2), 1, here.six(3), 2, b"still here"))
        assert other.hears_udp(b"still here", lab.PATIENCE_S)


@lab.own_namespace
async def test_a_hundred_machines_are_plumbed_at_once(tmp_path):
    async with site(tmp_path) as here:
        chosen = range(2, 102)
        await asyncio.gather(*(here.network.plumb(plumbing(s, 1 + s % 7)) for s in chosen))
        assert await here.network.observed() == frozenset(chosen)
        again = HostNetwork(HOST_NUMBER, run_dir=tmp_path)
        await again.start()
        listed = await lab.output("nft", "list", "set", "inet", "godwit", "sources6")
        assert all(here.six(s, 1 + s % 7) in listed for s in chosen)
        await again.stop()
        assert await again.observed() == frozenset()


def test_slots_and_taps_agree_on_names():
    assert plumbing(7).tap == slots.tap_name(7)
