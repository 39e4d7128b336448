"""QMP against a peer that plays QEMU's part on a real socket."""

import array
import asyncio
import json
import os
import socket

import pytest

from godwit.agent.vmm import qmp
from godwit.base import errors

GREETING = {"QMP": {"version": {}, "capabilities": []}}


class Peer:
    """The VMM's end of one connection, driven by a test."""

    def __init__(self, path) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._connection = None
        self.descriptors: list[int] = []

    async def accept(self) -> None:
        self._connection, _ = await asyncio.to_thread(self._listener.accept)
        self._connection.settimeout(10)
        self.say(GREETING)
        self.answer(await self.next())

    async def next(self) -> dict:
        def line() -> bytes:
            read = b""
            while not read.endswith(b"\n"):
                part, ancillary, _, _ = self._connection.recvmsg(1, 256)
                read += part
                for _, _, data in ancillary:
                    held = array.array("i")
                    held.frombytes(data)
                    self.descriptors.extend(held)
            return read

        return json.loads(await asyncio.to_thread(line))

    def say(self, *bodies: dict) -> None:
        self._connection.sendall(b"".join(json.dumps(b).encode() + b"\r\n" for b in bodies))

    def answer(self, command: dict, result: object = None) -> None:
        self.say({"return": result or {}, "id": command["id"]})

    def close(self) -> None:
        for held in (self._connection, self._listener):
            if held is not None:
                held.close()
        for descriptor in self.descriptors:
            os.close(descriptor)


@pytest.fixture
async def pair(tmp_path):
    peer = Peer(tmp_path / "monitor")
    async with asyncio.TaskGroup() as both:
        both.create_task(peer.accept())
        monitor = await qmp.Monitor.open(tmp_path / "monitor")
    yield monitor, peer
    monitor.close()
    peer.close()


async def test_commands_given_in_one_go_are_answered_in_their_order(pair):
    monitor, peer = pair
    async with asyncio.TaskGroup() as both:
        running = both.create_task(
            monitor.run(qmp.Command("stop"), qmp.Command("query-status", {"x": 1}))
        )
        first, second = await peer.next(), await peer.next()
        assert (first["execute"], second["execute"]) == ("stop", "query-status")
        assert second["arguments"] == {"x": 1}
        peer.answer(first)
        peer.answer(second, {"status": "paused"})
    assert running.result() == [{}, {"status": "paused"}]


async def test_events_in_between_are_kept_until_they_are_asked_for(pair):
    monitor, peer = pair
    async with asyncio.TaskGroup() as both:
        both.create_task(monitor.run(qmp.Command("stop")))
        command = await peer.next()
        peer.say({"event": "STOP"}, {"event": "RESUME", "data": 7})
        peer.answer(command)
    assert (await monitor.event(("RESUME",), within_s=1))["data"] == 7
    assert (await monitor.event(("STOP", "RESUME"), within_s=1))["event"] == "STOP"
    with pytest.raises(TimeoutError):
        await monitor.event(("STOP",), within_s=0.01)


async def test_a_descriptor_travels_with_its_command(pair, tmp_path):
    monitor, peer = pair
    (tmp_path / "state").write_text("state")
    with (tmp_path / "state").open("rb") as file:
        async with asyncio.TaskGroup() as both:
            given = qmp.Command("getfd", {"fdname": "state"}, descriptor=file.fileno())
            both.create_task(monitor.run(given))
            peer.answer(await peer.next())
    (descriptor,) = peer.descriptors
    assert os.pread(descriptor, 10, 0) == b"state"


async def test_a_refusal_carries_the_vmms_words(pair):
    monitor, peer = pair

    async def refuse() -> None:
        command = await peer.next()
        peer.say({"error": {"class": "GenericError", "desc": "no"}, "id": command["id"]})

    async with asyncio.TaskGroup() as both:
        both.create_task(refuse())
        with pytest.raises(qmp.Refused, match="balloon: no"):
            await monitor.run(qmp.Command("balloon", {"value": 1}))


@pytest.mark.parametrize("said", [b"", b"nonsense\r\n"])
async def test_a_vmm_that_hangs_up_or_speaks_nonsense_is_a_failure_in_words(tmp_path, said):
    peer = Peer(tmp_path / "monitor")

    async def play() -> None:
        await peer.accept()
        await peer.next()
        peer._connection.sendall(said)
        peer._connection.close()

    async def ask() -> str:
        try:
            async with qmp.connected(tmp_path / "monitor") as monitor:
                await monitor.run(qmp.Command("stop"))
        except errors.Failure as error:
            return error.code
        return "nothing"

    code, _ = await asyncio.gather(ask(), play())
    assert code == "failed_precondition"
    peer.close()


async def test_nobody_there_is_a_failure_in_words(tmp_path):
    with pytest.raises(errors.Failure, match="no VMM takes orders") as caught:
        async with qmp.connected(tmp_path / "monitor"):
            pass
    assert caught.value.code == "failed_precondition"
