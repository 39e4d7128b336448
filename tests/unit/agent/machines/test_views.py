"""What others see of a machine: services from a config, the view, the fact."""

from typing import Any

import pytest

from godwit.agent.machines import records, views
from godwit.base import errors
from godwit.control import machine_config
from godwit.durable import journal
from godwit.testing import agents
from godwit.wire import facts, host_rpc, metadata

HOST = views.Identity("a1b2c3d4", "lcl", "0000", 3)


def snapshot(config: dict[str, Any], run: journal.Run | None = None, **changes: Any):
    offer = agents.offer("0000000000000a", config=config, instance_id="01OLD")
    machine = records.from_offer(offer, 5, 1_790_000_000_000).model_copy(update=changes)
    return views.Snapshot(machine, run, (), "started", "", 9, "fdaa::5", "172.16.0.5")


def service(**given: Any) -> facts.Service:
    (found,) = views.services({"services": [{"internal_port": 8080, **given}]}, {})
    return found


def test_a_service_has_the_platforms_defaults() -> None:
    found = service()
    assert found == facts.Service(
        protocol="tcp",
        internal_port=8080,
        passing=True,
        autostart=True,
        concurrency="connections",
        soft_limit=20,
        hard_limit=None,
    )


def test_ports_come_single_or_as_a_range() -> None:
    found = service(
        ports=[
            {"port": 80, "handlers": ["http"], "force_https": True},
            {"start_port": 5000, "end_port": 5010},
            {"port": 0},
            {"port": 99_999},
            {"start_port": 10, "end_port": 5},
        ]
    )
    assert found.ports == (
        facts.ServicePort(start_port=80, end_port=80, handlers=("http",), force_https=True),
        facts.ServicePort(start_port=5000, end_port=5010),
    )


def test_a_ports_options_are_told_as_edges_need_them() -> None:
    options = {
        "compress": False,
        "h2_backend": True,
        "idle_timeout": 600,
        "headers_read_timeout": "soon",
        "response": {
            "pristine": True,
            "headers": {"Server": False, "X-Frame-Options": "DENY", "Vary": ["a", "b"]},
        },
        "replay_cache": [
            {"path_prefix": "/", "ttl_seconds": 60, "type": "cookie", "name": "session"},
            {"path_prefix": "/", "ttl_seconds": 60, "type": "song", "name": "session"},
        ],
    }
    given = {
        "port": 443,
        "handlers": ["tls", "http", "tls"],
        "tls_options": {"alpn": ["h2"], "versions": ["TLSv1.3", "SSLv3"]},
        "http_options": options,
        "proxy_proto_options": {"version": "v2"},
    }
    [found] = service(ports=[given]).ports
    assert found.handlers == ("tls", "http")
    assert found.tls_options == facts.TlsOptions(alpn=("h2",), versions=("TLSv1.3",))
    assert found.proxy_version == "v2"
    assert found.http_options == facts.HttpOptions(
        compress=False,
        h2_backend=True,
        idle_timeout=600,
        pristine=True,
        remove=("Server",),
        add=(("X-Frame-Options", "DENY"), ("Vary", "a"), ("Vary", "b")),
        replay_cache=(
            facts.ReplayCache(path_prefix="/", ttl_seconds=60, type="cookie", name="session"),
        ),
    )


def test_limits_and_autostart_are_the_users() -> None:
    found = service(
        concurrency={"type": "requests", "soft_limit": 5, "hard_limit": 10}, autostart=False
    )
    assert (found.concurrency, found.soft_limit, found.hard_limit) == ("requests", 5, 10)
    assert not found.autostart
    config = {"services": [{"internal_port": 1}], "disable_machine_autostart": True}
    assert not views.services(config, {})[0].autostart


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (None, "off"),
        (False, "off"),
        ("off", "off"),
        (True, "stop"),
        ("stop", "stop"),
        ("suspend", "suspend"),
    ],
)
def test_what_is_done_with_a_machine_that_is_not_needed(asked: Any, told: str) -> None:
    one = {"internal_port": 1, "autostop": asked}
    found = views.fact(HOST, snapshot({"image": "nginx", "services": [one]}), {})
    assert found.autostop == told


def test_the_service_that_allows_least_decides_whether_a_machine_rests() -> None:
    def told(*asked: Any) -> str:
        services = [{"internal_port": 1, "autostop": one} for one in asked]
        return views.fact(HOST, snapshot({"image": "nginx", "services": services}), {}).autostop

    assert told("suspend", "stop") == "stop"
    assert told("suspend", "off") == "off"
    assert told() == "off"


