"""The program against the real API over real control, on a loopback port: hosts are simulated."""

import io
import tarfile

import pytest

from godwit.cli import exits
from godwit.testing.hosts import SimulatedHost

DEPLOY = (
    *("deploy", "--no-smoke-checks", "--no-ha", "--build-arg", "A=1"),
    *("--build-secret", "npm=geheim", "--label", "team=red"),
)
CONFIG = 'app = "hello"\n[http_service]\ninternal_port = 8080\n'
GROUPS = """\
app = "hello"
[processes]
web = "serve"
worker = "work hard"
[http_service]
internal_port = 8080
processes = ["web"]
"""


async def test_organizations_apps_and_tokens(served):
    assert (await served("orgs", "create", "acme"))[:2] == (0, "acme\n")
    assert [one["slug"] for one in await served.json("orgs", "list")] == ["acme"]
    code, _, stderr = await served("orgs", "create", "acme")
    assert (code, stderr.startswith("error: ")) == (exits.FAILED, True)
    assert (await served("apps", "create", "hello", "-o", "acme"))[:2] == (0, "hello\n")
    assert [one["name"] for one in await served.json("apps", "list")] == ["hello"]
    for word, allowed in (("enable", True), ("disable", False)):
        code, _, _ = await served("orgs", "cross-network-replays", word, "acme")
        assert code == 0
        shown = await served.json("orgs", "show", "acme")
        assert shown["cross_network_replays"] == allowed
    code, _, stderr = await served("apps", "create", "hello", "-o", "acme")
    assert (code, "taken" in stderr) == (exits.FAILED, True)
    made = await served.json("tokens", "create", "ci", "-o", "acme", "-s", "apps:read", "-x", "1h")
    assert made["scopes"] == ["apps:read"]
    assert made["id"] in [one["id"] for one in await served.json("tokens", "list")]
    code, _, stderr = await served("orgs", "create", "other", "-t", made["token"])
    assert (code, "orgs:write" in stderr) == (exits.NOT_PERMITTED, True)
    assert (await served("tokens", "revoke", made["id"], "--yes"))[0] == 0
    assert (await served("apps", "list", "-t", made["token"]))[0] == exits.NOT_PERMITTED
    assert (await served("auth", "whoami"))[0] == 0
    assert (await served("platform", "regions"))[0] == 0
    assert (await served.json("platform", "hosts"))[0]["host_id"] == "a1b2c3d4"
    code, _, stderr = await served("orgs", "delete", "acme", "--yes")
    assert (code, "has 1 apps: hello" in stderr) == (exits.FAILED, True)
    assert (await served("apps", "destroy", "hello", "--yes"))[0] == 0
    code, _, stderr = await served("orgs", "delete", "acme")
    assert (code, "pass --yes" in stderr) == (exits.USAGE, True)
    assert (await served("orgs", "delete", "acme", "-y"))[::2] == (0, "deleted acme\n")
    assert await served.json("orgs", "list") == []


async def test_addresses_come_and_go(served):
    await served("orgs", "create", "acme")
    await served("apps", "create", "hello", "-o", "acme")
    code, stdout, stderr = await served("ips", "list", "-a", "hello")
    assert (code, "hello has none of its own" in stderr) == (0, True)
    code, stdout, _ = await served("ips", "allocate-v4", "-a", "hello", "--yes")
    assert code == 0
    assert stdout.splitlines()[1].split()[:4] == ["v4", "203.0.113.0", "dedicated", "global"]
    given = await served.json("ips", "allocate", "-a", "hello")
    assert [(one["type"], one["shared"]) for one in given] == [("v6", False), ("shared_v4", True)]
    assert [one["ip"] for one in await served.json("ips", "list", "-a", "hello")] == [
        "203.0.113.0",
        *(one["ip"] for one in given),
    ]
    code, _, stderr = await served("ips", "release", "203.0.113.0", "-a", "hello")
    assert (code, "pass --yes" in stderr) == (exits.USAGE, True)
    released = await served("ips", "release", "203.0.113.0", given[0]["ip"], "-a", "hello", "-y")
    assert released[0] == 0
    assert [one["type"] for one in await served.json("ips", "list", "-a", "hello")] == [
        "shared_v4"
    ]


