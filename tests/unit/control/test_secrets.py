"""Apps' secrets in control: versions, refusals, hosts, keys made anew, and no value anywhere."""

import asyncio
import json
from dataclasses import replace

import pytest

from godwit.base import errors, principal
from godwit.control import (
    apps,
    host_requests,
    machine_actions,
    machines,
    organizations,
    secret_keys,
    secret_status,
    secrets,
)
from godwit.keyring import vault
from godwit.store import database
from godwit.store.tables import METADATA
from godwit.testing.control import OPERATOR
from godwit.wire import keyring
from godwit.wire.secrets import HostSecrets
from tests.unit.control.conftest import Town

CONFIG = {"image": "nginx"}
HIGH = bytes(range(1, 256))


async def put(town: Town, **values: bytes | None) -> secrets.Secrets:
    return await secrets.change(town.world.ctx, town.acme, "shop", secrets.Values(values))


async def machine(town: Town, **more: object) -> machines.Machine:
    wanted = machines.NewMachine(config=CONFIG, **more)
    return await machines.create(town.world.ctx, town.acme, "shop", wanted)


def has(town: Town, made: machines.Machine) -> dict[str, bytes]:
    kept = town.world.host.machines[made.view.machine_id]
    return kept.secrets(town.world.host.sealing)


async def test_every_change_makes_a_version_and_no_change_makes_none(town: Town) -> None:
    assert (await put(town, A=b"1")).version == 1
    assert (await put(town, A=b"1")).version == 1
    assert (await put(town, B=None)).version == 1
    both = await put(town, A=b"2", B=HIGH)
    assert (both.version, [row.name for row in both.secrets]) == (2, ["A", "B"])
    gone = await put(town, A=None)
    assert (gone.version, [row.name for row in gone.secrets]) == (3, ["B"])


async def test_a_machine_gets_all_of_them_and_newer_ones_with_its_next_version(
    town: Town,
) -> None:
    await put(town, A=b"1", HIGH=HIGH)
    made = await machine(town, min_secrets_version=1)
    assert has(town, made) == {"A": b"1", "HIGH": HIGH}
    assert made.view.secrets_version == 1
    await put(town, A=b"2", HIGH=None)
    assert has(town, made)["A"] == b"1"
    ctx, machine_id = town.world.ctx, made.view.machine_id
    updated = machines.NewVersion(config=CONFIG, min_secrets_version=2)
    await machines.update(ctx, town.acme, "shop", machine_id, updated)
    assert has(town, made) == {"A": b"2"}


async def test_a_start_says_what_it_needs(town: Town) -> None:
    await put(town, A=b"1")
    made = await machine(town)
    ctx, machine_id = town.world.ctx, made.view.machine_id
    await machine_actions.start(ctx, town.acme, "shop", machine_id, min_secrets_version=1)
    verb, body = town.world.host.asked[-1]
    assert (verb, body["min_secrets_version"]) == ("machine.start", 1)
    with pytest.raises(errors.Failure, match="version 2 is not there"):
        await machine_actions.start(ctx, town.acme, "shop", machine_id, min_secrets_version=2)


async def test_an_app_without_secrets_needs_no_keyring(town: Town) -> None:
    town.world.root_keys.away = True
    made = await machine(town)
    assert (has(town, made), made.view.secrets_version) == ({}, 0)
    with pytest.raises(errors.Failure) as refused:
        await put(town, A=b"1")
    assert refused.value.code == "unavailable"


async def test_versions_that_are_not_there_are_refused(town: Town) -> None:
    await put(town, A=b"1")
    with pytest.raises(errors.Failure, match="at version 1, version 2 is not there"):
        await machine(town, min_secrets_version=2)
    with pytest.raises(errors.Failure, match="version 2 is not there"):
        await secrets.listed(town.world.ctx, town.acme, "shop", least=2)


