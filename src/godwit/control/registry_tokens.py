"""Tokens for the platform's registry: short-lived JWTs that its Docker-registry server accepts.

Source: the distribution project's token authentication specification (2.8). The registry trusts
the certificate `keys/registry.crt` and finds the key by its libtrust fingerprint. A repository
is an app's name or something under it.
"""

import base64
import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ISSUER = "godwit"
SERVICE = "godwit-registry"
_REPOSITORY = re.compile(r"[a-z0-9]+(?:[._/-]+[a-z0-9]+)*")
_ACTIONS = ("pull", "push")
_MAX_SCOPES = 32
_YEARS_20 = timedelta(days=20 * 365)


@dataclass(frozen=True)
class Access:
    """What a client asks for, or was given, on one repository."""

    repository: str
    actions: frozenset[str]

    @property
    def app(self) -> str:
        """Return the app the repository belongs to."""
        return self.repository.partition("/")[0]


@dataclass(frozen=True)
class Signer:
    """The key that signs, and the name the registry knows it by."""

    key: ec.EllipticCurvePrivateKey
    key_id: str

    def sign(
        self, subject: str, access: Iterable[Access], *, now_ms: int, lifetime_s: int = 300
    ) -> str:
        """Return a token that allows exactly this access."""
        now = now_ms // 1000
        claims = {
            "iss": ISSUER,
            "sub": subject,
            "aud": SERVICE,
            "iat": now,
            "nbf": now - 30,
            "exp": now + lifetime_s,
            "jti": secrets.token_hex(8),
            "access": [
                {"type": "repository", "name": one.repository, "actions": sorted(one.actions)}
                for one in access
                if one.actions
            ],
        }
        return jwt.encode(claims, self.key, algorithm="ES256", headers={"kid": self.key_id})


def parse_scopes(texts: Sequence[str]) -> list[Access]:
    """Return what Docker's `scope` parameters ask for; what is not understood is left out.

    A parameter is `repository:<name>:<action>,<action>`; several may share one, by spaces.
    """
    found: list[Access] = []
    for text in [part for one in texts for part in one.split(" ")][:_MAX_SCOPES]:
        kind, _, rest = text.partition(":")
        repository, _, actions = rest.rpartition(":")
        if kind == "repository" and is_repository(repository):
            wanted = frozenset(_ACTIONS) if "*" in actions else frozenset(actions.split(","))
            found.append(Access(repository, wanted & frozenset(_ACTIONS)))
    return found


def is_repository(text: str) -> bool:
    """Tell whether a text may name a repository."""
    return len(text) <= 255 and _REPOSITORY.fullmatch(text) is not None  # noqa: PLR2004


def ensure(directory: Path) -> Signer:
    """Return the signer, making `registry.key` and `registry.crt` when they are missing."""
    key_file, certificate_file = directory / "registry.key", directory / "registry.crt"
    if not key_file.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        _write(
            key_file,
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
            0o600,
        )
    loaded = serialization.load_pem_private_key(key_file.read_bytes(), None)
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{key_file} holds no elliptic-curve key")
    if not certificate_file.exists():
        _write(certificate_file, _certificate(loaded), 0o644)
    return Signer(loaded, fingerprint(loaded.public_key()))


def fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """Return libtrust's name of a key: `ABCD:EFGH:…`, twelve groups of base32."""
    der = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    text = base64.b32encode(hashlib.sha256(der).digest()[:30]).decode().rstrip("=")
    return ":".join(text[at : at + 4] for at in range(0, len(text), 4))


def claims(token: str, key: ec.EllipticCurvePublicKey) -> Mapping[str, Any]:
    """Return what a token says, its signature checked (for tests and diagnosis)."""
    read: Mapping[str, Any] = jwt.decode(
        token, key, algorithms=["ES256"], audience=SERVICE, issuer=ISSUER
    )
    return read


def _certificate(key: ec.EllipticCurvePrivateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "godwit registry tokens")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + _YEARS_20)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)


def _write(path: Path, data: bytes, mode: int) -> None:
    scratch = path.with_name(path.name + ".new")
    scratch.touch(mode=mode)
    scratch.chmod(mode)
    scratch.write_bytes(data)
    scratch.replace(path)
