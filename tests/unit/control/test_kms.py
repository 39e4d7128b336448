"""Apps' secret keys in control: versions, types that stay, rooms, refusals; what is written down."""

import asyncio

import pytest

from godwit.base import errors
from godwit.control import apps, kms, secret_keys, secrets
from godwit.testing.control import OPERATOR
from tests.unit.control.conftest import Town


async def make(
    town: Town, name: str = "k", kind: str = "hs256", value: bytes | None = None
) -> int:
    wanted = kms.NewKey(name, kind, value)  # type: ignore[arg-type]
    return (await kms.make(town.world.ctx, town.acme, "shop", wanted))[1]


async def use(town: Town, what: str, text: bytes, **more: bytes) -> bytes:
    wanted = kms.Use(what, text, **more)  # type: ignore[arg-type]
    return await kms.use(town.world.ctx, town.acme, "shop", "k", wanted)


async def names(town: Town) -> list[str]:
    return [row.name for row in await kms.listed(town.world.ctx, town.acme, "shop")]


async def test_every_key_made_or_deleted_makes_a_version_of_the_apps_secrets(town: Town) -> None:
    ctx = town.world.ctx
    assert await make(town, "a") == 1
    changed = await secrets.change(ctx, town.acme, "shop", secrets.Values({"A": b"1"}))
    assert changed.version == 2
    assert await make(town, "b") == 3
    assert await kms.delete(ctx, town.acme, "shop", "a") == 4
    assert await names(town) == ["b"]
    assert (await secrets.listed(ctx, town.acme, "shop", least=4)).version == 4
    with pytest.raises(errors.Failure, match="version 5 is not there"):
        await kms.listed(ctx, town.acme, "shop", least=5)


async def test_another_key_takes_a_keys_place_but_not_its_type(town: Town) -> None:
    await make(town, value=bytes(32))
    before = await use(town, "sign", b"text")
    await make(town, value=bytes(31) + b"\1")
    assert await use(town, "sign", b"text") != before
    with pytest.raises(errors.Failure, match=r"key 'k' is of type hs256, and stays so"):
        await make(town, kind="nacl_auth")
    assert await names(town) == ["k"]


async def test_a_key_works_after_its_apps_key_and_the_root_key_were_made_anew(town: Town) -> None:
    await make(town, kind="xaes256gcm")
    sealed = await use(town, "encrypt", b"text", associated_data=b"row")
    await secret_keys.rotate_app(town.world.ctx, town.acme, "shop")
    await secret_keys.rotate_root(town.world.ctx, OPERATOR)
    assert await use(town, "decrypt", sealed, associated_data=b"row") == b"text"


async def test_keys_go_with_their_app(town: Town) -> None:
    await make(town)
    await apps.delete(town.world.ctx, town.acme, "shop")
    async with town.world.ctx.store.read() as rows:
        assert await rows.kms_keys.of_app(town.shop.id) == []


async def test_changes_at_once_are_all_kept(town: Town) -> None:
    versions = await asyncio.gather(*(make(town, f"k{number}") for number in range(4)))
    assert sorted(versions) == [1, 2, 3, 4]
    assert await names(town) == [f"k{number}" for number in range(4)]


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a,b", "a:b", "ä", "a" * 256, "a\n"])
async def test_a_name_that_cannot_be_one_is_refused(town: Town, name: str) -> None:
    with pytest.raises(errors.Failure, match="is no name for a secret key"):
        await make(town, name)


async def test_what_is_too_much_is_refused(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.Failure, match="4096 are the most"):
        await make(town, value=bytes(4_097))
    monkeypatch.setattr(kms, "MOST_KEYS", 1)
    await make(town)
    with pytest.raises(errors.Failure, match="at most 1 secret keys"):
        await make(town, "another")
    await make(town)
    with pytest.raises(errors.Failure, match="65536 are the most"):
        await use(town, "sign", bytes(70_000))


async def test_a_ciphertext_of_the_longest_text_is_taken_back(town: Town) -> None:
    await make(town, kind="nacl_box")
    text = bytes(kms.LONGEST_TEXT)
    assert await use(town, "decrypt", await use(town, "encrypt", text)) == text


async def test_what_is_done_is_written_down_without_any_key(town: Town) -> None:
    await make(town, value=b"geheim" * 6)
    await make(town, "made")
    await kms.delete(town.world.ctx, town.acme, "shop", "made")
    async with town.world.ctx.store.read() as rows:
        audited = await rows.audit.page(None, before="", limit=3)
        key = await rows.kms_keys.get(town.shop.id, "k")
    actions = sorted(row.action for row in audited)
    assert actions == ["secretkeys.delete", "secretkeys.generate", "secretkeys.import"]
    assert "geheim" not in repr(audited)
    assert key is not None
    assert key.data not in repr(key)
