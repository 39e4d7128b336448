"""`godwit console` against the real API and real control; hosts are simulated."""

import asyncio
import contextlib
import io
import os
import pty
import sys
import termios

import pytest

from godwit.cli import exits, program
from godwit.cli.output import Output
from godwit.cli.session import Session


async def typed(served, text, *arguments):
    """Run the program with input from a pipe; return exit code, stdout and stderr."""
    reading, writing = os.pipe()
    os.write(writing, text)
    os.close(writing)
    stdout, stderr = io.StringIO(), io.StringIO()
    with os.fdopen(reading) as stdin:
        session = Session(
            environ=served.environ,
            directory=served.directory,
            out=Output(stdout, stderr),
            stdin=stdin,
        )
        code = await asyncio.to_thread(program.run, arguments, session)
    return code, stdout.getvalue(), stderr.getvalue()


async def deployed(served):
    await served("orgs", "create", "acme")
    await served("apps", "create", "hello", "-o", "acme")
    (served.directory / "fly.toml").write_text(
        'app = "hello"\nconsole_command = "irb --simple"\n[env]\nMODE = "dev"\n'
    )
    code, _, stderr = await served("deploy", "-i", "nginx:1", "--no-smoke-checks", "--no-ha")
    assert code == 0, stderr


async def machines(served):
    return [one["id"] for one in await served.json("machine", "list")]


async def test_a_console_runs_in_a_machine_of_its_own_which_is_gone_afterwards(served):
    await deployed(served)
    before = await machines(served)
    code, stdout, stderr = await typed(served, b"hello\nexit 3\n", "console")
    assert (code, stdout) == (3, "irb --simple for root\nhello\n"), stderr
    assert "is made for this console" in stderr
    assert "is destroyed" in stderr
    assert await machines(served) == before
    (made,) = [
        one
        for one in await served.json("machine", "list", "--all")
        if one["config"]["metadata"]["fly_process_group"] == "fly_app_console"
    ]
    assert made["state"] == "destroyed"
    assert made["config"]["auto_destroy"] is True
    assert made["config"]["env"]["MODE"] == "dev"
    assert "services" not in made["config"]


async def test_the_new_machine_gets_ports_files_and_an_entrypoint_of_its_own(served):
    await deployed(served)
    (served.directory / "fix.sql").write_text("select 1")
    asked = ("--port", "81:8080/tcp:http", "--entrypoint", "/init --quiet")
    given = ("--file-local", "/tmp/fix.sql=fix.sql", "--file-literal", "/key=KEY")
    code, _, stderr = await typed(served, b"exit 0\n", "console", *asked, *given)
    assert code == 0, stderr
    (made,) = [
        one["config"]
        for one in await served.json("machine", "list", "--all")
        if one["config"]["metadata"]["fly_process_group"] == "fly_app_console"
    ]
    assert made["init"] == {"entrypoint": ["/init", "--quiet"], "cmd": ["sleep", "43200"]}
    assert [one["internal_port"] for one in made["services"]] == [8080]
    assert made["files"] == [
        {"guest_path": "/tmp/fix.sql", "raw_value": "c2VsZWN0IDE="},
        {"guest_path": "/key", "raw_value": "S0VZ"},
    ]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--volume", "data:/data"), "--volume: this platform has no volumes yet"),
        (("--file-local", "/a=nope"), "--file-local: cannot read"),
        (("--entrypoint", "'a"), "--entrypoint: No closing quotation in 'a"),
        (("--port", "x"), "--port x: expected EXTERNAL"),
        (("--machine", "m", "--port", "80"), "--port: it is for a new machine"),
        (("--select", "--env", "A=b"), "--env: it is for a new machine"),
    ],
)
async def test_a_console_that_cannot_be(served, flags, said):
    await deployed(served)
    code, _, stderr = await typed(served, b"", "console", *flags)
    assert code == exits.USAGE
    assert said in stderr
    assert len(await served.json("machine", "list", "--all")) == 1


async def test_a_console_in_a_machine_that_runs_leaves_it_running(served):
    await deployed(served)
    (one,) = await machines(served)
    code, stdout, _ = await typed(
        served, b"", "console", "--machine", one, "-C", "ls -l", "--user", "www"
    )
    assert (code, stdout) == (0, "ls -l for www\n")
    assert await machines(served) == [one]


