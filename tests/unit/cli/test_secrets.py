"""`godwit secrets` against the real API over real control: what is said, and what never is."""

import pytest

from godwit.cli import exits, registry
from godwit.cmd.cli import HOST_ENTRIES

EVERY_BYTE = b"geheim " + bytes(range(1, 256)) + b"\n"


@pytest.fixture
async def shop(served):
    """The program, with an app that was never deployed."""
    await served("orgs", "create", "acme")
    await served("apps", "create", "hello", "-o", "acme")
    return served


@pytest.fixture
async def running(shop):
    """The program, with an app of one machine."""
    assert (await shop("deploy", "-i", "nginx:1", "--no-smoke-checks", "--no-ha"))[0] == 0
    return shop


def given(running) -> dict[str, bytes]:
    """Return what the app's one machine was given, opened as its host opens it."""
    (machine,) = running.world.host.machines.values()
    return machine.secrets(running.world.host.sealing)


async def secret(running, name: str) -> tuple[str, str]:
    """Return a secret's digest and status."""
    (one,) = [one for one in await running.json("secrets", "list") if one["name"] == name]
    return one["digest"], one["status"]


async def test_set_deploys_at_once_and_says_no_value(running):
    code, stdout, stderr = await running("secrets", "set", "A=geheim1", "B=geheim=2")
    assert (code, stdout) == (0, ""), stderr
    assert "the secrets of hello are at version 1" in stderr
    assert "release v2: every machine has them" in stderr
    assert "geheim" not in stderr
    assert given(running) == {"A": b"geheim1", "B": b"geheim=2"}
    code, stdout, _ = await running("secrets", "list")
    assert (code, "geheim" in stdout) == (0, False)
    assert [line.split()[0] for line in stdout.splitlines()[1:]] == ["A", "B"]
    code, stdout, _ = await running("releases", "--image")
    assert [line.split()[-1] for line in stdout.splitlines()[1:]] == ["nginx:1"] * 2


async def test_stdin_is_taken_byte_by_byte(running):
    code, _, stderr = await running("secrets", "set", "A=not=-", "KEY=-", stdin=EVERY_BYTE)
    assert (code, "geheim" in stderr) == (0, False)
    assert given(running) == {"KEY": EVERY_BYTE, "A": b"not=-"}


async def test_staged_ones_wait_for_a_deploy_of_any_kind(running):
    code, _, stderr = await running("secrets", "set", "--stage", "A=1")
    assert (code, "godwit secrets deploy --app hello" in stderr) == (0, True)
    assert given(running) == {}
    assert (await secret(running, "A"))[1] == "staged"
    assert (await running("secrets", "deploy"))[0] == 0
    assert given(running) == {"A": b"1"}
    assert (await secret(running, "A"))[1] == "deployed"
    assert (await running("secrets", "unset", "A", "--stage"))[0] == 0
    assert (given(running), await running.json("secrets", "list")) == ({"A": b"1"}, [])
    assert (await running("deploy", "-i", "nginx:2", "--no-smoke-checks"))[0] == 0
    assert given(running) == {}


async def test_there_is_nothing_to_sync(running):
    assert (await running("secrets", "set", "--stage", "A=1"))[0] == 0
    code, stdout, stderr = await running("secrets", "sync")
    assert (code, stdout) == (0, ""), stderr
    assert "every deploy of hello takes the newest secrets, 1 of them now" in stderr
    assert (await secret(running, "A"))[1] == "staged"


async def test_unset_removes_at_once(running):
    assert (await running("secrets", "set", "A=1", "B=2"))[0] == 0
    assert (await running("secrets", "unset", "A", "NEVER"))[0] == 0
    assert given(running) == {"B": b"2"}


async def test_import_reads_lines_of_env_files(running):
    lines = b"# comment\nexport A=1\nB='geheim # not'\nC=\"two\nlines\"\nD=\xff\n"
    code, _, stderr = await running("secrets", "import", stdin=lines)
    assert (code, "geheim" in stderr) == (0, False), stderr
    assert given(running) == {"A": b"1", "B": b"geheim # not", "C": b"two\nlines", "D": b"\xff"}
    code, _, stderr = await running("secrets", "import", stdin=b"# nothing\n")
    assert (code, "no NAME=VALUE" in stderr) == (exits.USAGE, True)


