import json
import re
import subprocess
import tomllib

import pytest
import typer
import yaml

from godwit.appconfig import files
from godwit.cli import exits
from godwit.cli.commands import deploy, launch
from godwit.cli.launch import naming

DOCKERFILE = "FROM python:3.11-slim\nEXPOSE 5000\n"


@pytest.fixture
def project(cli):
    cli.directory = cli.directory / "My_Hello App"
    cli.directory.mkdir()
    cli.write("Dockerfile", DOCKERFILE)
    return cli


def written(cli):
    return tomllib.loads((cli.directory / "fly.toml").read_text())


def test_from_a_dockerfile_to_the_address(project):
    done = project("launch", "--yes")
    assert done.code == 0
    assert done.stdout == "http://my-hello-app.godwit.localhost:8080/\n"
    assert written(project) == {
        "app": "my-hello-app",
        "primary_region": "lcl",
        "http_service": {
            "internal_port": 5000,
            "force_https": False,
            "auto_stop_machines": "off",
            "auto_start_machines": True,
            "min_machines_running": 0,
            "processes": ["app"],
        },
        "vm": [{"cpu_kind": "shared", "cpus": 1, "memory": "1gb"}],
    }
    assert [call.partition("?")[0] for call in project.fake.calls[:6]] == [
        "GET /x/v1/orgs",
        "GET /v1/platform/regions",
        "GET /v1/apps/my-hello-app",
        "POST /v1/apps",
        "GET /v1/apps/my-hello-app",
        "POST /x/v1/apps/my-hello-app/builds",
    ]
    machine = project.fake.machines["00000000000001"]
    assert machine.config["guest"] == {"cpu_kind": "shared", "cpus": 1, "memory_mb": 1024}
    assert machine.config["services"][0]["internal_port"] == 5000


def test_what_it_wrote_is_valid_without_a_warning(project):
    project("launch", "--yes", "--no-deploy")
    loaded = files.load(project.directory / "fly.toml")
    assert loaded.found == ()
    assert project("config", "validate", "--strict").stderr == ""


def test_it_shows_what_it_will_do_and_asks(project):
    project.interactive, project.answers = True, ["n\n"]
    done = project("launch")
    assert done.code == exits.FAILED
    assert done.stderr == (
        "Organization  personal\n"
        "Name          my-hello-app\n"
        "Region        lcl\n"
        "Source        Dockerfile\n"
        "Port          5000\n"
        "Machine       shared, 1, 1gb\n"
        "Create it? [y/N] \n"
        "Nothing was changed.\n"
    )
    assert project.fake.apps == {}
    assert not (project.directory / "fly.toml").exists()
    project.answers = ["y\n"]
    assert project("launch").code == 0


def test_where_nobody_answers_it_says_which_flag(project):
    done = project("launch")
    assert done.code == exits.USAGE
    assert done.stderr.endswith(
        "error: Create it? Nobody is here to answer.\n\nhint: pass --yes to say yes\n"
    )
    assert project.fake.apps == {}


def test_flags_beat_what_is_found(project):
    project.fake.orgs.append({"id": "org_2", "slug": "acme", "name": "Acme"})
    project.fake.regions.append({"code": "fra", "name": "Frankfurt"})
    done = project(
        *("launch", "--name", "other", "--org", "acme", "--region", "fra", "--yes"),
        *("--internal-port", "9000", "--no-deploy", "-e", "A=1", "--auto-stop", "stop"),
        *("--vm-size", "shared-cpu-2x"),
    )
    assert (done.code, done.stdout) == (0, "other\n")
    assert done.stderr.endswith("\nhint: deploy it with `godwit deploy`\n")
    assert project.fake.apps["other"]["organization"]["slug"] == "acme"
    document = written(project)
    assert document["primary_region"] == "fra"
    assert document["env"] == {"A": "1"}
    assert document["http_service"]["internal_port"] == 9000
    assert document["http_service"]["auto_stop_machines"] == "stop"
    assert document["vm"] == [{"size": "shared-cpu-2x"}]
    assert project.fake.contexts == []


def test_an_image_needs_no_dockerfile(cli):
    done = cli("launch", "--image", "nginx", "--internal-port", "80", "--name", "web", "--yes")
    assert done.code == 0
    assert written(cli)["build"] == {"image": "nginx"}
    assert cli.fake.machines["00000000000001"].config["image"] == "nginx"


