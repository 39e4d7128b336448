"""The keyring's socket: answers, refusals, bounds, and nothing said that should not be."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from godwit.base import errors
from godwit.keyring import client, roots, server, vault
from godwit.testing.control import SettableClock
from godwit.wire import keyring
from godwit.wire.secrets import Owner, to_text

OWNER = Owner(org_id="org_a", app_id="app_a")


@pytest.fixture
async def socket(tmp_path: Path) -> AsyncIterator[Path]:
    path = tmp_path / "keyring.sock"
    keys = roots.Roots.load(tmp_path / "keyring", SettableClock())
    serving = server.Server(vault.Vault(keys), allowed=os.getuid())
    async with await serving.start(server.listen(path)):
        yield path


async def test_questions_are_answered_side_by_side(socket: Path) -> None:
    asked = client.Client(socket)
    made = await asyncio.gather(*(asked.new_key(keyring.NewKey(owner=OWNER)) for _ in range(20)))
    assert len({key.key_id for key in made}) == 20
    value = keyring.PlainValue(name="A", version=1, value=to_text(b"x" * 65_536))
    sealed = await asked.seal(keyring.Seal(key=made[0], values=(value,)))
    shown = await asked.reveal(keyring.Reveal(key=made[0], values=(sealed.values[0].sealed,)))
    assert shown.values == (value,)
    assert (await asked.new_root()).newest == (await asked.roots()).newest


async def test_only_its_own_user_may_connect(socket: Path) -> None:
    assert os.stat(socket).st_mode & 0o777 == 0o600  # noqa: PTH116


async def test_somebody_else_is_turned_away(tmp_path: Path) -> None:
    path = tmp_path / "k.sock"
    keys = roots.Roots.load(tmp_path / "keyring", SettableClock())
    serving = server.Server(vault.Vault(keys), allowed=os.getuid() + 1)
    async with await serving.start(server.listen(path)):
        with pytest.raises(errors.Failure, match="does not answer"):
            await client.Client(path).roots()


async def test_a_keyring_that_is_away_is_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(errors.Failure, match="machines run on") as refused:
        await client.Client(tmp_path / "nowhere.sock").roots()
    assert refused.value.code == "unavailable"


async def test_what_cannot_be_read_is_refused_and_never_quoted(
    socket: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    keys = roots.Roots.load(tmp_path / "keyring", SettableClock())
    serving = server.Server(vault.Vault(keys), allowed=os.getuid())
    for data in (
        b"geheim",
        b'{"verb": "seal", "body": {"key": "geheim", "values": "geheim"}}',
        b'{"verb": "dance"}',
    ):
        answer = await serving.answer(data)
        assert answer.error is not None
        assert "geheim" not in answer.model_dump_json()
    assert "geheim" not in caplog.text
    value = keyring.PlainValue(name="A", version=1, value="geheim")
    assert "geheim" not in repr(keyring.Revealed(values=(value,)))


async def test_a_length_out_of_bounds_ends_the_connection(socket: Path) -> None:
    reader, writer = await asyncio.open_unix_connection(str(socket))
    writer.write(b"\xff\xff\xff\xff")
    async with asyncio.timeout(60):
        assert await reader.read() == b""
    writer.close()