async def test_detached_it_says_which_release_is_on_its_way(running):
    code, _, stderr = await running("secrets", "set", "A=1", "--detach")
    assert (code, "release v2 is on its way" in stderr) == (0, True)


async def test_an_app_that_was_never_deployed_gets_them_with_its_first_deploy(shop):
    code, _, stderr = await shop("secrets", "set", "A=1")
    assert (code, "first deploy takes them along" in stderr) == (0, True)
    assert (await secret(shop, "A"))[1] == "staged"
    code, _, stderr = await shop("secrets", "deploy")
    assert (code, stderr.startswith("error: ")) == (exits.FAILED, True)
    assert (await shop("deploy", "-i", "nginx:1", "--no-smoke-checks", "--no-ha"))[0] == 0
    assert given(shop) == {"A": b"1"}


async def test_rotate_changes_no_value_no_digest_and_no_machine(running):
    code, _, stderr = await running("secrets", "rotate")
    assert (code, "has no secrets" in stderr) == (exits.FAILED, True)
    assert (await running("secrets", "set", "A=1"))[0] == 0
    before = await secret(running, "A")
    machine = (await running.json("machine", "list"))[0]["id"]
    versions = await running.json("machine", "versions", machine)
    assert (await running("secrets", "rotate"))[0] == 0
    assert await secret(running, "A") == before
    assert await running.json("machine", "versions", machine) == versions
    assert (await running("secrets", "deploy"))[0] == 0
    assert given(running) == {"A": b"1"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("set", "geheim"), "argument 1 is not NAME=VALUE"),
        (("set", "A=1", "geheim"), "argument 2 is not NAME=VALUE"),
        (("set", "A=-", "B=-"), "only one value"),
        (("set", "9A=geheim"), "no name for a secret"),
        (("set", "A=-"), "more than 65536"),
    ],
)
async def test_mistakes_are_wrong_usage_and_repeat_no_value(shop, arguments, said):
    code, stdout, stderr = await shop("secrets", *arguments, stdin=b"geheim" * 11_000)
    assert (code, said in stderr) == (exits.USAGE, True), stderr
    assert "geheim" not in stdout + stderr
    assert await shop.json("secrets", "list") == []


async def test_exit_codes_tell_what_was_wrong(shop):
    assert (await shop("secrets", "set", "A=1", "-a", "nope"))[0] == exits.NOT_FOUND
    made = await shop.json("tokens", "create", "ci", "-o", "acme", "-s", "apps:read", "-x", "1h")
    code, _, stderr = await shop("secrets", "list", "-t", made["token"])
    assert (code, "secrets:read" in stderr) == (exits.NOT_PERMITTED, True)
    shop.world.root_keys.away = True
    code, _, stderr = await shop("secrets", "set", "A=geheim")
    assert (code, "keyring" in stderr) == (exits.UNREACHABLE, True)
    assert "geheim" not in stderr


async def test_the_operator_has_another_root_key_made(running):
    entries = (*registry.ENTRIES, *HOST_ENTRIES)
    assert (await running("secrets", "set", "A=1"))[0] == 0
    before = await secret(running, "A")
    code, _, stderr = await running("control", "rotate-keys", entries=entries)
    assert (code, "--yes" in stderr) == (exits.USAGE, True), "it asks, and there is nobody"
    code, _, stderr = await running("control", "rotate-keys", "--yes", entries=entries)
    assert (code, "wrapped again: 1" in stderr) == (0, True), stderr
    assert await secret(running, "A") == before
    made = await running.json("tokens", "create", "ci", "-o", "acme", "-x", "1h")
    theirs = ("control", "rotate-keys", "--yes", "-t", made["token"])
    code, _, stderr = await running(*theirs, entries=entries)
    assert (code, "error" in stderr) == (exits.NOT_PERMITTED, True), stderr
    assert (await running("secrets", "deploy"))[0] == 0
    assert given(running) == {"A": b"1"}
