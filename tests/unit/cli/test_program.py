import json
import os
import subprocess
import sys

import pytest
import typer

import godwit
from godwit.base import errors
from godwit.cli import exits, program, registry, tree
from godwit.cli.registry import Entry
from godwit.cmd.cli import HOST_ENTRIES

ENTRIES = (*registry.ENTRIES, *HOST_ENTRIES)


def leaves():
    """Yield every command with the words that call it."""
    root = tree.Root(ENTRIES)
    for entry in ENTRIES:
        yield from under((entry.name,), root.get_command(None, entry.name))


def under(words, command):
    if not hasattr(command, "commands"):
        yield words, command
        return
    for name, one in command.commands.items():
        yield from under((*words, name), one)


LEAVES = list(leaves())
NOT_READS = {
    "launch", "open", "console", "completion", "destroy", "restart", "move", "start", "stop",
    "suspend", "signal", "kill", "cordon", "uncordon", "drain", "wait", "revoke", "revoke-token",
    "up", "down", "upgrade", "bootstrap", "logout", "auth login", "docker", "delete", "clear", "set", "unset",
    "import", "rotate", "secrets deploy", "sync", "units", "ips release", "secrets keys generate",
    "secrets keys rm", "serve-bus", "enable", "disable",
}  # fmt: skip


@pytest.mark.parametrize(("words", "command"), LEAVES, ids=[" ".join(one) for one, _ in LEAVES])
def test_every_command_has_help_with_examples(cli, words, command):
    done = cli(*words, "--help", entries=ENTRIES)
    assert done.code == 0
    assert command.help
    assert "Examples:" in done.stdout
    assert f"godwit {words[0]}" in done.stdout.split("Examples:")[1]
    assert "--access-token" in done.stdout
    for parameter in command.params:
        if parameter.param_type_name == "option":
            assert parameter.help, f"{words}: {parameter.name} says nothing of itself"


@pytest.mark.parametrize(("words", "command"), LEAVES, ids=[" ".join(one) for one, _ in LEAVES])
def test_every_read_prints_json(words, command):
    names = {opt for parameter in command.params for opt in parameter.opts}
    if words[-1] not in NOT_READS and " ".join(words) not in NOT_READS:
        assert "--json" in names


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda one: one.name)
def test_the_summary_is_what_the_command_says_of_itself(entry):
    command = tree.Root(ENTRIES).get_command(None, entry.name)
    assert command.help.splitlines()[0] == entry.summary


def test_help_lists_every_command_and_the_exit_codes(cli):
    done = cli("--help")
    assert done.code == 0
    for entry in registry.ENTRIES:
        assert f"  {entry.name} " in done.stdout
    assert "4 not found" in done.stdout


@pytest.mark.parametrize("words", [(), ("apps",), ("machine",)])
def test_without_a_command_the_help_is_the_error(cli, words):
    done = cli(*words)
    assert done.code == exits.USAGE
    assert done.stdout == ""
    assert done.stderr.startswith("Usage: godwit")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("plattform",),
            (
                "error: no such command 'plattform'. Did you mean 'platform'?\n\n"
                "hint: `godwit --help` tells what it takes\n"
            ),
        ),
        (
            ("apps", "list", "--nope"),
            "error: no such option: --nope\n\nhint: `godwit apps list --help` tells what it takes\n",
        ),
        (
            ("apps", "destroy"),
            (
                "error: missing argument 'NAME...'\n\n"
                "hint: `godwit apps destroy --help` tells what it takes\n"
            ),
        ),
    ],
)
def test_wrong_usage_is_told_with_where_to_look(cli, words, said):
    done = cli(*words)
    assert (done.code, done.stdout, done.stderr) == (exits.USAGE, "", said)


@pytest.mark.parametrize("words", [("m", "ls"), ("machines", "list"), ("machine", "ls")])
def test_other_names_of_a_command(cli, words):
    cli.fake.add_app("hello")
    assert cli(*words, "-a", "hello", "--json").json == []


