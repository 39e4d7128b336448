"""Settings: file, environment and flags, and every mistake at once."""

from pathlib import Path

import pytest

from godwit.base import errors, settings


def test_flags_win_over_environment_over_file(tmp_path: Path) -> None:
    file = tmp_path / "godwit.toml"
    file.write_text('[listen]\napi = "f:1"\nedge = "f:2"\nbus = "f:3"\n')
    environ = {"GODWIT_LISTEN_EDGE": "e:2", "GODWIT_LISTEN_BUS": "e:3", "PATH": "x"}
    found = settings.load(file, environ, {"listen.bus": "flag:3", "listen.api": None})
    assert (found.listen.api, found.listen.edge, found.listen.bus) == ("f:1", "e:2", "flag:3")


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    file = tmp_path / "godwit.toml"
    file.write_text('instance = "Bad Name"\n[host]\nregion = "europe"\ncolour = 1\n')
    with pytest.raises(errors.Failure) as raised:
        settings.load(file, {}, {})
    assert all(word in raised.value.message for word in ("instance", "host.region", "host.colour"))


def test_a_missing_file_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(errors.Failure, match="cannot read settings"):
        settings.load(tmp_path / "none.toml", {}, {})


def test_resolved_settings_read_back_as_themselves(tmp_path: Path) -> None:
    made = settings.load(None, {"GODWIT_HOST_DNS_UPSTREAMS": "192.0.2.1,192.0.2.2"}, {})
    (tmp_path / "s.json").write_text(made.model_dump_json())
    assert settings.read_resolved(tmp_path / "s.json") == made


def test_who_may_speak_for_clients_is_a_list() -> None:
    name = "GODWIT_EDGE_TRUSTED_FORWARDERS"
    made = settings.load(None, {name: "192.0.2.0/24,2001:db8::1"}, {})
    assert made.edge.trusted_forwarders == ("192.0.2.0/24", "2001:db8::1")
    assert settings.load(None, {}, {}).edge.trusted_forwarders == ()
