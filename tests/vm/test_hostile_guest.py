"""Root in a real guest tries what it should not be able to do.

Frames that a guest's kernel would not send are tried in tests/host/test_network.py; here the
whole chain is real: the guest's own network stack, QEMU, the tap, the host's policy.
"""

import asyncio
import contextlib
import time

import pytest

from godwit.base import errors, processes
from godwit.wire import host_rpc, shim
from tests.host import network_lab as lab
from tests.vm import vm_lab

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

PORTS = (22, 53, 80, 4222, 4280, 5050, 8080, 8090)
STRANGER = 2
"""The number of a network that is not the attacker's."""


def connects(address: str, port: int, wait_s: int = 2) -> str:
    """Return a shell command that succeeds if something listens there."""
    return f"busybox nc -w {wait_s} {address} {port} </dev/null >/dev/null 2>&1"


def pings(address: str, options: str = "") -> str:
    return f"busybox ping -c 1 -W 2 {options} {address} >/dev/null 2>&1"


async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def succeeds(machine: vm_lab.Machine, command: str) -> bool:
    return (await machine.run(f"{command} && echo yes || echo no")).stdout.endswith("yes\n")


async def reaches(machine: vm_lab.Machine, command: str) -> None:
    """Return once a command succeeds, which it must."""
    async with asyncio.timeout(240):
        while not await succeeds(machine, command):
            await asyncio.sleep(0.1)


async def listens(address: str, port: int) -> None:
    """Return once something takes connections there."""
    async with asyncio.timeout(240):
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                _, writer = await asyncio.open_connection(address, port)
                writer.close()
                return
            await asyncio.sleep(0.1)


async def counted(name: str) -> int:
    text = await lab.output("nft", "list", "counter", "inet", "godwit", name)
    return int(text.split("packets")[1].split()[0])


@lab.own_namespace
async def test_an_address_taken_from_another_is_worth_nothing():
    async with vm_lab.host() as here:
        thief, victim = here.machine(5, network=1), here.machine(6, network=STRANGER)
        await thief.boot()
        await victim.boot()
        await reaches(thief, pings(lab.GATEWAY_V4))
        in_their_network = here.network.private_ip(here.machine(5, network=STRANGER).plumbing)
        for taken, target in (
            (victim.six, lab.WORLD_V6),
            (victim.six, lab.RESOLVER),
            (in_their_network, victim.six),
            (lab.RESOLVER, victim.six),
            (lab.HOST_V6, lab.WORLD_V6),
            (victim.four, lab.WORLD_V4),
            (victim.four, lab.GATEWAY_V4),
            (lab.HOST_V4, victim.four),
        ):
            bits = 128 if ":" in taken else 32
            before = await counted("spoofed")
            await thief.run(f"busybox ip addr add {taken}/{bits} dev eth0")
            assert not await succeeds(thief, pings(target, f"-I {taken}")), (taken, target)
            assert await counted("spoofed") > before, (taken, target)
            await thief.run(f"busybox ip addr del {taken}/{bits} dev eth0")
        await reaches(victim, pings(lab.GATEWAY_V4))
        await reaches(victim, pings(lab.WORLD_V6))


@lab.own_namespace
async def test_another_hardware_address_cuts_off_the_guest_that_takes_it():
    async with vm_lab.host() as here:
        thief, victim = here.machine(5), here.machine(6)
        await thief.boot()
        await victim.boot()
        mac = (await victim.run("cat /sys/class/net/eth0/address")).stdout.strip()
        await thief.run(
            "busybox ip link set eth0 down;"
            f"busybox ip link set eth0 address {mac}; busybox ip link set eth0 up"
        )
        await reaches(victim, pings(lab.GATEWAY_V4))
        await reaches(victim, pings(lab.WORLD_V6))
        assert not await succeeds(thief, pings(lab.WORLD_V6))


@lab.own_namespace
async def test_the_hosts_ports_are_closed_from_inside():
    async with vm_lab.host() as here:
        attacker = here.machine(5)
        await attacker.boot()
        targets = (lab.GATEWAY_V4, lab.HOST_V4, lab.RESOLVER, lab.HOST_V6)
        async with contextlib.AsyncExitStack() as open_ports:
            for host in ("0.0.0.0", "::"):
                for port in PORTS:
                    server = await asyncio.start_server(hang_up, host, port)
                    await open_ports.enter_async_context(server)
            script = "".join(
                f"({connects(target, port, 20)} && echo '{target} {port}') &"
                for target in targets
                for port in PORTS
            )
            found = await attacker.run(f"{script} wait", timeout_s=400)
            assert found.stdout.split("\n") == [f"{lab.RESOLVER} 53", ""]
            await attacker.run("busybox ip route add 127.0.0.2 via 172.16.0.1 dev eth0")
            assert not await succeeds(attacker, connects("127.0.0.2", 4280))


@lab.own_namespace
async def test_networks_do_not_meet():
    async with vm_lab.host() as here:
        one, stranger = here.machine(5, network=1), here.machine(6, network=STRANGER)
        await one.boot()
        await stranger.boot()
        await stranger.run("busybox nc -ll -p 8080 -e /bin/id >/dev/null 2>&1 </dev/null &")
        for address in (stranger.six, stranger.four):
            await listens(address, 8080)
            assert not await succeeds(one, pings(address))
            assert not await succeeds(one, connects(address, 8080))
        tricks = (
            f"busybox ip route add {stranger.six}/128 via {lab.GATEWAY_V6} dev eth0",
            f"busybox ip route add {stranger.six}/128 dev eth0",
            f"busybox ip neigh add {stranger.six} lladdr 02:67:00:00:00:06 dev eth0",
            f"busybox ip neigh add {stranger.four} lladdr 02:67:00:00:00:06 dev eth0",
            f"busybox ip route add {stranger.four}/32 dev eth0",
        )
        for trick in tricks:
            await one.run(trick)
            assert not await succeeds(one, pings(stranger.six)), trick
            assert not await succeeds(one, pings(stranger.four)), trick


