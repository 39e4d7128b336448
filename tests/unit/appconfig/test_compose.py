"""A compose file as containers: what is taken over, what is passed over, what is refused."""

import base64
from typing import Any

import pytest

from godwit.appconfig import compose
from godwit.base import errors
from godwit.control import machine_config

WHOLE = """
services:
  web:
    build:
      context: ./app
      dockerfile: Dockerfile.web
      target: run
      args: {VERSION: "7"}
    command: serve --port 8080
    ports: ["80:8080"]
    labels: {a: b}
    cpus: 2
    environment:
      - GREETING=hello
      - HOME_OF=$${HOME}
      - TOKEN
    depends_on:
      db: {condition: service_healthy}
      migrate: {condition: service_completed_successfully}
    volumes:
      - ./site.conf:/etc/site.conf:ro
      - shared:/srv/shared
      - /cache
    stop_signal: SIGQUIT
    stop_grace_period: 1m30s
  db:
    image: postgres:${PG:-16}
    entrypoint: ["docker-entrypoint.sh"]
    command: ["postgres", "-c", "fsync=off"]
    user: postgres
    env_file: db.env
    environment: {POSTGRES_DB: shop, DEBUG: true, PORT: 5432}
    restart: on-failure:3
    healthcheck:
      test: ["CMD-SHELL", "pg_isready -q"]
      interval: 1500ms
      retries: 5
      start_period: 20s
    volumes:
      - {type: volume, source: shared, target: /shared}
  migrate:
    image: shop-migrate
    depends_on: [db]
    restart: "no"
volumes:
  shared: {}
"""
FILES = {"./site.conf": b"listen 80", "db.env": b"# comment\nPOSTGRES_USER='shop'\nDEBUG=no\n"}


def convert(text: str, **environ: str) -> compose.Converted:
    return compose.convert("compose.yaml", text, environ=environ, read_file=FILES.get)


def refusal(text: str) -> str:
    with pytest.raises(errors.Failure) as caught:
        convert(text)
    assert caught.value.code == "invalid_argument"
    return caught.value.message


def by_name(made: compose.Converted) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in made.machine_config["containers"]}


def test_a_service_is_a_container() -> None:
    made = convert(WHOLE, TOKEN="t")
    web, db = by_name(made)["web"], by_name(made)["db"]
    assert (web["image"], web["cmd"]) == (".", ["serve", "--port", "8080"])
    assert web["env"] == {"GREETING": "hello", "HOME_OF": "${HOME}", "TOKEN": "t"}
    assert web["depends_on"] == [
        {"name": "db", "condition": "healthy"},
        {"name": "migrate", "condition": "exited_successfully"},
    ]
    assert web["stop"] == {"signal": "SIGQUIT", "timeout": "90s"}
    assert (db["image"], db["entrypoint"]) == ("postgres:16", ["docker-entrypoint.sh"])
    assert (db["cmd"], db["user"]) == (["postgres", "-c", "fsync=off"], "postgres")
    assert db["env"] == {
        "POSTGRES_USER": "shop",
        "DEBUG": "true",
        "POSTGRES_DB": "shop",
        "PORT": "5432",
    }
    assert db["restart"] == {"policy": "on-failure", "max_retries": 3}
    assert by_name(made)["migrate"]["depends_on"] == [{"name": "db", "condition": "started"}]
    assert by_name(made)["migrate"]["restart"] == {"policy": "no"}


def test_a_healthcheck_is_a_command_in_whole_seconds() -> None:
    (check,) = by_name(convert(WHOLE))["db"]["healthchecks"]
    assert check == {
        "name": "healthcheck",
        "exec": {"command": ["/bin/sh", "-c", "pg_isready -q"]},
        "interval": 2,
        "timeout": 10,
        "grace_period": 20,
        "failure_threshold": 5,
    }


@pytest.mark.parametrize(
    ("test", "command"),
    [
        ('"curl -f localhost"', ["/bin/sh", "-c", "curl -f localhost"]),
        ('["CMD", "true"]', ["true"]),
        ('["NONE"]', None),
    ],
)
def test_a_test_is_a_command_however_it_is_written(test: str, command: list[str] | None) -> None:
    text = f"services: {{a: {{image: b, healthcheck: {{test: {test}}}}}}}"
    found = by_name(convert(text))["a"].get("healthchecks", [])
    assert [one["exec"]["command"] for one in found] == ([command] if command else [])
    assert all(one["interval"] == 30 for one in found)


def test_what_is_built_is_told() -> None:
    made = convert(WHOLE)
    assert made.container == "web"
    assert made.build == compose.Build("./app", "Dockerfile.web", "run", {"VERSION": "7"})
    plain = convert("services: {web: {build: .}}")
    assert (plain.container, plain.build) == ("web", compose.Build("."))
    assert convert("services: {web: {image: a}}").build is None


def test_volumes_are_directories_and_files_go_along() -> None:
    made = convert(WHOLE)
    web = by_name(made)["web"]
    assert web["mounts"] == [
        {"name": "shared", "path": "/srv/shared"},
        {"name": "web-cache", "path": "/cache"},
    ]
    assert web["files"] == [
        {
            "guest_path": "/etc/site.conf",
            "raw_value": base64.b64encode(b"listen 80").decode(),
        }
    ]
    names = [one["name"] for one in made.machine_config["volumes"]]
    assert names == ["shared", "web-cache"]


def test_what_has_no_effect_is_told_unless_it_goes_without_saying() -> None:
    assert convert(WHOLE).ignored == ("web.cpus",)


def test_what_comes_out_is_a_machine_config() -> None:
    made = convert(WHOLE)
    assert len(machine_config.parse(made.machine_config).containers) == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "services: expected at least one"),
        ("- a", "services: expected at least one"),
        ("services: [a]", "services: expected at least one"),
        ("services: {a: b}", "services: expected a table for each"),
        ("{", "is not YAML"),
        ("services: {a: {}}", "a.image: expected an image, or `build`"),
        ("services: {a: {build: .}, b: {build: .}}", "a and b have `build`"),
        ("services: {a: {image: b, depends_on: [c]}}", 'a.depends_on: there is no service "c"'),
        (
            "services: {a: {image: b, depends_on: {a: {condition: ready}}}}",
            "a.depends_on: expected one of service_started",
        ),
        ("services: {a: {image: b, restart: maybe}}", "a.restart: expected one of no"),
        ("services: {a: {image: b, volumes: [./data:/data]}}", "./data is a directory"),
        ("services: {a: {image: b, volumes: [data]}}", "a.volumes: expected SOURCE:/TARGET"),
        (
            "services: {a: {image: b, healthcheck: {test: c, interval: soon}}}",
            "a.healthcheck.interval: expected a duration",
        ),
        ('services: {a: {image: b, command: "c \'d"}}', "a.command: No closing quotation"),
        ("services: {a: {image: '${NONE:?set it}'}}", "NONE: set it"),
    ],
)
def test_what_cannot_be_is_refused_in_words(text: str, said: str) -> None:
    assert said in refusal(text)


def test_variables_are_filled_in() -> None:
    text = "services: {a: {image: '$A ${B} ${C:-c} ${D-d} ${E:-e}'}}"
    made = convert(text, A="a", B="b", D="", E="")
    assert by_name(made)["a"]["image"] == "a b c  e"
