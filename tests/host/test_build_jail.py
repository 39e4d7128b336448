"""The fence around a build, for real: processes and network of RUN steps."""

# Blocking in a test holds up nobody.
# ruff: noqa: ASYNC221, ASYNC240, PTH208

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from godwit.base import processes
from godwit.builder import jail

pytestmark = [pytest.mark.host, pytest.mark.net, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def forwarding() -> Iterator[None]:
    """Have this host forward for a while, as the agent has it."""
    switch = Path("/proc/sys/net/ipv4/ip_forward")
    before = switch.read_text()
    switch.write_text("1")
    yield
    switch.write_text(before)


@pytest.fixture
async def jails(tmp_path: Path, forwarding: None) -> AsyncIterator[jail.Jails]:
    made = jail.Jails(tmp_path / "run", ("192.0.2.53",))
    yield made
    assert traces(made) == []


def traces(jails: jail.Jails) -> list[str]:
    """Return what is left of jails on this host."""
    key = f"bgw{jails._key}-"
    found = [name for _, name in socket.if_nameindex() if name.startswith(key)]
    if Path("/run/netns").exists():
        found += [name for name in os.listdir("/run/netns") if name.startswith(key)]
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, check=True).stdout
    return found + [line for line in tables.decode().splitlines() if key in line]


async def run(here: jail.Jail, *command: str, within_s: float = 120) -> processes.Finished:
    return await processes.run([*here.prefix, *command], timeout_s=within_s, check=False)


async def test_a_run_step_sees_its_own_processes_only(jails: jail.Jails) -> None:
    async with jails.enter() as here:
        seen = await run(here, "sh", "-c", "ls /proc | grep -c '^[0-9]'; echo $$")
    count, pid = seen.stdout.split()
    assert int(count) < 8
    assert pid == b"1"


def listening(address: str) -> socket.socket:
    found = socket.create_server((address, 0))
    found.settimeout(0.2)
    return found


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
async def test_what_listens_on_the_host_is_out_of_reach(jails: jail.Jails, address: str) -> None:
    with listening(address) as server:
        port = server.getsockname()[1]
        async with jails.enter() as here:
            assert here.notice == ""
            mine = _outside(jails)
            for target in ("127.0.0.1", mine, *_own_addresses()):
                code = f"import socket; socket.create_connection(({target!r}, {port}), 0.7)"
                answer = await run(here, sys.executable, "-c", code)
                assert answer.exit_code != 0, target
                assert b"timed out" in answer.stderr or b"refused" in answer.stderr
        with pytest.raises(TimeoutError):
            server.accept()


def _outside(jails: jail.Jails) -> str:
    return str(next(jail._network(jails._key, 0).hosts()))


def _own_addresses() -> list[str]:
    said = subprocess.run(["ip", "-4", "-o", "addr"], capture_output=True, check=True).stdout
    return [line.split()[3].partition("/")[0] for line in said.decode().splitlines()][:4]


@pytest.mark.parametrize("where", ["loopback", "own"])
async def test_a_proxy_on_this_host_is_reached_and_nothing_beside_it(
    tmp_path: Path, forwarding: None, where: str
) -> None:
    address = "127.0.0.1" if where == "loopback" else "198.51.100.1"
    subprocess.run(["ip", "addr", "add", "198.51.100.1/32", "dev", "lo"], check=True)
    try:
        with socket.create_server((address, 0)) as proxy, socket.create_server((address, 0)) as no:
            url = f"http://u:p@{address}:{proxy.getsockname()[1]}"
            made = jail.Jails(tmp_path / "run", proxies={"HTTP_PROXY": url})
            async with made.enter() as here:
                seen = here.proxies({"HTTP_PROXY": url})["HTTP_PROXY"]
                assert seen.startswith("http://u:p@")
                host = seen.rpartition("@")[2].rpartition(":")[0]
                answers = []
                for server, within_s in ((proxy, 60), (no, 1)):
                    to = (host, server.getsockname()[1])
                    code = f"import socket; socket.create_connection({to}, {within_s})"
                    answers.append((await run(here, sys.executable, "-c", code)).exit_code)
                assert answers[0] == 0
                assert answers[1] != 0
        assert traces(made) == []
    finally:
        subprocess.run(["ip", "addr", "del", "198.51.100.1/32", "dev", "lo"], check=True)