@lab.own_namespace
async def test_metadata_and_private_networks_are_out_of_reach():
    async with vm_lab.host() as here:
        attacker = here.machine(5)
        await attacker.boot()
        inside = ("169.254.169.254", "10.0.0.5", "192.168.7.7")
        for address in inside:
            here.world.run(f"addr add {address} dev world0")
            await lab.ip(f"route add {address} via {lab.WORLD_V4}")
        await reaches(attacker, pings(lab.WORLD_V4))
        for address in inside:
            assert (await processes.run(["ping", "-c1", "-W2", address])).exit_code == 0
            assert not await succeeds(attacker, pings(address))


@lab.own_namespace
async def test_a_flood_of_packets_leaves_the_others_reachable():
    async with vm_lab.host() as here:
        flooder, other = here.machine(5), here.machine(6)
        await flooder.boot()
        await other.boot()
        flood = (
            f"for n in 1 2 3 4; do busybox ping -i 0 -s 1000 {lab.GATEWAY_V4} >/dev/null 2>&1 &"
            f" busybox ping -A {other.six} >/dev/null 2>&1 & done;"
            "for p in $(seq 1 100); do"
            f" busybox nc -w 1 {lab.WORLD_V4} $p </dev/null >/dev/null 2>&1 & done;"
            " sleep 5; kill $(jobs -p) 2>/dev/null; true"
        )
        flooding = asyncio.get_running_loop().create_task(flooder.run(flood, timeout_s=400))
        await asyncio.sleep(1)
        for _ in range(3):
            await reaches(other, pings(lab.GATEWAY_V4, "-w 5"))
        assert (await other.session.status()).phase == "running"
        await flooding
        assert (await flooder.session.status()).phase == "running"


@lab.own_namespace
async def test_a_flooded_log_is_bounded_and_says_what_was_dropped():
    async with vm_lab.host() as here:
        # However slow the guest is, its flood is more than that.
        here.vmm.log_limits = shim.LogLimits(
            max_file_bytes=500_000, max_files=3, bytes_per_second=10_000, burst_bytes=200_000
        )
        machine = here.machine(5, script="yes 'a line of the flood' & sleep 8; kill $!; sleep 100")
        await machine.boot()
        async with asyncio.timeout(240):
            while (await machine.session.status()).dropped_log_bytes == 0:
                await asyncio.sleep(0.2)
        assert (await machine.run("echo responsive")).stdout == "responsive\n"
        directory = here.vmm.logs_directory(machine.id)
        limits = here.vmm.log_limits
        total = sum(path.stat().st_size for path in directory.iterdir())
        assert total <= (limits.max_files + 1) * (limits.max_file_bytes + limits.max_line_bytes)


@lab.own_namespace
async def test_the_control_channel_is_not_the_guests_to_take():
    async with vm_lab.host() as here:
        machine = here.machine(5)
        await machine.boot()
        await machine.run(
            "for d in /dev/vport*; do head -c 1 $d >/dev/null 2>&1 & "
            "dd if=/dev/urandom of=$d bs=64k count=64 2>/dev/null & done; sleep 1; true"
        )
        assert (await machine.session.status()).phase in ("running", "exited")
        if (await machine.session.status()).phase == "running":
            assert (await machine.run("echo still mine")).stdout == "still mine\n"
        await here.vmm.discard(machine.id, 5)
        assert await here.vmm.observed() == frozenset()


@pytest.mark.parametrize("how", ["c", "b"])
@lab.own_namespace
async def test_a_guest_that_crashes_or_reboots_itself_is_reported(how):
    async with vm_lab.host() as here:
        machine = here.machine(5)
        await machine.boot()
        with contextlib.suppress(errors.Failure):  # it may not live to say that it ended
            await machine.run(f"echo {how} > /proc/sysrq-trigger &")
        record = await machine.ended()
        assert record.cause == "vmm"
        assert record.guest is None
        assert record.vmm.exit_code == 0


@lab.own_namespace
async def test_a_guest_cannot_use_more_than_its_share():
    async with vm_lab.host() as here:
        machine = here.machine(5, resources=host_rpc.Resources(cpus=1, memory_mb=256))
        status = await machine.boot()
        hog = "for n in 1 2 3; do yes >/dev/null & done; sleep 4; kill $(jobs -p); true"
        hogging = asyncio.get_running_loop().create_task(machine.run(hog))
        await asyncio.sleep(0.5)
        began, used = time.monotonic(), cpu_seconds(status.vmm_pid)
        await asyncio.sleep(3)
        share = (cpu_seconds(status.vmm_pid) - used) / (time.monotonic() - began)
        assert share < 1.6
        await hogging
        filled = await machine.run(
            "busybox mount -t tmpfs -o size=1g none /tmp; dd if=/dev/zero of=/tmp/x bs=1M count=900"
            " 2>/dev/null; echo $?",
            timeout_s=200,
        )
        assert filled.exit_code != 0 or filled.stdout.strip() != "0"
        assert resident_mb(status.vmm_pid) < 256 + 256


def cpu_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def resident_mb(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * 4096 // 2**20
