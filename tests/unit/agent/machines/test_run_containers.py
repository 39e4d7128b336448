"""What init is told of containers, and where a command of somebody's runs."""

from typing import Any

import pytest

from godwit.agent.machines import config, records, run_containers, run_spec
from godwit.base import errors
from godwit.images.config import ImageConfig
from godwit.testing import agents
from godwit.wire import guest, host_rpc

IP = "fdaa:0:1:1:0:0:2:2"
ADDRESSES = run_containers.Addresses(IP, "2001:db8::1")
IMAGES = (
    ImageConfig(cmd=("sidecar",), user="proxy", working_directory="/side"),
    ImageConfig(cmd=("serve",), env=("A=image", "PATH=/bin")),
)
SIDE = {"name": "side", "image": "side"}
APP = {"name": "app", "image": "shop"}


def image(name: str) -> host_rpc.ImageRef:
    digest = f"sha256:{name.encode().hex():0<64}"
    return host_rpc.ImageRef(reference=name, registry="registry", repository=name, digest=digest)


def machine(*containers: dict[str, Any], **more: Any) -> records.Machine:
    given = {"containers": list(containers), **more}
    offer = agents.offer("148ed193b95948", config=given, instance_id="01VERSION")
    images = tuple(image(one["image"]) for one in containers)
    offer = offer.model_copy(update={"image": images[-1], "container_images": images})
    return records.from_offer(offer, 2, 0)


def told(
    made: records.Machine, secrets: dict[str, bytes] | None = None
) -> tuple[guest.Container, ...]:
    plain = run_spec.build(
        made,
        IMAGES[0],
        guest.Network(),
        private_ip=IP,
        local_ipv4="172.16.0.2",
        entropy=b"x",
        secrets=secrets or {},
    )
    assert plain.process is None
    assert not plain.beside
    return run_containers.added(plain, made, IMAGES, ADDRESSES, secrets or {}).containers


def test_each_runs_what_its_own_image_says_unless_its_config_does() -> None:
    app, side = told(machine({**SIDE, "cmd": ["watch"], "user": "nobody"}, APP))
    assert (app.name, app.image, app.process.argv) == ("app", "root", ("serve",))
    assert (side.name, side.image, side.process.argv) == ("side", "image1", ("watch",))
    assert (side.process.user, side.process.working_directory) == ("nobody", "/side")


def test_an_image_that_several_run_is_one_disk() -> None:
    made = machine({**SIDE, "image": "shop"}, APP)
    assert {one.image for one in told(made)} == {"root"}
    assert run_containers.further_images(made) == ()


def test_variables_are_the_images_the_machines_its_own_and_the_platforms() -> None:
    fields = [
        {"env_var": "ME", "field_ref": "image"},
        {"env_var": "IP", "field_ref": "private_ip"},
    ]
    own = {**APP, "env": {"C": "own"}, "env_from": fields}
    app, side = told(machine(SIDE, own, env={"A": "machine"}), {"TOKEN": b"t"})
    assert app.process.env["A"] == "machine"
    assert (app.process.env["C"], app.process.env["ME"]) == ("own", "shop")
    assert (app.process.env["IP"], app.process.env["TOKEN"]) == (IP, "t")
    assert app.process.env["FLY_IMAGE_REF"] == "shop"
    assert side.process.env["FLY_IMAGE_REF"] == "side"
    assert side.process.env["TOKEN"] == "t"
    assert "C" not in side.process.env


def test_one_that_names_secrets_has_those_alone() -> None:
    named = {**APP, "secrets": [{"env_var": "KEY", "name": "TOKEN"}]}
    app, side = told(machine(SIDE, named), {"TOKEN": b"t", "OTHER": b"o"})
    assert app.process.env["KEY"] == "t"
    assert not {"TOKEN", "OTHER"} & set(app.process.env)
    assert side.process.env["OTHER"] == "o"
    with pytest.raises(errors.Failure) as caught:
        told(machine(SIDE, named), {"OTHER": b"o"})
    assert caught.value.message == "container app: secrets: the machine has no secret TOKEN"


def test_the_machines_files_are_in_all_of_them() -> None:
    shared = [{"guest_path": "/etc/shared", "raw_value": "eA=="}]
    own = {**APP, "files": [{"guest_path": "/etc/own", "raw_value": "eA=="}]}
    app, side = told(machine(SIDE, own, files=shared))
    assert [file.path for file in app.files] == ["/etc/shared", "/etc/own"]
    assert [file.path for file in side.files] == ["/etc/shared"]


