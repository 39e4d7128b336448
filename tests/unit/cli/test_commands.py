import json

import pytest

from godwit.cli import exits
from godwit.testing.fake_machine import Script, managed_config

CONFIG = 'app = "hello"\n[http_service]\ninternal_port = 8080\n'


@pytest.fixture
def hello(cli):
    cli.fake.add_app("hello")
    cli.write("fly.toml", CONFIG)
    return cli


class TestOrgs:
    def test_list(self, cli):
        assert cli("orgs", "list").stdout == (
            "SLUG      NAME      CREATED\npersonal  Personal  -\n"
        )
        assert cli("orgs", "list", "--json").json[0]["slug"] == "personal"

    def test_create(self, cli):
        done = cli("orgs", "create", "acme", "--name", "Acme Inc.")
        assert (done.code, done.stdout) == (0, "acme\n")
        assert done.stderr == (
            "\nhint: create an app in it with `godwit apps create NAME --org acme`\n"
        )
        assert cli.fake.bodies[-1][1] == {"slug": "acme", "name": "Acme Inc."}

    def test_a_slug_that_is_taken(self, cli):
        done = cli("orgs", "create", "personal")
        assert (done.code, done.stderr.splitlines()[0]) == (1, "error: slug is taken")


class TestApps:
    def test_list_of_all_organizations(self, cli):
        cli.fake.orgs.append({"id": "org_2", "slug": "acme", "name": "Acme"})
        cli.fake.add_app("hello")
        cli.fake.add_app("other", "acme")
        assert cli("apps", "list").stdout == (
            "NAME   OWNER     STATUS   MACHINES\n"
            "hello  personal  pending  0\n"
            "other  acme      pending  0\n"
        )
        assert cli("apps", "list", "-o", "acme", "-q").stdout == "other\n"
        found = cli("apps", "list", "--json").json
        assert found[0]["url"] == "http://hello.godwit.localhost:8080/"

    def test_create(self, cli):
        done = cli("apps", "create", "hello")
        assert (done.code, done.stdout) == (0, "hello\n")
        assert cli.fake.bodies == [("POST /v1/apps", {"name": "hello", "org_slug": "personal"})]
        assert cli("apps", "create", "other", "--json").json["name"] == "other"

    def test_a_name_that_cannot_be_one(self, cli):
        done = cli("apps", "create", "Hello")
        assert done.code == exits.USAGE
        assert done.stderr == (
            'error: "Hello" cannot be the name of an app\n\n'
            "hint: names have lower-case letters, digits and -, at most 63 of them\n"
        )
        assert cli.fake.calls == []

    def test_a_name_as_an_option_or_made_up(self, cli):
        assert cli("apps", "create", "--name", "hello").stdout == "hello\n"
        assert cli("apps", "create", "--generate-name").stdout.count("-") == 2
        assert cli("apps", "create", "hello", "--generate-name").code == exits.USAGE
        done = cli("apps", "create")
        assert done.code == exits.USAGE
        assert "hint: give one, or pass --generate-name" in done.stderr

    def test_the_name_is_saved(self, cli):
        path = cli.write("fly.toml", "# mine\n[env]\nA = '1'\n")
        assert cli("apps", "create", "hello", "--save").code == 0
        assert path.read_text().startswith('# mine\napp = "hello"\n')
        cli.write("fly.toml", "[[[")
        assert cli("apps", "create", "other", "--save").code == exits.USAGE

    def test_open(self, hello):
        hello.lively = True
        assert hello("apps", "open", "/up").stdout == "http://hello.godwit.localhost:8080/up\n"
        assert hello.opened == ["http://hello.godwit.localhost:8080/up"]

    def test_with_several_organizations_it_asks_or_says_which_flag(self, cli):
        cli.fake.orgs.append({"id": "org_2", "slug": "acme", "name": "Acme"})
        done = cli("apps", "create", "hello")
        assert done.code == exits.USAGE
        assert done.stderr == (
            "error: Which organization? There are personal, acme.\n\nhint: pass --org to choose\n"
        )
        cli.interactive, cli.answers = True, ["nope\n", "acme\n"]
        assert cli("apps", "create", "hello").code == 0
        assert cli.fake.apps["hello"]["organization"]["slug"] == "acme"

    def test_destroy_asks_first(self, hello):
        done = hello("apps", "destroy", "hello")
        assert done.code == exits.USAGE
        assert done.stderr == (
            "error: Destroy the app hello with everything in it? Nobody is here to answer.\n\n"
            "hint: pass --yes to say yes\n"
        )
        hello.interactive, hello.answers = True, ["n\n"]
        done = hello("apps", "destroy", "hello")
        assert (done.code, done.stderr.splitlines()[-1]) == (1, "Nothing was changed.")
        hello.answers = ["y\n"]
        assert hello("apps", "rm", "hello").code == 0
        assert hello.fake.apps == {}
        done = hello("apps", "destroy", "hello", "--yes")
        assert done.code == exits.NOT_FOUND

    def test_restart_goes_through_the_started_machines(self, hello):
        first = hello.fake.add_machine("hello")
        hello.fake.add_machine("hello", state="stopped")
        done = hello("apps", "restart", "--force-stop")
        assert done.code == 0
        assert done.stderr == f"restarting {first}\nrestarted 1 machine\n"
        assert f"POST /v1/apps/hello/machines/{first}/restart?force_stop=true" in hello.fake.calls


