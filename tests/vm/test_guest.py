"""Real guests under QEMU's emulation: kernel, initramfs, godwit-init and godwit-shim together."""

import asyncio
import contextlib
import itertools
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from godwit.agent.vmm import guestkit
from godwit.base import settings
from godwit.wire import channel, guest, shim
from tests.vm.guest import Client, Machine, machine, make_disk, make_image

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

PATHS = settings.from_process().paths
PROGRAMS, CACHE = PATHS.programs, PATHS.cache


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_image(tmp_path_factory.mktemp("image"))


@pytest.fixture
async def vm(tmp_path: Path, image: Path) -> AsyncIterator[Machine]:
    kit = await guestkit.ensure(CACHE, PROGRAMS)
    async with machine(tmp_path, kit, image, PROGRAMS / "godwit-shim") as made:
        yield made


async def test_a_machine_becomes_what_its_run_spec_says(vm: Machine) -> None:
    spec = vm.spec(
        *("sh", "-c"),
        "hostname; id; pwd; cat /etc/hosts /etc/resolv.conf /etc/hostname /etc/greeting;"
        " stat -c '%a %u' /etc/greeting /run/app /tmp; env; ulimit -n; echo oops >&2;"
        " test -w / || echo root is not mine; ls -d /dev/stdout /dev/shm /dev/pts/ptmx; exit 7",
        env={"GREETING": 'grüß "dich"\nzweimal'},
        working_directory="/srv",
        user="app",
    )
    file = guest.File(path="/etc/greeting", content_base64="aGVsbG8K", mode=0o604)
    resolver = guest.Resolver(searches=("internal",))
    record = await vm.run(spec.model_copy(update={"files": (file,), "resolver": resolver}))
    assert record.cause == "guest"
    assert record.guest == shim.GuestExit(exit_code=7)
    assert record.vmm == shim.VmmExit(exit_code=0)
    said = vm.lines("stdout")
    assert said[:4] == [
        "148ed193b95948",
        "uid=1000(app) gid=1001(app) groups=33(www-data)",
        "/srv",
        "127.0.0.1\tlocalhost",
    ]
    assert "fdaa::2\t148ed193b95948 fly-local-6pn" in said
    assert "nameserver fdaa::3" in said
    assert "search internal" in said
    assert "hello" in said
    at = said.index("604 0")
    assert said[at : at + 3] == ["604 0", "755 1000", "1777 0"]
    environment = [line for line in said if "=" in line]
    assert "HOME=/home/app" in environment
    assert 'GREETING=grüß "dich"' in environment
    assert "zweimal" in said
    assert any(line.startswith("PATH=/usr/local/sbin:") for line in environment)
    assert not any(line.startswith("TERM=") for line in environment)
    assert "10240" in said
    assert "root is not mine" in said
    assert vm.lines("stderr") == ["oops"]
    assert vm.lines("system") == []


async def test_addresses_routes_and_mtu_are_set(vm: Machine) -> None:
    script = (
        "ip link show eth0; ip -6 addr show eth0; ip addr show eth0; ip route; ip -6 route;"
        " cat /proc/sys/net/ipv6/conf/eth0/accept_dad"
    )
    network = guest.Network(
        mtu=1380,
        addresses=(
            guest.Address(address="fdaa:0:1:a7b:1:0:5:2", prefix=128),
            guest.Address(address="172.16.0.5", prefix=32),
        ),
        gateway_v4="172.16.0.1",
        gateway_v6="fe80::1",
    )
    spec = vm.spec("sh", "-c", script).model_copy(update={"network": network})
    record = await vm.run(spec, network=True)
    assert record.guest == shim.GuestExit(exit_code=0)
    said = "\n".join(vm.lines("stdout"))
    for expected in (
        "mtu 1380",
        "inet6 fdaa:0:1:a7b:1:0:5:2/128",
        "inet 172.16.0.5/32",
        "default via 172.16.0.1 dev eth0",
        "default via fe80::1 dev eth0",
    ):
        assert expected in said
    assert "tentative" not in said
    assert said.endswith("\n0")