def test_a_dockerfile_by_another_name_is_remembered(cli):
    cli.write("docker/web.Dockerfile", "FROM x\nEXPOSE 7000\n")
    done = cli("launch", "--dockerfile", "docker/web.Dockerfile", "--name", "web", "--yes")
    assert done.code == 0
    assert written(cli)["build"] == {"dockerfile": "docker/web.Dockerfile"}
    assert written(cli)["http_service"]["internal_port"] == 7000


def test_another_directory(cli):
    cli.write("service/Dockerfile", "FROM x\n")
    done = cli("launch", "--path", "service", "--yes", "--no-deploy")
    assert (done.code, done.stdout) == (0, "service\n")
    assert (cli.directory / "service" / "fly.toml").exists()
    assert "hint: deploy it with `godwit deploy " in done.stderr
    assert cli("launch", "--path", "nope").code == exits.NOT_FOUND


def test_a_name_that_is_taken_gets_another(project):
    project.fake.add_app("my-hello-app")
    done = project("launch", "--yes", "--no-deploy")
    assert re.fullmatch(r"my-hello-app-[a-z]+-[a-z]+-\d{1,4}\n", done.stdout)


def test_a_name_that_was_asked_for_and_is_taken_is_told(project):
    project.fake.foreign_apps.add("theirs")
    done = project("launch", "--name", "theirs", "--yes")
    assert done.code == exits.FAILED
    assert done.stderr.startswith('error: the name "theirs" is taken\n')
    done = project("launch", "--name", "No Good", "--yes")
    assert done.code == exits.USAGE


def test_organizations_and_regions_that_are_not_there(project):
    done = project("launch", "--org", "nope", "--yes")
    assert done.code == exits.NOT_FOUND
    assert "hint: yours are personal; make it with `godwit orgs create nope`" in done.stderr
    done = project("launch", "--region", "xyz", "--yes")
    assert done.code == exits.NOT_FOUND
    assert "hint: regions with hosts: lcl" in done.stderr


def test_without_a_dockerfile(cli):
    done = cli("launch", "--yes")
    assert done.code == exits.NOT_FOUND
    assert done.stderr.startswith("error: there is no Dockerfile in ")


class TestExistingFile:
    TEXT = '# mine\napp = "old"\n\n[http_service]\n  internal_port = 3000 # keep\n'

    def test_is_taken_over_with_its_comments(self, project):
        project.write("fly.toml", self.TEXT)
        done = project("launch", "--yes", "--name", "new", "--no-deploy")
        assert done.code == 0
        assert (project.directory / "fly.toml").read_text() == (
            '# mine\napp = "new"\nprimary_region = "lcl"\n\n[http_service]\n'
            "  internal_port = 3000 # keep\n"
        )

    def test_is_asked_about(self, project):
        project.write("fly.toml", self.TEXT)
        done = project("launch", "--no-deploy")
        assert done.code == exits.USAGE
        assert "hint: pass --copy-config to say yes" in done.stderr
        project.interactive, project.answers = True, ["y\n", "y\n"]
        assert project("launch", "--no-deploy").stdout == "old\n"

    def test_with_mistakes_stops_it(self, project):
        project.write("fly.toml", "kill_timeout = 999\n")
        done = project("launch", "--yes")
        assert done.code == exits.USAGE
        assert project.fake.calls == []


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("FROM x\nEXPOSE 53/udp 8081/tcp", 8081),
        ("FROM a AS build\nEXPOSE 1\nFROM b\nEXPOSE 2 3", 2),
        ("FROM x\nENV PORT=5000\nEXPOSE $PORT", 5000),
        ("FROM x", 8080),
    ],
)
def test_the_port_is_the_one_that_the_dockerfile_exposes(project, text, port):
    project.write("Dockerfile", text)
    assert project("launch", "--yes", "--no-deploy").code == 0
    assert written(project)["http_service"]["internal_port"] == port


def test_a_dockerfile_with_a_mistake_stops_it(project):
    project.write("Dockerfile", "FROM x\nCOPPY . .\n")
    done = project("launch", "--yes")
    assert done.code == exits.USAGE
    assert done.stderr.startswith("error: Dockerfile, line 2: COPPY is not an instruction")
    assert project.fake.calls == []


