"""`godwit services list`, `image show|update`, `ips private`, `apps restart|move|open|releases`."""

import pytest

from godwit.cli import exits
from godwit.testing.fake_machine import Script, managed_config

WEB = {
    **managed_config("hello:1", "web", version=3),
    "services": [
        {
            "protocol": "tcp",
            "internal_port": 8080,
            "autostop": "suspend",
            "ports": [
                {"port": 80, "handlers": ["http"], "force_https": True},
                {"port": 443, "handlers": ["tls", "http"]},
            ],
        },
        {"protocol": "udp", "internal_port": 53, "ports": [{"start_port": 53, "end_port": 55}]},
    ],
}


@pytest.fixture
def hello(cli):
    cli.fake.add_app("hello")
    cli.write("fly.toml", 'app = "hello"\n')
    return cli


@pytest.fixture
def web(hello):
    return hello.fake.machines[hello.fake.add_machine("hello", WEB)]


@pytest.fixture
def worker(hello, web):
    config = managed_config("hello:1", "worker")
    return hello.fake.machines[hello.fake.add_machine("hello", config)]


def test_services_by_port_with_the_machines_behind_them(hello, web, worker):
    hello.fake.machines[hello.fake.add_machine("hello", WEB)].region = "ams"
    assert hello("services", "list").stdout == (
        "PROTOCOL  PORT   TO    HANDLERS   FORCE HTTPS  AUTOSTOP  PROCESS GROUPS  REGIONS"
        "         MACHINES\n"
        "tcp       80     8080  http       yes          suspend   web             ams(1), lcl(1)"
        "  2\n"
        "tcp       443    8080  tls, http  no           suspend   web             ams(1), lcl(1)"
        "  2\n"
        "udp       53-55  53    -          no           off       web             ams(1), lcl(1)"
        "  2\n"
    )
    assert hello("services", "ls", "--json").json[1] == {
        "protocol": "tcp",
        "port": "443",
        "internal_port": 8080,
        "handlers": ["tls", "http"],
        "force_https": False,
        "autostop": "suspend",
        "groups": ["web"],
        "regions": {"ams": 1, "lcl": 1},
        "machines": 2,
    }


def test_an_app_without_services(hello):
    done = hello("services", "list")
    assert done.code == 0
    assert "hello.internal" in done.stderr
    assert hello("services", "list", "-a", "nope").code == exits.NOT_FOUND


def test_images(hello, web, worker):
    hello.fake.scripts["hello:1"] = Script(labels={"fly.version": "v7", "team": "red"})
    rows = hello("image", "show").stdout.splitlines()
    assert rows[1].split() == [
        *(web.id, "web", "3", "docker.io", "hello", "1", "sha256:" + "b" * 12, "v7", "team=red"),
    ]
    found = hello("img", "show", "--json").json
    assert [one["group"] for one in found] == ["web", "worker"]
    assert (found[0]["release"], found[0]["labels"]["team"]) == (3, "red")


@pytest.mark.parametrize(
    ("flags", "image"), [(("--image", "nginx:2"), "nginx:2"), ((), "docker.io/team/hello:1")]
)
def test_a_newer_image_is_a_deploy_of_the_last_release(hello, flags, image):
    hello.fake.releases["hello"] = [
        {
            "id": "rel_1",
            "version": 1,
            "status": "complete",
            "image_ref": f"docker.io/team/hello:1@sha256:{'a' * 64}",
            "config": {"app": "hello", "env": {"A": "b"}},
        }
    ]
    asked = hello("image", "update", *flags)
    assert asked.code == exits.USAGE
    assert f"Deploy {image} to hello, which runs docker.io/team/hello:1@" in asked.stderr
    done = hello("image", "update", *flags, "--yes", "--skip-health-checks", "--json")
    assert done.code == 0, done.stderr
    assert (done.json["release"], done.json["image"]) == (2, image)
    (order,) = [body for target, body in hello.fake.bodies if target.endswith("/deploys")]
    assert order["definition"] == {"app": "hello", "env": {"A": "b"}}
    assert order["options"]["strategy"] == "immediate"


def test_an_image_without_a_tag_has_nothing_newer(hello):
    assert hello("image", "update", "--yes").code == exits.NOT_FOUND
    hello.fake.releases["hello"] = [
        {
            "id": "rel_1",
            "version": 1,
            "status": "complete",
            "image_ref": "localhost:5000/hello@sha256:1",
            "config": {"app": "hello"},
        }
    ]
    done = hello("image", "update", "--yes")
    assert done.code == exits.USAGE
    assert "no tag that could have moved on" in done.stderr


def test_private_addresses(hello, web, worker):
    assert hello("ips", "private").stdout == (
        "MACHINE         PROCESS  REGION  IP\n"
        f"{web.id}  web      lcl     fdaa:0:1::2\n"
        f"{worker.id}  worker   lcl     fdaa:0:1::2\n"
    )
    assert hello("ips", "private", "-j").json[0]["ip"] == "fdaa:0:1::2"


def test_restarts_are_of_machines_of_groups_one_by_one(hello, web, worker):
    worker.state = "stopped"
    hello.fake.add_machine("hello", {"image": "tool:1"})
    done = hello("apps", "restart")
    assert done.stderr == f"restarting {web.id}\nrestarted 1 machine\n"
    assert sum("/restart" in call for call in hello.fake.calls) == 1


def test_a_restart_ends_at_the_first_that_is_not_well(hello, web, worker):
    checked = {**WEB, "checks": {"up": {"type": "tcp", "port": 8080}}}
    web.config = checked
    hello.fake.scripts["hello:1"] = Script(checks=("critical",), output="refused")
    done = hello("apps", "restart")
    assert done.code == exits.FAILED
    assert f"machine {web.id} was not well within" in done.stderr
    assert not any(worker.id in call for call in hello.fake.calls)
    assert hello("apps", "restart", "--skip-health-checks").code == 0


def test_what_comes_later_says_so(hello):
    done = hello("apps", "move", "hello", "--org", "acme")
    assert done.code == exits.FAILED
    assert "apps cannot be moved yet" in done.stderr


def test_other_names_of_commands(hello, web):
    assert hello("apps", "open").stdout == "http://hello.godwit.localhost:8080/\n"
    assert hello("app", "releases", "--json").json == []
    assert hello("service", "list").code == 0
    assert hello("ip", "private").code == 0
