"""The plan of a host's programs and the files they are told by."""

import json
import re
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from godwit.base import processes
from godwit.base.settings import Api, Edge, Host, Paths, Settings
from godwit.control import registry_events
from godwit.host import bus_config, components, identity, layout
from godwit.images.auth import Credentials

GOLDEN = Path(__file__).resolve().parents[3] / "contracts" / "golden"
NATS_SERVER = str(Path(sys.executable).parent / "nats-server")
HOST = identity.HostIdentity(
    host_id="a1b2c3d4",
    host_number=65_537,
    region="lcl",
    zone="0000",
    epoch=1,
    public_key="UHOST",
)
KEYS = identity.Keys(
    Path("/var/lib/godwit/keys"),
    {name: f"U{name.upper()}" for name in identity.COMPONENTS},
)


def golden(name: str) -> dict:
    return json.loads((GOLDEN / name).read_text())


def test_the_edge_is_told_the_golden_example() -> None:
    edge = Edge(
        addresses=("198.51.100.80", "::"),
        trusted_proxies=("192.0.2.0/24", "2001:db8::1"),
        trusted_forwarders=("203.0.113.0/24",),
    )
    settings = Settings(edge=edge, api=Api(name="api.godwit.localhost"))
    told = components.edge_config(settings, HOST, KEYS)
    wanted = golden("edge_config.json")
    assert wanted.pop("tls")
    assert json.loads(told.model_dump_json(exclude={"tls"})) == wanted


def test_the_dns_server_of_a_host_as_it_comes_is_told_the_golden_example() -> None:
    told = components.dns_config(Settings(), HOST, KEYS, ("192.0.2.53:53",))
    assert json.loads(told.model_dump_json()) == golden("dns_config.json")


def test_edge_and_dns_have_keys_of_their_own() -> None:
    edge = components.edge_config(Settings(), HOST, KEYS)
    dns = components.dns_config(Settings(), HOST, KEYS, ())
    assert edge.bus.seed_file != dns.bus.seed_file
    assert edge.view_file != dns.view_file


def registry(data: Path, secret: str = "s3cret") -> dict:
    (data / "keys").mkdir(parents=True)
    (data / "keys" / "registry.secret").write_text(f"{secret}\n")
    settings = Settings(paths=Paths(data=data))
    return yaml.safe_load(components.registry_config(settings))


def test_the_registry_is_told_valid_yaml(tmp_path: Path) -> None:
    keys = str(tmp_path / "keys")
    password = registry_events.password("s3cret")
    authorization = Credentials(registry_events.USER, password).basic()
    assert registry(tmp_path) == {
        "version": 0.1,
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": str(tmp_path / "registry")},
            "delete": {"enabled": True},
            "maintenance": {
                "uploadpurging": {
                    "enabled": True,
                    "age": "24h",
                    "interval": "6h",
                    "dryrun": False,
                }
            },
        },
        "http": {"addr": "127.0.0.1:5050", "secret": "s3cret"},
        "notifications": {
            "endpoints": [
                {
                    "name": "control",
                    "url": "http://127.0.0.1:4280/registry/events",
                    "headers": {"Authorization": [authorization]},
                    "timeout": "5s",
                    "threshold": 3,
                    "backoff": "2s",
                    "ignore": {
                        "actions": ["pull", "mount"],
                        "mediatypes": ["application/octet-stream"],
                    },
                }
            ]
        },
        "auth": {
            "token": {
                "realm": "http://127.0.0.1:4280/registry/token",
                "service": "godwit-registry",
                "issuer": "godwit",
                "rootcertbundle": f"{keys}/registry.crt",
            }
        },
    }


@pytest.mark.parametrize("folder", ["with space", "a: b", "# x", "{x}", "it's", 'qu"ote', "a\\b"])
def test_a_data_directory_of_any_name_stays_itself_in_the_yaml(
    tmp_path: Path, folder: str
) -> None:
    found = registry(tmp_path / folder)
    assert found["storage"]["filesystem"]["rootdirectory"] == str(tmp_path / folder / "registry")