def test_a_volume_is_warned_about(project):
    project.write("Dockerfile", DOCKERFILE + "VOLUME /data\n")
    done = project("launch", "--yes", "--no-deploy")
    assert "warning: the Dockerfile has VOLUME /data: what is written there is lost" in done.stderr


@pytest.mark.parametrize(
    ("directory", "name"),
    [("My_App 2", "my-app-2"), ("--x--", "x"), ("日本", ""), ("a" * 99, "a" * 63)],
)
def test_a_directory_names_an_app(directory, name):
    assert naming.from_directory(directory) == name


def test_made_up_names_are_names():
    assert re.fullmatch(r"[a-z]+-[a-z]+-\d+", naming.with_suffix(""))
    assert len(naming.with_suffix("a" * 63)) <= 63


def test_a_name_can_be_made_up(project):
    done = project("launch", "--generate-name", "--yes", "--no-deploy")
    assert re.fullmatch(r"[a-z]+-[a-z]+-\d+\n", done.stdout)
    assert project("launch", "--generate-name", "--name", "x", "--yes").code == exits.USAGE


@pytest.mark.parametrize(
    ("flag", "name", "read"),
    [("--json", "fly.json", json.loads), ("--yaml", "fly.yaml", yaml.safe_load)],
)
def test_the_file_in_another_format(project, flag, name, read):
    assert project("launch", "--yes", "--no-deploy", flag).code == 0
    assert read((project.directory / name).read_text())["app"] == "my-hello-app"
    assert not (project.directory / "fly.toml").exists()
    assert project("config", "validate").code == 0
    assert project("launch", "--json", "--yaml", "--yes").code == exits.USAGE


def test_a_command_becomes_the_apps_process(project):
    done = project("launch", "--yes", "--no-deploy", "--command", "serve --fast")
    assert done.code == 0
    assert written(project)["processes"] == {"app": "serve --fast"}


def test_what_git_ignores_the_build_may_ignore_too(project):
    project.write(".gitignore", "node_modules\n")
    flags = ("launch", "--yes", "--no-deploy", "--dockerignore-from-gitignore", "--name")
    assert project(*flags, "one").code == 0
    assert (project.directory / ".dockerignore").read_text() == "node_modules\n"
    project.write(".dockerignore", "mine\n")
    assert project(*flags, "two").code == 0
    assert (project.directory / ".dockerignore").read_text() == "mine\n"


def test_an_app_that_would_be_public_is_refused_before_anything_is_made(project):
    done = project("launch", "--yes", "--no-public-ips")
    assert done.code == exits.USAGE
    assert "error: --no-public-ips: " in done.stderr
    assert not any(call.startswith("POST") for call in project.fake.calls)
    assert not (project.directory / "fly.toml").exists()


def test_the_deploy_at_the_end_is_told_how(project):
    done = project(
        *("launch", "--now", "--ha=false", "--strategy", "immediate", "--wait-timeout", "60"),
        *("--no-smoke-checks", "--build-arg", "A=1", "--no-db", "--no-redis"),
    )
    assert done.code == 0
    (body,) = [body for target, body in project.fake.bodies if target.endswith("/deploys")]
    assert body["options"] == {
        "description": "deploy",
        "strategy": "immediate",
        "wait_timeout_s": 60.0,
        "skip_release_command": False,
        "smoke_checks": False,
        "ha": False,
        "update_only": False,
    }
    assert any("args=" in call for call in project.fake.calls)
    assert "(--no-db, --no-redis: nothing to choose here)" in done.stderr


def test_launch_takes_what_deploy_takes():
    only_of_a_deploy = {"--plan", "--follow", "--cancel", "--app", "-a", "-j", "directory"}
    taken = {app: set(_names(app)) for app in (deploy.app, launch.app)}
    assert taken[deploy.app] - taken[launch.app] == only_of_a_deploy


def _names(app):
    for parameter in typer.main.get_command(app).params:
        yield from (*parameter.opts, *parameter.secondary_opts)


