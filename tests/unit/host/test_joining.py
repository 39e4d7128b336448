"""A server joins over TLS, with a certificate it knows by its fingerprint alone."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from godwit.api import joining as endpoint
from godwit.base import errors, tasks
from godwit.base.clock import SystemClock
from godwit.base.settings import ROLES, Settings
from godwit.control import edge_authority, fly_src_key
from godwit.control import joining as service
from godwit.host import (
    cluster_certificate,
    components,
    edge_keys,
    identity,
    joining,
    membership,
    standing,
)
from godwit.host.joining import Wanted
from godwit.testing.control import OPERATOR, World, world
from godwit.wire import fly_src
from godwit.wire.joining import Invitation

WANTED = Wanted("fra", "00a1", ("198.51.100.7:51820",))


@dataclass(frozen=True)
class Cluster:
    """Control with its joining endpoint on loopback, and tokens for it."""

    world: World
    address: str
    fingerprint: str

    async def token(self, **wanted: Any) -> str:
        _, text = await service.create_token(
            self.world.ctx, OPERATOR, service.NewJoinToken(**wanted)
        )
        return text

    async def join(self, data: Path, token: str, wanted: Wanted = WANTED) -> Any:
        return await asyncio.to_thread(joining.join, settings(data), SystemClock(), token, wanted)


def settings(data: Path) -> Settings:
    return Settings.model_validate({"paths": {"data": data}})


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    (tmp_path / "control").mkdir()
    (tmp_path / "keys").mkdir()
    certificate = cluster_certificate.ensure(tmp_path / "keys")
    listening = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{listening.getsockname()[1]}"
    async with world(tmp_path / "control") as made:
        fly_src_key.ensure(tmp_path / "keys")
        around = made.options(
            join_address=address,
            join_fingerprint=certificate.fingerprint,
            join_root=b"root",
            keys=tmp_path / "keys",
        )
        authority = edge_authority.ensure(tmp_path / "keys", SystemClock().now_ms())
        around = replace(around, ctx=replace(around.ctx, authority=authority))
        server = uvicorn.Server(
            uvicorn.Config(
                endpoint.create(around.ctx),
                lifespan="off",
                log_config=None,
                ws="none",
                ssl_certfile=certificate.certificate,
                ssl_keyfile=certificate.key,
            )
        )
        server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
        async with tasks.Tasks("endpoint") as owned:
            serving = owned.spawn(server.serve(sockets=[listening]), name="serve")
            yield Cluster(around, address, certificate.fingerprint)
            server.should_exit = True
            await serving


async def test_a_server_joins_and_starts_as_what_it_was_told_to_be(
    cluster: Cluster, tmp_path: Path
) -> None:
    data = tmp_path / "new"
    data.mkdir()
    who = await cluster.join(data, await cluster.token())
    assert (who.region, who.zone, who.host_number) == ("fra", "00a1", 65_538)
    assert who.roles == ("bus", "agent", "edge", "dns")
    again, keys = identity.ensure(data, "lcl", "0000")
    assert again == who
    assert set(keys.public) == {"host", "edge", "dns", "catalog"}
    assert not keys.operator_token.exists()
    assert set(membership.read(data)) == {"a1b2c3d4", who.host_id}
    assert (data / "keys" / "cluster.secret").exists()
    planned = [one.name for one in components.plan(settings(data), who.roles)]
    assert planned == ["bus", "catalog", "agent", "edge", "dns"]


async def test_private_halves_stay_where_they_were_made(cluster: Cluster, tmp_path: Path) -> None:
    data = tmp_path / "new"
    data.mkdir()
    await cluster.join(data, await cluster.token())
    for file in (data / "keys").iterdir():
        assert file.stat().st_mode & 0o777 == 0o600
    async with cluster.world.store.read() as rows:
        (host,) = [one for one in await rows.hosts.all() if one.region == "fra"]
    kept = repr(host)
    for file in (data / "keys").iterdir():
        assert file.read_text().strip() not in kept


async def test_the_edge_of_a_server_that_joins_is_vouched_for(
    cluster: Cluster, tmp_path: Path
) -> None:
    data = tmp_path / "new"
    data.mkdir()
    await cluster.join(data, await cluster.token())
    root = (tmp_path / "keys" / "edge-root.crt").read_text()
    assert edge_keys.root(data) == root
    assert edge_keys.tls(data) is not None
    # As one that joined before edges spoke TLS, and as one that was vouched for long ago.
    first = (data / "keys" / "edge.crt").read_text()
    (data / "keys" / "edge.crt").unlink()
    await asyncio.to_thread(standing.demand, data, SystemClock())
    again = (data / "keys" / "edge.crt").read_text()
    assert again != first
    await asyncio.to_thread(standing.demand, data, SystemClock())
    assert (data / "keys" / "edge.crt").read_text() == again


async def test_the_edge_of_a_server_that_joins_can_say_who_asks(
    cluster: Cluster, tmp_path: Path
) -> None:
    data = tmp_path / "new"
    data.mkdir()
    await cluster.join(data, await cluster.token())
    keys, theirs = tmp_path / "keys", data / "keys"

    def held() -> list[str]:
        return [(theirs / name).read_text() for name in (fly_src.KEY_FILE, fly_src.PUBLIC_FILE)]

    made = [(keys / name).read_text() for name in (fly_src.KEY_FILE, fly_src.PUBLIC_FILE)]
    assert held() == made
    # As one that joined before there was such a key.
    for name in (fly_src.KEY_FILE, fly_src.PUBLIC_FILE):
        (theirs / name).unlink()
    await asyncio.to_thread(standing.demand, data, SystemClock())
    assert held() == made


async def test_an_answer_that_was_lost_is_asked_for_again(
    cluster: Cluster, tmp_path: Path
) -> None:
    data = tmp_path / "new"
    data.mkdir()
    token = await cluster.token()
    first = await cluster.join(data, token)
    for name in ("host.json", "cluster.json", "members.json"):
        (data / name).unlink()
    assert await cluster.join(data, token) == first


async def test_a_host_does_not_join_again(cluster: Cluster, tmp_path: Path) -> None:
    data = tmp_path / "new"
    data.mkdir()
    who = await cluster.join(data, await cluster.token())
    with pytest.raises(errors.Failure, match=f"is host {who.host_id} of region fra already"):
        await cluster.join(data, await cluster.token())


async def test_who_shows_another_certificate_learns_nothing(
    cluster: Cluster, tmp_path: Path
) -> None:
    data = tmp_path / "new"
    data.mkdir()
    token = Invitation.parse(await cluster.token())
    other = token.model_copy(update={"fingerprint": "00" * 32})
    with pytest.raises(errors.Failure, match="is not the cluster that the token is of"):
        await cluster.join(data, other.text())
    assert len(await service.open_tokens(cluster.world.ctx, OPERATOR)) == 1
    assert not (data / "host.json").exists()


async def test_what_is_missing_or_out_of_reach_is_said(cluster: Cluster, tmp_path: Path) -> None:
    data = tmp_path / "new"
    data.mkdir()
    token = await cluster.token()
    with pytest.raises(errors.Failure, match="--endpoint is missing"):
        await cluster.join(data, token, replace(WANTED, endpoints=()))
    away = Invitation.parse(token).model_copy(update={"address": "127.0.0.1:1"})
    with pytest.raises(errors.Failure, match="is not reached at"):
        await cluster.join(data, away.text())
    with pytest.raises(errors.Failure, match="none that Godwit knows"):
        await cluster.join(data, token, replace(WANTED, region="xyz"))


async def test_a_host_asks_whether_it_still_belongs_before_it_starts(
    cluster: Cluster, tmp_path: Path
) -> None:
    data = tmp_path / "new"
    data.mkdir()
    who = await cluster.join(data, await cluster.token())
    await asyncio.to_thread(standing.demand, data, SystemClock())
    async with cluster.world.store.write() as rows:
        await rows.hosts.set_state(who.host_id, "removed", 10_000)
    for _ in range(2):
        with pytest.raises(errors.Failure, match="was removed from its cluster"):
            await asyncio.to_thread(standing.demand, data, SystemClock())
    assert (data / "removed.json").exists()


async def test_a_host_that_is_told_by_the_catalog_needs_nobody_to_ask(tmp_path: Path) -> None:
    who, _ = identity.ensure(tmp_path, "fra", "0000")
    standing.demand(tmp_path, SystemClock())
    member = {
        "epoch": 1,
        "revision": 9,
        "host_id": who.host_id,
        "host_number": who.host_number,
        "region": "fra",
        "zone": "0000",
        "roles": ROLES,
        "keys": {},
        "state": "removed",
    }
    membership.keep(tmp_path, [membership.MemberFact.model_validate(member)])
    async with asyncio.timeout(60):
        await standing.until_removed(tmp_path, SystemClock())
    with pytest.raises(errors.Failure, match="was removed"):
        standing.demand(tmp_path, SystemClock())


async def test_a_cluster_that_does_not_answer_stops_no_host(
    cluster: Cluster, tmp_path: Path
) -> None:
    data = tmp_path / "new"
    data.mkdir()
    await cluster.join(data, await cluster.token())
    text = (data / "cluster.json").read_text().replace(cluster.address, "127.0.0.1:1")
    (data / "cluster.json").write_text(text)
    await asyncio.to_thread(standing.demand, data, SystemClock())


async def test_a_cluster_that_has_moved_is_found_where_its_members_say(
    cluster: Cluster, tmp_path: Path
) -> None:
    data = tmp_path / "new"
    data.mkdir()
    who = await cluster.join(data, await cluster.token())
    text = (data / "cluster.json").read_text().replace(cluster.address, "127.0.0.1:1")
    (data / "cluster.json").write_text(text)
    first = next(m for m in membership.read(data).values() if m.host_id != who.host_id)
    said = {"revision": first.revision + 1, "services": {"join": cluster.address}}
    membership.keep(data, [first.model_copy(update=said)])
    told = await asyncio.to_thread(joining.standing, data, SystemClock())
    assert told is not None
    assert told.state == "active"


async def test_a_server_whose_settings_say_another_endpoint_does_not_join(
    cluster: Cluster, tmp_path: Path
) -> None:
    data = tmp_path / "new"
    data.mkdir()
    told = Settings.model_validate(
        {"paths": {"data": data}, "host": {"endpoints": ["192.0.2.1:51820"]}}
    )
    token = await cluster.token()
    with pytest.raises(errors.Failure, match=r"host\.endpoints 192\.0\.2\.1:51820"):
        await asyncio.to_thread(joining.join, told, SystemClock(), token, WANTED)
    assert not (data / "host.json").exists()


async def test_a_member_comes_to_serve_its_regions_bus_once_there_are_three(
    cluster: Cluster, tmp_path: Path
) -> None:
    async def joined(name: str) -> tuple[Path, identity.HostIdentity]:
        data = tmp_path / name
        data.mkdir()
        return data, await cluster.join(data, await cluster.token())

    async def serve(data: Path) -> identity.HostIdentity:
        told, token = settings(data), await cluster.token()
        return await asyncio.to_thread(joining.serve_bus, told, SystemClock(), token)

    first, who = await joined("first")
    assert "bus" in who.roles
    second, who = await joined("second")
    assert "bus" not in who.roles
    third, _ = await joined("third")
    who = await serve(second)
    assert identity.roles(second) == who.roles == ("bus", "agent", "edge", "dns")
    secret = (first / "keys" / "cluster.secret").read_text()
    assert (second / "keys" / "cluster.secret").read_text() == secret
    assert joining.waits_for_a_third(second, who)
    who = await serve(third)
    assert not joining.waits_for_a_third(third, who)
    with pytest.raises(errors.Failure, match="serves its region's bus"):
        await serve(third)
    with pytest.raises(errors.Failure, match="is no host yet"):
        await serve(tmp_path / "nowhere")
