"""Names that a machine asks resolvers of their own for, by the forwarder in its guest."""

import asyncio
import contextlib
import dataclasses
import socket
import threading
from collections.abc import Iterator

import pytest

from godwit.wire import guest
from tests.host import network_lab as lab
from tests.vm import vm_lab

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

OURS, THEIRS = "192.0.2.7", "192.0.2.9"
PID = "$(cd /proc; for each in [0-9]*; do [ $(cat $each/comm) != exe ] || echo $each; done)"
_ANSWER, _A = 0x80, b"\0\x01"


@contextlib.contextmanager
def resolver(here: vm_lab.Host, address: str, answer: str) -> Iterator[list[bytes]]:
    """Answer every question for an address in the world with one; yield the names asked for."""
    asked: list[bytes] = []
    with here.world.udp(address, 53) as listening:
        listening.settimeout(0.1)
        over = threading.Event()
        serving = threading.Thread(target=_serve, args=(listening, answer, asked, over))
        serving.start()
        try:
            yield asked
        finally:
            over.set()
            serving.join()


def _serve(
    listening: socket.socket, answer: str, asked: list[bytes], over: threading.Event
) -> None:
    while not over.is_set():
        try:
            query, source = listening.recvfrom(512)
        except TimeoutError:
            continue
        end = query.index(b"\0", 12) + 5
        name, kind = query[12 : end - 4], query[end - 4 : end - 2]
        asked.append(name)
        found = kind == _A
        head = query[:2] + bytes([query[2] | _ANSWER, 0x80, 0, 1, 0, found, 0, 0, 0, 0])
        record = b"\xc0\x0c\0\x01\0\x01\0\0\0\x05\0\x04" + socket.inet_aton(answer)
        listening.sendto(head + query[12:end] + (record if found else b""), source)


@lab.own_namespace
async def test_a_name_under_a_rule_goes_to_its_resolver_and_others_to_the_name_servers():
    async with vm_lab.host() as here:
        machine = here.machine(5)
        asking = guest.Resolver(
            nameservers=(lab.WORLD_V6,),
            forwards=(guest.Forward(basename="corp.example", address=lab.WORLD_V4),),
        )
        spec = machine.plan.run_spec.model_copy(update={"resolver": asking})
        machine.plan = dataclasses.replace(machine.plan, run_spec=spec)
        with (
            resolver(here, lab.WORLD_V4, OURS) as ours,
            resolver(here, lab.WORLD_V6, THEIRS) as theirs,
        ):
            await machine.boot()
            conf = await machine.run("cat /etc/resolv.conf")
            assert conf.stdout == "nameserver 127.0.0.83\n"
            for name, address in (("www.corp.example", OURS), ("www.example", THEIRS)):
                found = await machine.run(f"busybox nslookup {name}")
                assert f"Address: {address}" in found.stdout, (name, found, machine.log())
            assert set(ours) == {b"\x03www\x04corp\x07example\0"}
            assert set(theirs) == {b"\x03www\x07example\0"}

            # It has no rights, and one that is killed is started again.
            who = await machine.run(f"stat -c %u /proc/{PID}")
            assert who.stdout == "65534\n", who
            assert (await machine.run(f"kill -9 {PID}")).exit_code == 0
            async with asyncio.timeout(vm_lab.BOOT_S):
                again = await machine.run("busybox nslookup db.corp.example")
                while f"Address: {OURS}" not in again.stdout:
                    again = await machine.run("busybox nslookup db.corp.example")
