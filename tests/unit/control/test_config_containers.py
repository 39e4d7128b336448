"""Containers in a config: what is refused, and the words for it."""

from typing import Any

import pytest

from godwit.base import errors
from godwit.control import config_containers, machine_config

WEB = {"name": "web", "image": "nginx"}
DB = {"name": "db", "image": "postgres"}
TCP = {"tcp": {"port": 5432}}


def parse(*containers: dict[str, Any], **more: object) -> machine_config.MachineConfig:
    return machine_config.parse({"containers": list(containers), **more})


def refusal(*containers: dict[str, Any], **more: object) -> str:
    with pytest.raises(errors.Failure) as caught:
        parse(*containers, **more)
    assert caught.value.code == "invalid_argument"
    return caught.value.message


def test_a_machine_of_containers_needs_no_image_of_its_own() -> None:
    parsed = parse(WEB, {**DB, "healthchecks": [TCP]})
    assert [one.name for one in parsed.containers] == ["web", "db"]
    assert parse(WEB, image="alpine").image == "alpine"


def test_without_containers_it_does() -> None:
    with pytest.raises(errors.Failure) as caught:
        machine_config.parse({"containers": []})
    assert "config.image: is required" in caught.value.message


@pytest.mark.parametrize(
    ("container", "said"),
    [
        ({"name": ""}, "config.containers[0].name: is required"),
        ({"name": "We b"}, "config.containers[0].name: must be 1 to 63 of a-z"),
        ({"name": "../up"}, "config.containers[0].name: must be 1 to 63 of a-z"),
        ({"name": "a" * 64}, "config.containers[0].name: must be 1 to 63"),
        ({"image": None}, "config.containers[0].image: is required"),
        ({"image": 5}, "config.containers[0].image: must be a string"),
        ({"env": {"A=B": "1"}}, "config.containers[0].env: 'A=B' is not the name"),
        ({"restart": {"policy": "sometimes"}}, "config.containers[0].restart.policy: must be"),
        ({"stop": {"signal": "SIGSEGV"}}, "config.containers[0].stop.signal: must be one of"),
        ({"stop": {"timeout": "10m"}}, "config.containers[0].stop.timeout: must be at most 5m"),
        ({"files": [{"guest_path": "x"}]}, "files[0].guest_path: must be an absolute path"),
        ({"env_from": [{"env_var": "A", "field_ref": "host"}]}, "env_from[0].field_ref: must be"),
        ({"depends_on": [{"name": "db"}]}, "depends_on[0].name: there is no container 'db'"),
        ({"mounts": [{"name": "data", "path": "/data"}]}, "there is no volume 'data'"),
        ({"mounts": [{"name": "data", "path": "data"}]}, "mounts[0].path: must be an absolute"),
        ({"healthchecks": [{}]}, "healthchecks[0]: give one of http, tcp and exec"),
        (
            {"healthchecks": [{**TCP, "exec": {"command": ["true"]}}]},
            "healthchecks[0]: give one of http, tcp and exec",
        ),
        ({"healthchecks": [{"tcp": {}}]}, "healthchecks[0]: give one of http, tcp and exec"),
        ({"healthchecks": [{"tcp": {"port": 70_000}}]}, "healthchecks[0].tcp.port"),
        ({"healthchecks": [{"exec": {"command": "true"}}]}, "exec.command: must be a list"),
        ({"healthchecks": [{**TCP, "interval": "10s"}]}, "interval: must be an integer"),
        ({"healthchecks": [{**TCP, "interval": -1}]}, "healthchecks[0].interval"),
        ({"healthchecks": [{**TCP, "kind": "startup"}]}, "healthchecks[0].kind: must be"),
        ({"healthchecks": [{**TCP, "unhealthy": "restart"}]}, "healthchecks[0].unhealthy"),
        (
            {"healthchecks": [{"http": {"port": 1, "scheme": "ftp"}}]},
            "healthchecks[0].http.scheme: must be",
        ),
        (
            {"healthchecks": [{**TCP, "name": "up"}, {**TCP, "name": "up"}]},
            "healthchecks[1].name: 'up' is there already",
        ),
        (
            {"healthchecks": [{"http": {"port": 1, "path": "/a b"}}]},
            "healthchecks[0].http.path: must be a path, such as /up",
        ),
        (
            {"healthchecks": [{"http": {"port": 1, "method": "GET /\r\nX: y"}}]},
            "healthchecks[0].http.method: must be a method",
        ),
    ],
)
def test_a_container_that_is_not_one_is_refused_in_words(
    container: dict[str, Any], said: str
) -> None:
    assert said in refusal({**WEB, **container})


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"processes": [{"cmd": ["a"]}]}, "what runs is said by processes or init, too"),
        ({"init": {"cmd": ["a"]}}, "what runs is said by processes or init, too"),
        ({"init": {"tty": True}}, "config.init.tty: containers have no terminal"),
        ({"volumes": [{"name": "a"}, {"name": "a"}]}, "config.volumes[1].name: 'a' is there"),
        ({"volumes": [{"name": "A"}]}, "config.volumes[0].name: must be 1 to 63"),
        (
            {"volumes": [{"name": "a", "image": "nginx", "temp_dir": {"storage_type": "disk"}}]},
            "config.volumes[0]: give one of image and temp_dir",
        ),
        (
            {"volumes": [{"name": "a", "temp_dir": {"storage_type": "memory"}}]},
            "config.volumes[0].temp_dir: size_mb: is required in memory",
        ),
        (
            {"volumes": [{"name": "a", "temp_dir": {"storage_type": "tape"}}]},
            "config.volumes[0].temp_dir.storage_type: must be",
        ),
    ],
)
def test_what_does_not_go_with_containers_is_refused_in_words(
    config: dict[str, Any], said: str
) -> None:
    assert said in refusal(WEB, **config)


