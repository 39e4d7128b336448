"""The authority of a host's edge: who vouches for it, and for how long."""

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from godwit.base import errors
from godwit.base.settings import Settings
from godwit.control import edge_authority
from godwit.host import components, edge_keys
from godwit.wire.components import Listener
from tests.unit.host.test_components import HOST, KEYS

NOW_MS = 1_790_000_000_000
DAY_MS = 86_400_000


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "keys").mkdir()
    return tmp_path


def certificates(path: Path) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(path.read_bytes())


def test_the_first_host_vouches_for_its_own_edge_and_keeps_the_keys_to_itself(data: Path) -> None:
    edge_keys.ensure_here(data, "a1b2c3d4", NOW_MS)
    (own,) = certificates(data / "keys" / "edge.crt")
    (root,) = certificates(data / "keys" / "edge-root.crt")
    own.verify_directly_issued_by(root)
    root.verify_directly_issued_by(root)
    assert own.subject.rfc4514_string() == "CN=Godwit edge a1b2c3d4"
    limits = [
        one.extensions.get_extension_for_class(x509.BasicConstraints).value for one in (root, own)
    ]
    assert [(limit.ca, limit.path_length) for limit in limits] == [(True, 1), (True, 0)]
    for file in (data / "keys").iterdir():
        assert file.stat().st_mode & 0o777 == 0o600
    before = {file: file.read_bytes() for file in (data / "keys").iterdir()}
    edge_keys.ensure_here(data, "a1b2c3d4", NOW_MS + 100 * DAY_MS)
    assert {file: file.read_bytes() for file in (data / "keys").iterdir()} == before


def test_an_edge_is_vouched_for_anew_before_it_is_too_late(data: Path) -> None:
    edge_keys.ensure_here(data, "a1b2c3d4", NOW_MS)
    later = NOW_MS + 200 * DAY_MS
    assert edge_keys.wanted(data, later)
    edge_keys.ensure_here(data, "a1b2c3d4", later)
    assert not edge_keys.wanted(data, later)
    (root,) = certificates(data / "keys" / "edge-root.crt")
    certificates(data / "keys" / "edge.crt")[0].verify_directly_issued_by(root)


def test_another_hosts_key_is_vouched_for_and_its_private_half_never_leaves(
    data: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    (other / "keys").mkdir(parents=True)
    authority = edge_authority.ensure(data / "keys", NOW_MS)
    public = edge_keys.public_key(other)
    assert "PRIVATE" not in public
    chain = authority.vouch(public, "bbbbbbbb", NOW_MS)
    assert edge_keys.tls(other) is None
    edge_keys.keep(other, chain)
    told = edge_keys.tls(other)
    assert told is not None
    assert Path(told.certificate_file).read_text() in chain
    assert edge_keys.root(other) == authority.pem == edge_keys.root(data)


@pytest.mark.parametrize("key", ["", "x", "-----BEGIN PUBLIC KEY-----\nAAAA\n"])
def test_what_is_no_key_is_not_vouched_for(data: Path, key: str) -> None:
    authority = edge_authority.ensure(data / "keys", NOW_MS)
    with pytest.raises(errors.Failure, match="key cannot be read"):
        authority.vouch(key, "bbbbbbbb", NOW_MS)


def test_a_key_of_another_curve_is_not_vouched_for(data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "keys").mkdir(parents=True)
    (other / "keys" / "edge.key").write_text(
        edge_authority.private_pem(ec.generate_private_key(ec.SECP384R1()))
    )
    authority = edge_authority.ensure(data / "keys", NOW_MS)
    with pytest.raises(errors.Failure, match="P-256"):
        authority.vouch(edge_keys.public_key(other), "bbbbbbbb", NOW_MS)


def test_a_chain_for_somebody_else_is_left_alone(data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "keys").mkdir(parents=True)
    authority = edge_authority.ensure(data / "keys", NOW_MS)
    edge_keys.public_key(other)
    for chain in (authority.vouch(edge_keys.public_key(data), "a", NOW_MS), "nonsense", ""):
        edge_keys.keep(other, chain)
        assert edge_keys.tls(other) is None


def test_the_edge_is_told_where_to_listen_and_what_is_not_for_apps(data: Path) -> None:
    edge_keys.ensure_here(data, "a1b2c3d4", NOW_MS)
    settings = Settings.model_validate(
        {
            "paths": {"data": data, "run": "/run/g"},
            "listen": {"join": "0.0.0.0:4281"},
            "edge": {
                "addresses": ["0.0.0.0"],
                "trusted_proxies": ["192.0.2.0/24"],
                "trusted_forwarders": ["198.51.100.0/24"],
            },
        }
    )
    told = components.edge_config(settings, HOST, KEYS)
    assert told.listeners == (
        Listener(address="0.0.0.0:8080", port=80),
        Listener(address="0.0.0.0:8443", port=443),
    )
    assert (told.addresses, told.proxies) == (("0.0.0.0",), ("192.0.2.0/24",))
    assert told.forwarders == ("198.51.100.0/24",)
    assert told.reserved_ports == (22, 4222, 4280, 4281, 4282, 4283, 5050, 6222, 8090, 51_820)
    assert told.tls is not None
    assert told.handover_socket == "/run/g/edge.handover"