def test_what_is_not_said_has_a_default() -> None:
    check = {"tcp": {"port": 80}}
    _, side = told(
        machine({**SIDE, "healthchecks": [check], "depends_on": [{"name": "app"}]}, APP)
    )
    assert (side.restart, side.max_retries) == ("on-failure", 10)
    assert (side.stop_signal, side.stop_timeout_ms) == ("", 5_000)
    assert side.depends_on[0].condition == "started"
    (asked,) = side.healthchecks
    assert (asked.interval_s, asked.timeout_s, asked.grace_s) == (10, 5, 0)
    assert (asked.success_threshold, asked.failure_threshold, asked.stops) == (1, 3, False)


def test_volumes_are_in_memory_or_on_disk_or_images() -> None:
    given = [
        {"name": "read", "image": "data"},
        {"name": "fast", "temp_dir": {"storage_type": "memory", "size_mb": 64}},
        {"name": "big", "temp_dir": {"storage_type": "disk", "size_mb": 4096}},
        {"name": "plain"},
    ]
    made = machine(SIDE, APP, volumes=given)
    images = (*made.container_images, image("data"))
    made = made.model_copy(update={"container_images": images})
    found = run_containers.volumes(made)
    assert [(one.name, one.memory_mb, one.image, one.disk) for one in found] == [
        ("read", 0, "image2", ""),
        ("fast", 64, "", ""),
        ("big", 0, "", "own1"),
        ("plain", 0, "", ""),
    ]
    assert run_containers.volume_bytes(made) == (4096 << 20,)
    assert run_containers.further_images(made) == (images[0].digest, images[2].digest)


def test_volumes_that_there_is_no_disk_for_share_the_machines() -> None:
    given = [{"name": f"v{at}", "temp_dir": {"size_mb": at}} for at in range(1, 10)]
    made = machine(SIDE, APP, volumes=given)
    sizes = run_containers.volume_bytes(made)
    assert sizes == tuple(at << 20 for at in range(1, 8))
    found = [one.disk for one in run_containers.volumes(made)]
    assert found == [*(f"own{at}" for at in range(1, 8)), "", ""]


def test_a_stop_has_the_time_of_all_unless_it_is_said() -> None:
    slow = {**SIDE, "stop": {"timeout": "20s"}}
    given = {"containers": [slow, APP]}
    assert config.stop(given).timeout_ms == 25_000
    assert config.stop({**given, "stop_config": {"timeout": "8s"}}).timeout_ms == 8_000
    assert config.stop(given, None, 1_000).timeout_ms == 1_000


def test_a_command_runs_in_the_main_container_unless_it_is_said() -> None:
    given = {"containers": [SIDE, APP]}
    assert run_containers.meant(given, "", machine=False) == "app"
    assert run_containers.meant(given, "side", machine=False) == "side"
    assert run_containers.meant(given, "", machine=True) == ""
    assert run_containers.meant({"containers": [SIDE]}, "", machine=False) == "side"
    assert run_containers.meant({}, "", machine=False) == ""
    with pytest.raises(errors.Failure, match="no container 'db'; it has side, app"):
        run_containers.meant(given, "db", machine=False)
    with pytest.raises(errors.Failure, match="it has one main process"):
        run_containers.meant({}, "db", machine=False)


def test_a_command_finds_the_variables_of_where_it_runs() -> None:
    own = {**SIDE, "env": {"C": "own"}}
    made = machine(own, APP).model_copy(
        update={"image_config": IMAGES[1], "container_configs": IMAGES}
    )
    inside = run_containers.environment(made, "side", ADDRESSES, {})
    beside = run_containers.environment(made, "", ADDRESSES, {})
    assert (inside["C"], inside["FLY_IMAGE_REF"]) == ("own", "side")
    assert "C" not in beside
    assert beside["A"] == "image"


def test_a_check_over_https_is_left_to_the_host() -> None:
    https = {"http": {"port": 8443, "scheme": "https", "path": "/up"}, "unhealthy": "stop"}
    plain = {"http": {"port": 80, "scheme": "http"}}
    _, side = told(machine({**SIDE, "healthchecks": [https, plain]}, APP))
    assert [check.question.type for check in side.healthchecks] == ["host", "http"]
    assert side.healthchecks[0].stops