@pytest.mark.parametrize(("primary", "left"), [(None, 2), ("lcl", 2), ("fra", 0)])
def test_machines_are_left_running_in_the_primary_region_alone(
    primary: str | None, left: int
) -> None:
    config = {
        "image": "nginx",
        "services": [{"internal_port": 1, "min_machines_running": 2}],
        "env": {"PRIMARY_REGION": primary} if primary else {},
    }
    assert views.fact(HOST, snapshot(config, region="lcl"), {}).min_running == left


@pytest.mark.parametrize("port", [None, 0, -1, 70_000, "80", True])
def test_a_service_without_a_port_is_left_out(port: Any) -> None:
    assert views.services({"services": [{"internal_port": port}]}, {}) == ()


def test_failing_checks_close_their_service_only() -> None:
    config = {"services": [{"internal_port": 1}, {"internal_port": 2}]}
    found = views.services(config, {1: False})
    assert [each.passing for each in found] == [True, False]


def test_the_fact_says_whose_it_is_and_in_what_order() -> None:
    config = {
        "metadata": {"fly_process_group": "worker", "n": 5},
        "dns": {"skip_registration": True},
    }
    found = views.fact(HOST, snapshot(config), {})
    assert (found.owner, found.epoch, found.revision) == ("a1b2c3d4", 3, 9)
    assert (found.process_group, found.metadata) == ("worker", {"fly_process_group": "worker"})
    assert (found.in_dns, found.deleted) == (False, False)
    assert views.fact(HOST, snapshot({}, state="destroyed"), {}).deleted


def test_a_version_on_its_way_is_shown_until_it_is_in_place() -> None:
    update = agents.update("0000000000000a", "01NEW", config={"env": {"A": "1"}})
    run = journal.Run("r", "m", "o", "update", (), {"update": update}, 0)
    shown = views.view(HOST, snapshot({}, run), ())
    assert (shown.instance_id, shown.config) == ("01NEW", {"env": {"A": "1"}})
    done = snapshot({}, run.with_done("adopt_version", {}))
    assert views.view(HOST, done, ()).instance_id == "01OLD"


def test_the_config_comes_back_as_it_was_submitted() -> None:
    config = {"image": "x", "unknown": [None, 1.5, {"deep": ""}], "env": {}}
    assert views.view(HOST, snapshot(config), ()).config == config


def test_what_satisfies_both() -> None:
    small = host_rpc.Resources(cpu_kind="performance", cpus=1, memory_mb=2048)
    wide = host_rpc.Resources(cpu_kind="shared", cpus=4, memory_mb=256)
    both = views.larger(small, wide)
    assert both == host_rpc.Resources(cpu_kind="performance", cpus=4, memory_mb=2048)


def test_an_operation_this_build_does_not_know_is_shown_as_nothing_in_particular() -> None:
    assert views.kind_of("hibernate") == "clear"
    assert views.kind_of("start") == "start"


def test_the_longest_config_that_is_taken_makes_a_fact_that_the_bus_takes() -> None:
    ports: list[dict[str, Any]] = [
        {"start_port": 60_000, "end_port": 65_535, "handlers": ["proxy_proto", "pg_tls", "tcp"]}
    ] * machine_config.MOST_PORTS
    for at in range(17):
        headers = {"h" * 16: ["v"] * 2} if at else {"h" * 10: ["v"] * 20}
        ports[at] = {
            **ports[at],
            "handlers": ["http", "tls"],
            "http_options": {"idle_timeout": 2**31 - 1, "response": {"headers": headers}},
        }
    one = {
        "protocol": "tcp",
        "internal_port": 65_535,
        "autostart": False,
        "concurrency": {"soft_limit": 2**31 - 1, "hard_limit": 2**31 - 1},
    }
    config: dict[str, Any] = {
        "image": "nginx",
        "services": [{**one, "ports": ports}, *[one] * 99],
        "metadata": {"k": "v" * (metadata.MOST_BYTES - 10)},
    }
    machine_config.parse(config)
    views.check_told(config)
    told = snapshot(config, name="\U0001f426" * 63, app="a" * 63)
    fact = views.fact(HOST, told, dict.fromkeys(range(100), False))
    assert len(fact.model_dump_json().encode()) <= facts.MOST_BYTES


def test_a_host_refuses_what_it_could_not_tell() -> None:
    one = {"internal_port": 80, "ports": [{"port": 80}] * 2_000}
    with pytest.raises(errors.Failure, match="too long to be told of"):
        views.check_told({"services": [one]})
    with pytest.raises(errors.Failure, match="too long to be told of"):
        views.check_told({"metadata": {"fly_process_group": "v" * 32_000}})


def test_edges_are_told_where_files_are() -> None:
    config = {"image": "nginx", "statics": [{"guest_path": "/p", "url_prefix": "/s"}]}
    found = views.fact(HOST, snapshot(config), {})
    assert found.statics == facts.Statics(port=62_080, prefixes=("/s",))
    assert views.fact(HOST, snapshot({"image": "nginx"}), {}).statics is None
