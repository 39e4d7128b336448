"""The program against the real API over real control, on a loopback port: hosts are simulated."""

import asyncio
import contextlib
import io
import json
import tarfile

import pytest
import uvicorn

from godwit.api import app as api
from godwit.base.tasks import Tasks
from godwit.cli import exits, program
from godwit.cli.output import Output
from godwit.cli.session import Session
from godwit.testing.control import world

CONFIG = 'app = "hello"\n[http_service]\ninternal_port = 8080\n'


class Server(uvicorn.Server):
    """A server that leaves the process's signals alone."""

    @contextlib.contextmanager
    def capture_signals(self):
        yield


class Served:
    """The program, with the operator's token, in a directory of its own."""

    def __init__(self, around, port, token, directory):
        self.world = around
        self.directory = directory
        self.environ = {
            "GODWIT_API_URL": f"http://127.0.0.1:{port}",
            "FLY_API_TOKEN": token,
            "HOME": str(directory),
        }

    async def __call__(self, *arguments):
        stdout, stderr = io.StringIO(), io.StringIO()
        session = Session(
            environ=self.environ, directory=self.directory, out=Output(stdout, stderr)
        )
        code = await asyncio.to_thread(program.run, arguments, session)
        return code, stdout.getvalue(), stderr.getvalue()

    async def json(self, *arguments):
        code, stdout, stderr = await self(*arguments, "--json")
        assert code == 0, stderr
        return json.loads(stdout)


@pytest.fixture
async def served(tmp_path):
    async with world(tmp_path) as around, Tasks("test") as tasks:
        server = Server(
            uvicorn.Config(
                api.create(around.ctx), port=0, log_level="error", lifespan="off", ws="none"
            )
        )
        running = tasks.spawn(server.serve(), name="api")
        async with asyncio.timeout(20):
            while not server.started:
                await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        token = await around.token()
        directory = tmp_path / "work"
        directory.mkdir()
        (directory / "fly.toml").write_text(CONFIG)
        (directory / "Dockerfile").write_text("FROM scratch\n")
        yield Served(around, port, token, directory)
        server.should_exit = True
        await running


async def test_organizations_apps_and_tokens(served):
    assert (await served("orgs", "create", "acme"))[:2] == (0, "acme\n")
    assert [one["slug"] for one in await served.json("orgs", "list")] == ["acme"]
    code, _, stderr = await served("orgs", "create", "acme")
    assert (code, stderr.startswith("error: ")) == (exits.FAILED, True)
    assert (await served("apps", "create", "hello", "-o", "acme"))[:2] == (0, "hello\n")
    assert [one["name"] for one in await served.json("apps", "list")] == ["hello"]
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


async def test_two_deploys_and_a_machine_of_its_own(served):
    await served("orgs", "create", "acme")
    await served("apps", "create", "hello", "-o", "acme")
    code, stdout, stderr = await served("deploy", "--no-smoke-checks", "--build-arg", "A=1")
    assert (code, stdout) == (0, "http://hello.godwit.localhost:8080/\n"), stderr
    with tarfile.open(fileobj=io.BytesIO(served.world.builder.contexts[0])) as archive:
        assert "Dockerfile" in archive.getnames()
    assert served.world.builder.requests[0].args == {"A": "1"}
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


async def test_launch(served):
    await served("orgs", "create", "acme")
    (served.directory / "fly.toml").unlink()
    code, stdout, stderr = await served("launch", "--name", "shop", "--yes", "--detach")
    assert (code, stdout) == (0, "http://shop.godwit.localhost:8080/\n"), stderr
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
    assert (await served.json("releases"))[0]["status"] == "failed"
    code, _, stderr = await served("machine", "run", "x", "--vm-memory", "2gb", "--vm-cpus", "8")
    assert code == 0, stderr
    code, _, stderr = await served("machine", "run", "x", "--vm-size", "performance-4x")
    assert code == exits.FAILED
    code, _, stderr = await served("status", "-a", "nope")
    assert code == exits.NOT_FOUND
