"""What network policies keep apart, by packets of every kind on real taps, alone and across hosts."""

import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from godwit.agent.judging import FREE, Judgement
from godwit.agent.network.host_network import HostNetwork
from godwit.wire.private import RESOLVER, app_address
from tests.host import mesh_lab as mesh
from tests.host import network_lab as lab
from tests.host.test_network import HOST_NUMBER, Site, counted, plumbing

pytestmark = pytest.mark.host
SYN, SYN_ACK, ACK = 0x02, 0x12, 0x10
IN = Judgement(ingress=frozenset({("tcp", 80), ("udp", 9000)}))
OUT = Judgement(egress=frozenset({("tcp", 443), ("udp", 9000)}))
NOTHING_OUT = Judgement(egress=frozenset())
UNREACHABLE, TOO_BIG, SOLICITATION = 1, 2, 135
OTHER_HOST_IS_FAR_S = 1.0


def tcp(port: int) -> Callable[[lab.Heard], bool]:
    return lambda heard: heard.protocol == 6 and heard.ports[1] == port


@asynccontextmanager
async def site(run_dir: Path, judged: dict[int, Judgement]) -> AsyncIterator[Site]:
    """Yield a host whose machines are judged by what stands in a dictionary."""
    async with lab.world() as world:
        network = HostNetwork(HOST_NUMBER, run_dir=run_dir)
        network.judge_by(lambda slot: judged.get(slot, FREE))
        await network.start()
        here = Site(network, world)
        try:
            yield here
        finally:
            for guest in here.guests:
                guest.close()


@lab.own_namespace
async def test_others_begin_with_a_machine_what_its_ingress_rules_allow_and_nothing_else(tmp_path):
    async with site(tmp_path, {3: IN}) as here:
        other, closed = await here.guest(2), await here.guest(3)
        source, target = here.six(2), here.six(3)
        other.send(lab.tcp_packet(source, 4000, target, 80, SYN))
        assert closed.hear(tcp(80)) is not None
        other.send(lab.udp_packet(source, 4000, target, 9000, b"allowed"))
        assert closed.hears_udp(b"allowed")
        for refused in (
            lab.tcp_packet(source, 4000, target, 81, SYN),
            lab.tcp_packet(source, 4000, target, 81, ACK),
            lab.tcp_packet(source, 4000, target, 9000, SYN),
            lab.udp_packet(source, 4000, target, 80, b"no"),
            lab.echo(source, target),
            lab.icmp(source, target, SOLICITATION, bytes(20)),
        ):
            other.send(refused)
        assert lab.silent_guest(closed)
        assert await counted("refused_by_policy") == 6


@lab.own_namespace
async def test_answers_to_what_a_machine_began_pass_whatever_its_ingress_rules(tmp_path):
    async with site(tmp_path, {3: IN}) as here:
        other, closed = await here.guest(2), await here.guest(3)
        closed.send(lab.tcp_packet(here.six(3), 4000, here.six(2), 5432, SYN))
        assert other.hear(tcp(5432)) is not None
        other.send(lab.tcp_packet(here.six(2), 5432, here.six(3), 4000, SYN_ACK))
        assert closed.hear(tcp(4000)) is not None
        sent = lab.udp_packet(here.six(3), 4000, here.six(2), 9, b"anybody?")
        closed.send(sent)
        assert other.hears_udp(b"anybody?")
        other.send(lab.icmp(here.six(2), here.six(3), UNREACHABLE, bytes(4) + sent, code=4))
        assert closed.hear(lambda h: h.protocol == 58 and h.payload[0] == UNREACHABLE) is not None


@pytest.mark.parametrize("world", [lab.WORLD_V4, lab.WORLD_V6])
@lab.own_namespace
async def test_a_machine_reaches_in_the_world_what_its_egress_rules_allow(tmp_path, world):
    async with site(tmp_path, {2: OUT}) as here:
        guest = await here.guest(2)
        with here.world.udp(world, 9000) as allowed, here.world.udp(world, 9001) as refused:
            guest.send(lab.udp_packet(here.own(2, world), 4000, world, 9001, b"no"))
            guest.send(lab.udp_packet(here.own(2, world), 4000, world, 9000, b"yes"))
            data, seen = allowed.recvfrom(100)
            assert data == b"yes"
            assert lab.silent(refused)
            allowed.sendto(b"back", seen)
            assert guest.hears_udp(b"back")
        with here.world.tcp(world, 443):
            guest.send(lab.tcp_packet(here.own(2, world), 4000, world, 443, SYN))
            assert guest.hear(lambda h: h.protocol == 6 and h.ports == (443, 4000)) is not None


