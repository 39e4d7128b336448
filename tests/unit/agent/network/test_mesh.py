"""What the keeper of the mesh does, to a device and a packet policy that note what they are told."""

import asyncio
import base64
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from godwit.agent.network import mesh_device, mesh_rules, peers
from godwit.agent.network.mesh import Mesh, rules_of
from godwit.agent.network.mesh_device import Config, device_name
from godwit.agent.network.mesh_keys import MeshKeys
from godwit.agent.network.peers import Peer, Seen
from godwit.base import errors, processes, tasks

OWN = 9


def key(number: int) -> str:
    return base64.b64encode(number.to_bytes(32, "big")).decode()


def peer(number: int, *endpoints: str, next_key: str = "") -> Peer:
    return Peer(number, key(number), next_key, endpoints)


class TurnedClock:
    """Time that a test turns by hand; whoever sleeps is woken at once."""

    def __init__(self) -> None:
        self.at_s = 1_700_000_000.0

    def now_ms(self) -> int:
        return int(self.at_s * 1_000)

    def monotonic(self) -> float:
        return self.at_s

    async def sleep(self, seconds: float) -> None:
        self.at_s += seconds
        await asyncio.sleep(0)


class Device:
    """A WireGuard device, as far as it can be told and asked."""

    def __init__(self, config: Config, done: list[str]) -> None:
        self.config = config
        self.name = device_name(config.host_number)
        self.done = done
        self.there = False
        self.state = peers.Device()
        self.broken = 0
        self.death = asyncio.Event()
        self.greeted: list[str] = []

    async def ensure(self) -> None:
        if self.broken:
            self.broken -= 1
            raise processes.ProgramFailed(["ip"], "exit 2")
        if not self.there:
            self.done.append("device made")
        self.there = True
        if self.death.is_set():
            self.death.clear()
            self.state = peers.Device()

    def exists(self) -> bool:
        return self.there

    async def look(self) -> peers.Device:
        return self.state

    async def tell_key(self) -> None:
        self.done.append("key told")
        public = MeshKeys(self.config.private_key).public
        self.state = replace(
            self.state, public_key=public, port=self.config.port, mark=mesh_rules.MARK
        )

    async def tell(self, changes: Iterable[peers.Change]) -> None:
        known = dict(self.state.peers)
        for change in changes:
            self.done.append(f"peer {change.public_key[:4]}")
            if change.remove:
                del known[change.public_key]
            else:
                now = known.get(change.public_key, Seen())
                prefixes = now.prefixes if change.prefixes is None else change.prefixes
                where = change.endpoint or now.endpoint
                known[change.public_key] = Seen(where, prefixes, 0, 0, 0, 25)
        self.state = replace(self.state, peers=known)

    async def greet(self, keys: Iterable[str]) -> None:
        self.greeted += keys

    async def ended(self) -> None:
        await self.death.wait()

    async def remove(self) -> None:
        if self.there:
            self.done.append("device removed")
        self.there = False
        self.state = peers.Device()