async def test_a_file_of_a_secret_that_is_not_there_is_refused_at_once(town: Town) -> None:
    config = {**CONFIG, "files": [{"guest_path": "/cert", "secret_name": "CERT"}]}
    with pytest.raises(errors.Failure, match="has no secret CERT"):
        await machines.create(
            town.world.ctx, town.acme, "shop", machines.NewMachine(config=config)
        )
    await put(town, CERT=b"aGk=")
    wanted = machines.NewMachine(config=config)
    made = await machines.create(town.world.ctx, town.acme, "shop", wanted)
    assert made.view.config == config


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "at least one"),
        ({"A=B": b""}, "no name"),
        ({"": b""}, "no name"),
        ({"9A": b""}, "no name"),
        ({"A/B": b""}, "no name"),
        ({"A" * 256: b""}, "no name"),
        ({"A": b"geheim\0"}, "NUL"),
        ({"A": b"geheim" * 11_000}, "65536 are the most"),
        ({f"A{n}": b"geheim" * 10_000 for n in range(3)}, "131072 are the most"),
        ({f"A{n}": b"" for n in range(501)}, "at most 500"),
    ],
)
async def test_what_cannot_be_is_refused_without_quoting_it(
    town: Town, values: dict[str, bytes], said: str
) -> None:
    with pytest.raises(errors.Failure, match=said) as refused:
        await put(town, **values)
    assert refused.value.code == "invalid_argument"
    assert "geheim" not in refused.value.message + refused.value.hint


async def test_values_are_for_those_who_may_read_them_and_that_is_written_down(
    town: Town,
) -> None:
    await put(town, A=HIGH)
    ctx, org = town.world.ctx, await organization(town)
    reader = town.world.of(org, "secrets:read")
    assert (await secrets.listed(ctx, reader, "shop")).shown == {}
    with pytest.raises(errors.Failure, match="secrets:read_values"):
        await secrets.listed(ctx, reader, "shop", values=True)
    with pytest.raises(errors.Failure, match="secrets:read_values"):
        await secrets.get(ctx, reader, "shop", "A", value=True)
    trusted = town.world.of(org, "secrets:read", "secrets:read_values")
    assert (await secrets.listed(ctx, trusted, "shop", values=True)).shown == {"A": HIGH}
    async with ctx.store.read() as rows:
        (row,) = await rows.audit.page(None, before="", limit=1)
    assert (row.action, row.detail) == ("secrets.reveal", {"names": ["A"]})


async def organization(town: Town):
    async with town.world.ctx.store.read() as rows:
        return await organizations.require(rows, town.acme, "orgs:read", "acme")


async def test_others_see_and_change_nothing(town: Town) -> None:
    await put(town, A=b"1")
    ctx = town.world.ctx
    for work in (
        secrets.listed(ctx, town.rival, "shop"),
        secrets.get(ctx, town.rival, "shop", "A"),
        secrets.change(ctx, town.rival, "shop", secrets.Values({"A": b"2"})),
        secret_keys.rotate_app(ctx, town.rival, "shop"),
        secret_status.of_app(ctx, town.rival, "shop"),
    ):
        with pytest.raises(errors.Failure) as refused:
            await work
        assert refused.value.code == "permission_denied"


async def test_changes_at_once_all_count(town: Town) -> None:
    await put(town, A=b"0")
    await asyncio.gather(*(put(town, **{f"A{n}": b"x"}) for n in range(4)))
    found = await secrets.listed(town.world.ctx, town.acme, "shop")
    assert found.version == 5
    assert len(found.secrets) == 5


class Gate(vault.Vault):
    """A keyring that makes nobody's key before everybody wants one."""

    def __init__(self, kept: vault.Vault, callers: int) -> None:
        super().__init__(kept._roots)
        self._barrier = asyncio.Barrier(callers)

    async def new_key(self, asked: keyring.NewKey) -> keyring.WrappedKey:
        await self._barrier.wait()
        return await super().new_key(asked)


async def test_two_replicas_that_set_an_apps_first_secret_at_once_both_do(
    town: Town, database_url: str
) -> None:
    other = await database.open_database(database_url)
    gate = Gate(town.world.ctx.keyring, 2)
    replicas = [
        replace(town.world.ctx, store=store, keyring=gate) for store in (town.world.store, other)
    ]
    done = await asyncio.gather(
        *(
            secrets.change(ctx, town.acme, "shop", secrets.Values({f"A{n}": b"x"}))
            for n, ctx in enumerate(replicas)
        )
    )
    await other.close()
    assert sorted(one.version for one in done) == [1, 2]
    assert has(town, await machine(town)) == {"A0": b"x", "A1": b"x"}


async def test_no_row_and_no_record_holds_a_value(town: Town) -> None:
    await put(town, A=b"geheim-eins")
    await machine(town)
    await secret_keys.rotate_app(town.world.ctx, town.acme, "shop")
    async with town.world.store.read() as rows:
        for table in METADATA.sorted_tables:
            found = (await rows.meta._connection.execute(table.select())).fetchall()
            assert "geheim" not in repr(found), table.name
    assert "geheim" not in json.dumps(town.world.host.asked, default=str)