@lab.own_namespace
async def test_a_machine_begins_with_its_neighbours_what_its_egress_rules_allow(tmp_path):
    async with site(tmp_path, {2: OUT}) as here:
        closed, other = await here.guest(2), await here.guest(3)
        closed.send(lab.udp_packet(here.six(2), 4000, here.six(3), 9001, b"no"))
        closed.send(lab.icmp(here.six(2), here.six(3), SOLICITATION, bytes(20)))
        closed.send(lab.udp_packet(here.six(2), 4000, here.six(3), 9000, b"yes"))
        assert other.hear(lambda h: h.source == here.six(2)).data == b"yes"
        other.send(lab.tcp_packet(here.six(3), 4000, here.six(2), 22, SYN))
        assert closed.hear(tcp(22)) is not None
        closed.send(lab.tcp_packet(here.six(2), 22, here.six(3), 4000, SYN_ACK))
        assert other.hear(tcp(4000)) is not None


@lab.own_namespace
async def test_what_goes_by_the_host_is_never_judged(tmp_path):
    nothing, resolver = Judgement(ingress=frozenset(), egress=frozenset()), str(RESOLVER)
    async with site(tmp_path, {2: nothing}) as here:
        guest, six = await here.guest(2), here.six(2)
        with lab.udp(resolver, 53) as answering:
            guest.send(lab.udp_packet(six, 4000, resolver, 53, b"name?"))
            question, whose = answering.recvfrom(100)
            assert question == b"name?"
            answering.sendto(b"address", whose)
            assert guest.hears_udp(b"address")
        guest.send(lab.echo(six, resolver))
        assert guest.hear(lambda h: h.protocol == 58 and h.payload[0] == 129) is not None
        with socket.create_server((resolver, 4_283), family=socket.AF_INET6):
            guest.send(lab.tcp_packet(six, 4000, str(app_address(1, 5)), 80, SYN))
            assert guest.hear(lambda h: h.protocol == 6 and h.ports == (80, 4000)) is not None
        for own in (six, here.four(2)):
            with lab.udp("::" if ":" in own else "0.0.0.0") as edge:
                edge.sendto(b"checked", (own, 8080))
                asked = guest.hear(lambda h: h.protocol == 17 and h.data == b"checked")
                source, port = asked.source, asked.ports[0]
                guest.send(lab.udp_packet(own, 8080, source, port, b"well"))
                assert edge.recvfrom(100)[0] == b"well"
        assert await counted("refused_by_policy") == 0


@lab.own_namespace
async def test_a_change_counts_at_once_and_ends_without_a_trace(tmp_path):
    judged: dict[int, Judgement] = {}
    async with site(tmp_path, judged) as here:
        closed, other = await here.guest(2), await here.guest(3)

        def gets_out(port: int) -> bool:
            data = b"to %d" % port
            closed.send(lab.udp_packet(here.six(2), port, here.six(3), port, data))
            return other.hears_udp(data)

        for wanted, open_ports in (
            (OUT, {9000}),
            (Judgement(egress=frozenset({("udp", 9000), ("udp", 9001)})), {9000, 9001}),
            (Judgement(egress=frozenset({("udp", 9001)}), ingress=frozenset()), {9001}),
            (NOTHING_OUT, set()),
        ):
            judged[2] = wanted
            await here.network.judge(2)
            await here.network.judge(3)
            await lab.output("conntrack", "-D", "-f", "ipv6")
            assert {port for port in (9000, 9001) if gets_out(port)} == open_ports
        del judged[2]
        await here.network.judge(2)
        assert gets_out(9000)
        for name in ("judged", "judged6", "closed_out", "closed_in", "open_out", "open_in"):
            assert "elements" not in await lab.output("nft", "list", "set", "inet", "godwit", name)


@lab.own_namespace
async def test_policies_outlive_the_agent_and_a_flushed_ruleset(tmp_path):
    judged = {2: OUT}
    async with site(tmp_path, judged) as here:
        closed, other = await here.guest(2), await here.guest(3)
        await lab.output("nft", "flush", "ruleset")
        again = HostNetwork(HOST_NUMBER, run_dir=tmp_path)
        again.judge_by(lambda slot: judged.get(slot, FREE))
        await again.start()
        closed.send(lab.udp_packet(here.six(2), 4000, here.six(3), 9001, b"no"))
        closed.send(lab.udp_packet(here.six(2), 4000, here.six(3), 9000, b"yes"))
        assert other.hear(lambda h: h.source == here.six(2)).data == b"yes"


@lab.own_namespace
async def test_a_machine_with_policies_leaves_nothing_and_its_slot_is_free_of_them(tmp_path):
    judged = {2: Judgement(ingress=IN.ingress, egress=OUT.egress)}
    async with site(tmp_path, judged) as here:
        before = await lab.snapshot()
        await here.network.plumb(plumbing(2))
        await here.network.unplumb(plumbing(2))
        await lab.becomes(before)
        del judged[2]
        following, other = await here.guest(2, 7), await here.guest(3, 7)
        following.send(lab.udp_packet(here.six(2, 7), 4000, here.six(3, 7), 9001, b"free"))
        assert other.hears_udp(b"free")


