"""Credentials for external registries: whose they are, who sees them, where they go."""

import dataclasses
from pathlib import Path

import pytest

from godwit.base.errors import Failure
from godwit.base.principal import Principal
from godwit.control import (
    builds,
    host_requests,
    machines,
    organizations,
    registry,
    sealing,
)
from godwit.control import registry_credentials as credentials
from godwit.images import auth
from godwit.testing import databases
from tests.unit.control.conftest import Town

HOST = "registry.example.com:5000"
IMAGE = f"{HOST}/team/app:1"
SECRET = "geheim-4711"


async def login(town: Town, who: Principal, org: str, host: str = HOST, **more: object) -> None:
    given = {"registry": host, "username": "bot", "password": SECRET} | more
    await credentials.login(town.world.ctx, who, org, credentials.Login(**given))  # type: ignore[arg-type]


async def offered(town: Town, org: str, image: str = IMAGE) -> str | None:
    app = {"acme": town.shop}.get(org) or await town.world.app("theirs", org)
    return await registry.pull_token(town.world.ctx, app, image)


async def test_an_image_of_the_registry_is_pulled_with_them(town: Town) -> None:
    await login(town, town.acme, "acme")
    opened = auth.of_pull_token(await offered(town, "acme"))
    assert opened == auth.Credentials("bot", SECRET)
    wanted = machines.NewMachine({"image": IMAGE})
    made = await machines.create(town.world.ctx, town.acme, "shop", wanted)
    assert (IMAGE, opened.pull_token()) in town.world.images.asked
    assert SECRET not in repr(made)
    # What a host keeps holds no login: it asks for it when it pulls.
    offer = next(body for verb, body in town.world.host.asked if verb == "machine.reserve")
    assert offer["pull_token"] is None
    assert opened.pull_token() not in repr(town.world.host.asked)


async def test_a_host_gets_them_for_the_machines_it_has_and_no_others(town: Town) -> None:
    await login(town, town.acme, "acme")
    theirs = await town.world.app("theirs", "rival")
    ctx = town.world.ctx
    mine = await machines.create(ctx, town.acme, "shop", machines.NewMachine({"image": IMAGE}))
    other = await machines.create(
        ctx, town.rival, theirs.name, machines.NewMachine({"image": "nginx"})
    )
    ask = host_requests.HostRequests(ctx).pull_token
    host = town.world.host.host_id
    given = await ask(host, {"machine_id": mine.view.machine_id, "reference": IMAGE})
    assert auth.of_pull_token(given["token"]) == auth.Credentials("bot", SECRET)
    given = await ask(host, {"machine_id": other.view.machine_id, "reference": IMAGE})
    assert given == {"token": None}
    with pytest.raises(Failure) as caught:
        await ask("ffffffff", {"machine_id": mine.view.machine_id, "reference": IMAGE})
    assert caught.value.code == "not_found"


async def test_another_organization_never_gets_them(town: Town) -> None:
    await login(town, town.acme, "acme")
    assert await offered(town, "rival") is None
    assert await credentials.of_builds(town.world.ctx, (await _org(town, "rival"))) == {}


async def test_each_organization_gets_its_own_for_the_same_registry(town: Town) -> None:
    await login(town, town.acme, "acme")
    await login(town, town.rival, "rival", username="theirs", password="andere")
    assert auth.of_pull_token(await offered(town, "acme")) == auth.Credentials("bot", SECRET)
    assert auth.of_pull_token(await offered(town, "rival")) == auth.Credentials("theirs", "andere")


async def test_a_row_moved_to_another_organization_does_not_open(town: Town) -> None:
    await login(town, town.acme, "acme")
    async with town.world.store.write() as rows:
        mine = await rows.registry_credentials.get(town.shop.org_id, HOST)
        assert mine is not None
        stolen = dataclasses.replace(mine, org_id=await _org(town, "rival"))
        await rows.registry_credentials.put(stolen)
    with pytest.raises(Failure, match="does not open"):
        await offered(town, "rival")


async def test_other_registries_get_nothing(town: Town) -> None:
    await login(town, town.acme, "acme")
    for image in ("nginx", "registry.example.com/team/app:1", "registry.example.com:5001/a:1"):
        assert await offered(town, "acme", image) is None
    own = await offered(town, "acme", f"{town.world.ctx.options.registry}/shop:1")
    assert own is not None
    assert not auth.is_login(own)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("docker.io", "nginx:1"),
        ("index.docker.io", "library/nginx:1"),
        ("Registry.Example.com", "registry.example.com/a:1"),
        ("registry.example.com", "REGISTRY.example.com/a:1"),
    ],
)
async def test_a_registry_is_the_same_however_it_is_written(
    town: Town, said: str, meant: str
) -> None:
    await login(town, town.acme, "acme", said)
    assert await offered(town, "acme", meant) is not None


