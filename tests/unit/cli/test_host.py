"""`godwit host` against the real API over real control."""

import json

import godwit
from godwit.cli import exits, registry
from godwit.cmd import cli
from godwit.wire.joining import Invitation
from godwit.wire.mesh import MeshPeer, MeshReport

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


async def test_how_a_host_reaches_all_others_is_shown_with_it(served):
    heard_s = int(served.world.ctx.clock.now_ms() / 1_000)
    served.world.host.mesh.reached = MeshReport(
        peers=(
            MeshPeer(
                host_id="b2c3d4e5",
                host_number=65_538,
                endpoint="198.51.100.7:51820",
                handshake_s=heard_s,
                received=1_234,
                sent=5_678,
                silent=False,
                rtt_us=45_250,
            ),
            MeshPeer(host_id="c3d4e5f6", host_number=65_539),
        )
    )
    (heard, silent) = (await read(served, "show", HOST))["mesh"]
    assert (heard["endpoint"], heard["rtt_ms"], heard["silent"]) == (
        "198.51.100.7:51820",
        45.25,
        False,
    )
    assert (heard["received_bytes"], heard["sent_bytes"]) == (1_234, 5_678)
    assert (silent["handshake_at"], silent["rtt_ms"], silent["silent"]) == (None, None, True)
    code, stdout, _ = await run(served, "show", HOST)
    assert code == 0
    told = {line.split()[0]: line for line in stdout.splitlines() if line}
    assert told["b2c3d4e5"].split()[1:3] == ["-", "198.51.100.7:51820"]
    assert told["b2c3d4e5"].endswith("1234      5678  45.2 ms     heard")
    assert told["c3d4e5f6"].endswith("never           0         0     -           silent")


async def test_of_a_host_whose_agent_is_away_the_mesh_is_not_known(served):
    served.world.host.away = True
    assert (await read(served, "show", HOST))["mesh"] is None
    code, stdout, stderr = await run(served, "show", HOST)
    assert code == 0
    assert "unreachable" in stdout
    assert "How it reaches other hosts is not known: nobody answers" in stderr


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
