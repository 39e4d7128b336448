"""What guests may not reach, what the host does not forward, and how much traffic each may have."""

import asyncio
import contextlib
import socket
import time
from pathlib import Path

import pytest

from godwit.agent.network import links, sysctls
from godwit.agent.network.host_network import HostNetwork
from tests.host import network_lab as lab
from tests.host.test_network import HOST_NUMBER, counted, site

pytestmark = pytest.mark.host

SPECIAL = [
    *("192.0.0.8", "192.88.99.1", "198.18.0.1", "198.19.255.254", "240.0.0.1", "0.1.2.3"),
    *("64:ff9b:1::a00:1", "2002:a00:1::1", "fec0::1", "100::1", "2001::1", "2001:2::1"),
    *("2001:10::1", "2001:20::1", "5f00::1", "::a00:1", "4000::1", "fd00::1", "200::1"),
]
"""Of IANA's special-purpose registries, one address of each block that is not the world's."""


@pytest.mark.parametrize("target", SPECIAL)
@lab.own_namespace
async def test_addresses_for_special_purposes_are_refused(tmp_path, target):
    async with site(tmp_path) as here:
        guest = await here.guest(5)
        guest.send(lab.udp_packet(here.own(5, target), 4000, target, 53, b"q"))
        async with asyncio.timeout(lab.PATIENCE_S):
            while await counted("refused_on_the_way") == 0:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("target", ["203.0.114.1", "2000::1", "2001:200::1", "3ffe::1"])
@lab.own_namespace
async def test_what_lies_beside_them_is_the_worlds(tmp_path, target):
    async with site(tmp_path) as here:
        alone = "/128 dev world0 nodad" if ":" in target else "/32 dev world0"
        here.world.run(f"addr add {target}{alone}")
        with here.world.udp(target) as outside:
            guest = await here.guest(5)
            port = outside.getsockname()[1]
            guest.send(lab.udp_packet(here.own(5, target), 4000, target, port, b"hello"))
            assert outside.recv(10) == b"hello"


FAMILIES = [("192.0.2.1/24", "192.0.2.9"), ("2001:db8:9::1/64", "2001:db8:9::9")]


@pytest.mark.parametrize(("near", "far"), FAMILIES)
@pytest.mark.parametrize("routed_before", [True, False])
@lab.own_namespace
async def test_the_host_becomes_nobodys_router(tmp_path, near, far, routed_before):
    """One that routed before Godwit came goes on; one that did not routes for machines alone."""
    version = "ipv6" if ":" in near else "ipv4"
    switch = links.FORWARDING[version]
    sysctls.set_all([(switch, "1" if routed_before else "0")])
    async with site(tmp_path) as here:
        await lab.ip(
            "link add side0 type veth peer name side1",
            "link set side0 addrgenmode none",
            "link set side0 up",
            "link set side1 up",
            f"addr add {near} dev side0" + (" nodad" if ":" in near else ""),
            f"neigh add {far} lladdr 02:00:00:00:00:09 dev side0 nud permanent",
        )
        await lab.running("side0")
        home = lab.HOST_V6 if ":" in near else lab.HOST_V4
        here.world.run(f"route add {far} via {home}")
        with (
            here.world.udp(lab.WORLD_V6 if ":" in near else lab.WORLD_V4) as outside,
            socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3)) as listening,
        ):
            listening.bind(("side1", 3))
            listening.settimeout(lab.PATIENCE_S)
            outside.sendto(b"pass me on", (far, 9))
            if routed_before:
                assert await asyncio.to_thread(passes, listening, b"pass me on")
                assert await counted("strangers") == 0
            else:
                async with asyncio.timeout(lab.PATIENCE_S):
                    while await counted("strangers") == 0:
                        await asyncio.sleep(0.01)
        # A restarted agent remembers how it was.
        await HostNetwork(HOST_NUMBER, run_dir=tmp_path).start()
        through = await lab.output("nft", "list", "chain", "inet", "godwit", "through")
        assert (f"nfproto {version}" in through) != routed_before
        await here.network.stop()
        assert (Path("/proc/sys/net") / switch).read_text().strip() == str(int(routed_before))


def passes(listening: socket.socket, data: bytes) -> bool:
    """Tell whether a packet with that content comes by."""
    while data not in listening.recv(2_000):
        pass
    return True


@pytest.mark.parametrize("target", ["203.0.113.1", "2001:db8:1::1"])
@lab.own_namespace
async def test_what_a_guest_sends_is_bounded_by_bytes_and_counted(tmp_path, target):
    async with site(tmp_path, mbit_each_way=8) as here:
        with here.world.udp(target) as outside, here.world.udp(target) as quiet:
            guest, other = await here.guest(5), await here.guest(6)
            port = outside.getsockname()[1]
            flood = lab.udp_packet(here.own(5, target), 4000, target, port, bytes(1_000))
            began, sent, dropped = time.monotonic(), 0, 0
            async with asyncio.timeout(lab.PATIENCE_S):
                while dropped == 0:
                    for _ in range(2_000):
                        guest.send(flood)
                    sent += 2_000
                    took_s = time.monotonic() - began
                    dropped = await counted("paced_out")
            # A second's worth and 256 KB at once, then 1 MB a second; packets are 1 KB.
            assert sent - dropped <= 1.1 * (1_256 + 1_000 * took_s)
            port = quiet.getsockname()[1]
            other.send(lab.udp_packet(here.own(6, target), 4000, target, port, b"mine"))
            assert quiet.recv(10) == b"mine"


@lab.own_namespace
async def test_what_is_sent_to_a_guest_is_bounded_too(tmp_path):
    async with site(tmp_path, mbit_each_way=8) as here:
        await here.guest(5)
        with lab.udp("0.0.0.0") as sender:
            async with asyncio.timeout(lab.PATIENCE_S):
                while await counted("paced_in") == 0:
                    for _ in range(2_000):
                        with contextlib.suppress(PermissionError):
                            sender.sendto(bytes(1_000), (here.four(5), 9))
        assert await counted("paced_out") == 0
