"""`godwit auth login|logout|docker`; `whoami` and `token` are in `test_commands.py`."""

import base64
import json

import pytest

from godwit.cli import exits

DOCKER = """#!/bin/sh
echo "$@" >"$HOME/docker.args"
cat >"$HOME/docker.stdin"
exit ${DOCKER_EXIT:-0}
"""


@pytest.fixture
def home(cli, tmp_path):
    return tmp_path / "home"


def kept(home):
    return json.loads((home / "cli.json").read_text())


class TestLogin:
    def test_a_token_that_the_platform_knows_is_kept_for_this_user_alone(self, cli, home):
        (home / "cli.json").unlink()
        done = cli("auth", "login", "--api", "http://api.test", "-t", "secret")
        assert done.code == 0, done.stderr
        assert done.stdout == ""
        assert "Logged in at http://api.test as a@b.c" in done.stderr
        assert "secret" not in done.stderr
        assert (kept(home)["api_url"], kept(home)["token"]) == ("http://api.test", "secret")
        assert (home / "cli.json").stat().st_mode & 0o777 == 0o600
        assert cli("auth", "whoami").code == 0

    def test_a_token_nobody_knows_changes_nothing(self, cli, home):
        before = kept(home)
        done = cli("auth", "login", "--access-token", "wrong")
        assert done.code == exits.NOT_PERMITTED
        assert kept(home) == before

    def test_the_token_comes_from_standard_input(self, cli, home):
        cli.fake.token = "typed"
        assert cli("auth", "login", "--token-stdin").code == 0
        assert kept(home)["token"] == "typed"
        assert kept(home)["apps_domain"] == "godwit.localhost"

    def test_what_godwit_up_wrote_is_ours_now(self, cli, home):
        written = {**kept(home), "written_by_up": "/var/lib/godwit"}
        (home / "cli.json").write_text(json.dumps(written))
        where = ("--edge", "https://edge.test", "--apps-domain", "apps.test")
        assert cli("auth", "login", "-t", "secret", *where).code == 0
        assert "written_by_up" not in kept(home)
        cli.fake.add_app("hello")
        assert cli("open", "-a", "hello").stdout == "https://hello.apps.test/\n"

    def test_a_variable_that_goes_before_is_told(self, cli):
        cli.environ["FLY_API_TOKEN"] = "other"
        done = cli("auth", "login", "-t", "secret")
        assert "FLY_API_TOKEN is set, and goes before what was kept" in done.stderr

    @pytest.mark.parametrize(
        ("flags", "said"),
        [
            ((), "pass --token-stdin"),
            (("-t", "secret", "--api", "api.test"), '"api.test" is no address of an API'),
        ],
    )
    def test_what_cannot_be(self, cli, flags, said):
        done = cli("auth", "login", *flags)
        assert done.code == exits.USAGE
        assert said in done.stderr


def test_after_a_logout_there_is_no_token(cli, home):
    assert "Forgot the token" in cli("auth", "logout").stderr
    assert kept(home)["api_url"] == "http://api.test"
    assert cli("auth", "token").code == exits.NOT_PERMITTED
    assert "no token is kept" in cli("auth", "logout").stderr


class TestDocker:
    def test_docker_itself_is_given_the_token_where_nobody_sees_it(self, cli, home):
        program = home / "docker"
        program.write_text(DOCKER)
        program.chmod(0o755)
        cli.environ["PATH"] = f"{home}:/usr/bin:/bin"
        cli.environ["FLY_REGISTRY_HOST"] = "registry.test"
        done = cli("auth", "docker")
        assert done.code == 0, done.stderr
        words = "login --username x --password-stdin registry.test\n"
        assert (home / "docker.args").read_text() == words
        assert (home / "docker.stdin").read_text() == "secret"
        cli.environ["DOCKER_EXIT"] = "1"
        assert "docker login: " in cli("auth", "docker").stderr

    def test_without_a_docker_its_config_file_is_written(self, cli, home):
        cli.environ["PATH"] = str(home)
        path = home / ".docker" / "config.json"
        path.parent.mkdir()
        path.write_text(json.dumps({"auths": {"ghcr.io": {"auth": "eDp5"}}, "x": 1}))
        done = cli("auth", "docker")
        assert f"docker may push to 127.0.0.1:5050/APP; kept in {path}" in done.stderr
        expected = base64.b64encode(b"x:secret").decode()
        assert json.loads(path.read_text()) == {
            "auths": {"ghcr.io": {"auth": "eDp5"}, "127.0.0.1:5050": {"auth": expected}},
            "x": 1,
        }
        path.write_text("[]")
        assert "is not docker's config file" in cli("auth", "docker").stderr
        cli.environ["DOCKER_CONFIG"] = str(home / "else" / "where")
        assert cli("auth", "docker").code == 0
        assert (home / "else" / "where" / "config.json").is_file()