def test_volumes_are_for_containers() -> None:
    with pytest.raises(errors.Failure) as caught:
        machine_config.parse({"image": "nginx", "volumes": [{"name": "a"}]})
    assert "config.volumes: are shared by containers" in caught.value.message


def test_there_is_an_end_to_containers() -> None:
    many = [{**WEB, "name": f"c{at}"} for at in range(config_containers.MOST_CONTAINERS + 1)]
    assert parse(*many[:-1]).containers
    assert "config.containers: " in refusal(*many)


def test_there_is_an_end_to_disks() -> None:
    containers = [{"name": f"c{at}", "image": f"i{at}"} for at in range(8)]
    bounded = [{"name": f"v{at}", "temp_dir": {"size_mb": 64}} for at in range(2)]
    memory = {"name": "m", "temp_dir": {"storage_type": "memory", "size_mb": 64}}
    unbounded = {"name": "u", "temp_dir": {"storage_type": "disk"}}
    assert parse(*containers, volumes=[bounded[0], memory, unbounded]).volumes
    said = refusal(*containers, volumes=bounded)
    assert "8 images and 2 volumes of a size on the disk are more disks than the 9" in said
    read = [{"name": "r", "image": "i0"}, {"name": "s", "image": "other"}]
    assert "9 images and 1 volumes" in refusal(*containers, volumes=[*read, bounded[0]])


def test_names_are_not_given_twice() -> None:
    assert "config.containers[1].name: 'web' is there already" in refusal(WEB, WEB)


def test_nobody_waits_in_a_circle() -> None:
    first = {**WEB, "depends_on": [{"name": "db"}]}
    second = {**DB, "depends_on": [{"name": "web", "condition": "exited_successfully"}]}
    said = refusal(first, second)
    assert "depends_on is a circle: " in said
    assert "web waits for db" in said
    itself = {**WEB, "depends_on": [{"name": "web"}]}
    assert "web waits for web" in refusal(itself)


def test_to_be_waited_for_as_healthy_takes_a_check() -> None:
    waiting = {**WEB, "depends_on": [{"name": "db", "condition": "healthy"}]}
    assert "container 'db' has no healthchecks" in refusal(waiting, DB)
    assert parse(waiting, {**DB, "healthchecks": [TCP]}).containers


def test_volumes_may_be_mounted_by_any_number() -> None:
    mounted = {"mounts": [{"name": "spool", "path": "/spool"}]}
    parsed = parse({**WEB, **mounted}, {**DB, **mounted}, volumes=[{"name": "spool"}])
    assert [one.mounts[0].name for one in parsed.containers] == ["spool", "spool"]
    twice = {"mounts": [{"name": "spool", "path": "/spool"}] * 2}
    said = refusal({**WEB, **twice}, volumes=[{"name": "spool"}])
    assert "config.containers[0].mounts[1].path: '/spool' is there already" in said