async def test_private_addresses_name_their_network(served):
    await served("orgs", "create", "acme")
    await served("orgs", "create", "rival")
    await served("apps", "create", "hello", "-o", "acme")
    code, stdout, _ = await served("ips", "allocate-v6", "--private", "-a", "hello")
    assert code == 0
    assert "private (acme/default)" in stdout
    within = ("--private", "--org", "rival", "--network", "lab")
    (given,) = await served.json("ips", "allocate-v6", *within, "-a", "hello")
    assert given["network"] == {"name": "lab", "org_slug": "rival"}
    assert await served("ips", "release", given["ip"], "-a", "hello", "-y")


async def test_a_first_deploy_with_flycast_has_nothing_public(served):
    await served("orgs", "create", "acme")
    await served("apps", "create", "hello", "-o", "acme")
    for _ in range(2):
        code, stdout, stderr = await served(*DEPLOY, "--flycast", "--no-public-ips")
        assert (code, stdout) == (0, "http://hello.flycast/\n"), stderr
    (address,) = await served.json("ips", "list", "-a", "hello")
    assert address["type"] == "private_v6"


async def test_addresses_that_cannot_be_had(served):
    await served("orgs", "create", "acme")
    await served("apps", "create", "hello", "-o", "acme")
    for words, said in (
        (("allocate-v6", "--org", "acme"), "--org and --network: go with --private"),
        (("allocate-v6", "--private", "--org", "none"), "organization 'none' not found"),
        (("allocate-v4", "-r", "ams"), "an address of 'ams' alone cannot be had"),
        (("release", "203.0.113.9", "-y"), "app 'hello' has no address 203.0.113.9"),
        (("release", "web", "-y"), "'web' is no IP address"),
    ):
        code, _, stderr = await served("ips", *words, "-a", "hello")
        assert (code != 0, said in stderr) == (True, True), stderr


async def test_two_deploys_and_a_machine_of_its_own(served):
    await served("orgs", "create", "acme")
    await served("apps", "create", "hello", "-o", "acme")
    code, stdout, stderr = await served(*DEPLOY)
    assert (code, stdout) == (0, "http://hello.godwit.localhost:8080/\n"), stderr
    with tarfile.open(fileobj=io.BytesIO(served.world.builder.contexts[0])) as archive:
        assert "Dockerfile" in archive.getnames()
    request = served.world.builder.requests[0]
    assert request.args == {"A": "1"}
    assert request.secrets == {"npm": "geheim"}
    assert request.labels == {"team": "red"}
    assert "geheim" not in stdout + stderr
    machine = (await served.json("machine", "list"))[0]["id"]
    done = await served.json("deploy", "-i", "nginx:1", "--no-smoke-checks")
    assert (done["release"], done["machines"]) == (2, [machine])
    releases = await served.json("releases")
    assert [(one["version"], one["status"]) for one in releases] == [
        (2, "complete"),
        (1, "complete"),
    ]
    status = await served.json("status")
    assert status["machines"][0]["config"]["metadata"]["fly_release_version"] == "2"
    assert (await served("machine", "status", machine))[0] == 0
    assert (await served("machine", "stop", machine, "--wait"))[0] == 0
    assert (await served("machine", "wait", machine, "--state", "stopped"))[1] == "stopped\n"
    assert (await served("machine", "start", machine, "--wait"))[0] == 0
    assert (await served("machine", "restart", machine, "--time", "3"))[0] == 0
    assert (await served("machine", "cordon", machine))[0] == 0
    assert (await served("machine", "uncordon", machine))[0] == 0
    assert (await served("machine", "exec", machine, "true"))[0] == 0
    assert (await served("apps", "restart", "hello"))[0] == 0
    assert (await served("logs", "--no-tail"))[0] == 0
    code, stdout, stderr = await served(
        "machine", "run", "nginx", "-n", "web", "--vm-memory", "512"
    )
    assert code == 0, stderr
    assert (await served("machine", "destroy", "web", "--force", "--yes"))[0] == 0
    assert (await served("apps", "destroy", "hello", "--yes"))[0] == 0
    assert (await served("status"))[0] == exits.NOT_FOUND