@dataclass
class Lab:
    folder: Path
    done: list[str] = field(default_factory=list)
    told: list[mesh_rules.Mesh | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        path = self.folder / "mesh.key"
        path.write_bytes(base64.b64encode(os.urandom(32)) + b"\n")
        self.keys = MeshKeys(path)
        self.clock = TurnedClock()
        self.device = Device(Config(OWN, path, self.folder / "log", self.folder), self.done)
        self.mesh = self.again()

    def again(self) -> Mesh:
        """Return the keeper that a new agent has."""
        return Mesh(
            self.device,
            self.reach,
            self.clock,
            remembered_in=self.folder / "mesh.json",
            notice_s=30,
        )

    async def reach(self, mesh: mesh_rules.Mesh | None) -> None:
        if not self.told or self.told[-1] != mesh:
            self.done.append("policy told")
        self.told.append(mesh)

    async def settled(self, *members: Peer) -> list[str]:
        """Return what is done once those are the members."""
        self.done.clear()
        self.mesh.follow(members)
        await self.mesh.settle()
        return list(self.done)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


async def test_a_host_that_is_alone_gets_no_device(lab):
    assert await lab.settled(peer(OWN)) == ["policy told"]
    assert lab.told == [None]
    assert not lab.device.there


async def test_the_first_other_host_brings_device_key_peer_and_policy(lab):
    done = await lab.settled(peer(OWN), peer(1))
    assert done == ["device made", "key told", f"peer {key(1)[:4]}", "policy told"]
    assert lab.told[-1] == mesh_rules.Mesh("mesh9", OWN, frozenset({1}), 51_820)


async def test_what_is_as_it_should_be_is_left_alone(lab):
    await lab.settled(peer(OWN), peer(1))
    assert await lab.settled(peer(OWN), peer(1)) == []


async def test_the_last_other_host_takes_the_device_with_it(lab):
    await lab.settled(peer(OWN), peer(1))
    assert await lab.settled(peer(OWN)) == ["policy told", "device removed"]
    assert lab.told[-1] is None


async def test_a_new_agent_finds_the_device_as_it_was_left(lab):
    await lab.settled(peer(OWN), peer(1, "192.0.2.1:1"))
    lab.mesh = lab.again()
    assert await lab.settled(peer(OWN), peer(1, "192.0.2.1:1")) == []


async def test_an_agent_that_has_not_heard_of_members_yet_leaves_everything_as_it_is(lab):
    await lab.settled(peer(OWN), peer(1))
    lab.done.clear()
    lab.mesh = lab.again()
    await lab.mesh.settle()
    assert lab.done == []
    assert lab.device.there


async def test_a_new_agent_of_a_host_that_is_alone_now_clears_up(lab):
    await lab.settled(peer(OWN), peer(1))
    lab.mesh = lab.again()
    assert "device removed" in await lab.settled()


async def test_a_new_agent_knows_that_a_record_changed_meanwhile(lab):
    await lab.settled(peer(OWN), peer(1, "192.0.2.1:1"))
    heard = {
        k: replace(seen, handshake_s=lab.clock.now_ms() // 1_000)
        for k, seen in lab.device.state.peers.items()
    }
    lab.device.state = replace(lab.device.state, peers=heard)
    lab.mesh = lab.again()
    await lab.settled(peer(OWN), peer(1, "192.0.2.2:2"))
    assert lab.device.state.peers[key(1)].endpoint == "192.0.2.2:2"


async def test_a_device_that_forgot_is_told_where_peers_were_last_seen(lab):
    await lab.settled(peer(OWN), peer(1))
    roamed = {key(1): replace(lab.device.state.peers[key(1)], endpoint="203.0.113.5:7")}
    lab.device.state = replace(lab.device.state, peers=roamed)
    await lab.settled(peer(OWN), peer(1))
    lab.device.state = peers.Device()
    lab.mesh = lab.again()
    await lab.settled(peer(OWN), peer(1))
    assert lab.device.state.peers[key(1)].endpoint == "203.0.113.5:7"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"given": 5, "seen": {}}', '{"given": {"x": []}}']
)
async def test_a_damaged_memory_costs_nothing(lab, text):
    (lab.folder / "mesh.json").write_text(text)
    lab.mesh = lab.again()
    await lab.settled(peer(OWN), peer(1))
    assert set(lab.device.state.peers) == {key(1)}


async def test_a_key_is_changed_only_after_all_have_heard_of_it(lab):
    await lab.settled(peer(OWN), peer(1))
    former, following = lab.keys.public, lab.keys.prepare()
    await lab.settled(peer(OWN), peer(1))
    await lab.clock.sleep(100)
    assert await lab.settled(peer(OWN), peer(1)) == []
    told = peer(OWN, next_key=following)
    assert await lab.settled(told, peer(1)) == []
    await lab.clock.sleep(29)
    assert await lab.settled(told, peer(1)) == []
    assert lab.keys.public == former
    await lab.clock.sleep(2)
    assert await lab.settled(told, peer(1)) == ["key told"]
    assert lab.device.state.public_key == lab.keys.public == following
    assert lab.device.greeted == [key(1)]
    assert lab.keys.next_public == ""


async def told(lab: Lab, renew_after_s: float = 0) -> list[tuple[str, str]]:
    """Return what keys are told to everybody now."""
    heard: list[tuple[str, str]] = []

    async def tell(key: str, next_key: str) -> None:
        heard.append((key, next_key))

    await lab.mesh.announce(tell, renew_after_s)
    return heard


