"""Every command of the pages about scaling, consoles and single machines works, in their order.

Over real control, with simulated hosts in the regions that the pages name. What a page takes for
granted (a machine named `web`, one that has ended) is made just before the command that needs it.
"""

import re

import pytest

from godwit.control.strays import Strays
from godwit.control.watcher import Watcher
from godwit.testing import deploys, pages
from tests.unit.cli.test_console import typed

CONFIG = """
app = "hello"
[processes]
web = "serve"
worker = "work"
[http_service]
internal_port = 8080
processes = ["web"]
"""
AGREED = {
    ("scale", "count"): ("--yes",),
    ("machine", "update"): ("--yes",),
}
"""What is added to a command, so that nobody has to answer."""
NAMES = ("web", "web-2", "worker")
ID = re.compile(r"148[0-9a-f]{11}")
"""How the pages write a machine's id."""


class Reader:
    """Somebody who does what a page says."""

    def __init__(self, served):
        self.served = served

    async def begin(self):
        """Make the platform and the app that the pages are about."""
        world = self.served.world
        for number, region in enumerate(("lcl", "fra", "ams")):
            host_id = world.host.host_id if region == "lcl" else f"b{number}b2b2b2"
            host = deploys.ScriptedHost(
                host_id, region=region, memory_mb=65_536, stream=world.stream
            )
            await world.add_host(host, 65_537 + number)
        await self.does("orgs", "create", "personal")
        for app in ("hello", "web", "tools"):
            await self.does("apps", "create", app, "-o", "personal")
        (self.served.directory / "fly.toml").write_text(CONFIG)
        (self.served.directory / "fix.sql").write_text("select 1;\n")
        report = self.served.directory / "report"
        report.mkdir()
        (report / "Dockerfile").write_text("FROM scratch\n")
        await self.does("deploy", "-i", "nginx:1", "--no-smoke-checks", "--no-ha")

    async def does(self, *words, stdin=""):
        """Run one command, which has to work; return what it printed."""
        if words[0] == "console":
            code, stdout, stderr = await typed(self.served, stdin.encode(), *words)
        else:
            code, stdout, stderr = await self.served(*words, stdin=stdin.encode())
        assert code == 0, f"{words}: {stdout}{stderr}"
        return stdout

    async def follows(self, step):
        """Do one step of a page, and before it what it takes for granted."""
        stdin = pages.STANDARD_INPUT.get(step.words, "")
        words = [*step.words, *AGREED.get(step.words[:2], ())]
        if words[0] == "machine" and "--app" not in words:
            await self._have_what_is_named(words)
        if any(ID.fullmatch(one) for one in words):
            machine_id = await self._a_machine(ended="destroyed" in words)
            words = [ID.sub(machine_id, one) for one in words]
        return await self.does(*words, stdin=stdin)

    async def _have_what_is_named(self, words):
        await self._hear_of_what_is_gone()
        listed = await self.served.json("machine", "list")
        there = {one["name"] for one in listed}
        made = {words[words.index("--name") + 1]} if "--name" in words else set()
        for name in (set(words) & set(NAMES)) - there - made:
            await self.does("machine", "run", "nginx:1.25", "--name", name)
        if "nginx:1.25" in words:
            await self.does("machine", "run", "nginx:1.25")

    async def _hear_of_what_is_gone(self):
        world = self.served.world
        told = [
            host.fact(machine)
            for host in world.hosts.by_id.values()
            for machine in host.machines.values()
        ]
        await Watcher(world.ctx, lambda: None, Strays(world.ctx)).apply_batch(told)

    async def _a_machine(self, *, ended):
        made = (await self.does("machine", "run", "alpine:3", "--detach")).strip()
        if ended:
            await self.does("machine", "destroy", made, "--force", "--yes")
        return made


@pytest.mark.parametrize("page", pages.OF_MACHINES, ids=lambda page: page.stem)
async def test_every_command_shown_works(served, page):
    reader = Reader(served)
    await reader.begin()
    steps = [step for step in pages.steps(page) if step.words]
    assert steps
    for step in steps:
        await reader.follows(step)


async def test_what_the_page_on_scaling_leaves_is_what_it_says(served):
    reader = Reader(served)
    await reader.begin()
    (page,) = (one for one in pages.OF_MACHINES if one.stem == "scale")
    for step in pages.steps(page):
        await reader.follows(step)
    shown = {one["group"]: one for one in await served.json("scale", "show")}
    assert shown["web"]["regions"] == {"lcl": 3, "fra": 2, "ams": 2}
    assert (shown["worker"]["count"], shown["worker"]["memory_mb"]) == (2, 4096)
    assert shown["web"]["memory_mb"] == 1024
