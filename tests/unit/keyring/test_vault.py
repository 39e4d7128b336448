"""What the keyring seals, digests, renews and keeps on disk."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from godwit.base import errors
from godwit.keyring import roots, vault
from godwit.testing.control import SettableClock
from godwit.wire import keyring
from godwit.wire import secrets as sealing
from godwit.wire.secrets import Owner

OWNER = Owner(org_id="org_a", app_id="app_a")


def plain(name: str, value: bytes, version: int = 1) -> keyring.PlainValue:
    return keyring.PlainValue(name=name, version=version, value=sealing.to_text(value))


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


@pytest.fixture
def keys(tmp_path: Path, clock: SettableClock) -> roots.Roots:
    return roots.Roots.load(tmp_path / "keyring", clock)


async def sealed(
    keeper: vault.Vault, key: keyring.WrappedKey, *values: keyring.PlainValue
) -> tuple[keyring.DigestedValue, ...]:
    return (await keeper.seal(keyring.Seal(key=key, values=values))).values


async def test_what_is_sealed_is_revealed_and_opens_on_its_host(keys: roots.Roots) -> None:
    keeper, private = vault.Vault(keys), X25519PrivateKey.generate()
    key = await keeper.new_key(keyring.NewKey(owner=OWNER))
    (one,) = await sealed(keeper, key, plain("A", b"\x01\xff"))
    shown = await keeper.reveal(keyring.Reveal(key=key, values=(one.sealed,)))
    assert shown.values == (plain("A", b"\x01\xff"),)
    host_key = sealing.to_text(private.public_key().public_bytes_raw())
    for_host = await keeper.for_host(keyring.ForHost(key=key, host_key=host_key))
    opened = sealing.open_for_host(private, OWNER, for_host)
    assert sealing.open_value(opened, OWNER, key.key_id, one.sealed) == b"\x01\xff"


async def test_digests_tell_values_apart_and_say_nothing_of_them(keys: roots.Roots) -> None:
    keeper = vault.Vault(keys)
    key = await keeper.new_key(keyring.NewKey(owner=OWNER))
    other = await keeper.new_key(keyring.NewKey(owner=OWNER))
    one, two, three = await sealed(
        keeper, key, plain("A", b"x"), plain("A", b"y"), plain("B", b"x")
    )
    (again,) = await sealed(keeper, key, plain("A", b"x", 9))
    (elsewhere,) = await sealed(keeper, other, plain("A", b"x"))
    assert one.digest == again.digest
    assert len({one.digest, two.digest, three.digest, elsewhere.digest}) == 4
    assert len(one.digest) == 16


async def test_a_renewed_key_keeps_digests_and_the_former_opens_no_new_value(
    keys: roots.Roots,
) -> None:
    keeper = vault.Vault(keys)
    former = await keeper.new_key(keyring.NewKey(owner=OWNER))
    (one,) = await sealed(keeper, former, plain("A", b"x"))
    key = await keeper.renew_key(keyring.RenewKey(key=former))
    assert key.key_id != former.key_id
    asked = keyring.Reseal(former=former, key=key, values=(one.sealed,))
    (again,) = (await keeper.reseal(asked)).values
    assert again.digest == one.digest
    assert (await keeper.reveal(keyring.Reveal(key=key, values=(again.sealed,)))).values
    with pytest.raises(errors.Failure):
        await keeper.reveal(keyring.Reveal(key=former, values=(again.sealed,)))


async def test_another_apps_wrapped_key_does_not_open(keys: roots.Roots) -> None:
    keeper = vault.Vault(keys)
    key = await keeper.new_key(keyring.NewKey(owner=OWNER))
    stolen = key.model_copy(update={"owner": Owner(org_id="org_b", app_id="app_b")})
    with pytest.raises(errors.Failure):
        await sealed(keeper, stolen, plain("A", b"x"))


async def test_root_keys_are_rotated_and_the_old_one_goes_last(
    tmp_path: Path, keys: roots.Roots, clock: SettableClock
) -> None:
    keeper = vault.Vault(keys)
    first = (await keeper.roots()).newest
    key = await keeper.new_key(keyring.NewKey(owner=OWNER))
    (one,) = await sealed(keeper, key, plain("A", b"x"))
    assert (await keeper.new_root()).ids[0] == first
    (again,) = (await keeper.rewrap(keyring.Rewrap(keys=(key,)))).keys
    assert again.root_id != first
    assert again.key_id == key.key_id
    unused = keyring.RetireRoots(used=(again.root_id,))
    assert first in (await keeper.retire_roots(unused)).ids, "an answer may be under way"
    clock.skew_ms += roots.RETIRED_AFTER_MS + 1_000
    used = keyring.RetireRoots(used=(first, again.root_id))
    assert first in (await keeper.retire_roots(used)).ids, "it wraps something"
    assert (await keeper.retire_roots(unused)).ids == (again.root_id,)
    with pytest.raises(errors.Failure, match="does not have"):
        await sealed(keeper, key, plain("A", b"x"))
    next_life = vault.Vault(roots.Roots.load(tmp_path / "keyring", clock))
    assert (await next_life.reveal(keyring.Reveal(key=again, values=(one.sealed,)))).values


def test_the_keys_are_for_their_owner_alone(tmp_path: Path, keys: roots.Roots) -> None:
    keys.add()
    folder = tmp_path / "keyring"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in folder.iterdir()] == ["roots.json"]
    assert (folder / "roots.json").stat().st_mode & 0o777 == 0o600
    assert len(json.loads((folder / "roots.json").read_text())["roots"]) == 2


@pytest.mark.parametrize("text", ["", "{}", '{"v": 1, "roots": []}', '{"v": 1, "roots": [{}]}'])
def test_a_file_that_holds_no_keys_is_not_replaced(tmp_path: Path, text: str) -> None:
    folder = tmp_path / "keyring"
    folder.mkdir()
    (folder / "roots.json").write_text(text)
    with pytest.raises(errors.Failure, match="holds no keys"):
        roots.Roots.load(folder, SettableClock())
    assert (folder / "roots.json").read_text() == text
