"""Every command that the pages for users show works, in the order they show them.

Over real control, with simulated hosts; `tests/e2e/test_pages.py` does the same with microVMs.
"""

import tomllib

import pytest

from godwit.appconfig import files
from godwit.cli import exits
from godwit.testing import deploys, pages
from tests.unit.cli.test_console import typed

CHECKED = """
app = "hello"
[http_service]
internal_port = 8080
[[http_service.checks]]
path = "/"
"""
DOCKERFILE = "FROM scratch\nEXPOSE 8080\n"
AGREED = {
    "launch": ("--yes", "--no-smoke-checks"),
    "deploy": ("--no-smoke-checks",),
    "rollback": ("--no-smoke-checks",),
}
"""What is added to a command, so that nobody has to answer and nothing is slow."""
MAY_FIND_NOTHING = (("deploy", "--follow"), ("deploy", "--cancel"))
"""The deploy they are about may be over."""


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.stem)
def test_every_config_shown_is_right(page):
    for step in pages.steps(page):
        if not step.file:
            continue
        text = step.file if step.whole else f'app = "x"\n{step.file}'
        name = page.with_name("fly.toml")
        loaded = files.understand(name, tomllib.loads(text), text)
        assert loaded.found == (), f"{page.name}:{step.line}"


def added(words):
    extra = list(AGREED.get(words[0], ()))
    given = {one.partition("=")[0] for one in words}
    if words[0] == "launch" and not given & {"--name", "--generate-name"}:
        extra.append("--generate-name")
    return [one for one in extra if one not in words]


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.stem)
async def test_every_command_shown_works(served, page):
    world = served.world
    world.hosts.by_id[world.host.host_id] = deploys.ScriptedHost(
        world.host.host_id, stream=world.stream
    )
    await served("orgs", "create", "personal")
    steps = pages.steps(page)
    assert any(step.words for step in steps)
    await served("apps", "create", "hello", "-o", "personal")
    (served.directory / "fly.toml").write_text(CHECKED)
    if page.stem in pages.OF_AN_APP_THAT_RUNS:
        assert (await served("deploy", "-i", "nginx:1", "--no-smoke-checks"))[0] == 0
    for step in steps:
        if step.file:
            if step.whole:
                (served.directory / "fly.toml").write_text(step.file)
            continue
        directory = served.directory
        if step.words[0] == "launch":
            directory = served.directory / f"launch-{step.line}"
            directory.mkdir()
            (directory / "Dockerfile").write_text(DOCKERFILE)
        stdin = pages.STANDARD_INPUT.get(step.words, "").encode()
        words = (*step.words, *added(step.words))
        if words[0] == "console":
            code, stdout, stderr = await typed(served, stdin, *words)
        else:
            code, stdout, stderr = await served(*words, directory=directory, stdin=stdin)
        fine = (0, exits.NOT_FOUND) if step.words in MAY_FIND_NOTHING else (0,)
        assert code in fine, f"{page.name}:{step.line} {step.words}: {stdout}{stderr}"