@pytest.mark.parametrize(
    "wrong",
    [
        "https://ghcr.io",
        "ghcr.io/team",
        "nonsense",
        "",
        "a b.c",
        "localhost:5000",
        "127.0.0.1:5001",
        "[::1]:5000",
        "169.254.169.254",
    ],
)
async def test_what_is_no_registry_s_name_is_refused(town: Town, wrong: str) -> None:
    with pytest.raises(Failure) as caught:
        await login(town, town.acme, "acme", wrong)
    assert caught.value.code == "invalid_argument"


async def test_the_platform_s_registry_wants_api_tokens(town: Town) -> None:
    with pytest.raises(Failure, match="platform's own") as caught:
        await login(town, town.acme, "acme", town.world.ctx.options.registry)
    assert "token" in caught.value.hint


async def test_what_the_registry_refuses_is_not_kept(town: Town) -> None:
    town.world.images.refused.add(HOST)
    with pytest.raises(Failure, match="refuses"):
        await login(town, town.acme, "acme")
    assert await credentials.listed(town.world.ctx, town.acme, "acme") == []
    await login(town, town.acme, "acme", unchecked=True)
    assert len(await credentials.listed(town.world.ctx, town.acme, "acme")) == 1


async def test_a_second_login_replaces_the_first_and_keeps_its_age(town: Town) -> None:
    await login(town, town.acme, "acme")
    (before,) = await credentials.listed(town.world.ctx, town.acme, "acme")
    town.world.clock.skew_ms = 60_000
    await login(town, town.acme, "acme", username="other", password="neu")
    (after,) = await credentials.listed(town.world.ctx, town.acme, "acme")
    assert after.created_at_ms == before.created_at_ms
    assert after.updated_at_ms >= before.updated_at_ms + 60_000
    assert auth.of_pull_token(await offered(town, "acme")) == auth.Credentials("other", "neu")


async def test_after_logout_there_is_nothing_left(town: Town) -> None:
    await login(town, town.acme, "acme")
    await credentials.logout(town.world.ctx, town.acme, "acme", HOST.upper())
    assert await offered(town, "acme") is None
    with pytest.raises(Failure) as caught:
        await credentials.logout(town.world.ctx, town.acme, "acme", HOST)
    assert caught.value.code == "not_found"


async def test_a_foreign_organization_does_not_exist(town: Town) -> None:
    await login(town, town.acme, "acme")
    ctx = town.world.ctx
    for doing in (
        login(town, town.rival, "acme"),
        credentials.logout(ctx, town.rival, "acme", HOST),
        credentials.listed(ctx, town.rival, "acme"),
    ):
        with pytest.raises(Failure) as caught:
            await doing
        assert caught.value.code == "not_found"


async def test_the_password_is_nowhere_in_the_database_or_the_audit(
    town: Town, database_url: str
) -> None:
    await login(town, town.acme, "acme")
    await machines.create(town.world.ctx, town.acme, "shop", machines.NewMachine({"image": IMAGE}))
    rows = await organizations.audit_page(
        town.world.ctx, town.acme, org_slug="acme", before="", limit=100
    )
    assert "registries.login" in [row.action for row in rows]
    assert SECRET not in repr(rows)
    pull_token = auth.Credentials("bot", SECRET).pull_token()
    content = await databases.dump(database_url)
    assert "registry.example.com" in content
    assert SECRET not in content
    assert pull_token not in content


async def test_a_build_gets_those_of_its_organization(town: Town, tmp_path: Path) -> None:
    await login(town, town.acme, "acme")
    await login(town, town.rival, "rival", username="theirs")
    context = tmp_path / "context.tar"
    context.write_bytes(b"tar")
    ctx = town.world.ctx
    events = [e async for e in builds.run(ctx, town.acme, town.shop, builds.Wanted(), context)]
    assert events[-1]["type"] == "image"
    (request,) = town.world.builder.requests
    assert request.credentials == {HOST: auth.Credentials("bot", SECRET)}
    assert SECRET not in repr(request)


async def test_with_another_key_the_failure_says_what_to_do(town: Town, tmp_path: Path) -> None:
    await login(town, town.acme, "acme")
    (tmp_path / "other").mkdir()
    ctx = dataclasses.replace(town.world.ctx, sealer=sealing.ensure(tmp_path / "other"))
    with pytest.raises(Failure, match="sealed with") as caught:
        await registry.pull_token(ctx, town.shop, IMAGE)
    assert caught.value.hint


async def _org(town: Town, slug: str) -> str:
    async with town.world.store.read() as rows:
        found = await rows.organizations.by_slug(slug)
    assert found is not None
    return found.id