class TestWhichApp:
    def test_flag_then_environment_then_file(self, hello):
        for name in ("one", "two"):
            hello.fake.add_app(name)
        assert hello("status", "--json").json["name"] == "hello"
        hello.environ["FLY_APP"] = "one"
        assert hello("status", "--json").json["name"] == "one"
        assert hello("status", "--json", "-a", "two").json["name"] == "two"

    def test_a_broken_file_still_tells_which_app(self, hello):
        hello.write("fly.toml", 'app = "hello"\nkill_timeout = "x"\n[[')
        assert hello("status").code == 0

    def test_nowhere_said(self, cli):
        done = cli("status")
        assert done.code == exits.USAGE
        assert done.stderr.startswith("error: which app?\n\nhint: pass --app NAME, set FLY_APP")

    def test_a_config_elsewhere(self, hello):
        hello.write("sub/fly.toml", 'app = "hello"\n')
        (hello.directory / "fly.toml").unlink()
        assert hello("status", "-c", "sub").code == 0
        assert hello("status", "-c", "nope").code == exits.NOT_FOUND


class TestStatus:
    def test_an_app_and_its_machines(self, hello):
        config = {**managed_config("hello:2", version=2), "checks": {"up": {}}}
        machine = hello.fake.add_machine("hello", config)
        done = hello("status")
        assert done.code == 0
        now = done.stdout.splitlines()[-1].split()
        assert now[:2] == ["app", machine]
        assert "2 " in done.stdout
        assert "1 total, 1 passing" in done.stdout
        assert "Address  http://hello.godwit.localhost:8080/" in done.stdout
        found = hello("status", "--json").json
        assert found["machines"][0]["id"] == machine
        assert found["hostname"] == "hello.godwit.localhost"

    def test_an_app_without_machines(self, hello):
        done = hello("status")
        assert done.stdout.splitlines()[-1] == "no machines"
        assert "godwit deploy --app hello" in done.stderr

    def test_an_app_that_is_not_there(self, cli):
        done = cli("status", "-a", "nope")
        assert (done.code, done.stdout) == (exits.NOT_FOUND, "")
        assert done.stderr.startswith('error: there is no app "nope" that this token may see\n')


