"""UDP in a client's name: what a machine answers is brought to the socket that asked."""

import socket
import struct

import pytest

from tests.host import network_lab as lab
from tests.host.test_network import Site, counted, site

pytestmark = pytest.mark.host

_SO_MARK, _IPV6_TRANSPARENT, _IP_TRANSPARENT = 36, 75, 19
_OF_CLIENT = 0x6776
CLIENT_PORT, PORT = 4_000, 5_353
WORLDS = pytest.mark.parametrize("client", [lab.WORLD_V4, lab.WORLD_V6])


def mouth(client: str, machine: str) -> socket.socket:
    """Return a socket such as the edge has: it speaks to a machine in a client's name."""
    made = socket.socket(lab.family(client), socket.SOCK_DGRAM)
    if ":" in client:
        made.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
    else:
        made.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, _SO_MARK, _OF_CLIENT)
    made.bind((client, CLIENT_PORT))
    made.connect((machine, PORT))
    made.settimeout(lab.PATIENCE_S)
    return made


async def asked(here: Site, client: str) -> tuple[lab.FakeGuest, str, socket.socket]:
    """Return a guest that was asked something, its address, and the socket that did."""
    guest = await here.guest(5)
    own = here.own(5, client)
    speaks = mouth(client, own)
    speaks.send(b"asked")
    heard = guest.hear(lambda packet: packet.protocol == socket.IPPROTO_UDP)
    assert heard is not None
    assert (heard.source, heard.destination) == (client, own)
    assert (heard.ports, heard.data) == ((CLIENT_PORT, PORT), b"asked")
    return guest, own, speaks


@WORLDS
@lab.own_namespace
async def test_the_machine_sees_the_client_and_its_answer_comes_back(tmp_path, client):
    async with site(tmp_path) as here:
        guest, own, speaks = await asked(here, client)
        with speaks, here.world.udp(client, CLIENT_PORT) as outside:
            guest.send(lab.udp_packet(own, PORT, client, CLIENT_PORT, b"answer"))
            assert speaks.recv(100) == b"answer"
            assert lab.silent(outside)
            tracked = await lab.output("conntrack", "-L", "-p", "udp")
            assert "4000" not in tracked


@WORLDS
@lab.own_namespace
async def test_what_is_no_answer_leaves_as_ever(tmp_path, client):
    async with site(tmp_path) as here:
        guest, own, speaks = await asked(here, client)
        other = await here.guest(6)
        with speaks, here.world.udp(client, CLIENT_PORT) as outside:
            guest.send(lab.udp_packet(own, PORT + 1, client, CLIENT_PORT, b"of its own"))
            assert outside.recv(100) == b"of its own"
            six = here.own(6, client)
            other.send(lab.udp_packet(six, PORT, client, CLIENT_PORT, b"of another"))
            assert outside.recv(100) == b"of another"
            assert lab.silent(speaks)


@WORLDS
@lab.own_namespace
async def test_no_machine_answers_for_another(tmp_path, client):
    async with site(tmp_path) as here:
        _, own, speaks = await asked(here, client)
        other = await here.guest(6)
        with speaks:
            before = await counted("spoofed")
            other.send(lab.udp_packet(own, PORT, client, CLIENT_PORT, b"forged"))
            assert lab.silent(speaks)
            assert await counted("spoofed") == before + 1


@WORLDS
@lab.own_namespace
async def test_a_port_that_nobody_has_bound_is_told_at_once(tmp_path, client):
    async with site(tmp_path) as here:
        guest, own, speaks = await asked(here, client)
        with speaks:
            quoted = lab.udp_packet(client, CLIENT_PORT, own, PORT, b"asked")
            kind, code = (1, 4) if ":" in client else (3, 3)
            guest.send(lab.icmp(own, client, kind, struct.pack("!I", 0) + quoted, code))
            with pytest.raises(ConnectionRefusedError):
                speaks.recv(100)