def test_proxies_that_are_elsewhere_or_nonsense_open_nothing_here() -> None:
    assert jail.doors(["http://proxy.example:3128", "not a url", "http://[::", ""]) == ()
    assert jail.doors(["http://localhost:1", "http://127.0.0.1:1"]) == (jail.Door("127.0.0.1", 1),)
    nowhere = jail.Jail(())
    assert nowhere.proxies({"A": "http://localhost:1"}) == {"A": "http://localhost:1"}


async def test_the_outside_is_reached_and_sees_the_hosts_address(
    jails: jail.Jails, tmp_path: Path
) -> None:
    """The outside is another namespace on a link of this host."""
    for command in (
        "ip netns add tout",
        "ip link add tup type veth peer name eth0 netns tout",
        "ip addr add 198.51.100.1/24 dev tup",
        "ip link set tup up",
        "ip -n tout addr add 198.51.100.2/24 dev eth0",
        "ip -n tout link set eth0 up",
    ):
        subprocess.run(command.split(), check=True)
    serve = (
        "import socket; s=socket.create_server(('198.51.100.2', 7000));print('up',flush=True)\n"
    )
    serve += "c,a=s.accept(); c.sendall(a[0].encode()); c.close()"
    server = await asyncio.create_subprocess_exec(
        *("ip", "netns", "exec", "tout", sys.executable, "-c", serve),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert server.stdout is not None
        assert await server.stdout.readline() == b"up\n"
        ask = "import socket; c=socket.create_connection(('198.51.100.2', 7000), 60)"
        ask += "; print(c.recv(99).decode())"
        async with jails.enter() as here:
            answer = await run(here, sys.executable, "-c", ask)
            assert answer.stdout.strip() == b"198.51.100.1", answer.stderr
    finally:
        with contextlib.suppress(ProcessLookupError):
            server.kill()
        await server.wait()
        subprocess.run(["ip", "netns", "del", "tout"], check=True)
        subprocess.run(["ip", "link", "del", "tup"], check=False)


async def test_builds_at_once_have_jails_of_their_own(jails: jail.Jails) -> None:
    async with jails.enter() as one, jails.enter() as other:
        assert one.prefix != other.prefix
        assert (await run(one, "ip", "-o", "link", "show", "eth0")).exit_code == 0
        assert (await run(other, "ip", "-o", "link", "show", "eth0")).exit_code == 0


async def test_what_a_killed_build_left_is_swept_and_the_living_stay(
    jails: jail.Jails, tmp_path: Path
) -> None:
    code = (
        "import asyncio, sys\nfrom pathlib import Path\nfrom godwit.builder import jail\n"
        "async def main():\n"
        f"    async with jail.Jails(Path({str(tmp_path / 'run')!r})).enter() as here:\n"
        "        print('in', flush=True)\n        await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"in\n"
    await jails.sweep()
    assert len(traces(jails)) == 3
    process.send_signal(signal.SIGKILL)
    await process.wait()
    assert len(traces(jails)) == 3
    await jails.sweep()
    assert traces(jails) == []


async def test_where_nothing_is_forwarded_there_is_no_network_and_it_is_said(
    tmp_path: Path, forwarding: None
) -> None:
    Path("/proc/sys/net/ipv4/ip_forward").write_text("0")
    made = jail.Jails(tmp_path / "run")
    async with made.enter() as here:
        assert "no network" in here.notice
        seen = await run(here, "sh", "-c", "ls /sys/class/net; ip -o link")
        assert b"eth0" not in seen.stdout.splitlines()[-1]
    assert traces(made) == []


def test_resolvers_on_loopback_are_of_no_use_to_a_build(tmp_path: Path) -> None:
    stub, real = tmp_path / "stub", tmp_path / "real"
    stub.write_text("nameserver 127.0.0.53\nsearch x\n")
    real.write_text("# upstream\nnameserver 192.0.2.1\nnameserver ::1\nnameserver nonsense\n")
    assert jail.resolvers_here((stub, real)) == ("192.0.2.1",)
    assert jail.resolvers_here((stub, tmp_path / "none")) == ()
    assert shutil.which("unshare")
