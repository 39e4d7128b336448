"""Readiness, restart, back-off and shutdown of components, with small real programs."""

import asyncio
import os
import socket
import sys
from pathlib import Path

import pytest

from godwit.base.tasks import Tasks
from godwit.host import running
from godwit.host.components import Component
from godwit.host.supervisor import (
    Supervisor,
    bound_log,
    end_leftovers,
    predecessors,
    retire,
)
from godwit.testing.loopback import free_port

READY = (
    "import os,socket,signal,sys\n"
    "def tell():\n"
    "    s=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM);s.connect(os.environ['NOTIFY_SOCKET'])\n"
    "    s.send(b'READY=1');s.close()\n"
)


def component(name: str, code: str, **options) -> Component:
    return Component(name, (sys.executable, "-c", READY + code), **options)


def alive(pids: Path) -> list[str]:
    return [entry.name for entry in pids.iterdir() if Path("/proc", entry.name).exists()]


def supervisor(tmp_path: Path, *components: Component) -> Supervisor:
    for folder in ("pids", "n", "log"):
        (tmp_path / folder).mkdir()
    return Supervisor(components, tmp_path, tmp_path / "log", dict(os.environ))


async def test_all_ready_then_all_stopped(tmp_path: Path) -> None:
    first = component("a", "tell(); signal.pause()")
    second = component("b", "tell(); signal.pause()", after=("a",))
    parts = supervisor(tmp_path, first, second)
    await parts.start()
    assert parts.ready() == {"a": True, "b": True}
    assert {p.stem for p in (tmp_path / "pids").iterdir()} == {"a", "b"}
    await parts.stop()
    assert list((tmp_path / "pids").iterdir()) == []


async def test_what_a_successor_takes_over_from_is_left_when_handing_over(tmp_path: Path) -> None:
    socket_file = tmp_path / "handover"
    socket_file.touch()
    stays = component("a", "tell(); signal.pause()", hand_over=socket_file)
    goes = component("b", "tell(); signal.pause()")
    parts = supervisor(tmp_path, stays, goes)
    await parts.start()
    await parts.stop(handing_over=True)
    assert {p.stem for p in (tmp_path / "pids").iterdir()} == {"a"}
    found = predecessors(tmp_path, (stays, goes))
    assert set(found) == {"a"}
    assert found["a"].alive
    assert await asyncio.to_thread(end_leftovers, tmp_path, 5, spared=found) == []
    assert found["a"].alive
    # It ends when it is taken over from, or is ended.
    retiring = asyncio.get_running_loop().create_task(retire(found["a"]))
    found["a"].signal(15)
    await retiring
    assert not found["a"].alive
    assert predecessors(tmp_path, (stays, goes)) == {}


async def test_a_component_waits_for_what_it_comes_after(tmp_path: Path) -> None:
    order = tmp_path / "order"
    note = "open({!r},'a').write('{}')\n"
    slow = note.format(str(order), "a") + "tell(); signal.pause()"
    quick = note.format(str(order), "b") + "tell(); signal.pause()"
    parts = supervisor(tmp_path, component("b", quick, after=("a",)), component("a", slow))
    await parts.start()
    await parts.stop()
    assert order.read_text() == "ab"


async def test_a_component_that_dies_is_started_again(tmp_path: Path) -> None:
    marker = tmp_path / "once"
    code = (
        f"import pathlib;m=pathlib.Path({str(marker)!r})\n"
        "if not m.exists(): m.touch(); sys.exit(3)\n"
        "tell(); signal.pause()"
    )
    parts = supervisor(tmp_path, component("a", code))
    await parts.start()
    assert parts.ready() == {"a": True}
    await parts.stop()


async def test_one_that_never_becomes_ready_is_reported(tmp_path: Path) -> None:
    parts = supervisor(tmp_path, component("a", "signal.pause()", start_s=0.3, stop_s=1))
    with pytest.raises(TimeoutError):
        await parts.start()
    await parts.stop()


async def test_one_that_says_it_is_busy_gets_the_time_it_asks_for(tmp_path: Path) -> None:
    busy = (
        "s=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM);s.connect(os.environ['NOTIFY_SOCKET'])\n"
        "s.send(b'EXTEND_TIMEOUT_USEC=60000000');s.close()\n"
        "signal.sigtimedwait([signal.SIGUSR1], 8)\n"
    )
    code = (
        f"signal.pthread_sigmask(signal.SIG_BLOCK,[signal.SIGUSR1])\n{busy}tell(); signal.pause()"
    )
    # Long enough for the program to begin, too short for what it does before it is ready.
    parts = supervisor(tmp_path, component("a", code, start_s=6.0))
    starting = parts.start()
    async with asyncio.timeout(60):
        await starting
    log = (tmp_path / "log" / "a.log").read_text()
    await parts.stop()
    assert log == ""


async def test_one_that_ignores_the_request_to_stop_is_killed(tmp_path: Path) -> None:
    code = "signal.signal(15,signal.SIG_IGN); tell()\nwhile True: signal.pause()"
    parts = supervisor(tmp_path, component("a", code, stop_s=0.3))
    await parts.start()
    async with asyncio.timeout(60):
        await parts.stop()