async def test_deploys_are_planned_rolled_back_cancelled_and_looked_at(served):
    await served("orgs", "create", "acme")
    await served("apps", "create", "hello", "-o", "acme")
    code, stdout, _ = await served("deploy", "--plan", "-i", "nginx:1")
    assert (code, stdout.count("A machine of app is made in lcl")) == (0, 2)
    assert (await served("deploy", "-i", "nginx:1", "--no-smoke-checks"))[0] == 0
    assert (await served("deploy", "-i", "nginx:2", "--no-smoke-checks", "-e", "A=2"))[0] == 0
    assert (await served.json("config", "show"))["env"] == {"A": "2"}
    shown = await served.json("config", "env")
    assert (shown["env"]["app"]["A"], shown["secrets"]) == ("2", [])
    done = await served.json("rollback", "--no-smoke-checks")
    assert (done["release"], done["status"], done["image"]) == (3, "complete", "nginx:1")
    found = await served.json("releases", "show", "3")
    assert (found["status"], len(found["machines"])) == ("complete", 2)
    assert "env" not in found["config"]
    code, stdout, _ = await served("releases", "--image")
    assert (code, stdout.count("nginx:1")) == (0, 3)
    assert (await served("rollback", "2", "--no-smoke-checks", "--strategy", "immediate"))[0] == 0
    assert (await served("deploy", "--cancel"))[0] == exits.NOT_FOUND
    code, _, stderr = await served("deploy", "-i", "nginx:3", "--process-groups", "nope")
    assert (code, "there is no group" in stderr) == (exits.USAGE, True)
    assert (await served("config", "save", "--yes"))[0] == 0
    assert (await served("status"))[0] == 0


@pytest.mark.parametrize("limits", [True])
async def test_deploys_are_not_held_up_by_the_rate_limits(served):
    await served("orgs", "create", "acme")
    await served("apps", "create", "hello", "-o", "acme")
    for image in ("nginx:1", "nginx:2", "nginx:3"):
        code, _, stderr = await served("deploy", "-i", image, "--no-smoke-checks")
        assert code == 0, stderr
    assert (await served("status"))[0] == 0
    assert served.statuses.count(429) <= 1


@pytest.mark.parametrize("limits", [True])
async def test_a_script_that_asks_too_often_is_slowed_down_and_served(served, monkeypatch):
    await served("orgs", "create", "acme")
    await served("apps", "create", "hello", "-o", "acme")
    assert (await served("machine", "run", "nginx", "-n", "web", "--detach"))[0] == 0
    # However slow this machine is: all of them come at once, until one has been refused.
    clock = served.world.ctx.clock
    began, goes_on = clock.monotonic(), clock.monotonic
    monkeypatch.setattr(clock, "monotonic", lambda: goes_on() if 429 in served.statuses else began)
    codes = {(await served("machine", "cordon", "web"))[0] for _ in range(6)}
    assert codes == {0}
    assert 429 in served.statuses


async def test_what_a_machine_has_beside_its_state(served):
    await served("orgs", "create", "acme")
    await served("apps", "create", "hello", "-o", "acme")
    assert (await served("machine", "run", "nginx", "-n", "web", "-m", "color=blue"))[0] == 0
    assert (await served("machine", "metadata", "set", "web", "size=big"))[0] == 0
    assert (await served("machine", "metadata", "unset", "web", "color"))[0] == 0
    assert await served.json("machine", "metadata", "show", "web") == {"size": "big"}
    assert [one["pid"] for one in await served.json("machine", "ps", "web")] == [1, 7, 9]
    assert (await served.json("machine", "memory", "web", "--limit", "128"))["limit_mb"] == 128
    assert len(await served.json("machine", "versions", "web")) == 1
    assert (await served.json("machine", "events", "web"))[-1]["type"] == "launch"
    assert (await served("machine", "signal", "web", "-s", "SIGHUP"))[0] == 0
    assert (await served("machine", "suspend", "web", "--wait"))[0] == 0
    assert (await served("machine", "start", "web", "--wait"))[0] == 0
    assert await served.json("machine", "leases", "view") == []
    assert (await served("machine", "leases", "clear"))[0] == 0