@pytest.mark.parametrize(
    "words",
    [
        ("-a", "hello", "--json", "machine", "list"),
        ("--app=hello", "machine", "-j", "ls"),
        ("-t", "secret", "machine", "--app", "hello", "list", "--json"),
        ("--verbose", "-j", "machine", "list", "-a", "hello"),
        ("-a", "other", "-j", "m", "list", "-a", "hello"),
        ("-a", "hello", "-j", "releases"),
        ("releases", "-a", "hello", "-j"),
    ],
)
def test_options_may_stand_before_the_command_they_are_for(cli, words):
    cli.fake.add_app("hello")
    assert cli(*words).json == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-a", "hello", "version"), "no such option: -a"),
        (("-z", "version"), "no such option: -z"),
        (("-a",), "no such option: -a"),
    ],
)
def test_an_option_before_a_command_that_has_none_such_is_refused(cli, words, said):
    done = cli(*words)
    assert done.code == exits.USAGE
    assert done.stderr.startswith(f"error: {said}\n")


def test_a_token_before_the_command_counts(cli):
    assert cli("-t", "d", "auth", "token").stdout == "d\n"


def test_options_before_no_command_at_all_are_answered_with_the_help(cli):
    assert cli("-a", "hello").stderr.startswith("Usage: godwit")
    assert cli("-a", "hello", "--help").code == 0


def test_version(cli):
    assert cli("version").stdout == f"godwit {godwit.__version__}\n"
    assert cli("--version").stdout == f"godwit {godwit.__version__}\n"
    assert cli("version", "--json").json["version"] == godwit.__version__


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (errors.not_found("x"), 4),
        (errors.invalid("x"), 2),
        (errors.Failure("permission_denied", "x"), 5),
        (errors.Failure("unavailable", "x"), 3),
        (errors.Failure("conflict", "x"), 1),
        (KeyboardInterrupt(), 130),
        (typer.Exit(7), 7),
        (ZeroDivisionError("x"), 1),
        (BrokenPipeError(), 1),
    ],
)
def test_every_end_has_its_exit_code(cli, monkeypatch, raised, code):
    monkeypatch.setattr(program, "_silence_stdout", lambda: None)
    module = type(sys)("godwit_test_command")
    module.app = tree.single()

    @module.app.command()
    def fail() -> None:
        """Fail."""
        raise raised

    monkeypatch.setitem(sys.modules, "godwit_test_command", module)
    entries = (Entry("fail", "godwit_test_command", "Fail.", "X"),)
    monkeypatch.setattr(registry, "ENTRIES", entries)
    done = cli("fail")
    assert done.code == code
    assert "Traceback" not in done.stderr


def test_a_bug_is_named_as_one_and_shown_only_on_request(cli, monkeypatch):
    monkeypatch.setattr(type(cli.fake), "transport", lambda _: "no transport")
    done = cli("apps", "list")
    assert done.code == 1
    assert done.stderr.startswith("error: this is a bug in godwit: ")
    assert "GODWIT_DEBUG=1" in done.stderr
    cli.environ["GODWIT_DEBUG"] = "1"
    assert "Traceback" in cli("apps", "list").stderr


@pytest.mark.parametrize("flag", ["--debug", "--verbose"])
def test_a_failure_is_shown_with_its_place_where_a_flag_asks_for_it(cli, flag):
    done = cli("status", "--app", "nowhere", flag)
    assert done.code == 4
    assert "Traceback" in done.stderr
    assert "Traceback" not in cli("status", "--app", "nowhere").stderr


@pytest.mark.parametrize(("value", "shown"), [("1", True), ("true", True), ("false", False)])
def test_a_variable_asks_for_it_as_well(cli, value, shown):
    cli.environ["FLY_VERBOSE"] = value
    assert ("Traceback" in cli("status", "--app", "nowhere").stderr) == shown


def test_a_refusal_shows_the_servers_words_and_the_request(cli):
    cli.fake.refuse("GET /x/v1/orgs", 500, {"error": "the database is full"})
    done = cli("orgs", "list")
    assert done.code == 1
    assert done.stderr == "error: the database is full\n       request id req-1\n"


