"""Configs: what is refused, and the words for it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit.base import errors
from godwit.control import guest_sizes, machine_config


def parse(**config: object) -> machine_config.MachineConfig:
    return machine_config.parse({"image": "nginx", **config})


def refusal(**config: object) -> str:
    with pytest.raises(errors.Failure) as caught:
        parse(**config)
    assert caught.value.code == "invalid_argument"
    return caught.value.message


SERVICE = {"protocol": "tcp", "internal_port": 80}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"image": None}, "config.image: is required"),
        ({"image": 5}, "config.image: must be a string"),
        ({"env": {"A": 1}}, "config.env.A: must be a string"),
        ({"env": {"A=B": "1"}}, "config.env: 'A=B' is not the name of a variable"),
        ({"env": []}, None),
        ({"services": [{"internal_port": 80}]}, "config.services[0].protocol: is required"),
        ({"services": [{**SERVICE, "internal_port": "80"}]}, "internal_port: must be an integer"),
        ({"services": [{**SERVICE, "internal_port": 80.5}]}, "internal_port: must be an integer"),
        ({"services": [{**SERVICE, "internal_port": 70_000}]}, "less than or equal to 65535"),
        ({"services": [{**SERVICE, "protocol": "sctp"}]}, "protocol: must be 'tcp' or 'udp'"),
        ({"services": [{**SERVICE, "ports": [{"port": 80, "handlers": ["h3"]}]}]}, "handlers[0]"),
        ({"services": [{**SERVICE, "ports": [{"start_port": 9, "end_port": 8}]}]}, "is after"),
        (
            {"services": [{**SERVICE, "ports": [{"port": 80, "force_https": True}]}]},
            "http handler",
        ),
        (
            {"services": [{**SERVICE, "concurrency": {"soft_limit": 5, "hard_limit": 4}}]},
            "is over",
        ),
        ({"services": [{**SERVICE, "checks": [{"type": "exec"}]}]}, "checks[0].type"),
        ({"checks": {"up": {"type": "tcp"}}}, "config.checks.up: port: is required"),
        ({"checks": {"up": {"type": "tcp", "port": 1, "interval": "soon"}}}, "must be a duration"),
        ({"restart": {"policy": "sometimes"}}, "config.restart.policy"),
        ({"stop_config": {"signal": "SIGSTOP"}}, "must be one of SIGHUP"),
        ({"stop_config": {"timeout": "6m"}}, "must be at most 5m"),
        ({"files": [{"guest_path": "etc/x", "raw_value": ""}]}, "must be an absolute path"),
        ({"files": [{"guest_path": "/x", "raw_value": "%"}]}, "must be base64"),
        ({"mounts": [{"volume": "vol_1", "path": "/data"}]}, "has no volumes yet"),
        ({"mounts": [{"path": "/a"}, {"path": "/b"}]}, "config.mounts"),
        ({"schedule": "daily"}, "has no scheduled machines yet"),
        ({"processes": [{"exec": ["a"]}]}, "config.processes: this platform has no"),
        ({"auto_destroy": "yes"}, "config.auto_destroy: must be true or false"),
    ],
)
def test_a_wrong_field_is_named_by_its_path(config: dict, said: str | None) -> None:
    if said is None:
        parse(**config)
    else:
        assert said in refusal(**config)


def test_every_mistake_is_told_at_once() -> None:
    message = refusal(env={"A": 1}, services=[{"protocol": "x"}], restart={"policy": "y"})
    assert message.count(";") == 3


def test_go_zero_values_are_unset() -> None:
    parse(
        env=None,
        services=None,
        checks={},
        size="",
        guest={"cpus": 0, "memory_mb": 0, "cpu_kind": "", "gpu_kind": ""},
        init={"exec": None, "entrypoint": [], "tty": False, "swap_size_mb": 0},
        restart={"policy": "", "max_retries": 0},
        stop_config={"signal": "", "timeout": None},
        mounts=[],
        dns={"options": None, "hostname": ""},
        schedule="",
        metrics=None,
        rootfs={"persist": "", "size_gb": 0},
    )


def test_unknown_fields_are_allowed_everywhere() -> None:
    parse(new_thing={"a": 1}, services=[{**SERVICE, "future": [1], "force_instance_key": None}])


@pytest.mark.parametrize("value", [True, False, "off", "stop", "suspend", None, ""])
def test_autostop_is_a_word_or_a_boolean(value: object) -> None:
    parse(services=[{**SERVICE, "autostop": value, "autostart": True}])


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("10s", 10_000),
        ("1m30s", 90_000),
        ("500ms", 500),
        ("0", 0),
        (5_000_000_000, 5_000),
        ("1.5s", 1500),
    ],
)
def test_durations_are_go_or_nanoseconds(text: object, ms: int) -> None:
    assert machine_config.duration_ms(text) == ms


@pytest.mark.parametrize(
    "text", ["", "10", "s", "-1s", "1x", True, None, -5, 1.5, "1s1", "9" * 400]
)
def test_other_durations_are_refused(text: object) -> None:
    with pytest.raises(ValueError, match="must be a duration"):
        machine_config.duration_ms(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip
FIELDS = st.sampled_from(sorted(machine_config.MachineConfig.model_fields))


@given(st.dictionaries(FIELDS, JSON, max_size=6))
def test_any_json_is_taken_or_refused_and_never_changed(config: dict) -> None:
    before = repr(config)
    said = ""
    try:
        guest_sizes.resources(machine_config.parse(config))
    except errors.Failure as failure:
        said = failure.message
    assert said == "" or said.startswith("config")
    assert repr(config) == before


@given(st.integers(), st.integers(), st.sampled_from(["shared", "performance", None]))
def test_sizes_are_within_their_rules(cpus: int, memory_mb: int, kind: str | None) -> None:
    try:
        config = parse(guest={"cpus": cpus, "memory_mb": memory_mb, "cpu_kind": kind})
        found = guest_sizes.resources(config)
    except errors.Failure:
        return
    least, most = (256, 2048) if found.cpu_kind == "shared" else (2048, 8192)
    assert found.cpus in guest_sizes.CPUS[found.cpu_kind]
    assert found.memory_mb % 256 == 0
    assert found.cpus * least <= found.memory_mb <= found.cpus * most


@pytest.mark.parametrize(
    ("config", "size"),
    [
        ({}, ("shared", 1, 256)),
        ({"size": "shared-cpu-2x"}, ("shared", 2, 512)),
        ({"size": "performance-16x"}, ("performance", 16, 32_768)),
        ({"guest": {"cpus": 4}}, ("shared", 4, 1024)),
        ({"guest": {"cpu_kind": "performance", "memory_mb": 2304}}, ("performance", 1, 2304)),
        ({"guest": {"cpus": 8, "memory_mb": 16_384}}, ("shared", 8, 16_384)),
    ],
)
def test_sizes(config: dict, size: tuple[str, int, int]) -> None:
    found = guest_sizes.resources(parse(**config))
    assert (found.cpu_kind, found.cpus, found.memory_mb) == size


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"size": "huge"}, "is not a size; there are shared-cpu-Nx"),
        ({"size": "shared-cpu-3x"}, "is not a size"),
        ({"size": "shared-cpu-1x", "guest": {"cpus": 1}}, "size or guest, not both"),
        ({"guest": {"cpus": 3}}, "they have 1, 2, 4, 6, 8 CPUs"),
        ({"guest": {"memory_mb": 300}}, "not a multiple of 256"),
        ({"guest": {"memory_mb": 4096}}, "256 to 2048"),
        ({"guest": {"cpu_kind": "performance", "memory_mb": 256}}, "2048 to 8192"),
        ({"guest": {"cpu_kind": "huge"}}, "config.guest.cpu_kind"),
    ],
)
def test_sizes_that_are_none(config: dict, said: str) -> None:
    with pytest.raises(errors.Failure) as caught:
        guest_sizes.resources(parse(**config))
    assert said in caught.value.message
