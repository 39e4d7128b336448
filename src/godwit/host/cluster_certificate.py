"""The cluster's own certificate: what a new server knows the joining endpoint by.

Made at the first `godwit up`, signed by itself. New servers know it by its SHA-256, which comes
with the token; no other authority is asked, so its names and dates mean nothing.
"""

import datetime as dt
import hashlib
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from godwit.base import private_files

_NAME = "Godwit cluster"
_BEGINS = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
_ENDS = dt.datetime(2120, 1, 1, tzinfo=dt.UTC)
"""A clock that is off is refused in words by the endpoint, not by TLS."""


@dataclass(frozen=True)
class Certificate:
    """Where certificate and key lie, and what servers know it by.

    Attributes:
        fingerprint: SHA-256 of the certificate, in hex.
    """

    certificate: Path
    key: Path
    fingerprint: str

    def root(self) -> bytes:
        """Return a secret of the cluster's, from which others are derived."""
        return hashlib.sha256(b"godwit cluster root\n" + self.key.read_bytes()).digest()


def ensure(keys: Path) -> Certificate:
    """Return the cluster's certificate, making it if there is none."""
    certificate, key = keys / "cluster.crt", keys / "cluster.key"
    if not (certificate.exists() and key.exists()):
        private = ec.generate_private_key(ec.SECP256R1())
        private_files.write(
            key,
            private.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ).decode(),
        )
        private_files.write(
            certificate, _made(private).public_bytes(serialization.Encoding.PEM).decode()
        )
    found = x509.load_pem_x509_certificate(certificate.read_bytes())
    return Certificate(certificate, key, found.fingerprint(hashes.SHA256()).hex())


def fingerprint(certificate_der: bytes) -> str:
    """Return what a certificate is known by."""
    return hashlib.sha256(certificate_der).hexdigest()


def _made(private: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _NAME)])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_BEGINS)
        .not_valid_after(_ENDS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(private, hashes.SHA256())
    )
