"""The cluster's own certificate authority: it vouches for each host's edge, and for nothing else.

Its key is made at the first `godwit up` and stays where control is. Each edge has an authority
of its own below it, whose key is made on its host and never leaves it; that one makes the
certificates that clients are shown (docs/decisions/0035). Used by `control.joining` for hosts that
join, and by `host.edge_keys` for the first host.
"""

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from godwit.base import errors, private_files

ROOT_CERTIFICATE = "edge-root.crt"
_ROOT_KEY = "edge-root.key"
_ROOT_DAYS = 20 * 365
EDGE_DAYS = 365
"""An edge's authority; vouched for anew long before, whenever its host starts."""
_BACKDATED = dt.timedelta(days=1)


@dataclass(frozen=True)
class Authority:
    """The root: its certificate and the key that signs for it."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> str:
        """Return the certificate that clients have to trust."""
        return _pem(self.certificate)

    def vouch(self, public_key: str, host_id: str, now_ms: int) -> str:
        """Return a certificate that makes a key the authority of a host's edge, and the root's.

        Args:
            public_key: PEM.
            host_id: Whose edge it is.
            now_ms: It is valid for a year from here.

        Raises:
            Failure: `invalid_argument` when the key is none of P-256.
        """
        try:
            key = serialization.load_pem_public_key(public_key.encode())
        except ValueError as error:
            raise errors.invalid("the edge's key cannot be read") from error
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
            raise errors.invalid("the edge's key is none of the curve P-256")
        subject = _name(f"Godwit edge {host_id}")
        now = dt.datetime.fromtimestamp(now_ms / 1_000, dt.UTC)
        made = _sign(
            _plan(subject, self.certificate.subject, key, below=0), self.key, now, EDGE_DAYS
        )
        return _pem(made) + self.pem


def ensure(keys: Path, now_ms: int) -> Authority:
    """Return the cluster's authority, making it when there is none."""
    certificate, key = keys / ROOT_CERTIFICATE, keys / _ROOT_KEY
    if not key.exists():
        private_files.write(key, private_pem(ec.generate_private_key(ec.SECP256R1())))
        certificate.unlink(missing_ok=True)
    loaded = load_key(key)
    if not certificate.exists():
        name = _name("Godwit")
        now = dt.datetime.fromtimestamp(now_ms / 1_000, dt.UTC)
        root = _sign(_plan(name, name, loaded.public_key(), below=1), loaded, now, _ROOT_DAYS)
        private_files.write(certificate, _pem(root))
    return Authority(x509.load_pem_x509_certificate(certificate.read_bytes()), loaded)


def private_pem(key: ec.EllipticCurvePrivateKey) -> str:
    """Return a key as it is kept in a file for root alone."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Return the key of a file.

    Raises:
        TypeError: It holds another kind of key.
    """
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{path} holds no elliptic-curve key")
    return key


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _plan(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, *, below: int
) -> x509.CertificateBuilder:
    """Return the certificate of an authority that may have so many levels below it, unsigned."""
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=True, path_length=below), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _sign(
    planned: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey, now: dt.datetime, days: int
) -> x509.Certificate:
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    return (
        planned.add_extension(issuer, critical=False)
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + dt.timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