class TestLogs:
    def test_the_last_lines(self, hello):
        hello.fake.log("hello", "m1", "one")
        hello.fake.log("hello", "m2", "two")
        assert hello("logs", "--no-tail").stdout == (
            "2026-01-01T00:00:01Z app[m1] lcl [info] one\n"
            "2026-01-01T00:00:02Z app[m2] lcl [info] two\n"
        )
        assert hello("logs", "-n", "-m", "m2", "-r", "lcl").stdout.endswith("two\n")
        assert "instance=m2&region=lcl" in hello.fake.calls[-1]
        lines = hello("logs", "-n", "--json").stdout.splitlines()
        assert json.loads(lines[0])["message"] == "one"

    def test_of_a_machine_that_is_chosen(self, hello):
        done = hello("logs", "-n", "-s")
        assert (done.code, "hello has no machine" in done.stderr) == (exits.FAILED, True)
        first = hello.fake.add_machine("hello", state="stopped")
        hello.fake.log("hello", first, "one")
        assert hello("logs", "-n", "--select").code == 0
        assert f"instance={first}" in hello.fake.calls[-1]
        second = hello.fake.add_machine("hello")
        assert "pass --machine to choose" in hello("logs", "-n", "-s").stderr
        hello.interactive, hello.answers = True, [second]
        assert hello("logs", "-n", "-s").code == 0
        assert f"instance={second}" in hello.fake.calls[-1]
        assert "one of them" in hello("logs", "-n", "-s", "-m", first).stderr

    def test_follows_until_interrupted(self, hello):
        hello.fake.log("hello", "m1", "one")

        async def sleep(_):
            hello.fake.log("hello", "m1", "two")
            if len(hello.fake.logs["hello"]) > 3:
                raise KeyboardInterrupt

        hello.fake.clock.sleep = sleep
        done = hello("logs")
        assert done.code == exits.INTERRUPTED
        assert [line.split()[-1] for line in done.stdout.splitlines()] == ["one", "two", "two"]
        assert done.stderr == ""


class TestReleases:
    def test_list(self, hello):
        hello.fake.releases["hello"] = [
            {"id": "rel_1", "version": 1, "status": "complete", "image_ref": "a:1"},
            {"id": "rel_2", "version": 2, "status": "failed", "image_ref": "a:2"},
        ]
        assert hello("releases", "--image").stdout == (
            "VERSION  STATUS    DESCRIPTION  USER  DATE  IMAGE\n"
            "v2       failed    -            -     -     a:2\n"
            "v1       complete  -            -     -     a:1\n"
        )
        assert [one["version"] for one in hello("releases", "--json").json] == [2, 1]


class TestTokens:
    def test_create_list_revoke(self, cli):
        done = cli("tokens", "create", "ci", "-o", "personal", "-s", "apps:read", "-x", "720h")
        assert (done.code, done.stdout) == (0, "gw_new\n")
        assert cli.fake.bodies[-1][1]["scopes"] == ["apps:read"]
        assert "tok_2" in cli("tokens", "list").stdout
        assert cli("tokens", "list", "--json").json[0]["name"] == "ci"
        assert cli("tokens", "revoke", "tok_2").code == exits.USAGE
        assert cli("tokens", "revoke", "tok_2", "--yes").stderr == "revoked tok_2\n"
        assert cli("tokens", "create", "x", "--json").json["token"] == "gw_new"

    def test_the_kinds_of_stock_clients(self, cli):
        assert cli("tokens", "create", "org", "-n", "ci").code == 0
        assert cli.fake.bodies[-1][1] == {"name": "ci", "org_slug": "personal"}
        assert cli("tokens", "create", "readonly").code == 0
        asked = cli.fake.bodies[-1][1]
        assert (asked["name"], asked["org_slug"]) == ("readonly", "personal")
        assert {one.partition(":")[2] for one in asked["scopes"]} == {"read"}
        done = cli("tokens", "create", "readonly", "--scope", "apps:write")
        assert (done.code, "has its own" in done.stderr) == (exits.USAGE, True)

    def test_one_for_an_app(self, hello):
        assert hello("tokens", "create", "deploy", "-x", "24h").code == 0
        asked = hello.fake.bodies[-1][1]
        assert asked == {"name": "deploy", "app_name": "hello", "expiry": "24h"}
        assert hello("tokens", "create", "logs", "--app", "shop", "-s", "logs:read").code == 0
        asked = hello.fake.bodies[-1][1]
        assert asked == {"name": "logs", "app_name": "shop", "scopes": ["logs:read"]}

    @pytest.mark.parametrize("kind", ["machine-exec", "ssh", "wireguard"])
    def test_a_narrower_token_than_there_is_is_not_made_a_wider_one(self, cli, kind):
        done = cli("tokens", "create", kind)
        assert done.code == exits.USAGE
        assert "are not there yet" in done.stderr
        assert cli.fake.tokens == []

    def test_a_life_that_is_none(self, cli):
        done = cli("tokens", "create", "ci", "-x", "long")
        assert done.code == exits.USAGE
        assert done.stderr.startswith("error: --expiry: expected a duration such as ")


