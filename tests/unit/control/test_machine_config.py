"""Configs: what is refused, and the words for it."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from godwit.base import errors
from godwit.control import config_fields, guest_sizes, machine_config
from godwit.wire import guest_sizes as table


def parse(**config: object) -> machine_config.MachineConfig:
    return machine_config.parse({"image": "nginx", **config})


def refusal(**config: object) -> str:
    with pytest.raises(errors.Failure) as caught:
        parse(**config)
    assert caught.value.code == "invalid_argument"
    return caught.value.message


def forwarding(basename: str, addr: str) -> dict[str, object]:
    return {"dns": {"dns_forward_rules": [{"basename": basename, "addr": addr}]}}


SERVICE = {"protocol": "tcp", "internal_port": 80}


def port(**options: object) -> dict[str, object]:
    given = {"port": 443, "handlers": ["tls", "http"], **options}
    return {"services": [{**SERVICE, "ports": [given]}]}


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
        (port(handlers=["http", "proxy_proto"]), "http goes with tls alone"),
        (port(handlers=["pg_tls", "tls"]), "exclude each other"),
        (port(tls_options={"versions": ["SSLv3"]}), "tls_options.versions[0]"),
        (port(tls_options={"alpn": ["x" * 256]}), "tls_options.alpn[0]: must have 1 to 255"),
        (port(proxy_proto_options={"version": "v3"}), "proxy_proto_options.version"),
        (port(http_options={"idle_timeout": -1}), "http_options.idle_timeout"),
        (port(http_options={"response": {"headers": {"a b": "x"}}}), "is no name of a header"),
        (port(http_options={"response": {"headers": {"a": "x\ny"}}}), "is not what a header may"),
        (port(http_options={"response": {"headers": {"a": True}}}), "must be false, a string"),
        (
            port(http_options={"replay_cache": [{"path_prefix": "/", "ttl_seconds": 9}]}),
            "replay_cache[0].ttl_seconds",
        ),
        (
            port(http_options={"response": {"headers": {"a" * 200: ["x"] * 20}}}),
            "the options of all ports have",
        ),
        ({"services": [{**SERVICE, "ports": [{"start_port": 9, "end_port": 8}]}]}, "is after"),
        (
            {"services": [{**SERVICE, "ports": [{"port": 80, "force_https": True}]}]},
            "http handler",
        ),
        (
            {"services": [{**SERVICE, "concurrency": {"soft_limit": 5, "hard_limit": 4}}]},
            "is over",
        ),
        ({"services": [{**SERVICE, "checks": [{"type": "udp"}]}]}, "checks[0].type"),
        ({"checks": {"up": {"type": "exec"}}}, "config.checks.up: command: is required"),
        ({"checks": {"up": {"type": "exec", "command": ["true"]}}}, None),
        (
            {"checks": {"up": {"type": "tcp", "port": 1, "command": ["true"]}}},
            "config.checks.up: command: is for type exec alone",
        ),
        ({"checks": {"up": {"type": "tcp"}}}, "config.checks.up: port: is required"),
        ({"checks": {"up": {"type": "tcp", "port": 1, "interval": "soon"}}}, "must be a duration"),
        ({"restart": {"policy": "sometimes"}}, "config.restart.policy"),
        (
            {"guest": {"required_host_features": ["gpu"]}},
            "config.guest.required_host_features: hosts here have no features",
        ),
        ({"guest": {"required_host_features": []}}, None),
        ({"stop_config": {"signal": "SIGSTOP"}}, "must be one of SIGHUP"),
        ({"stop_config": {"timeout": "6m"}}, "must be at most 5m"),
        ({"files": [{"guest_path": "etc/x", "raw_value": ""}]}, "must be an absolute path"),
        ({"files": [{"guest_path": "/x", "raw_value": "%"}]}, "must be base64"),
        ({"files": [{"guest_path": "/x"}]}, "give one of raw_value, secret_name and image_config"),
        ({"files": [{"guest_path": "/x", "raw_value": ""}]}, "give one of raw_value, secret_name"),
        ({"mounts": [{"volume": "vol_1", "path": "/data"}]}, "has no volumes yet"),
        ({"mounts": [{"path": "/a"}, {"path": "/b"}]}, "config.mounts"),
        ({"processes": [{"exec": ["a"]}, {"cmd": ["b"], "user": "app"}]}, None),
        ({"processes": [{"env": {"A": "b"}}]}, "config.processes[0]: say what runs: exec"),
        ({"processes": [{"exec": ["a"]}] * 9}, "config.processes: list should have at most 8"),
        (
            {"processes": [{"exec": ["a"]}], "init": {"cmd": ["b"]}},
            "config.processes: what runs is said by init, too",
        ),
        (
            {"processes": [{"exec": ["a"]}] * 2, "init": {"tty": True}},
            "config.init.tty: several processes have no terminal",
        ),
        (
            {"processes": [{"exec": ["a"], "env_from": [{"env_var": "A", "field_ref": "x"}]}]},
            "config.processes[0].env_from[0].field_ref: must be",
        ),
        (
            {"processes": [{"exec": ["a"], "secrets": [{"env_var": "A=B"}]}]},
            "config.processes[0].secrets[0].env_var: 'A=B' is not the name",
        ),
        ({"guest": {"persist_rootfs": "never"}}, None),
        ({"guest": {"persist_rootfs": 1}}, None),
        ({"guest": {"persist_rootfs": "always"}}, None),
        ({"guest": {"persist_rootfs": 2}}, None),
        ({"rootfs": {"persist": "restart", "size_gb": 2}}, None),
        ({"rootfs": {"persist": 3}}, None),
        ({"rootfs": {"persist": "sometimes"}}, "config.rootfs.persist: must be"),
        ({"rootfs": {"size_gb": 51}}, "config.rootfs.size_gb"),
        ({"guest": {"persist_rootfs": 4}}, "config.guest.persist_rootfs: must be"),
        ({"cache_drive": {"size_mb": 100}}, None),
        ({"cache_drive": {"size_mb": 0}}, None),
        ({"cache_drive": {"size_mb": 8}}, "config.cache_drive.size_mb: must be"),
        ({"cache_drive": {"size_mb": 200_000}}, "config.cache_drive.size_mb: must be"),
        ({"cache_drive": {"size_mb": "1gb"}}, "config.cache_drive.size_mb: must be an integer"),
        (forwarding("corp.example.com", "10.0.0.1"), None),
        (forwarding("Corp_1.example.", "[fdaa::9]:5353"), None),
        (forwarding("x", "10.0.0.1:53"), None),
        (forwarding("", "10.0.0.1"), "config.dns.dns_forward_rules[0].basename: is required"),
        (forwarding("a..b", "10.0.0.1"), "basename: must be a domain, such as corp.example.com"),
        (forwarding("a b", "10.0.0.1"), "basename: must be a domain"),
        (forwarding("a." * 127 + "a", "10.0.0.1"), "basename: must be a domain"),
        (forwarding("a", "resolver"), "addr: must be an IP address, or one with a port"),
        (forwarding("a", "10.0.0.1:0"), "addr: must be an IP address, or one with a port"),
        (forwarding("a", "10.0.0.1:70000"), "addr: must be an IP address, or one with a port"),
        (forwarding("a", "[10.0.0.1]:53"), "addr: must be an IP address, or one with a port"),
        (forwarding("a", "fe80::1%eth0"), "addr: must be an IP address, or one with a port"),
        ({"dns": {"nameservers": ["9.9.9.9", "fdaa::3"]}}, None),
        ({"dns": {"nameservers": ["dns.google"]}}, "config.dns.nameservers[0]: must be an IP"),
        ({"guest": {"kernel_args": ["a b"]}}, "config.guest.kernel_args: 'a b' is not one"),
        ({"init": {"kernel_args": ["init=/x"]}}, "config.init.kernel_args: 'init=/x' is the"),
        ({"init": {"kernel_args": ["debug", "a=1,2"]}}, None),
        (
            {"init": {"kernel_args": ["a" * 600]}, "guest": {"kernel_args": ["b" * 600]}},
            "config.guest.kernel_args: with those of init have 1201 bytes",
        ),
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
    assert config_fields.duration_ms(text) == ms


@pytest.mark.parametrize(
    "text", ["", "10", "s", "-1s", "1x", True, None, -5, 1.5, "1s1", "9" * 400]
)
def test_other_durations_are_refused(text: object) -> None:
    with pytest.raises(ValueError, match="must be a duration"):
        config_fields.duration_ms(text)


PORTS = [{"port": 80}] * 50
CHECK = {"type": "tcp", "port": 1}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"env": {"A": "é" * 131_072}}, "config: has 262"),
        ({"unknown": ["x" * 999] * 200}, "config: has 200"),
        ({"env": {"A": "\1" * 10_000}}, "config: env, files and init have 60016 bytes"),
        ({"files": [{"guest_path": "/a", "raw_value": "A" * 60_000}]}, "env, files and init"),
        ({"checks": {"k" * 101: CHECK}}, "config.checks: a name has more than 100"),
        ({"services": [{**SERVICE, "ports": PORTS}] * 3}, "config.services: 150 ports"),
        ({"services": [{**SERVICE, "ports": [{"port": 80}] * 29_000}]}, "config"),
        ({"services": [{**SERVICE, "checks": [CHECK]}] * 65}, "config.checks: 65"),
        ({"checks": {str(at): CHECK for at in range(65)}}, "config.checks: 65"),
        (
            {"services": [{**SERVICE, "ports": [{"port": 1, "handlers": ["tcp"] * 6}]}]},
            "handlers: list should have at most 5",
        ),
        (
            {"services": [{**SERVICE, "concurrency": {"soft_limit": 2**31}}]},
            "soft_limit: must be less than or equal to 2147483647",
        ),
        ({"metadata": {"k" * 257: "v"}}, "config.metadata: a key must have 1 to 256"),
        ({"metadata": {"": "v"}}, "config.metadata: a key must have 1 to 256"),
        ({"metadata": {"k": "v" * 32_768}}, "config.metadata: more than 28672 bytes"),
        ({"metadata": {"k": "\1" * 6_000}}, "config.metadata: more than 28672 bytes"),
        ({"metadata": {"fly_process_group": "v" * 17_000}}, "config.metadata: more than"),
    ],
)
def test_what_would_be_too_long_to_tell_is_refused(config: dict, said: str) -> None:
    assert said in refusal(**config)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip
FIELDS = st.sampled_from(sorted(machine_config.MachineConfig.model_fields))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
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
    assert found.cpus in table.RULES[found.cpu_kind].cpus
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
        ({"size": "huge"}, 'there is no size "huge"; sizes are shared-cpu-1x, '),
        ({"size": "shared-cpu-3x"}, "the nearest is shared-cpu-"),
        ({"size": "a10"}, "config.size: no host here has GPUs"),
        ({"guest": {"gpu_kind": "l40s"}}, "config.guest.gpu_kind: no host here has GPUs"),
        ({"guest": {"gpus": 1}}, "config.guest.gpus: no host here has GPUs"),
        ({"guest": {"max_memory_mb": 4096}}, "config.guest.max_memory_mb: 1 shared CPU goes"),
        ({"guest": {"memory_mb": 512, "max_memory_mb": 256}}, "cannot grow to 256 MB"),
        ({"size": "shared-cpu-1x", "guest": {"cpus": 1}}, "size or guest, not both"),
        (
            {"guest": {"cpus": 3}},
            "config.guest.cpus: shared CPUs come in 1, 2, 4, 6, 8; got 3; the nearest is 2",
        ),
        ({"guest": {"memory_mb": 300}}, "comes in steps of 256 MB; got 300; the nearest is 256"),
        (
            {"guest": {"memory_mb": 4096}},
            "256 to 2048 MB of memory; got 4096; the nearest is 2048",
        ),
        (
            {"guest": {"cpu_kind": "performance", "memory_mb": 256}},
            "2048 to 8192 MB of memory; got 256; the nearest is 2048",
        ),
        ({"guest": {"cpu_kind": "huge"}}, "config.guest.cpu_kind"),
    ],
)
def test_sizes_that_are_none(config: dict, said: str) -> None:
    with pytest.raises(errors.Failure) as caught:
        guest_sizes.resources(parse(**config))
    assert said in caught.value.message


STATIC = {"guest_path": "/app/public", "url_prefix": "/static"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tigris_bucket": "b"}, "config.statics[0]: tigris_bucket: there are no buckets"),
        ({"guest_path": "public"}, "config.statics[0].guest_path: must be an absolute path"),
        ({"url_prefix": "static"}, "config.statics[0].url_prefix: must be a path from /"),
        ({"url_prefix": "/a?b"}, "config.statics[0].url_prefix: must be a path from /"),
        ({"url_prefix": "/" + "a" * 256}, "config.statics[0].url_prefix: "),
        ({"index_document": "/i"}, "config.statics[0].index_document: must be a path below"),
        ({"index_document": "../i"}, "config.statics[0].index_document: must be a path below"),
    ],
)
def test_statics_are_files_below_a_directory(change: dict[str, str], said: str) -> None:
    parse(statics=[STATIC, {**STATIC, "index_document": "index.html", "tigris_bucket": ""}])
    assert said in refusal(statics=[{**STATIC, **change}])


def test_there_are_ten_statics_at_most() -> None:
    parse(statics=[STATIC] * 10)
    assert "config.statics: " in refusal(statics=[STATIC] * 11)