LISTEN = (
    "s=socket.socket();s.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEADDR,1)\n"
    "s.bind(('127.0.0.1',{port}));s.listen();signal.pause()"
)


async def test_one_that_listens_is_ready_once_it_does(tmp_path: Path) -> None:
    port = free_port()
    program = component("a", LISTEN.format(port=port), ready_at=f"127.0.0.1:{port}")
    parts = supervisor(tmp_path, program)
    await parts.start()
    assert parts.ready() == {"a": True}
    await parts.stop()


async def test_a_stranger_on_the_port_is_not_taken_for_the_component(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        code = "signal.pause()"
        program = component("a", code, ready_at=f"127.0.0.1:{port}", start_s=2, stop_s=1)
        parts = supervisor(tmp_path, program)
        with pytest.raises(TimeoutError):
            await parts.start()
        await parts.stop()
    said = [record.getMessage() for record in caplog.records if "held by" in record.getMessage()]
    assert said
    assert f"a cannot have 127.0.0.1:{port}" in said[0]
    assert f"(pid {os.getpid()})" in said[0]


async def test_a_component_that_no_file_names_is_ended_too(tmp_path: Path) -> None:
    parts = supervisor(tmp_path, component("a", "tell(); signal.pause()"))
    await parts.start()
    # As when the supervisor was killed between starting it and writing it down.
    (tmp_path / "pids" / "a.json").rename(tmp_path / "kept.json")
    process = running.read(tmp_path / "kept.json")
    assert process is not None
    assert await asyncio.to_thread(end_leftovers, tmp_path / "other", 5) == []
    assert process.alive
    assert await asyncio.to_thread(end_leftovers, tmp_path, 5) == ["a"]
    assert not process.alive
    await parts.stop()


async def test_what_a_component_detaches_is_no_leftover(tmp_path: Path) -> None:
    code = (
        "import subprocess\n"
        f"p=subprocess.Popen([sys.executable,'-c','import time;time.sleep(60)'],env={{}})\n"
        f"open({str(tmp_path / 'child')!r},'w').write(str(p.pid))\ntell(); signal.pause()"
    )
    parts = supervisor(tmp_path, component("a", code))
    await parts.start()
    child = running.of(int((tmp_path / "child").read_text()))
    assert await asyncio.to_thread(end_leftovers, tmp_path, 5) == ["a"]
    assert child.alive
    child.end(1)
    await parts.stop()


async def test_leftovers_of_a_dead_supervisor_are_ended(tmp_path: Path) -> None:
    parts = supervisor(tmp_path, component("a", "tell(); signal.pause()"))
    await parts.start()
    assert await asyncio.to_thread(end_leftovers, tmp_path, 5) == ["a"]
    await parts.stop()


async def test_a_program_that_is_missing_for_a_while_is_started_once_it_is_there(
    tmp_path: Path,
) -> None:
    program = tmp_path / "program"
    parts = supervisor(tmp_path, Component("a", (str(program),), start_s=60))
    told = f"#!{sys.executable}\n{READY}tell(); signal.pause()\n"

    async def install() -> None:
        await asyncio.sleep(0.3)
        new = tmp_path / "new"
        new.write_text(told)
        new.chmod(0o755)
        new.replace(program)

    await asyncio.gather(parts.start(), install())
    assert parts.ready() == {"a": True}
    await parts.stop()


async def test_a_full_disk_costs_no_component_its_supervision(tmp_path: Path) -> None:
    parts = supervisor(tmp_path, component("a", "tell(); signal.pause()"))
    (tmp_path / "pids").rmdir()

    async def make_room() -> None:
        await asyncio.sleep(0.5)
        (tmp_path / "pids").mkdir()

    await asyncio.gather(parts.start(), make_room())
    assert [p.stem for p in (tmp_path / "pids").iterdir()] == ["a"]
    await parts.stop()


async def test_a_stop_while_programs_are_being_started_leaves_none(tmp_path: Path) -> None:
    started = tmp_path / "started"
    code = f"import pathlib;pathlib.Path({str(started)!r}, str(os.getpid())).touch()\n"
    started.mkdir()
    names = ("a", "b", "c")
    parts = supervisor(tmp_path, *(component(n, code + "signal.pause()") for n in names))
    async with Tasks("test") as owned:
        owned.spawn(parts.start(), name="start")
        for _ in range(3):
            await asyncio.sleep(0)
        await parts.stop()
    assert alive(started) == []
    assert list((tmp_path / "pids").iterdir()) == []


def test_a_long_log_is_put_aside_and_its_writer_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"old" * 10)
        bound_log(log, limit=20)
        writer.write(b"new")
    assert log.read_bytes() == b"new"
    assert (tmp_path / "a.log.1").read_bytes() == b"old" * 10
    bound_log(log, limit=20)
    assert log.read_bytes() == b"new"