def test_a_secret_of_digits_stays_a_string(tmp_path: Path) -> None:
    assert registry(tmp_path, "0123456789")["http"]["secret"] == "0123456789"


def by_name(settings: Settings | None = None) -> dict[str, components.Component]:
    return {one.name: one for one in components.plan(settings or Settings())}


def test_the_plan_has_the_eight_programs_and_starts_each_after_what_it_needs() -> None:
    names = [one.name for one in components.plan(Settings())]
    assert names == ["bus", "catalog", "keyring", "control", "registry", "agent", "edge", "dns"]
    for number, one in enumerate(components.plan(Settings())):
        assert set(one.after) <= set(names[:number]), one.name


def test_the_edge_waits_for_nothing() -> None:
    assert by_name()["edge"].after == ()


def test_every_program_is_named_by_an_absolute_path_or_found_on_the_path(tmp_path: Path) -> None:
    plan = by_name(Settings(paths=Paths(programs=tmp_path, run=tmp_path / "r")))
    assert plan["edge"].argv[0] == str(tmp_path / "godwit-edge")
    assert plan["dns"].argv[0] == str(tmp_path / "godwit-dns")
    assert plan["registry"].argv[0] == "docker-registry"
    others = ("bus", "control", "agent")
    assert all(Path(plan[name].argv[0]).is_absolute() for name in others)


def test_readiness_of_strangers_is_their_port_ours_say_so_themselves() -> None:
    asked = {name: one.ready_at for name, one in by_name().items() if one.ready_at}
    assert asked == {"bus": "127.0.0.1:4222", "registry": "127.0.0.1:5050"}


async def test_every_file_the_plan_names_is_written_for_its_owner_alone(tmp_path: Path) -> None:
    settings = Settings(paths=Paths(data=tmp_path / "d", run=tmp_path / "r"))
    settings.paths.run.mkdir()
    who, keys = identity.ensure(settings.paths.data, "lcl", "0000")
    layout.write_files(settings, who, keys)
    for one in components.plan(settings):
        named = [word for word in one.argv if word.startswith(str(settings.paths.run))]
        assert named, one.name
        for file in map(Path, named):
            assert file.stat().st_mode & 0o777 == 0o600


async def test_the_registrys_secret_is_made_once(tmp_path: Path) -> None:
    settings = Settings(paths=Paths(data=tmp_path / "d", run=tmp_path / "r"))
    settings.paths.run.mkdir()
    who, keys = identity.ensure(settings.paths.data, "lcl", "0000")
    layout.write_files(settings, who, keys)
    first = (settings.paths.run / "registry.yml").read_text()
    layout.write_files(settings, who, keys)
    assert (settings.paths.run / "registry.yml").read_text() == first
    assert len(yaml.safe_load(first)["http"]["secret"]) == 64


def rendered(**changed: object) -> str:
    return bus_file(HOST.model_copy(update=changed), KEYS)


def bus_file(
    who: identity.HostIdentity,
    keys: identity.Keys,
    listen: str = "127.0.0.1:4222",
    store: Path = Path("/var/lib/godwit/bus"),
) -> str:
    server = bus_config.Server(who.host_id, who.region, listen, store)
    return bus_config.render(server, [bus_config.this_member(who, keys)])


@pytest.mark.parametrize("host_id", ["12345678", "00000012", "1e234567", "a1b2c3d4"])
async def test_the_bus_takes_every_host_id_as_a_name(tmp_path: Path, host_id: str) -> None:
    who, keys = identity.ensure(tmp_path, "lcl", "0000")
    named = who.model_copy(update={"host_id": host_id})
    text = bus_file(named, keys, store=tmp_path / "bus")
    assert f'server_name: "{host_id}"\n' in text
    (tmp_path / "bus.conf").write_text(text)
    checked = await processes.run(
        [NATS_SERVER, "-t", "-c", str(tmp_path / "bus.conf")], timeout_s=30, check=False
    )
    assert checked.exit_code == 0, checked.stderr.decode()


