import json
import tomllib

import pytest
import yaml

from godwit.cli import exits

DEFINITION = {"app": "hello", "env": {"A": "1"}, "http_service": {"internal_port": 8080}}


@pytest.fixture
def hello(cli):
    """Return the program in the directory of an app that exists."""
    cli.fake.add_app("hello")
    cli.write("fly.toml", 'app = "hello"\n[http_service]\ninternal_port = 8080\n')
    return cli


@pytest.fixture
def deployed(hello):
    """Return the same, deployed twice; the second did not come up."""
    hello.fake.releases["hello"] = [
        {"id": "rel_1", "version": 1, "status": "complete", "config": DEFINITION},
        {"id": "rel_2", "version": 2, "status": "failed", "config": {**DEFINITION, "env": {}}},
    ]
    return hello


class TestRemotely:
    def test_show_what_runs(self, deployed):
        done = deployed("config", "show")
        assert done.json == DEFINITION
        assert done.stderr == "Release v1 of hello (complete)\n"
        assert tomllib.loads(deployed("config", "show", "--toml").stdout) == DEFINITION
        assert yaml.safe_load(deployed("config", "show", "--yaml").stdout) == DEFINITION
        assert deployed("config", "show", "--toml", "--yaml").code == exits.USAGE
        machine = deployed("config", "show", "--machine").json["app"]
        assert machine["services"][0]["internal_port"] == 8080

    def test_show_without_a_file(self, deployed):
        (deployed.directory / "fly.toml").unlink()
        assert deployed("config", "show", "--app", "hello").json == DEFINITION
        assert deployed("config", "show").code == exits.USAGE

    def test_show_what_failed_when_nothing_else_is_there(self, deployed):
        del deployed.fake.releases["hello"][0]
        assert deployed("config", "show").stderr == "Release v2 of hello (failed)\n"

    def test_show_of_an_app_that_was_never_deployed(self, hello):
        done = hello("config", "show")
        assert done.code == exits.NOT_FOUND
        assert "hello was never deployed" in done.stderr
        assert "config show --local" in done.stderr

    def test_env(self, deployed):
        assert deployed("config", "env").stdout == (
            "PROCESS  NAME               VALUE\n"
            "app      A                  1\n"
            "app      FLY_PROCESS_GROUP  app\n"
        )
        assert deployed("config", "env", "--json").json["env"]["app"]["A"] == "1"


class TestSave:
    def test_a_file_that_is_there_keeps_comments_and_order(self, deployed):
        mine = (
            "# mine\n[http_service] # the service\n  internal_port = 80 # its port\n\n"
            "[env]\nA = '1'\n"
        )
        path = deployed.write("fly.toml", mine)
        done = deployed("config", "save", "--app", "hello", "--yes")
        assert done.stderr == f"Wrote release v1 of hello to {path}\n"
        assert path.read_text() == mine.replace("# mine\n", '# mine\napp = "hello"\n\n').replace(
            "= 80 ", "= 8080 "
        )
        done = deployed("config", "save")
        assert done.stderr == f"{path} says the same as release v1\n"

    def test_a_file_that_is_there_is_changed_only_when_agreed(self, deployed):
        before = (deployed.directory / "fly.toml").read_text()
        done = deployed("config", "save")
        assert done.code == exits.USAGE
        assert "pass --yes" in done.stderr
        deployed.interactive, deployed.answers = True, ["n"]
        assert deployed("config", "save").code == exits.FAILED
        assert (deployed.directory / "fly.toml").read_text() == before

    @pytest.mark.parametrize(
        ("flag", "name", "read"),
        [("--json", "fly.json", json.loads), ("--yaml", "fly.yaml", yaml.safe_load)],
    )
    def test_a_new_file_in_another_format(self, deployed, flag, name, read):
        assert deployed("config", "save", "-a", "hello", flag).code == 0
        assert read((deployed.directory / name).read_text()) == DEFINITION

    def test_a_file_somewhere_else(self, deployed):
        (deployed.directory / "sub").mkdir()
        assert deployed("config", "save", "-a", "hello", "-c", "sub").code == 0
        text = (deployed.directory / "sub" / "fly.toml").read_text()
        assert tomllib.loads(text) == DEFINITION
        assert deployed("config", "save", "-a", "hello", "-c", "x.ini").code == exits.USAGE

    def test_a_file_that_cannot_be_read_is_written_anew(self, deployed):
        path = deployed.write("fly.toml", 'app = "hello"\n[[[')
        assert deployed("config", "save", "--yes").code == 0
        assert tomllib.loads(path.read_text()) == DEFINITION

    def test_of_an_app_that_was_never_deployed(self, hello):
        assert hello("config", "save", "--yes").code == exits.NOT_FOUND


class TestLocally:
    def test_show_the_file(self, hello):
        assert hello("config", "show", "--local").json["http_service"] == {"internal_port": 8080}
        machine = hello("config", "show", "--local", "--machine").json["app"]
        assert machine["services"][0]["internal_port"] == 8080

    def test_validate(self, hello):
        assert hello("config", "validate").stdout == "fly.toml is valid\n"
        assert hello("config", "validate", "--json").json == {"valid": True, "problems": []}

    def test_validate_tells_every_mistake(self, hello):
        hello.write("fly.toml", 'app = "No"\n[http_service]\ninternal_port = 0\n')
        done = hello("config", "validate")
        assert (done.code, done.stdout) == (exits.USAGE, "")
        assert done.stderr.splitlines()[0] == "error: fly.toml has 2 mistakes:"
        assert "  fly.toml:3: http_service.internal_port: expected a port from" in done.stderr
        done = hello("config", "validate", "--json")
        assert (done.code, done.json["valid"]) == (exits.USAGE, False)
        assert done.json["problems"][1]["line"] == 3

    def test_strict_refuses_unknown_keys(self, hello):
        hello.write("fly.toml", 'app = "hello"\n\n[env]\n[http_service]\nport = 1\n')
        assert hello("config", "validate").code == 0
        done = hello("config", "validate", "--strict")
        assert done.code == exits.USAGE
        assert "fly.toml:5: http_service.port: nobody knows this key" in done.stderr

    def test_validate_warns_of_what_has_no_effect(self, hello):
        hello.write("fly.toml", 'app = "hello"\nhost_dedication_id = "x"\n')
        done = hello("config", "validate")
        assert done.stdout == "fly.toml is valid\n"
        warning = "warning: fly.toml: host_dedication_id: hosts cannot be reserved yet\n"
        assert done.stderr == warning

    def test_env(self, hello):
        hello.write("fly.toml", 'app = "hello"\nprimary_region = "lcl"\n[env]\nB = 2\nA = "1"\n')
        assert hello("config", "env", "--local").stdout == (
            "PROCESS  NAME               VALUE\n"
            "app      A                  1\n"
            "app      B                  2\n"
            "app      FLY_PROCESS_GROUP  app\n"
            "app      PRIMARY_REGION     lcl\n"
        )
        assert hello("config", "env", "--local", "-j").json["env"]["app"]["B"] == "2"

    def test_without_a_file(self, cli):
        done = cli("config", "validate")
        assert done.code == exits.NOT_FOUND
        assert "`godwit launch` writes one" in done.stderr
