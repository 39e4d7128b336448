import asyncio
import contextlib
import io
import json
from dataclasses import dataclass, field

import pytest
import uvicorn

from godwit.api import app as api
from godwit.base.tasks import Tasks
from godwit.cli import program, registry
from godwit.cli.output import Output
from godwit.cli.session import Session
from godwit.control import moves
from godwit.control.deploys import worker
from godwit.testing.control import world
from godwit.testing.fake_api import FakeApi
from godwit.wire import health

CONFIG = 'app = "hello"\n[http_service]\ninternal_port = 8080\n'


@dataclass
class Finished:
    """One run of the program."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self):
        return json.loads(self.stdout)


@dataclass
class Cli:
    """The program in a directory of its own, speaking to a fake API."""

    fake: FakeApi
    directory: object
    environ: dict
    answers: list = field(default_factory=list)
    interactive: bool = False
    lively: bool = False
    opened: list = field(default_factory=list)

    def __call__(self, *arguments, entries=None) -> Finished:
        stdout, stderr = io.StringIO(), io.StringIO()
        session = Session(
            environ=self.environ,
            directory=self.directory,
            out=Output(stdout, stderr, lively=self.lively),
            ask=self._ask(stderr) if self.interactive else None,
            http=self.fake.transport(),
            clock=self.fake.clock,
            stdin=io.StringIO("typed\n"),
            browse=lambda address: not self.opened.append(address),
        )
        code = program.run(arguments, session, entries or registry.ENTRIES)
        return Finished(code, stdout.getvalue(), stderr.getvalue())

    def _ask(self, stderr):
        def ask(question):
            stderr.write(question + "\n")
            return self.answers.pop(0)

        return ask

    def write(self, name, text):
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path


@pytest.fixture
def cli(tmp_path):
    fake = FakeApi()
    home = tmp_path / "home"
    home.mkdir()
    directory = tmp_path / "work"
    directory.mkdir()
    (home / "cli.json").write_text(
        json.dumps(
            {
                "v": 1,
                "api_url": "http://api.test",
                "token": fake.token,
                "edge_url": "http://127.0.0.1:8080",
                "apps_domain": "godwit.localhost",
            }
        )
    )
    return Cli(fake, directory, {"GODWIT_CONFIG_DIR": str(home), "HOME": str(home)})


class Server(uvicorn.Server):
    """A server that leaves the process's signals alone."""

    @contextlib.contextmanager
    def capture_signals(self):
        yield


class Counting:
    """An ASGI application that keeps the status of every answer."""

    def __init__(self, app):
        self.app = app
        self.statuses = []

    async def __call__(self, scope, receive, send):
        async def kept(message):
            if message["type"] == "http.response.start":
                self.statuses.append(message["status"])
            await send(message)

        await self.app(scope, receive, kept)


class Served:
    """The program, with the operator's token, in a directory of its own."""

    def __init__(self, around, counting, port, token, directory):
        self.world = around
        self.statuses = counting.statuses
        self.directory = directory
        self.environ = {
            "GODWIT_API_URL": f"http://127.0.0.1:{port}",
            "FLY_API_TOKEN": token,
            "HOME": str(directory),
        }

    async def __call__(self, *arguments, directory=None, stdin=b"", entries=None):
        stdout, stderr = io.StringIO(), io.StringIO()
        session = Session(
            environ=self.environ,
            directory=directory or self.directory,
            out=Output(stdout, stderr),
            stdin=io.TextIOWrapper(io.BytesIO(stdin)),
        )
        code = await asyncio.to_thread(
            program.run, arguments, session, entries or registry.ENTRIES
        )
        return code, stdout.getvalue(), stderr.getvalue()

    async def json(self, *arguments):
        code, stdout, stderr = await self(*arguments, "--json")
        assert code == 0, stderr
        return json.loads(stdout)


@pytest.fixture
async def served(tmp_path, limits, monkeypatch):
    # Simulated machines crash at once or never: nobody learns more by watching them for longer.
    monkeypatch.setattr(health, "STEADY_S", 0.2)
    async with world(tmp_path) as plain, Tasks("test") as tasks:
        around = plain.options(rate_limits=limits, join_address="203.0.113.1:4281")
        counting = Counting(api.create(around.ctx))
        server = Server(
            uvicorn.Config(counting, port=0, log_level="error", lifespan="off", ws="none")
        )
        running = tasks.spawn(server.serve(), name="api")
        tasks.spawn(worker.Worker(around.ctx).run(), name="deploys")
        tasks.spawn(moves.Moves(around.ctx).run(), name="moves")
        async with asyncio.timeout(60):
            while not server.started:
                await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        token = await around.token()
        directory = tmp_path / "work"
        directory.mkdir()
        (directory / "fly.toml").write_text(CONFIG)
        (directory / "Dockerfile").write_text("FROM scratch\n")
        yield Served(around, counting, port, token, directory)
        server.should_exit = True
        await running


@pytest.fixture
def limits():
    """Whether requests that come too often are refused; tests set it by parametrization."""
    return False