def allowed(text: str, component: str) -> dict[str, list[str]]:
    """Return what a component may publish and subscribe to."""
    user = text.partition(f"nkey: {KEYS.public[component]},")[2].partition("nkey:")[0]
    return {
        verb: re.findall(r'"([^"]+)"', user.partition(f"{verb}: {{ allow: [")[2].partition("]")[0])
        for verb in ("publish", "subscribe")
    }


def test_each_component_is_a_user_by_its_own_key() -> None:
    assert sorted(re.findall(r"nkey: (\w+)", rendered())) == sorted(KEYS.public.values())


def test_a_host_speaks_only_for_itself() -> None:
    may = allowed(rendered(), "host")
    facts = [subject for subject in may["publish"] if subject.startswith("facts.")]
    assert facts == ["facts.lcl.machine.a1b2c3d4.>", "facts.lcl.host.a1b2c3d4.>"]
    assert "godwit.host.a1b2c3d4.rpc.>" in may["subscribe"]
    asks = [subject for subject in may["publish"] if subject.startswith("godwit.")]
    assert asks == ["godwit.control.rpc.a1b2c3d4.>"]


@pytest.mark.parametrize("reader", ["edge", "dns"])
def test_readers_publish_nothing_but_questions_to_the_stream(reader: str) -> None:
    may = allowed(rendered(), reader)
    assert may["publish"]
    assert all(subject.startswith(("$JS.API.", "$JS.FC.")) for subject in may["publish"])
    assert not any("STREAM.CREATE" in subject for subject in may["publish"])
    assert may["subscribe"] == ["_INBOX.>"]


def test_nobody_may_say_everything() -> None:
    for component in identity.COMPONENTS:
        may = allowed(rendered(), component)
        assert not {">", "*", "$JS.API.>", "$SYS.>"} & {*may["publish"], *may["subscribe"]}


def test_only_control_says_what_apps_are() -> None:
    speakers = [
        one
        for one in identity.COMPONENTS
        if any(".app." in subject for subject in allowed(rendered(), one)["publish"])
    ]
    assert speakers == ["control"]


def test_an_ipv6_listen_address_is_split_at_its_port() -> None:
    text = bus_file(HOST, KEYS, "[::1]:4222")
    assert 'host: "::1"\nport: 4222\n' in text


def resolvers(tmp_path: Path, text: str, **host: object) -> tuple[str, ...]:
    (tmp_path / "resolv.conf").write_text(text)
    return layout.upstreams(Settings(host=Host(**host)), tmp_path / "resolv.conf")


def test_resolvers_come_from_the_host_unless_they_are_set(tmp_path: Path) -> None:
    text = "# x\nsearch here\nnameserver 192.0.2.1\nnameserver 2001:db8::1 # second\nnameserver\n"
    assert resolvers(tmp_path, text) == ("192.0.2.1:53", "[2001:db8::1]:53")
    chosen = ("192.0.2.9", "192.0.2.9:5353", "2001:db8::9", "[2001:db8::9]:5353")
    assert resolvers(tmp_path, text, dns_upstreams=chosen) == (
        "192.0.2.9:53",
        "192.0.2.9:5353",
        "[2001:db8::9]:53",
        "[2001:db8::9]:5353",
    )


def test_a_host_without_resolvers_has_none(tmp_path: Path) -> None:
    assert layout.upstreams(Settings(), tmp_path / "none") == ()
    assert resolvers(tmp_path, "search here\n") == ()


@given(address=st.ip_addresses())
def test_every_address_gets_a_port(address: object) -> None:
    (found,) = layout.upstreams(Settings(host=Host(dns_upstreams=(str(address),))))
    host, _, port = found.rpartition(":")
    assert (host.strip("[]"), port) == (str(address), "53")
    assert host.startswith("[") == (address.version == 6)