class TestPlatformAndAuth:
    def test_regions(self, cli):
        assert cli("platform", "regions").stdout == "CODE  NAME  NEAREST\nlcl   Here  yes\n"
        assert cli("platform", "regions", "-j").json["nearest"] == "lcl"

    def test_hosts(self, cli):
        assert "a1b2c3d4" in cli("platform", "hosts").stdout
        assert cli("platform", "hosts", "--json").json[0]["region"] == "lcl"

    def test_sizes_need_no_platform(self, cli):
        assert "shared-cpu-8x    8     2048       16384" in cli("platform", "vm-sizes").stdout
        assert cli("platform", "vm-sizes", "--json").json[0]["name"] == "shared-cpu-1x"
        assert cli.fake.calls == []

    def test_whoami(self, cli):
        assert cli("auth", "whoami").stdout == (
            "TOKEN  USER   ORGANIZATION  APPS\ntok_1  a@b.c  personal      all\n"
        )
        assert cli("auth", "whoami", "--json").json[0]["token_id"] == "tok_1"


class TestMachine:
    @pytest.fixture
    def machine(self, hello):
        return hello.fake.add_machine("hello")

    def test_list(self, hello, machine):
        done = hello("machine", "list")
        assert done.stdout.startswith("ID              NAME          STATE    CHECKS  REGION")
        assert machine in done.stdout
        assert hello("machine", "list", "-q").stdout == f"{machine}\n"
        assert hello("machine", "list", "--json").json[0]["id"] == machine

    def test_status(self, hello, machine):
        hello("machine", "start", machine)
        done = hello("machine", "status", machine, "-d")
        assert f"ID          {machine}" in done.stdout
        assert '"image": "old:1"' in done.stdout
        assert "EVENT   STATUS   SOURCE  AT" in done.stdout
        found = hello("machine", "status", machine, "--json").json
        assert [one["type"] for one in found["events"]] == ["start", "launch"]

    def test_by_name(self, hello, machine):
        name = hello.fake.machines[machine].name
        assert hello("machine", "status", name, "--json").json["id"] == machine
        done = hello("machine", "status", "nope")
        assert done.code == exits.NOT_FOUND
        assert done.stderr.startswith('error: app "hello" has no machine "nope"\n')

    def test_stop_start_restart(self, hello, machine):
        done = hello("machine", "stop", machine, "-s", "SIGTERM", "--timeout", "3", "--wait")
        assert (done.code, done.stderr) == (0, f"{machine} is stopped\n")
        assert hello.fake.bodies[-1][1] == {"signal": "SIGTERM", "timeout": "3s"}
        assert hello("machine", "start", machine, "-w").stderr == f"{machine} is started\n"
        done = hello("machine", "restart", machine, "--force", "--time", "1m")
        assert done.stderr == f"{machine} is started again\n"
        assert f"/machines/{machine}/restart?force_stop=true&timeout=60s" in hello.fake.calls[-4]

    def test_cordon(self, hello, machine):
        assert hello("machine", "cordon", machine).stderr == f"{machine} takes no traffic\n"
        assert "started, cordoned" in hello("status").stdout
        assert hello("machine", "uncordon", machine).stderr == f"{machine} takes traffic\n"

    def test_destroy(self, hello, machine):
        assert hello("machine", "destroy", machine).code == exits.USAGE
        done = hello("machine", "destroy", machine, "--yes")
        assert done.code == exits.FAILED
        assert done.stderr.startswith("error: unable to destroy machine, not currently stopped")
        assert hello("machine", "rm", machine, "-y", "--force").stderr == (
            f"{machine} is destroyed\n"
        )

    def test_exec_passes_streams_and_exit_code_on(self, hello, machine):
        done = hello("machine", "exec", machine, "uname -a")
        assert (done.code, done.stdout) == (0, "uname -a\n")
        assert hello.fake.bodies[-1][1] == {"command": ["uname", "-a"], "timeout": 60}
        done = hello("machine", "exec", machine, "--timeout", "2m", "--", "false", "x y")
        assert (done.code, done.stdout, done.stderr) == (1, "", "no\n")
        assert hello.fake.bodies[-1][1] == {"command": ["false", "x y"], "timeout": 120}
        assert hello("machine", "exec", machine, "ls", "-j").json["stdout"] == "ls\n"
        hello("machine", "exec", machine, "--stdin", "cat")
        assert hello.fake.bodies[-1][1]["stdin"] == "typed\n"

    def test_exec_takes_options_of_the_command(self, hello, machine):
        done = hello("machine", "exec", machine, "--", "ls", "-la", "/")
        assert hello.fake.bodies[-1][1]["command"] == ["ls", "-la", "/"]
        assert done.code == 0

    def test_wait(self, hello, machine):
        assert hello("machine", "wait", machine).stdout == "started\n"
        done = hello("machine", "wait", machine, "--state", "sleeping")
        assert done.code == exits.USAGE

        def tick(seconds):
            hello.fake.clock.at_s += seconds

        original = hello.fake._handle

        async def slow(request):
            tick(10)
            return await original(request)

        hello.fake._handle = slow
        done = hello("machine", "wait", machine, "--state", "stopped", "-w", "30s")
        assert done.code == exits.UNREACHABLE
        assert "machine failed to reach desired state" in done.stderr

    def test_run(self, hello):
        done = hello(
            *("machine", "run", "nginx:1.25", "--name", "web", "-p", "80:8080/tcp:http"),
            *("-p", "443:8080/tcp:tls:http", "-e", "A=1", "-m", "role=x", "--vm-memory", "512"),
            *("--restart", "on-fail", "--", "serve", "--fast"),
        )
        assert done.code == 0
        assert done.stdout == "00000000000001\n"
        assert hello.fake.bodies[-1][1] == {
            "name": "web",
            "config": {
                "image": "nginx:1.25",
                "env": {"A": "1"},
                "init": {"cmd": ["serve", "--fast"]},
                "guest": {"cpu_kind": "shared", "cpus": 1, "memory_mb": 512},
                "services": [
                    {
                        "protocol": "tcp",
                        "internal_port": 8080,
                        "ports": [
                            {"port": 80, "handlers": ["http"]},
                            {"port": 443, "handlers": ["tls", "http"]},
                        ],
                    }
                ],
                "metadata": {"role": "x"},
                "restart": {"policy": "on-failure"},
            },
        }

    def test_run_once(self, hello):
        done = hello("machine", "run", "job:1", "--rm", "--skip-dns-registration", "--json")
        assert done.json["state"] == "started"
        config = hello.fake.bodies[-1][1]["config"]
        assert config["auto_destroy"] is True
        assert config["restart"] == {"policy": "no"}
        assert config["dns"] == {"skip_registration": True}

    def test_run_that_fails(self, hello):
        hello.fake.scripts["bad:1"] = Script(fails="no such file: /entry")
        done = hello("machine", "run", "bad:1")
        assert (done.code, done.stdout) == (exits.FAILED, "")
        assert "machine 00000000000001 is failed: no such file: /entry" in done.stderr

    @pytest.mark.parametrize(
        ("flags", "said"),
        [
            (("-p", "x"), "--port x: expected EXTERNAL[:INTERNAL]"),
            (("-p", "0"), "--port 0: expected"),
            (("-p", "80/tcp:web"), '--port 80/tcp:web: there is no handler "web"'),
            (("-e", "A"), '--env A: expected NAME=VALUE, got "A"'),
            (("--restart", "maybe"), "--restart: expected no, always or on-fail"),
            (("--vm-memory", "1"), "1 shared CPU goes with 256 to 2048 MB of memory; got 1"),
            (("--vm-memory", "x"), "expected a memory size such as 512 (MB)"),
            (("--vm-cpu-kind", "x"), "--vm-cpu-kind: expected shared or performance"),
            (("--vm-size", "x"), 'there is no size "x"'),
        ],
    )
    def test_values_that_cannot_be(self, hello, flags, said):
        done = hello("machine", "run", "x", *flags)
        assert done.code == exits.USAGE
        assert said in done.stderr
        assert hello.fake.bodies == []


def test_open_shows_the_address_and_opens_it_where_somebody_watches(hello):
    done = hello("open", "/env")
    assert done.stdout == "http://hello.godwit.localhost:8080/env\n"
    assert hello.opened == []
    hello.lively = True
    hello("open")
    assert hello.opened == ["http://hello.godwit.localhost:8080/"]
