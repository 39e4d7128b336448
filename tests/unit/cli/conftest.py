import io
import json
from dataclasses import dataclass, field

import pytest

from godwit.cli import program, registry
from godwit.cli.output import Output
from godwit.cli.session import Session
from godwit.testing.fake_api import FakeApi


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
