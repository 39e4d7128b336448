"""What a host keeps of its cluster."""

from pathlib import Path
from typing import Any

from godwit.base.settings import ROLES, Settings
from godwit.host import identity, membership
from godwit.wire.facts import MemberFact


def member(host_id: str, revision: int = 1, **changes: Any) -> MemberFact:
    known: dict[str, Any] = {
        "epoch": 1,
        "revision": revision,
        "host_id": host_id,
        "host_number": 65_537 + int(host_id[0], 16),
        "region": "fra",
        "zone": "0000",
        "roles": ("bus", "agent"),
        "keys": {"host": "U" + host_id},
        "services": {"bus": f"10.0.0.{int(host_id[0], 16)}:4222"},
    }
    return MemberFact.model_validate(known | changes)


def test_the_newest_record_of_every_member_is_kept(tmp_path: Path) -> None:
    membership.keep(tmp_path, [member("a1b2c3d4", 1), member("b2c3d4e5", 7)])
    membership.keep(tmp_path, [member("a1b2c3d4", 2, zone="00a1"), member("b2c3d4e5", 6)])
    found = membership.read(tmp_path)
    assert {key: one.revision for key, one in found.items()} == {"a1b2c3d4": 2, "b2c3d4e5": 7}
    assert found["a1b2c3d4"].zone == "00a1"


def test_a_new_epoch_counts_more_than_any_revision(tmp_path: Path) -> None:
    membership.keep(tmp_path, [member("a1b2c3d4", 90)])
    kept = membership.keep(tmp_path, [member("a1b2c3d4", 3, epoch=2)])
    assert (kept["a1b2c3d4"].epoch, kept["a1b2c3d4"].revision) == (2, 3)


def test_a_broken_file_or_record_is_no_reason_not_to_start(tmp_path: Path) -> None:
    assert membership.read(tmp_path) == {}
    (tmp_path / "members.json").write_text("{")
    assert membership.read(tmp_path) == {}
    membership.keep(tmp_path, [member("a1b2c3d4")])
    text = (tmp_path / "members.json").read_text()
    (tmp_path / "members.json").write_text(text.replace('"members": [', '"members": [{"v": 9},'))
    assert set(membership.read(tmp_path)) == {"a1b2c3d4"}


def test_a_region_s_bus_is_at_its_bus_servers_that_were_not_removed() -> None:
    everybody = [
        member("c3d4e5f6"),
        member("a1b2c3d4"),
        member("b2c3d4e5", state="removed"),
        member("d4e5f6a7", services={}),
        member("e5f6a7b8", region="ams"),
    ]
    assert membership.bus_servers(everybody, "fra") == ["10.0.0.10:4222", "10.0.0.12:4222"]


def test_a_region_has_one_bus_server_until_it_has_three() -> None:
    first, second, third = (member(f"{digit}1b2c3d4") for digit in "abc")
    alone = ["10.0.0.10:4222"]
    assert membership.bus_servers([first], "fra") == alone
    assert membership.bus_servers([second, first], "fra") == alone
    assert len(membership.bus_servers([third, second, first], "fra")) == 3
    gone = first.model_copy(update={"state": "removed"})
    # The one that waited takes the place of the first.
    assert membership.bus_servers([second, gone], "fra") == ["10.0.0.11:4222"]


def test_removed_servers_have_had_a_vote_where_there_were_several() -> None:
    first, second, third = (member(f"{digit}1b2c3d4") for digit in "abc")
    gone = first.model_copy(update={"state": "removed"})
    assert membership.gone_servers([first, second, third], "fra") == []
    assert membership.gone_servers([gone, second], "fra") == []
    assert membership.gone_servers([gone, second, third], "fra") == [gone.host_id]
    assert membership.gone_servers([gone, second, third], "ams") == []
    plain = gone.model_copy(update={"services": {}})
    assert membership.gone_servers([first, plain, second, third], "fra") == []


def test_a_host_uses_its_own_bus_only_where_that_serves_the_region(tmp_path: Path) -> None:
    who, _ = identity.ensure(tmp_path, "fra", "0000")
    settings = Settings.model_validate({"paths": {"data": tmp_path}})
    own = ["nats://127.0.0.1:4222"]
    assert membership.own_bus(settings, who) == own
    me = member(who.host_id, host_number=who.host_number + 90)
    membership.keep(tmp_path, [me])
    assert membership.own_bus(settings, who) == own
    first, third = (
        member(f"{digit}0000000", host_number=who.host_number + more)
        for digit, more in (("a", 1), ("b", 99))
    )
    membership.keep(tmp_path, [first])
    assert membership.own_bus(settings, who) == ["nats://10.0.0.10:4222"]
    membership.keep(tmp_path, [third])
    assert membership.own_bus(settings, who) == own
    plain = who.model_copy(update={"roles": ("agent", "edge", "dns")})
    assert len(membership.own_bus(settings, plain)) == 3


def test_the_first_host_is_everything_and_has_a_key_for_each(tmp_path: Path) -> None:
    who, keys = identity.ensure(tmp_path, "fra", "0000")
    assert who.roles == ROLES
    assert set(keys.public) == {"control", "host", "edge", "dns", "catalog"}
    assert len({who.sealing_key, who.mesh_key, *keys.public.values()}) == 7
    assert identity.ensure(tmp_path, "ams", "0001") == (who, keys)


def test_a_host_has_keys_for_what_it_is_alone(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    keys = identity.ensure_keys(tmp_path, ("agent", "edge"))
    assert set(keys.public) == {"host", "edge"}
    assert not keys.operator_token.exists()


def test_an_identity_of_a_release_before_hosts_joined_is_completed(tmp_path: Path) -> None:
    who, _ = identity.ensure(tmp_path, "fra", "0000")
    former = who.model_dump(mode="json", exclude={"mesh_key", "roles"})
    identity.write(tmp_path, identity.HostIdentity.model_validate(former))
    assert identity.ensure(tmp_path, "fra", "0000")[0] == who


def test_others_reach_what_runs_here() -> None:
    settings = Settings()
    all_of_them = {"bus": 4222, "control": 4280, "registry": 5050}
    assert membership.ports(settings, ROLES) == all_of_them
    assert membership.ports(settings, ("agent", "edge", "dns")) == {}