async def test_a_deleted_apps_secrets_are_forgotten(town: Town) -> None:
    await put(town, A=b"1")
    await apps.delete(town.world.ctx, town.acme, "shop")
    async with town.world.ctx.store.read() as rows:
        assert await rows.app_secrets.key(town.shop.id) is None
        assert await rows.app_secrets.of_app(town.shop.id) == []


async def test_how_far_a_secret_has_come(town: Town) -> None:
    async def states() -> dict[str, str]:
        found = await secret_status.of_app(town.world.ctx, town.acme, "shop")
        return {one.secret.name: one.status for one in found.secrets}

    await put(town, A=b"1")
    assert await states() == {"A": "staged"}
    await machine(town)
    assert await states() == {"A": "deployed"}
    await put(town, B=b"1")
    assert await states() == {"A": "deployed", "B": "staged"}
    await machine(town)
    assert await states() == {"A": "deployed", "B": "partial"}


async def test_a_host_asks_for_the_secrets_of_its_own_machines_alone(town: Town) -> None:
    await put(town, A=b"1")
    made = await machine(town)
    asked = host_requests.HostRequests(town.world.ctx)
    body = {"machine_id": made.view.machine_id}
    answer = await asked.secrets(town.world.host.host_id, body)
    assert HostSecrets.model_validate(answer["secrets"]).version == 1
    with pytest.raises(errors.Failure) as refused:
        await asked.secrets("ffffffff", body)
    assert refused.value.code == "not_found"


async def test_an_apps_key_is_rotated_and_no_machine_notices(town: Town) -> None:
    before = await put(town, A=b"1", B=HIGH)
    made = await machine(town)
    ctx = town.world.ctx
    after = await secret_keys.rotate_app(ctx, town.acme, "shop")
    assert after.version == before.version
    assert {row.key_id for row in after.secrets}.isdisjoint(row.key_id for row in before.secrets)
    assert [row.digest for row in after.secrets] == [row.digest for row in before.secrets]
    assert has(town, made) == {"A": b"1", "B": HIGH}
    assert has(town, await machine(town)) == {"A": b"1", "B": HIGH}
    assert (await put(town, A=b"1")).changed is False


async def test_the_root_key_is_rotated_in_batches_and_the_old_one_goes(town: Town) -> None:
    ctx, moved = town.world.ctx, town.world.clock
    await put(town, A=b"1")
    await town.world.app("other", "acme")
    await secrets.change(ctx, town.acme, "other", secrets.Values({"B": b"2"}))
    with pytest.raises(errors.Failure, match="operator"):
        await secret_keys.rotate_root(ctx, town.acme)
    found = await secret_keys.rotate_root(ctx, OPERATOR)
    assert (found.rewrapped, len(found.ids)) == (2, 2)
    moved.skew_ms += 120_000
    swept = await secret_keys.sweep(ctx)
    assert swept.ids == (found.ids[-1],)
    assert has(town, await machine(town)) == {"A": b"1"}


async def test_a_rotation_that_broke_off_is_finished_by_the_next_sweep(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = town.world.ctx
    await put(town, A=b"1")
    monkeypatch.setattr(secret_keys, "_MOST_BATCHES", 0)
    broken = await secret_keys.rotate_root(ctx, OPERATOR)
    assert (broken.rewrapped, len(broken.ids)) == (0, 2)
    town.world.clock.skew_ms += 120_000
    assert len((await secret_keys.sweep(ctx)).ids) == 2, "the old one still wraps"
    monkeypatch.undo()
    swept = await secret_keys.sweep(ctx)
    assert (swept.rewrapped, len(swept.ids)) == (1, 1)


async def test_a_host_that_never_said_what_to_seal_to_gets_no_machine(town: Town) -> None:
    await put(town, A=b"1")
    async with town.world.ctx.store.write() as rows:
        host = await rows.hosts.get(town.world.host.host_id)
        await rows.hosts.put(replace(host, sealing_key=""))
    with pytest.raises(errors.Failure, match="no key that secrets could be sealed to"):
        await machine(town)


def test_scopes_are_their_own() -> None:
    assert {"secrets:read", "secrets:write", "secrets:read_values"} <= principal.ALL_SCOPES