# ---------------------------------------------------------------- across hosts


@contextmanager
def two_hosts(
    folder: Path, sender: Judgement = FREE, receiver: Judgement = FREE, **policy: int
) -> Iterator[mesh.Way]:
    """Yield the way between two machines that are judged."""
    with mesh.two_hosts(folder, **policy) as (net, way):
        for host, judgement in zip(net.hosts, (sender, receiver), strict=True):
            host.settled()
            judge(host, judgement)
        yield way


def judge(host: mesh.Host, judgement: Judgement, slot: int = 2) -> None:
    host.network.judge_by(lambda asked: judgement if asked == slot else FREE)
    host.do(host.network.judge(slot))


def ends(way: mesh.Way) -> tuple[str, str]:
    return way.sender.six(2), way.receiver.six(2)


def tracked(host: mesh.Host) -> bool:
    return "fdaa:" in host.output("conntrack", "-L", "-f", "ipv6")


def test_ingress_rules_judge_what_comes_from_other_hosts(tmp_path: Path) -> None:
    with two_hosts(tmp_path, receiver=IN) as way:
        source, target = ends(way)
        for data, port in ((b"no", 9001), (b"yes", 9000)):
            way.guest.send(lab.udp_packet(source, 4000, target, port, data))
        assert way.heard_by.hear(lambda h: h.source == source).data == b"yes"
        way.guest.send(lab.icmp(source, target, SOLICITATION, bytes(20)))
        way.guest.send(lab.tcp_packet(source, 4000, target, 80, ACK))
        assert way.heard_by.hear(lambda h: h.source == source).protocol == 6
        assert way.receiver.counted("refused_by_policy") == 2
        assert tracked(way.receiver)
        assert not tracked(way.sender)
        way.heard_by.send(lab.udp_packet(target, 9000, source, 4000, b"answer"))
        assert way.guest.hears_udp(b"answer", OTHER_HOST_IS_FAR_S)
        way.heard_by.send(lab.udp_packet(target, 7000, source, 7001, b"mine"))
        assert way.guest.hears_udp(b"mine", OTHER_HOST_IS_FAR_S)
        way.guest.send(lab.udp_packet(source, 7001, target, 7000, b"answer"))
        assert way.heard_by.hears_udp(b"answer", OTHER_HOST_IS_FAR_S)


def test_egress_rules_judge_what_goes_to_other_hosts(tmp_path: Path) -> None:
    with two_hosts(tmp_path, sender=OUT) as way:
        source, target = ends(way)
        for data, port in ((b"no", 9001), (b"yes", 9000)):
            way.guest.send(lab.udp_packet(source, 4000, target, port, data))
        assert way.heard_by.hear(lambda h: h.source == source).data == b"yes"
        way.guest.send(lab.echo(source, target))
        way.guest.send(lab.icmp(source, target, SOLICITATION, bytes(20)))
        way.guest.send(lab.tcp_packet(source, 4000, target, 443, SYN))
        assert way.heard_by.hear(lambda h: h.source == source).ports == (4000, 443)
        assert way.sender.counted("refused_by_policy") == 3
        way.heard_by.send(lab.tcp_packet(target, 443, source, 4000, SYN_ACK))
        assert way.guest.hear(tcp(4000)) is not None
        way.heard_by.send(lab.tcp_packet(target, 4001, source, 22, SYN))
        assert way.guest.hear(tcp(22)) is not None
        way.guest.send(lab.tcp_packet(source, 22, target, 4001, SYN_ACK))
        assert way.heard_by.hear(tcp(4001)) is not None


def test_checksums_and_errors_of_judged_flows_stay_right(tmp_path: Path) -> None:
    both = Judgement(ingress=IN.ingress, egress=OUT.egress)
    with two_hosts(tmp_path, sender=both, receiver=both) as way:
        source, target = ends(way)
        sent = lab.udp_packet(source, 4000, target, 9000, b"odd")
        way.guest.send(sent)
        heard = way.heard_by.hear(lambda h: h.source == source)
        pseudo = lab._pseudo(heard.source, heard.destination, 17, len(heard.payload))
        assert lab.checksum(pseudo + heard.payload) == 0
        way.heard_by.send(lab.icmp(target, source, UNREACHABLE, bytes(4) + sent, code=4))
        told = way.guest.hear(lambda h: h.protocol == 58 and h.source == target)
        assert told.payload[8:] == sent
        large = lab.udp_packet(source, 4000, target, 9000, bytes(1_373))
        way.guest.send(large)
        told = way.guest.hear(lambda h: h.protocol == 58 and h.payload[0] == TOO_BIG)
        assert struct.unpack_from("!I", told.payload, 4) == (1_420,)
        quoted = told.payload[8:]
        assert quoted[8:] == large[8 : len(quoted)]