async def test_a_machine_that_runs_is_chosen(served):
    await deployed(served)
    (one,) = await machines(served)
    code, stdout, _ = await typed(served, b"", "console", "--select", "-C", "ls")
    assert (code, stdout) == (0, "ls for root\n")
    assert await machines(served) == [one]


async def test_where_nobody_can_choose_among_several_the_flag_is_named(served):
    await deployed(served)
    await served("scale", "count", "2", "--yes")
    code, _, stderr = await typed(served, b"", "console", "--select")
    assert code == exits.USAGE
    assert "pass --machine to choose" in stderr


async def test_without_a_machine_that_runs_there_is_nothing_to_choose(served):
    await deployed(served)
    (one,) = await machines(served)
    await served("machine", "stop", one, "--wait")
    code, _, stderr = await typed(served, b"", "console", "--select")
    assert code == exits.FAILED
    assert "no machine of hello runs" in stderr


async def test_a_shell_in_a_new_machine_of_any_image_leaves_nothing(served):
    await served("orgs", "create", "acme")
    await served("apps", "create", "hello", "-o", "acme")
    run = ("machine", "run", "alpine:3", "--shell")
    code, stdout, stderr = await typed(
        served, b"x\nexit 3\n", *run, "--app", "hello", "--user", "www", "-e", "A=b"
    )
    assert (code, stdout) == (3, "/bin/sh for www\nx\n"), stderr
    assert await served.json("machine", "list", "--app", "hello") == []
    (made,) = await served.json("machine", "list", "--all", "--app", "hello")
    assert made["config"]["init"] == {"exec": ["sleep", "43200"]}
    assert made["config"]["env"] == {"A": "b"}
    (served.directory / "fly.toml").unlink()
    code, stdout, stderr = await typed(served, b"", *run, "--command", "ls -l", "--org", "acme")
    assert (code, stdout) == (0, "ls -l for root\n"), stderr
    assert "made the app" in stderr, stderr
    assert [one["name"] for one in await served.json("apps", "list")] == ["hello"]
    code, _, stderr = await typed(served, b"", *run, "--app", "hello", "ls")
    assert (code, "--shell: name what to run in it with --command" in stderr) == (2, True)


async def test_an_app_that_was_never_deployed_has_no_console(served):
    await served("orgs", "create", "acme")
    await served("apps", "create", "hello", "-o", "acme")
    code, _, stderr = await typed(served, b"", "console")
    assert (code, "never deployed" in stderr) == (exits.FAILED, True)


async def test_at_a_terminal_every_key_goes_to_the_machine(served):
    await deployed(served)
    (one,) = await machines(served)
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (33, 101))
    before = termios.tcgetattr(theirs)
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "godwit.cmd.cli", "console", "--machine", one, "-C", "sh"),
        stdin=theirs,
        stdout=theirs,
        stderr=asyncio.subprocess.PIPE,
        cwd=served.directory,
        env={**os.environ, **served.environ, "COLUMNS": "80"},
    )
    os.set_blocking(ours, False)
    said = b""
    try:
        async with asyncio.timeout(45):
            while b"sh for root" not in said:
                said += await read(ours, running)
            # Raw: Ctrl-C is a key like any other, and nothing is echoed here.
            os.write(ours, b"\x03size\nsize\nexit 4\n")
            while b"33 x 101" not in said:
                said += await read(ours, running)
            assert await running.wait() == 4
    finally:
        if running.returncode is None:
            running.kill()
        _, stderr = await running.communicate()
    assert b"\x03size\n33 x 101\n" in said, stderr
    assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)


async def read(terminal, program):
    """Return what came at a terminal's other end, nothing after a moment; demand a program."""
    with contextlib.suppress(BlockingIOError):
        return os.read(terminal, 1024)
    assert program.returncode is None, "the program ended early"
    await asyncio.sleep(0.02)
    return b""


async def test_a_container_is_one_of_a_machine_that_runs(served):
    await deployed(served)
    code, _, stderr = await typed(served, b"", "console", "--container", "db")
    assert code != 0
    assert "--container: a new machine has none" in stderr
    (machine,) = await served.json("machine", "list")
    asked = ("console", "--machine", machine["id"], "--container", "db", "--command", "sh")
    code, stdout, stderr = await typed(served, b"exit 0\n", *asked)
    assert code == 0, stderr
    assert "sh for root in db" in stdout
