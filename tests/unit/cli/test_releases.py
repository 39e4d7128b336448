import pytest

from godwit.cli import exits
from godwit.testing.fake_machine import managed_config

DEFINITION = {"app": "hello", "http_service": {"internal_port": 8080}}


@pytest.fixture
def hello(cli):
    """Return the program in the directory of an app with two releases."""
    cli.fake.add_app("hello")
    cli.write("fly.toml", 'app = "hello"\n[http_service]\ninternal_port = 8080\n')
    for number in (1, 2):
        assert cli("deploy", "-i", f"nginx:{number}").code == 0
    cli.fake.bodies.clear()
    return cli


class TestList:
    def test_newest_first(self, hello):
        done = hello("releases")
        assert done.code == 0
        rows = [line.split() for line in done.stdout.splitlines()]
        assert rows[0] == ["VERSION", "STATUS", "DESCRIPTION", "USER", "DATE"]
        assert [row[:4] for row in rows[1:]] == [
            ["v2", "complete", "deploy", "of"],
            ["v1", "complete", "deploy", "of"],
        ]

    @pytest.mark.parametrize(
        "words", [("releases", "--image"), ("releases", "list", "--image"), ("apps", "releases")]
    )
    def test_the_verb_may_be_left_out(self, hello, words):
        done = hello(*words, "--app", "hello")
        assert done.code == 0
        assert done.stdout.count("nginx:2") == (2 if "--image" in words else 1)

    def test_json(self, hello):
        assert [one["version"] for one in hello("releases", "--json").json] == [2, 1]
        assert hello("releases", "--limit", "1", "-j").code == 0
        assert hello.fake.calls[-1].endswith("releases?limit=1")


class TestShow:
    def test_what_it_was_made_of_and_which_machines_run_it(self, hello):
        done = hello("releases", "show", "2")
        assert done.code == 0
        said = done.stdout
        assert said.startswith("Release      v2\nStatus       complete\n")
        assert "Image        nginx:2\n" in said
        assert "00000000000001" in said
        assert said.endswith('\napp = "hello"\n\n[http_service]\ninternal_port = 8080\n')
        assert "no machine runs it" in hello("releases", "show", "v1").stdout

    def test_how_it_failed(self, hello):
        hello.fake.releases["hello"][1].update(status="failed", error="keeps crashing")
        assert "Error        keeps crashing\n" in hello("releases", "show", "2").stdout

    def test_json(self, hello):
        found = hello("releases", "show", "2", "--json").json
        assert (found["version"], found["machines"]) == (2, ["00000000000001"])
        assert found["config"] == DEFINITION

    @pytest.mark.parametrize("number", ["x", "0", "-1x", "99999999999999", "²"])
    def test_a_number_that_is_none(self, hello, number):
        done = hello("releases", "show", "--", number)
        assert done.code == exits.USAGE
        assert "expected the number of a release" in done.stderr

    def test_one_that_is_not_there(self, hello):
        assert hello("releases", "show", "7").code == exits.NOT_FOUND


class TestRollback:
    def test_to_the_release_before(self, hello):
        done = hello("rollback")
        assert (done.code, done.stdout) == (0, "http://hello.godwit.localhost:8080/\n")
        assert "Release v3 of hello is deployed" in done.stderr
        assert hello.fake.machines["00000000000001"].config["image"] == "nginx:1"
        ((target, body),) = hello.fake.bodies
        assert target == "POST /x/v1/apps/hello/rollback"
        assert "version" not in body

    def test_to_a_release_with_options(self, hello):
        done = hello(
            *("rollback", "v1", "--strategy", "immediate", "--wait-timeout", "1m", "--json"),
            *("--max-unavailable", "2", "--no-smoke-checks", "--app", "hello"),
        )
        assert done.json["release"] == 3
        body = hello.fake.bodies[0][1]
        assert body["version"] == 1
        assert body["options"]["strategy"] == "immediate"
        assert body["options"]["wait_timeout_s"] == 60.0
        assert body["options"]["max_unavailable"] == 2.0
        assert body["options"]["smoke_checks"] is False

    def test_detached(self, hello):
        hello.fake.deploys.held = 9
        done = hello("rollback", "--detach")
        assert (done.code, done.stdout) == (0, "dep_3\n")

    def test_to_nowhere(self, hello):
        assert hello("rollback", "9").code == exits.NOT_FOUND
        assert hello("rollback", "nine").code == exits.USAGE
        assert hello("rollback", "--max-unavailable", "0").code == exits.USAGE


class TestStatus:
    def test_the_deploy_that_runs_is_told(self, hello):
        hello.fake.deploys.held = 9
        hello("deploy", "-i", "nginx:3", "--detach")
        done = hello("status")
        assert "Deploy   v3 by token:1: updating machines\n" in done.stdout
        found = hello("status", "--json").json
        assert found["deploy"]["release"]["version"] == 3
        assert "events" not in found["deploy"]

    def test_a_platform_that_knows_no_deploys_is_shown_all_the_same(self, hello):
        hello.fake.refuse("GET /x/v1/apps/hello/deploys", 404, {"error": "404 page not found"})
        assert hello("status").code == 0

    def test_a_machine_that_stands_by_is_marked(self, hello):
        hello.fake.add_machine(
            "hello", {**managed_config(), "standbys": ["00000000000001"]}, state="stopped"
        )
        done = hello("status")
        assert "app†" in done.stdout
        assert "† stands by: it starts when the host of the machine it watches" in done.stdout

    def test_watched_until_it_is_enough(self, hello):
        seen = []

        async def enough(seconds):
            seen.append(seconds)
            if len(seen) == 2:
                raise KeyboardInterrupt

        hello.fake.clock.sleep = enough
        hello.lively = True
        done = hello("status", "--watch", "--rate", "2")
        assert done.code == exits.INTERRUPTED
        assert seen == [2, 2]
        assert done.stdout.count("\x1b[H\x1b[2J") == 2

    def test_watching_is_for_people(self, hello):
        assert hello("status", "--watch", "--json").code == exits.USAGE