def test_the_deploy_at_the_end_has_a_scope(project):
    project.write(
        "fly.toml", '[processes]\nweb = "a"\nworker = "b"\n[http_service]\nprocesses = ["web"]\n'
    )
    done = project(
        *("launch", "--yes", "-r", "lcl", "--only-regions", "lcl,ams", "--exclude-regions", "fra"),
        *("--process-groups", "web", "--wait-lock"),
    )
    assert done.code == 0, done.stderr
    (body,) = [body for target, body in project.fake.bodies if target.endswith("/deploys")]
    options = body["options"]
    assert options["regions"] == ["lcl", "ams"]
    assert options["exclude_regions"] == ["fra"]
    assert options["process_groups"] == ["web"]
    assert written(project)["primary_region"] == "lcl"


def test_only_the_image_is_built(project):
    done = project("launch", "--yes", "--build-only")
    assert done.code == 0, done.stderr
    assert done.stdout.startswith("registry.internal/hello:deployment-1@sha256:")
    assert list(project.fake.apps) == ["my-hello-app"]
    assert project.fake.machines == {}
    assert not any(target.endswith("/deploys") for target, _ in project.fake.bodies)


class TestFrom:
    @pytest.fixture
    def repository(self, tmp_path):
        """A repository with an app in it."""
        made = tmp_path / "origin"
        made.mkdir()
        (made / "Dockerfile").write_text(DOCKERFILE)
        author = ("-c", "user.name=x", "-c", "user.email=x@example.org")
        for words in (("init", "--quiet"), ("add", "."), (*author, "commit", "-qm", "x")):
            subprocess.run(["git", *words], cwd=made, check=True, timeout=30)
        return str(made)

    def test_a_repository_is_cloned_and_launched(self, cli, repository):
        done = cli("launch", "--from", repository, "--into", "shop", "--yes")
        assert done.code == 0, done.stderr
        assert (cli.directory / "shop" / "Dockerfile").read_text() == DOCKERFILE
        assert (cli.directory / "shop" / "fly.toml").is_file()
        assert list(cli.fake.apps) == ["shop"]

    def test_nothing_is_cloned_over_what_is_there(self, cli, repository):
        cli.write("shop/notes.txt", "mine")
        done = cli("launch", "--from", repository, "--into", "shop", "--yes")
        assert done.code == exits.FAILED
        assert "is not an empty directory" in done.stderr
        assert [one.name for one in (cli.directory / "shop").iterdir()] == ["notes.txt"]

    @pytest.mark.parametrize("address", ["nowhere", "--upload-pack=x"])
    def test_what_git_cannot_clone(self, cli, address):
        done = cli("launch", f"--from={address}", "--yes")
        assert done.code == exits.USAGE
        assert "error: --from: git: exit 128" in done.stderr
        assert cli.fake.apps == {}

    def test_a_directory_to_clone_into_needs_something_to_clone(self, cli):
        assert "--into: goes with --from" in cli("launch", "--into", "shop").stderr


def test_files_are_given_to_the_machines_and_not_to_the_config(project):
    project.write("key", "k")
    done = project("launch", "--yes", "--file-local", "/key=key", "--file-literal", "/a=b")
    assert done.code == 0, done.stderr
    assert "files" not in written(project)
    machine = project.fake.machines["00000000000001"]
    assert machine.config["files"] == [
        {"guest_path": "/key", "raw_value": "aw=="},
        {"guest_path": "/a", "raw_value": "Yg=="},
    ]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--db",), "--db: this platform makes no databases yet"),
        (("--db=mpg",), "--db: this platform makes no databases yet"),
        (("--volume", "data"), "--volume: this platform has no volumes yet"),
        (("--attach",), "--attach: apps cannot be attached to others yet"),
        (
            ("--", "--port", "80"),
            "--port 80: it is for what writes Dockerfiles, which is not there yet",
        ),
        (("--build-only", "--no-deploy"), "--build-only and --no-deploy: one of them"),
        (("--file-local", "/a"), '--file-local /a: expected NAME=VALUE, got "/a"'),
    ],
)
def test_what_is_not_there_yet_is_refused_before_anything_is_made(project, flags, said):
    done = project("launch", "--yes", *flags)
    assert done.code == exits.USAGE
    assert said in done.stderr
    assert project.fake.apps == {}


def test_the_region_has_the_name_that_deploy_gives_it(project):
    assert project("launch", "--yes", "--no-deploy", "--primary-region", "lcl").code == 0
    assert written(project)["primary_region"] == "lcl"
