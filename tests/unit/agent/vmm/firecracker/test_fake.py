"""The fake answers as the playbook says; tests/host/test_firecracker.py asks the real program."""

import asyncio
import json

import httpx
import pytest

from godwit.testing.firecracker import FakeFirecracker
from tests.unit.agent.vmm.firecracker import playbook


async def play(fake: FakeFirecracker, lines) -> None:
    transport = httpx.AsyncHTTPTransport(uds=str(fake.socket))
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        for line in lines:
            method, path = line.request.split(" ")
            content = line.content or None
            answer = await client.request(method, path, content=content, timeout=5)
            text = json.dumps(answer.json(), separators=(",", ":")) if answer.content else ""
            assert answer.status_code == line.status, (line, text)
            assert line.words in text.replace('\\"', '"'), line


@pytest.mark.parametrize("scene", playbook.BEFORE, ids=lambda scene: scene.__name__)
async def test_the_fake_plays_every_scene_before_a_start(tmp_path, scene):
    playbook.furnish(tmp_path)
    async with FakeFirecracker(tmp_path) as fake:
        await play(fake, scene())
        if scene.__name__ in playbook.ENDING:
            async with asyncio.timeout(60):
                await fake.ended.wait()
        else:
            assert not fake.ended.is_set()


async def test_the_fake_plays_a_machines_life_and_its_clones(tmp_path):
    playbook.furnish(tmp_path)
    async with FakeFirecracker(tmp_path) as fake:
        fake.balloon_drives = False
        await play(fake, [*playbook.started(), *playbook.paused()])
    for scene in (playbook.cloned, playbook.cloned_wrongly):
        fake.socket.unlink()
        async with FakeFirecracker(tmp_path) as fake:
            await play(fake, scene())
            assert fake.told["vsock"] == (
                {"guest_cid": 3, "uds_path": "w.sock"} if scene is playbook.cloned else None
            )


async def test_a_snapshot_of_another_release_is_refused(tmp_path):
    playbook.furnish(tmp_path)
    async with FakeFirecracker(tmp_path) as fake:
        fake.balloon_drives = False
        await play(fake, [*playbook.started(), *playbook.paused()])
    fake.socket.unlink()
    async with FakeFirecracker(tmp_path, version="1.17.0") as fake:
        refused = playbook.Line("PUT /snapshot/load", playbook.LOAD, 400, "wrong version")
        await play(fake, [refused])
