"""`godwit registries` against the real API over real control."""

import asyncio
import contextlib
import io
import json

import pytest
import uvicorn

from godwit.api import app as api
from godwit.base.tasks import Tasks
from godwit.cli import exits, program
from godwit.cli.output import Output
from godwit.cli.session import Session
from godwit.testing.control import world

HOST = "registry.example.com"


class Server(uvicorn.Server):
    """A server that leaves the process's signals alone."""

    @contextlib.contextmanager
    def capture_signals(self):
        yield


@pytest.fixture
async def godwit(tmp_path):
    """Return the program, with acme's token and something on its standard input."""
    async with world(tmp_path) as around, Tasks("test") as tasks:
        await around.organization("acme")
        config = uvicorn.Config(api.create(around.ctx), port=0, lifespan="off", log_config=None)
        server = Server(config)
        serving = tasks.spawn(server.serve(), name="serve")
        async with asyncio.timeout(60):
            while not server.started:
                await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        environ = {
            "GODWIT_API_URL": f"http://127.0.0.1:{port}",
            "FLY_API_TOKEN": await around.token("acme"),
            "HOME": str(tmp_path),
        }

        async def run(*arguments, stdin="", ask_secret=None):
            stdout, stderr = io.StringIO(), io.StringIO()
            session = Session(
                environ=environ,
                directory=tmp_path,
                out=Output(stdout, stderr),
                ask_secret=ask_secret,
                stdin=io.StringIO(stdin),
            )
            code = await asyncio.to_thread(program.run, arguments, session)
            return code, stdout.getvalue(), stderr.getvalue()

        run.world = around
        yield run
        server.should_exit = True
        await serving


async def test_a_password_is_read_from_standard_input_and_never_shown(godwit):
    code, stdout, stderr = await godwit(
        "registries", "login", HOST, "-u", "bot", "--password-stdin", stdin="geheim\n"
    )
    assert code == 0, stderr
    assert "acme may use images of registry.example.com as bot" in stderr
    assert "geheim" not in stdout + stderr
    code, stdout, stderr = await godwit("registries", "list", "--json")
    (listed,) = json.loads(stdout)
    assert (listed["registry"], listed["username"]) == (HOST, "bot")
    assert set(listed) == {"registry", "username", "created_at", "updated_at"}
    assert "geheim" not in stdout + stderr
    code, stdout, _ = await godwit("registries", "list")
    assert HOST in stdout
    assert "geheim" not in stdout


async def test_at_a_terminal_the_password_is_asked_for(godwit):
    asked = []

    def ask_secret(question):
        asked.append(question)
        return "geheim"

    code, _, stderr = await godwit("registries", "login", HOST, "-u", "b", ask_secret=ask_secret)
    assert code == 0, stderr
    assert asked == [f"Password for {HOST}: "]


async def test_without_a_terminal_the_flag_is_named(godwit):
    code, _, stderr = await godwit("registries", "login", HOST, "-u", "bot")
    assert code == exits.USAGE
    assert "--password-stdin" in stderr


async def test_an_empty_password_is_refused(godwit):
    code, _, stderr = await godwit(
        "registries", "login", HOST, "-u", "bot", "--password-stdin", stdin="\n"
    )
    assert code != 0
    assert "empty" in stderr


async def test_what_the_registry_refuses_is_said(godwit):
    godwit.world.images.refused.add(HOST)
    login = ("registries", "login", HOST, "-u", "bot", "--password-stdin")
    code, _, stderr = await godwit(*login, stdin="wrong")
    assert code != 0
    assert "refuses these credentials" in stderr
    assert "wrong" not in stderr
    code, _, stderr = await godwit(*login, "--unchecked", stdin="wrong")
    assert code == 0, stderr


async def test_logout_asks_and_forgets(godwit):
    await godwit("registries", "login", HOST, "-u", "b", "--password-stdin", stdin="geheim")
    code, _, stderr = await godwit("registries", "logout", HOST)
    assert code != 0
    assert "--yes" in stderr
    code, _, stderr = await godwit("registries", "logout", HOST, "--yes")
    assert code == 0, stderr
    code, stdout, _ = await godwit("registries", "list", "--json")
    assert json.loads(stdout) == []
    code, _, stderr = await godwit("registries", "logout", HOST, "--yes")
    assert code == exits.NOT_FOUND
    assert "godwit registries list" in stderr