async def test_keys_are_told_until_everybody_has_heard_them(lab):
    key_in_use = lab.keys.public
    assert await told(lab) == []
    await lab.settled(peer(OWN), peer(1))
    for _ in range(2):
        assert await told(lab) == [(key_in_use, "")]
    known = Peer(OWN, key_in_use)
    await lab.settled(known, peer(1))
    assert await told(lab) == []
    following = lab.keys.prepare()
    assert await told(lab) == [(key_in_use, following)]
    await lab.settled(replace(known, next_key=following), peer(1))
    assert await told(lab) == []
    lab.keys.switch()
    assert await told(lab) == [(following, "")]


async def test_a_host_that_is_alone_tells_nobody(lab):
    await lab.settled(peer(OWN))
    assert await told(lab, renew_after_s=1) == []
    assert lab.keys.next_public == ""


async def test_an_old_key_is_changed_and_a_young_one_kept(lab):
    await lab.settled(Peer(OWN, lab.keys.public), peer(1))
    os.utime(lab.folder / "mesh.key", (lab.clock.at_s - 100, lab.clock.at_s - 100))
    assert await told(lab, renew_after_s=101) == []
    ((in_use, following),) = await told(lab, renew_after_s=99)
    assert (in_use, following) == (lab.keys.public, lab.keys.next_public)
    assert following != ""
    assert await told(lab, renew_after_s=99) == [(in_use, following)]


async def test_a_host_killed_after_the_change_tells_its_device_later(lab):
    await lab.settled(peer(OWN), peer(1))
    following = lab.keys.prepare()
    lab.keys.switch()
    lab.mesh = lab.again()
    assert await lab.settled(peer(OWN), peer(1)) == ["key told"]
    assert lab.device.state.public_key == following


def test_a_next_key_is_made_once_and_for_its_owner_alone(lab):
    assert lab.keys.prepare() == lab.keys.prepare() == lab.keys.next_public
    assert (lab.folder / "mesh.key.next").stat().st_mode & 0o777 == 0o600


async def test_what_fails_is_tried_again_and_a_death_is_answered_at_once(lab):
    lab.device.broken = 2
    lab.mesh.follow([peer(OWN), peer(1)])
    async with tasks.Tasks("test") as owned, asyncio.timeout(60):
        owned.spawn(lab.mesh.run(), name="mesh")
        while not lab.device.state.peers:
            await asyncio.sleep(0)
        while lab.told[-1:] != [rules_of(OWN, [peer(1)])]:
            await asyncio.sleep(0)
        lab.done.clear()
        lab.device.death.set()
        while f"peer {key(1)[:4]}" not in lab.done:
            await asyncio.sleep(0.001)
        lab.mesh.follow([peer(OWN), peer(1), peer(2)])
        while key(2) not in lab.device.state.peers:
            await asyncio.sleep(0.001)


async def test_a_bad_record_is_said_once(lab, caplog):
    members = [peer(OWN), peer(1), Peer(2, "rubbish")]
    await lab.settled(*members)
    await lab.settled(*members)
    assert [r.levelname for r in caplog.records if "left out" in r.message] == ["ERROR"]


def test_a_daemon_in_another_space_of_processes_is_nobody_to_end():
    class Foreign:
        def getsockopt(self, level: int, option: int, size: int) -> bytes:
            return struct.pack("3i", 0, 0, 0)

    with pytest.raises(errors.Failure, match="another space of processes"):
        mesh_device._peer_pid(Foreign())


async def test_where_this_host_is_now_is_told_until_everybody_has_heard_it(lab):
    heard: list[tuple[str, ...]] = []

    async def tell(endpoints: tuple[str, ...]) -> None:
        heard.append(endpoints)

    moved = ("198.51.100.9:51820",)
    await lab.mesh.announce_endpoints(tell, moved)
    assert heard == []
    await lab.settled(peer(OWN), peer(1))
    for _ in range(2):
        await lab.mesh.announce_endpoints(tell, moved)
    # One whose settings say nothing is where it was when it joined.
    await lab.mesh.announce_endpoints(tell, ())
    assert heard == [moved, moved]
    await lab.settled(replace(peer(OWN), endpoints=moved), peer(1))
    await lab.mesh.announce_endpoints(tell, moved)
    assert heard == [moved, moved]
