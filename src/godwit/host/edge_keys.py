"""This host's authority for certificates: what its edge makes those of apps' names with.

The key is made here and stays here; the cluster's root vouches for it, at once where control is,
else in the answer to joining and to asking whether this host still belongs. Files in
`<data>/keys`, for root alone: `edge.key`, `edge.crt`, `edge-root.crt`.
"""

import datetime as dt
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from godwit.base import private_files
from godwit.control import edge_authority
from godwit.wire import components

_RENEWED = dt.timedelta(days=edge_authority.EDGE_DAYS / 2)


def public_key(data: Path) -> str:
    """Return the public half of the edge's key, PEM, making the key if there is none."""
    path = _keys(data) / "edge.key"
    if not path.exists():
        made = ec.generate_private_key(ec.SECP256R1())
        private_files.write(path, edge_authority.private_pem(made))
    key = edge_authority.load_key(path).public_key()
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()


def wanted(data: Path, now_ms: int) -> bool:
    """Tell whether the edge's key is to be vouched for: it is not, or not for much longer."""
    path = _keys(data) / "edge.crt"
    try:
        held = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError):
        return True
    now = dt.datetime.fromtimestamp(now_ms / 1_000, dt.UTC)
    return held.not_valid_after_utc - now < _RENEWED


def keep(data: Path, chain: str) -> None:
    """Keep what vouches for the edge's key: its certificate, then the root's, PEM.

    A chain of another form, or for another key, is left alone: the edge goes on without.
    """
    try:
        own, root = x509.load_pem_x509_certificates(chain.encode())
    except ValueError:
        return
    mine = edge_authority.load_key(_keys(data) / "edge.key").public_key()
    if own.public_key() != mine:
        return
    private_files.write(_keys(data) / edge_authority.ROOT_CERTIFICATE, _pem(root))
    private_files.write(_keys(data) / "edge.crt", _pem(own))


def ensure_here(data: Path, host_id: str, now_ms: int) -> None:
    """Ensure that the edge of the host that control runs on is vouched for."""
    authority = edge_authority.ensure(_keys(data), now_ms)
    if wanted(data, now_ms):
        keep(data, authority.vouch(public_key(data), host_id, now_ms))


def tls(data: Path) -> components.TlsAuthority | None:
    """Return what the edge is told; `None` while nobody vouches for its key."""
    certificate, key = _keys(data) / "edge.crt", _keys(data) / "edge.key"
    if not (certificate.exists() and key.exists()):
        return None
    return components.TlsAuthority(certificate_file=str(certificate), key_file=str(key))


def root(data: Path) -> str | None:
    """Return the certificate that clients have to trust, PEM, if this host knows it."""
    path = _keys(data) / edge_authority.ROOT_CERTIFICATE
    return path.read_text() if path.exists() else None


def _keys(data: Path) -> Path:
    return data / "keys"


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
