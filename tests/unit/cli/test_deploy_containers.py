"""Deploys of containers: from a machine config, and from a compose file."""

import json

from godwit.cli import exits
from tests.unit.cli.test_deploy import ordered

COMPOSE = """
services:
  web:
    build: {context: site, args: {MODE: fast}}
    depends_on: [cache]
    ports: ["80:8080"]
    cpus: 2
  cache:
    image: redis:7
"""


def test_a_compose_file_is_deployed_as_containers(cli):
    cli.fake.add_app("hello")
    cli.write("fly.toml", 'app = "hello"\n[build.compose]\n')
    cli.write("docker-compose.yml", COMPOSE)
    (cli.directory / "site").mkdir()
    cli.write("site/Dockerfile", "FROM scratch\n")
    done = cli("deploy")
    assert done.code == 0, done.stderr
    assert "docker-compose.yml: no effect have web.cpus" in done.stderr
    assert cli.fake.contexts == [["Dockerfile"]]
    assert any("MODE" in call and "fast" in call for call in cli.fake.calls)
    definition = ordered(cli)["definition"]
    containers = json.loads(definition["machine_config"])["containers"]
    assert [(one["name"], one["image"]) for one in containers] == [
        ("web", "."),
        ("cache", "redis:7"),
    ]
    assert definition["container"] == "web"
    assert "compose" not in definition["build"]


def test_one_whose_services_all_name_an_image_builds_nothing(cli):
    cli.fake.add_app("hello")
    cli.write("fly.toml", 'app = "hello"\n[build.compose]\nfile = "stack.yaml"\n')
    cli.write("stack.yaml", "services: {cache: {image: 'redis:7'}, app: {image: 'shop:1'}}\n")
    cli.write("Dockerfile", "FROM scratch\n")
    done = cli("deploy")
    assert done.code == 0, done.stderr
    assert ordered(cli)["image"] == "shop:1"
    assert cli.fake.contexts == []


def test_a_compose_file_that_is_not_there_is_told(cli):
    cli.fake.add_app("hello")
    cli.write("fly.toml", 'app = "hello"\n[build.compose]\n')
    done = cli("deploy")
    assert done.code == exits.NOT_FOUND
    assert "there is no compose file in" in done.stderr


def test_a_file_with_containers_goes_along_and_names_what_runs(cli):
    cli.fake.add_app("hello")
    cli.write("fly.toml", 'app = "hello"\nmachine_config = "machine.json"\ncontainer = "web"\n')
    config = {"containers": [{"name": "db", "image": "pg:16"}, {"name": "web", "image": "web:1"}]}
    cli.write("machine.json", json.dumps(config))
    done = cli("deploy")
    assert done.code == 0, done.stderr
    order = ordered(cli)
    assert (order["image"], cli.fake.contexts) == ("web:1", [])
    assert json.loads(order["definition"]["machine_config"]) == config
