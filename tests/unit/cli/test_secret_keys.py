"""`godwit secrets keys` against the real API over real control."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.cli import exits
from godwit.cli.commands.secret_keys import Label


@pytest.fixture
async def shop(served):
    """The program, with an app."""
    await served("orgs", "create", "acme")
    await served("apps", "create", "hello", "-o", "acme")
    return served


async def labels(shop) -> list[str]:
    _, stdout, _ = await shop("secrets", "keys", "list")
    return [line.split()[0] for line in stdout.splitlines()[1:]]


async def test_a_label_gets_one_version_after_another(shop):
    for version in range(11):
        code, stdout, stderr = await shop("secrets", "keys", "generate", "signing", "token")
        assert (code, stdout) == (0, f"tokenv{version}\n"), stderr
    assert await labels(shop) == [f"tokenv{version}" for version in range(11)]
    _, stdout, _ = await shop("secrets", "keys")
    assert stdout.splitlines()[1].split()[:3] == ["tokenv0", "0", "nacl_auth"]


async def test_labels_may_be_taken_as_they_are(shop):
    assert (await shop("secrets", "keys", "generate", "encrypting", "box", "-n", "-q"))[1] == ""
    assert (await shop("secrets", "keys", "generate", "encrypting", "boxv7"))[1] == "boxv7\n"
    assert (await shop("secrets", "keys", "generate", "encrypting", "box"))[1] == "boxv8\n"
    assert await labels(shop) == ["box", "boxv7", "boxv8"]
    code, _, stderr = await shop("secrets", "keys", "generate", "encrypting", "boxv7")
    assert (code, "pass --force to replace it" in stderr) == (exits.USAGE, True)
    assert (await shop("secrets", "keys", "generate", "encrypting", "boxv7", "-f"))[0] == 0
    code, _, stderr = await shop("secrets", "keys", "generate", "hs256", "box")
    assert (code, "box is of type nacl_secretbox" in stderr) == (exits.USAGE, True)


async def test_a_key_is_imported_byte_by_byte(shop):
    value = bytes(range(224, 256))
    code, stdout, stderr = await shop("secrets", "keys", "import", "hs256", "token", stdin=value)
    assert (code, stdout) == (0, "tokenv0\n"), stderr
    code, _, stderr = await shop("secrets", "keys", "import", "hs256", "token", stdin=b"short")
    assert (code, "at least 32 bytes, not 5" in stderr) == (exits.USAGE, True)
    code, _, stderr = await shop("secrets", "keys", "import", "hs256", "token", stdin=b"")
    assert (code, "standard input is empty" in stderr) == (exits.USAGE, True)
    code, _, stderr = await shop("secrets", "keys", "import", "hs256", "t", stdin=bytes(5_000))
    assert (code, "more than 4096 bytes" in stderr) == (exits.USAGE, True)
    (one,) = await shop.json("secrets", "keys", "list")
    assert (one["name"], one["type"]) == ("tokenv0", "hs256")


async def test_a_label_is_deleted_with_all_its_versions_once_it_is_confirmed(shop):
    for label in ("token", "token", "other"):
        assert (await shop("secrets", "keys", "generate", "signing", label))[0] == 0
    code, _, stderr = await shop("secrets", "keys", "delete", "token")
    assert (code, "Delete tokenv0, tokenv1 of hello?" in stderr) == (exits.USAGE, True)
    code, _, stderr = await shop("secrets", "keys", "delete", "token", "-n", "--yes")
    assert (code, "no secret key 'token'" in stderr) == (exits.NOT_FOUND, True)
    assert (await shop("secrets", "keys", "delete", "tokenv0", "--yes"))[0] == 0
    assert await labels(shop) == ["otherv0", "tokenv1"]
    code, _, stderr = await shop("secrets", "keys", "rm", "token", "-y")
    assert (code, "tokenv1 is deleted" in stderr) == (0, True)
    assert await labels(shop) == ["otherv0"]


@pytest.mark.parametrize("argv", [("rsa", "token"), ("signing", "a/b"), ("signing", "")])
async def test_a_mistake_is_named_before_anything_is_asked(shop, argv):
    code, _, stderr = await shop("secrets", "keys", "generate", *argv)
    assert (code, "hint:" in stderr) == (exits.USAGE, True)


@given(st.from_regex(r"[A-Za-z0-9_-]{1,40}", fullmatch=True))
def test_a_label_is_its_parts(text):
    label = Label.parse(text)
    if label.version is None:
        assert label.prefix == text
    else:
        assert text.startswith(f"{label.prefix}v")
        assert int(text.removeprefix(f"{label.prefix}v")) == label.version