def test_a_judged_machine_sends_and_gets_nothing_of_another_network_across_hosts(
    tmp_path: Path,
) -> None:
    with two_hosts(tmp_path, sender=IN, receiver=IN) as way:
        stranger = way.receiver.guest(3, 2)
        target = way.receiver.six(3, 2)
        way.guest.send(lab.udp_packet(way.sender.six(2), 4000, target, 9000, b"stranger"))
        assert not stranger.hears_udp(b"stranger")
        stranger.send(lab.udp_packet(target, 4000, way.sender.six(2), 9000, b"stranger"))
        assert not way.guest.hears_udp(b"stranger")
        spoofed = lab.udp_packet(way.sender.six(5), 4000, way.receiver.six(2), 9000, b"not me")
        way.guest.send(spoofed)
        assert not way.heard_by.hears_udp(b"not me")


def test_a_machine_is_judged_from_when_it_is_told_until_it_is_free_again(tmp_path: Path) -> None:
    """One that no policy selects is not tracked and takes the short way."""
    with two_hosts(tmp_path) as way:
        for host in (way.sender, way.receiver):
            host.output("conntrack", "-F")
        assert way.passes(b"free")
        assert not tracked(way.receiver)
        assert not tracked(way.sender)
        judge(way.receiver, Judgement(ingress=frozenset()))
        way.send(b"closed")
        assert not way.heard_by.hears_udp(b"closed")
        judge(way.receiver, FREE)
        assert way.passes(b"free again")
        way.receiver.output("conntrack", "-F")
        way.heard_by.send(lab.udp_packet(way.receiver.six(2), 1, way.sender.six(2), 2, b"back"))
        assert way.guest.hears_udp(b"back", OTHER_HOST_IS_FAR_S)
        assert not tracked(way.receiver)


def test_judged_machines_are_judged_when_the_mesh_came_after_them(tmp_path: Path) -> None:
    with mesh.internet(tmp_path) as net:
        one, two = net.hosts
        for host in net.hosts:
            host.network.judge_by(lambda slot: IN if slot == 2 else FREE)
        way = mesh.Way(one, one.guest(2), two, two.guest(2))
        net.join(one, two)
        way.opened()
        way.guest.send(lab.udp_packet(one.six(2), 4000, two.six(2), 9001, b"no"))
        assert way.passes(b"yes")
        assert two.counted("refused_by_policy") == 1


def test_nobody_fills_the_connection_table_through_a_judged_machine(tmp_path: Path) -> None:
    with two_hosts(tmp_path, receiver=IN, sender=OUT, flows_per_machine=5) as way:
        source, target = ends(way)
        for port in range(5_000, 5_020):
            way.guest.send(lab.udp_packet(source, port, target, 9000, b"%d" % port))
        assert way.sender.counted("flooded") >= 14
        listed = way.receiver.output("conntrack", "-L", "-f", "ipv6")
        assert listed.count("dport=9000") <= 6


def test_a_real_kernels_connection_passes_a_judged_way(tmp_path: Path) -> None:
    """Large segments, acknowledgements and all, across two hosts where both ends are judged."""
    with mesh.internet(tmp_path) as net:
        one, two = net.hosts
        net.join(one, two)
        people = [mesh.inhabitant(host) for host in net.hosts]
        for host in net.hosts:
            host.end_agent()
            host.start()
            host.network.judge_by(
                lambda _: Judgement(
                    ingress=frozenset({("tcp", 80)}), egress=frozenset({("tcp", 80)})
                )
            )
            host.do(host.network.start())
            host.settled()
        sender, receiver = people
        sizes: list[int] = []

        def serve() -> socket.socket:
            return socket.create_server((receiver.address, 80), family=socket.AF_INET6)

        def send(port: int) -> str:
            try:
                with socket.create_connection((receiver.address, port), 5) as connection:
                    connection.sendall(bytes(3_000_000))
                    connection.shutdown(socket.SHUT_WR)
                    return connection.recv(100).decode()
            except TimeoutError:
                return "closed"

        def take(listening: socket.socket) -> None:
            connection, _ = listening.accept()
            size = 0
            while data := connection.recv(1 << 16):
                size += len(data)
            sizes.append(size)
            connection.sendall(b"all of it")
            connection.close()

        with receiver.inside.call(serve) as listening:
            taking = threading.Thread(target=take, args=(listening,))
            taking.start()
            assert sender.inside.call(send, 80) == "all of it"
            taking.join()
        assert sizes == [3_000_000]
        assert sender.inside.call(send, 81) == "closed"