def test_starting_up_takes_no_time():
    loaded = (
        "import sys; from godwit.cmd import cli; sys.argv=['godwit','version'];"
        "code = cli.main();"
        "bad = {'httpx', 'rich', 'yaml', 'tomlkit', 'fastapi', 'sqlalchemy'} & set(sys.modules);"
        "print(sorted(bad)); sys.exit(code)"
    )
    costs = []
    for _ in range(3):
        before = os.times()
        done = subprocess.run(
            [sys.executable, "-c", loaded], capture_output=True, text=True, check=True, timeout=30
        )
        after = os.times()
        costs.append(
            after.children_user
            + after.children_system
            - before.children_user
            - before.children_system
        )
        assert done.stdout == f"godwit {godwit.__version__}\n[]\n"
    assert min(costs) < 0.6, "seconds of CPU, which a busy machine stretches less than the wall"


class TestSettings:
    def test_the_environment_beats_the_file_and_the_flag_beats_both(self, cli):
        assert cli("auth", "token").stdout == "secret\n"
        cli.environ["FLY_API_TOKEN"] = "b"
        assert cli("auth", "token").stdout == "b\n"
        cli.environ["FLY_ACCESS_TOKEN"] = "c"
        assert cli("auth", "token").stdout == "c\n"
        assert cli("auth", "token", "-t", "d").stdout == "d\n"
        assert cli("auth", "token", "-t", "d", "--json").json == {"token": "d"}

    def test_without_a_token_it_says_where_to_get_one(self, cli):
        cli.environ["GODWIT_CONFIG_DIR"] = "/nowhere"
        for words in (("auth", "token"), ("apps", "list")):
            done = cli(*words)
            assert done.code == exits.NOT_PERMITTED
            assert done.stderr.startswith("error: there is no access token\n\nhint: `godwit up`")

    def test_a_wrong_token_is_told(self, cli):
        done = cli("apps", "list", "-t", "wrong")
        assert done.code == exits.NOT_PERMITTED
        assert "token validation error" in done.stderr
        assert "set FLY_API_TOKEN" in done.stderr

    @pytest.mark.parametrize("name", ["GODWIT_API_URL", "FLY_FLAPS_BASE_URL"])
    def test_an_address_that_is_none_is_told(self, cli, name):
        cli.environ[name] = "localhost"
        done = cli("apps", "list")
        assert done.code == exits.USAGE
        assert done.stderr == (
            'error: "localhost" is no address of an API\n\nhint: expected http://host:port\n'
        )

    @pytest.mark.parametrize(
        ("content", "said"),
        [("{", "cannot read"), ("[]", "is not the CLI's file"), ('{"v": 2}', "a newer Godwit")],
    )
    def test_a_file_it_cannot_use_is_told(self, cli, tmp_path, content, said):
        (tmp_path / "home" / "cli.json").write_text(content)
        done = cli("apps", "list")
        assert done.code == exits.USAGE
        assert said in done.stderr

    def test_the_file_is_found_where_other_programs_keep_theirs(self, cli, tmp_path):
        target = tmp_path / "home" / ".config" / "godwit"
        target.mkdir(parents=True)
        (tmp_path / "home" / "cli.json").rename(target / "cli.json")
        del cli.environ["GODWIT_CONFIG_DIR"]
        assert cli("auth", "token").stdout == "secret\n"

    @pytest.mark.parametrize(
        ("edge", "address"),
        [
            ("http://127.0.0.1:8080", "http://hello.godwit.localhost:8080/"),
            ("http://127.0.0.1:80", "http://hello.godwit.localhost/"),
            ("https://edge", "https://hello.godwit.localhost/"),
        ],
    )
    def test_the_address_of_an_app(self, cli, edge, address):
        cli.environ["GODWIT_EDGE_URL"] = edge
        cli.fake.add_app("hello")
        assert cli("open", "-a", "hello").stdout == f"{address}\n"


def test_the_command_line_program_runs_as_a_process(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "godwit.cmd.cli", "apps", "list"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env={
            "GODWIT_API_URL": "http://127.0.0.1:1",
            "FLY_API_TOKEN": "x",
            "HOME": str(tmp_path),
            "PYTHONPATH": ":".join(sys.path),
        },
    )
    assert done.returncode == exits.UNREACHABLE
    assert done.stdout == ""
    assert done.stderr.startswith("error: nothing answers at http://127.0.0.1:1\n\nhint: start ")


def test_json_everywhere_by_environment(cli):
    cli.environ["FLY_JSON"] = "1"
    assert json.loads(cli("orgs", "list").stdout)[0]["slug"] == "personal"