async def test_launch(served):
    await served("orgs", "create", "acme")
    (served.directory / "fly.toml").unlink()
    code, stdout, stderr = await served(
        "launch", "--name", "shop", "--yes", "--detach", "--secret", "KEY=a=b"
    )
    assert (code, stdout.startswith("dep_")) == (0, True), stderr
    shown = await served.json("config", "env")
    assert [one["name"] for one in shown["secrets"]] == ["KEY"]
    code, stdout, stderr = await served("deploy", "--follow")
    assert code in (0, exits.NOT_FOUND), stderr
    assert 'primary_region = "lcl"' in (served.directory / "fly.toml").read_text()


async def test_refusals_keep_the_servers_words(served):
    await served("orgs", "create", "acme")
    await served("orgs", "create", "rival")
    await served("apps", "create", "hello", "-o", "acme")
    code, _, stderr = await served("deploy")
    assert code == exits.FAILED
    assert "2 organizations share this host" in stderr
    assert "accept it with --force-host-build" in stderr
    assert (await served("deploy", "--force-host-build", "--no-smoke-checks"))[0] == 0
    code, _, stderr = await served("deploy", "-i", "missing:1")
    assert code == exits.NOT_FOUND
    assert "error: missing:1 is not there\n" in stderr
    assert [one["version"] for one in await served.json("releases")] == [1], "nothing was begun"
    code, _, stderr = await served("machine", "run", "x", "--vm-memory", "2gb", "--vm-cpus", "8")
    assert code == 0, stderr
    code, _, stderr = await served("machine", "run", "x", "--vm-size", "performance-4x")
    assert code == exits.FAILED
    code, _, stderr = await served("status", "-a", "nope")
    assert code == exits.NOT_FOUND


async def test_scaling_an_app_of_two_groups(served):
    (served.directory / "fly.toml").write_text(GROUPS)
    await served("orgs", "create", "acme")
    await served("apps", "create", "hello", "-o", "acme")
    code, _, stderr = await served("deploy", "-i", "nginx:1", "--no-smoke-checks", "--ha=false")
    assert code == 0, stderr
    code, stdout, stderr = await served("scale", "count", "worker=3", "web=1", "--yes")
    assert code == 0, stderr
    made = stdout.split()
    shown = {one["group"]: one for one in await served.json("scale", "show")}
    assert {group: one["count"] for group, one in shown.items()} == {"web": 1, "worker": 3}
    machines = {one["id"]: one for one in await served.json("machine", "list")}
    assert {machines[one]["config"]["metadata"]["fly_process_group"] for one in made} <= {
        "web",
        "worker",
    }
    assert (await served("scale", "vm", "shared-cpu-2x", "-g", "worker"))[0] == 0
    assert (await served("scale", "memory", "1gb", "-g", "worker"))[0] == 0
    shown = {one["group"]: one for one in await served.json("scale", "show")}
    assert (shown["worker"]["cpus"], shown["worker"]["memory_mb"]) == (2, 1024)
    assert shown["web"]["memory_mb"] == 256
    assert await served.json("machine", "leases", "view") == []
    done = await served.json("scale", "count", "worker=-2", "--yes")
    assert len(done["destroyed"]) == 2
    code, _, stderr = await served("scale", "count", "worker=2000", "--yes")
    assert code == exits.USAGE


