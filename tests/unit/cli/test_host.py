"""`godwit host` against the real API over real control."""

import json

import godwit
from godwit.cli import exits, registry
from godwit.cmd import cli
from godwit.wire.joining import Invitation

HOST = "a1b2c3d4"


async def run(served, *arguments):
    return await served("host", *arguments, entries=(*registry.ENTRIES, *cli.HOST_ENTRIES))


async def read(served, *arguments):
    code, stdout, stderr = await run(served, *arguments, "--json")
    assert code == 0, stderr
    return json.loads(stdout)


async def state(served):
    return (await read(served, "show", HOST))["state"]


async def test_a_host_is_shown_cordoned_drained_and_used_again(served):
    (one,) = await read(served, "list")
    assert (one["host_id"], one["state"], one["status"], one["machines"]) == (
        HOST,
        "active",
        "ok",
        0,
    )
    assert one["mesh_address"] == "fdaa::1:1:0:0:1"
    for verb, meant in (("cordon", "cordoned"), ("drain", "draining"), ("uncordon", "active")):
        assert (await run(served, verb, HOST))[0] == 0
        assert await state(served) == meant
    code, stdout, _ = await run(served, "show", HOST)
    assert code == 0
    assert "mesh address" in stdout
    assert (await run(served, "cordon", "ffffffff"))[0] == exits.NOT_FOUND


async def test_a_token_is_shown_once_and_can_be_taken_back(served):
    code, stdout, stderr = await run(served, "token", "--region", "fra", "--ttl", "10m")
    assert code == 0
    assert Invitation.parse(stdout).address == "203.0.113.1:4281"
    assert "godwit host join --token … --region fra" in stderr
    (one,) = await read(served, "tokens")
    assert (one["region"], "token" in one) == ("fra", False)
    assert (await run(served, "revoke-token", one["id"]))[0] == 0
    assert await read(served, "tokens") == []
    code, _, stderr = await run(served, "token", "--ttl", "soon")
    assert (code, "--ttl" in stderr) == (exits.USAGE, True)


async def test_a_removed_host_is_none_of_them_and_is_still_shown(served):
    code, stdout, stderr = await run(served, "remove", HOST, "--yes")
    assert (code, stdout) == (0, ""), stderr
    assert await read(served, "list") == []
    assert await state(served) == "removed"
    code, _, stderr = await run(served, "uncordon", HOST)
    assert (code, "was removed" in stderr) == (exits.FAILED, True)


async def test_which_release_a_host_runs_and_what_is_to_do(served):
    (one,) = await read(served, "upgrade")
    assert one["todo"] == f"install {godwit.__version__} on it, then run `godwit upgrade` there"
    async with served.world.store.write() as rows:
        await rows.hosts.set_release(HOST, godwit.__version__)
    (one,) = await read(served, "upgrade")
    assert (one["release"], one["todo"]) == (godwit.__version__, "")


async def test_the_unit_is_printed_or_written(served, tmp_path):
    code, stdout, _ = await run(served, "units", "--settings", "/etc/godwit/godwit.toml")
    assert code == 0
    assert "/godwit up --settings /etc/godwit/godwit.toml\n" in stdout
    code, _, stderr = await run(served, "units", "--write-to", str(tmp_path))
    assert (code, (tmp_path / "godwit.service").exists()) == (0, True), stderr
    assert (await run(served, "units", "--write-to", "/nowhere"))[0] == exits.USAGE
