"""Containers of a config file: where the built image goes, and what is refused."""

import json
from typing import Any

import pytest

from godwit.appconfig import containers, files, machine
from godwit.appconfig.model import Config

WEB = {"name": "web", "image": "."}
DB = {"name": "db", "image": "postgres:16"}
APP = {"name": "app", "image": "shop:1"}


def config(*found: dict[str, Any], **more: Any) -> Config:
    return Config.model_validate({"machine_config": json.dumps({"containers": found}), **more})


def images(made: Config) -> dict[str, str]:
    told = machine.to_machine_config(made, "app", image="built:1")
    assert "image" not in told
    return {one["name"]: one["image"] for one in told["containers"]}


@pytest.mark.parametrize(
    ("found", "wanted", "built"),
    [
        ([DB, WEB], None, {"web"}),
        ([DB, WEB], "db", {"web"}),
        ([DB, {"name": "web"}], None, {"web"}),
        ([WEB, {**WEB, "name": "worker"}, DB], None, {"web", "worker"}),
        ([DB, APP], None, {"app"}),
        ([DB, APP], "db", {"db"}),
        ([DB, {**DB, "name": "other"}], None, {"db"}),
    ],
)
def test_the_built_image_goes_where_it_is_awaited(
    found: list[dict[str, Any]], wanted: str | None, built: set[str]
) -> None:
    told = images(config(*found, container=wanted))
    assert {name for name, image in told.items() if image == "built:1"} == built


def test_an_image_that_a_container_names_stands_in_for_one_that_is_built() -> None:
    assert containers.image_of(config(DB, APP)) == "shop:1"
    assert containers.image_of(config(DB, WEB)) == ""
    assert containers.image_of(Config()) == ""


def test_a_groups_command_is_its_containers_unless_that_says_what_runs() -> None:
    made = config(DB, WEB, processes={"app": "serve --now"}, swap_size_mb=512)
    told = machine.to_machine_config(made, "app", image="built:1")
    db, web = told["containers"]
    assert web["cmd"] == ["serve", "--now"]
    assert "cmd" not in db
    assert told["init"] == {"swap_size_mb": 512}
    own = config({**WEB, "exec": ["own"]}, processes={"app": "serve"})
    (web,) = machine.to_machine_config(own, "app", image="built:1")["containers"]
    assert (web["exec"], "cmd" in web) == (["own"], False)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"container": "web"}, 'there is no container "web": the file has no containers'),
        (
            {"container": "db", "machine_config": '{"containers": [{"name": "web"}]}'},
            'there is no container "db"; there are web',
        ),
        ({"machine_config": '{"containers": 5}'}, "expected containers to be a list of objects"),
        ({"machine_config": '{"containers": ["a"]}'}, "expected containers to be a list"),
    ],
)
def test_what_cannot_be_meant_is_a_mistake(document: dict[str, Any], said: str, tmp_path) -> None:
    loaded = files.understand(tmp_path / "fly.toml", {"app": "hello", **document})
    assert any(said in problem.message for problem in loaded.found), loaded.found


def test_a_container_of_a_file_that_is_not_read_yet_may_be_named(tmp_path) -> None:
    document = {"app": "hello", "container": "web", "machine_config": "machine.json"}
    assert files.understand(tmp_path / "fly.toml", document).found == ()