async def test_volumes_keep_what_was_written(vm: Machine) -> None:
    mounts = (guest.Mount(device="volume", path="/data/deep"),)
    write = vm.spec("sh", "-c", "echo kept > /data/deep/file; sleep 9 & exit 0")
    first = await vm.run(write.model_copy(update={"mounts": mounts}), volumes=("volume",))
    read = vm.spec("sh", "-c", "cat /data/deep/file; cat /etc/left 2>&1; echo x > /etc/left")
    second = await vm.run(read.model_copy(update={"mounts": mounts}), volumes=("volume",))
    assert first.guest == second.guest == shim.GuestExit(exit_code=0)
    assert vm.lines("stdout")[0] == "kept"
    assert "No such file" in vm.lines("stdout")[1]
    checked = await asyncio.create_subprocess_exec(
        *("e2fsck", "-n", str(vm.folder / "volume.ext4")),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert await checked.wait() == 0


@pytest.mark.parametrize(
    ("argv", "process", "stage", "words"),
    [
        (("ghost",), {}, "spawn", "no such program: ghost; the image's PATH is /usr/local/sbin:"),
        (("/srv/plain",), {}, "spawn", "permission denied: /srv/plain is not executable"),
        (("/srv/dos",), {}, "spawn", "Windows line endings"),
        (("true",), {"user": "nobody-here"}, "user", 'no such user: "nobody-here"'),
        (("true",), {"user": "app:ghosts"}, "user", 'no such group: "ghosts"'),
        (("true",), {"working_directory": "/x"}, "spawn", "working directory /x: does not exist"),
    ],
)
async def test_mistakes_of_an_image_are_told_in_words(
    vm: Machine, argv: tuple[str, ...], process: dict[str, Any], stage: str, words: str
) -> None:
    record = await vm.run(vm.spec(*argv, **process))
    assert record.cause == "guest"
    assert record.guest is None
    assert record.failure is not None
    assert record.failure.stage == stage
    assert words in record.failure.message


async def test_a_missing_disk_is_named(vm: Machine) -> None:
    mounts = (guest.Mount(device="volume", path="/data"),)
    record = await vm.run(vm.spec("true").model_copy(update={"mounts": mounts}))
    assert record.failure == shim.GuestFailure(
        stage="disks", message='no disk with the serial "volume"'
    )


async def test_a_disk_that_cannot_be_mounted_is_named(vm: Machine) -> None:
    (vm.folder / "volume.ext4").write_bytes(bytes(16 << 20))
    mounts = (guest.Mount(device="volume", path="/data"),)
    spec = vm.spec("true").model_copy(update={"mounts": mounts})
    record = await vm.run(spec, volumes=("volume",))
    assert record.failure is not None
    assert record.failure.stage == "volumes"
    assert "(ext4) on /data" in record.failure.message


async def test_commands_run_beside_the_main_process(vm: Machine) -> None:
    await vm.start(vm.spec("sleep", "1000", env={"MAIN": "1"}, user="app"))
    client = await vm.running()
    ended, said = await client.exec(1, "sh", "-c", "id -u; env; exit 5", env={"A": "b c"})
    assert (ended["exit_code"], ended["signal"]) == (5, None)
    assert said.startswith(b"0\n")
    assert b"A=b c\n" in said
    assert b"MAIN" not in said
    ended, said = await client.exec(2, "id", user="app:www-data", working_directory="/srv")
    assert said == b"uid=1000(app) gid=33(www-data)\n"
    ended, said = await client.exec(3, "sh", "-c", "kill -TERM $$")
    assert (ended["exit_code"], ended["signal"]) == (143, 15)
    ended, said = await client.exec(4, "ghost")
    assert ended["type"] == "exec_failed"
    assert "no such program: ghost" in ended["message"]
    await _streams_both_ways(client)
    await _sessions_hear_signals(client)
    client.send({"type": "kill"})
    assert (await vm.ended()).cause == "killed"


async def _streams_both_ways(client: Client) -> None:
    """More than any credit or pipe holds goes through, whole."""
    data = os.urandom(1_000_000)
    client.begin(5, "cat")
    sent = 0
    while sent < len(data):
        allowed = channel.INITIAL_CREDIT + client.credit.get(5, 0)
        if sent < allowed:
            chunk = data[sent : min(allowed, sent + 65_536)]
            client.frame(channel.Kind.STDIN, 5, chunk)
            sent += len(chunk)
        else:
            await client._take()
    client.frame(channel.Kind.EOF, 5)
    ended = await client.of_type("exec_exited")
    assert ended["exit_code"] == 0
    assert bytes(client.output[5]) == data


async def _sessions_hear_signals(client: Client) -> None:
    client.begin(
        6, "sh", "-c", "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.1; done"
    )
    await client.until(6, b"ready")
    client.send({"type": "exec_signal", "stream": 6, "signal": "SIGINT"})
    ended = await client.of_type("exec_exited")
    assert ended["exit_code"] == 9
    assert client.output[6].endswith(b"caught\n")


async def test_a_terminal_is_a_terminal(vm: Machine) -> None:
    await vm.start(vm.spec("sleep", "1000"))
    client = await vm.running()
    client.begin(1, "sh", tty={"rows": 40, "cols": 80})
    client.frame(channel.Kind.STDIN, 1, b"stty size; echo $TERM\n")
    await client.until(1, b"40 80\r\nxterm\r\n")
    client.send({"type": "resize", "stream": 1, "rows": 50, "cols": 132})
    client.frame(channel.Kind.STDIN, 1, b"stty size\n")
    await client.until(1, b"50 132\r\n")
    client.frame(channel.Kind.STDIN, 1, b"sh -c 'echo be''gun; exec sleep 100'\n")
    await client.until(1, b"begun")
    client.frame(channel.Kind.STDIN, 1, b"\x03")
    client.frame(channel.Kind.STDIN, 1, b"echo interrupted=$?\n")
    # The shell's next prompt: from there on it reads by itself, and an end of input that came
    # earlier would be lost in the terminal's change of mode.
    await client.until(1, b"interrupted=130\r\n/ # ")
    client.frame(channel.Kind.EOF, 1)
    assert (await client.of_type("exec_exited"))["exit_code"] == 0


async def test_a_command_ends_with_the_connection_that_asked_for_it(vm: Machine) -> None:
    await vm.start(vm.spec("sleep", "1000"))
    watcher = await vm.running()
    leaver = await vm.connect()
    leaver.grants = False
    leaver.begin(1, "yes", "left-alone")
    await leaver.of_type("exec_started")
    leaver.begin(2, "sleep", "4711")
    await leaver.of_type("exec_started")
    await leaver.close()
    async with asyncio.timeout(240):
        for attempt in itertools.count(1):
            _, said = await watcher.exec(attempt, "ps")
            if b"left-alone" not in said and b"4711" not in said:
                break


async def test_no_credit_holds_a_command_back_and_nobody_else(vm: Machine) -> None:
    await vm.start(vm.spec("sleep", "1000"))
    client = await vm.running()
    client.grants = False
    client.begin(1, "yes")
    async with asyncio.timeout(240):
        while len(client.output.get(1, b"")) < channel.INITIAL_CREDIT:
            await client._take()
    client.send({"type": "ping", "id": 77})
    assert (await client.of_type("pong"))["id"] == 77
    assert len(client.output[1]) == channel.INITIAL_CREDIT
    client.grants = True
    client.frame(channel.Kind.CREDIT, 1, (100_000).to_bytes(4, "big"))
    client.send({"type": "exec_signal", "stream": 1, "signal": "SIGKILL"})
    assert (await client.of_type("exec_exited"))["exit_code"] == 137


async def test_counters_of_the_guest_can_be_read(vm: Machine) -> None:
    await vm.start(vm.spec("sleep", "1000"), network=True)
    client = await vm.running()
    client.send({"type": "stats", "id": 31})
    stats = await client.of_type("stats")
    assert stats["id"] == 31
    assert 100 << 20 < stats["memory"]["total"] < vm.memory_mb << 20
    assert {disk["name"] for disk in stats["disks"]} == {"root", "scratch"}
    assert stats["filesystems"][0]["path"] == "/"
    assert [net["name"] for net in stats["networks"]] == ["eth0"]
    assert len(stats["cpus"]) == 1


@pytest.mark.parametrize(
    ("script", "timeout_ms", "ended"),
    [
        (
            "trap 'echo bye; exit 4' INT; echo ready; while :; do sleep 0.1; done",
            60_000,
            (4, None),
        ),
        ("trap '' INT; echo ready; exec sleep 1000", 500, (143, 15)),
        ("trap '' INT TERM; echo ready; while :; do sleep 1; done", 500, (137, 9)),
    ],
    ids=["heeds", "needs-sigterm", "needs-sigkill"],
)
async def test_stop_asks_and_then_insists(
    vm: Machine, script: str, timeout_ms: int, ended: tuple[int, int | None]
) -> None:
    code, number = ended
    await vm.start(vm.spec("sh", "-c", script))
    client = await vm.running()
    await _until_line(vm, "ready")
    client.send({"type": "stop", "signal": "SIGINT", "timeout_ms": timeout_ms})
    record = await vm.ended()
    assert record.guest == shim.GuestExit(exit_code=code, signal=number)
    assert record.cause == "guest"
    if code == 4:
        assert vm.lines("stdout") == ["ready", "bye"]


async def test_a_stop_before_the_start_is_kept(vm: Machine) -> None:
    await vm.start(vm.spec("sleep", "1000"))
    client = await vm.connect()
    client.send({"type": "stop", "signal": "SIGTERM", "timeout_ms": 1000})
    assert (await vm.ended()).guest == shim.GuestExit(exit_code=143, signal=15)


async def test_signals_reach_the_main_process(vm: Machine) -> None:
    script = "trap 'echo hup' HUP; echo ready; while :; do sleep 0.1; done"
    await vm.start(vm.spec("sh", "-c", script))
    client = await vm.running()
    await _until_line(vm, "ready")
    client.send({"type": "signal", "signal": "SIGHUP"})
    await _until_line(vm, "hup")
    client.send({"type": "signal", "signal": "SIGKILL"})
    assert (await vm.ended()).guest == shim.GuestExit(exit_code=137, signal=9)


async def test_sigterm_to_the_shim_stops_the_guest(vm: Machine) -> None:
    script = "trap 'echo int; exit 0' INT; echo ready; while :; do sleep 0.1; done"
    await vm.start(vm.spec("sh", "-c", script))
    await vm.running()
    await _until_line(vm, "ready")
    os.kill(vm.pid, signal.SIGTERM)
    assert (await vm.ended()).guest == shim.GuestExit(exit_code=0)
    assert "int" in vm.lines("stdout")


async def test_want_of_memory_is_told_apart(vm: Machine) -> None:
    record = await vm.run(vm.spec("tail", "/dev/zero"))
    assert record.guest == shim.GuestExit(exit_code=137, signal=9, oom_killed=True)


async def test_a_kill_is_not_want_of_memory(vm: Machine) -> None:
    record = await vm.run(vm.spec("sh", "-c", "kill -9 $$"))
    assert record.guest == shim.GuestExit(exit_code=137, signal=9, oom_killed=False)


async def test_orphans_are_reaped_and_ended_with_the_machine(vm: Machine) -> None:
    script = (
        "for i in 1 2 3 4 5 6 7 8; do (sleep 0.2 &) ; done;"
        " while busybox pidof sleep >/dev/null; do busybox usleep 100000; done;"
        " ps | busybox grep -c '\\[sleep\\]'; (sleep 1000 &); exit 0"
    )
    spec = vm.spec("sh", "-c", script)
    record = await vm.run(spec)
    assert record.guest == shim.GuestExit(exit_code=0)
    assert vm.lines("stdout") == ["0"]


async def test_all_output_before_the_end_is_in_the_log(vm: Machine) -> None:
    record = await vm.run(vm.spec("sh", "-c", "seq 20000; printf unfinished"))
    assert record.guest == shim.GuestExit(exit_code=0)
    assert vm.lines("stdout") == [*map(str, range(1, 20001)), "unfinished"]


async def test_a_main_process_may_have_a_terminal(vm: Machine) -> None:
    record = await vm.run(vm.spec("sh", "-c", "stty size; echo $TERM; exit 2", tty=True))
    assert record.guest == shim.GuestExit(exit_code=2)
    assert vm.lines("stdout") == ["24 80", "xterm"]


async def test_a_flood_of_output_blocks_neither_control_nor_log(vm: Machine) -> None:
    limits = shim.LogLimits(
        max_file_bytes=500_000, max_files=3, bytes_per_second=100_000, burst_bytes=200_000
    )
    await vm.start(vm.spec("sh", "-c", "yes flood; exit 0"), log=limits)
    client = await vm.running()
    for number in range(5):
        client.send({"type": "ping", "id": number})
        assert (await client.of_type("pong"))["id"] == number
    _, said = await client.exec(1, "echo", "still here")
    assert said == b"still here\n"
    async with asyncio.timeout(240):
        while await _dropped(client) <= 1_000_000:
            await asyncio.sleep(0.1)
    client.send({"type": "stop", "signal": "SIGKILL", "timeout_ms": 0})
    assert (await vm.ended()).guest == shim.GuestExit(exit_code=137, signal=9)
    assert any("left out" in line for line in vm.lines("system"))
    files = list((vm.folder / "logs").iterdir())
    assert len(files) <= 3
    assert all(file.stat().st_size <= 600_000 for file in files)


async def _dropped(client: Client) -> int:
    client.send({"type": "status"})
    return (await client.status(lambda _: True)).dropped_log_bytes


async def test_guest_root_that_attacks_the_channel_harms_only_itself(vm: Machine) -> None:
    script = (
        "cd /sys/bus/virtio/drivers/virtio_console; d=$(ls -d virtio*); echo $d > unbind;"
        " echo $d > bind; sleep 0.3; p=$(ls /sys/class/virtio-ports); for i in 1 2 3 4 5; do"
        " busybox head -c 300000 /dev/urandom > /dev/$p; sleep 1; done; echo done; sleep 1000"
    )
    await vm.start(vm.spec("sh", "-c", script))
    client = await vm.running()
    async with asyncio.timeout(240):
        while not any("does not speak the control protocol" in m for m in vm.lines("system")):
            await asyncio.sleep(0.1)
    client.send({"type": "status"})
    assert (await client.status(lambda s: s.phase == "running")).vmm_pid is not None
    client.send({"type": "kill"})
    assert (await vm.ended()).cause == "killed"


async def test_a_killed_vmm_is_seen_and_recorded(vm: Machine) -> None:
    await vm.start(vm.spec("sh", "-c", "echo up; sleep 1000"))
    client = await vm.running()
    await _until_line(vm, "up")
    client.send({"type": "status"})
    status = await client.status(lambda s: True)
    assert status.vmm_pid is not None
    os.kill(status.vmm_pid, signal.SIGKILL)
    seen = await client.status(lambda s: s.phase == "exited")
    record = await vm.ended()
    assert seen.exit == record
    assert record.cause == "vmm"
    assert record.vmm == shim.VmmExit(signal=9)


async def test_the_vmm_dies_with_its_shim(vm: Machine) -> None:
    await vm.start(vm.spec("sleep", "1000"))
    client = await vm.running()
    client.send({"type": "status"})
    status = await client.status(lambda s: True)
    assert status.vmm_pid is not None
    await vm.kill()
    async with asyncio.timeout(240):
        while _exists(status.vmm_pid):
            await asyncio.sleep(0.02)


async def test_the_host_may_send_the_run_spec_late(vm: Machine) -> None:
    await vm.start(None)
    client = await vm.connect()
    client.send({"type": "subscribe"})
    await client.status(lambda s: s.phase == "ready", within_s=240)
    spec = vm.spec("echo", "late").model_copy(update={"clock_unix_ns": 1_000_000_000 * 10**9})
    client.send({"type": "run", "spec": spec.model_dump(mode="json")})
    assert (await vm.ended()).guest == shim.GuestExit(exit_code=0)
    assert vm.lines("stdout") == ["late"]


async def test_resident_memory_of_init_and_shim_is_small(vm: Machine) -> None:
    await vm.start(vm.spec("sleep", "1000"))
    client = await vm.running()
    _, said = await client.exec(1, "cat", "/proc/1/status")
    init = _resident_kb(said.decode())
    assert init < 2048
    assert _resident_kb(_host_status(vm.pid)) < 3072


def _exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _host_status(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text()


def _resident_kb(status: str) -> int:
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


async def _until_line(vm: Machine, line: str) -> None:
    async with asyncio.timeout(240):
        while True:
            with contextlib.suppress(FileNotFoundError, ValueError):
                if line in vm.lines("stdout"):
                    return
            await asyncio.sleep(0.05)


async def test_two_guests_start_from_one_kit_at_once(tmp_path: Path, image: Path) -> None:
    kits = await asyncio.gather(*(guestkit.ensure(CACHE, PROGRAMS) for _ in range(2)))
    assert kits[0] == kits[1]
    folders = [tmp_path / "one", tmp_path / "two"]
    async with contextlib.AsyncExitStack() as stack:
        machines = []
        for folder in folders:
            folder.mkdir()
            made = machine(folder, kits[0], image, PROGRAMS / "godwit-shim")
            machines.append(await stack.enter_async_context(made))
        records = await asyncio.gather(*(m.run(m.spec("true")) for m in machines))
    assert [record.guest for record in records] == [shim.GuestExit(exit_code=0)] * 2


def test_disks_of_tests_are_what_they_say(tmp_path: Path) -> None:
    assert make_disk(tmp_path / "disk", 8).stat().st_size == 8 << 20