async def test_single_machines_are_made_copied_and_changed(served):
    await served("orgs", "create", "acme")
    await served("apps", "create", "hello", "-o", "acme")
    flags = ("--port", "80:8080/tcp:http", "--autostop", "stop", "-m", "role=x", "-e", "A=1")
    code, _, stderr = await served("machine", "run", "nginx", "-n", "web", *flags)
    assert code == 0, stderr
    code, stdout, stderr = await served(
        "machine", "clone", "web", "-n", "two", "--vm-memory", "512"
    )
    assert code == 0, stderr
    copy = await served.json("machine", "status", "two")
    assert copy["config"]["guest"]["memory_mb"] == 512
    assert copy["config"]["services"][0]["autostop"] is True
    update = ("machine", "update", "two", "-i", "nginx:2", "-e", "B=2", "--restart", "on-fail")
    code, _, stderr = await served(*update, "--kernel-arg", "quiet", "--yes")
    assert code == 0, stderr
    changed = await served.json("machine", "status", "two")
    assert changed["version"] != copy["version"]
    assert changed["config"]["env"] == {"A": "1", "B": "2"}
    assert await served.json("machine", "leases", "view") == []
    assert (await served(*update, "-e", "C=3", "--skip-start", "-y"))[0] == 0
    assert (await served.json("machine", "status", "two"))["state"] == "stopped"
    assert (await served("machine", "restart", "web"))[0] == 0
    code, stdout, stderr = await served("machine", "create", "job:1", "--schedule", "hourly")
    assert code == 0, stderr
    made = await served.json("machine", "status", stdout.strip())
    assert (made["state"], made["config"]["schedule"]) == ("stopped", "hourly")
    code, stdout, stderr = await served("machine", "run", "worker", "--rootfs-size", "2")
    assert code == 0, stderr
    code, spare, stderr = await served(
        "machine", "clone", stdout.strip(), "--standby-for", "source"
    )
    assert code == 0, stderr
    assert (await served.json("machine", "status", spare.strip()))["state"] == "stopped"
    refused = await served("machine", "clone", "web", "--standby-for", "source")
    assert "takes traffic and cannot stand by" in refused[2]
    assert (await served.json("machine", "place", "--count", "2", "-o", "acme"))[0]["count"] == 2
    code, _, stderr = await served("machine", "destroy", "-i", "nginx:2", "-y", "-a", "hello")
    assert code == 0, stderr
    assert (await served("machine", "status", "two"))[0] == exits.NOT_FOUND


async def test_a_one_off_machine_from_a_folder_with_an_app_of_its_own(served):
    await served("orgs", "create", "acme")
    (served.directory / "fly.toml").unlink()
    done = await served.json("machine", "run", ".", "--rm", "--command", "sh -c 'exit 0'")
    assert done["config"]["auto_destroy"] is True
    assert done["config"]["init"] == {"cmd": ["sh", "-c", "exit 0"]}
    assert len(await served.json("apps", "list")) == 1


async def test_a_machine_moves_and_what_keeps_it_is_said(served):
    await served("orgs", "create", "acme")
    await served("apps", "create", "hello", "-o", "acme")
    made = await served.json("machine", "run", "nginx", "-n", "web", "--detach")
    abroad = SimulatedHost("b2c3d4e5", region="ams", stream=served.world.stream)
    await served.world.add_host(abroad, 65_538)
    code, stdout, stderr = await served("machine", "move", "web", "-r", "ams")
    (new,) = abroad.machines
    assert (code, stdout) == (0, f"{new}\n"), stderr
    assert stderr.splitlines() == [
        f"{made['id']} moves to ams",
        f"{new} in ams takes the place of {made['id']}",
    ]
    code, _, stderr = await served("machine", "move", new, "-w", "3s")
    assert code == exits.UNREACHABLE
    assert f"{new} stays for now: no other host of region ams takes machines" in stderr
    assert "machine move --cancel" in stderr
    assert (await served("machine", "move", new, "-r", "lcl"))[0] == exits.FAILED
    assert (await served("machine", "move", new, "--cancel", "-r", "lcl"))[0] == exits.USAGE
    assert (await served("machine", "move", new, "--cancel"))[2] == f"{new} stays where it is\n"
    assert (await served.json("machine", "move", new, "--detach"))["state"] == "wanted"
