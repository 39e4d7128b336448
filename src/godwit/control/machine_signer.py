"""The key of the tokens that machines get: `keys/machine-tokens.key`, RSA, of all control hosts.

RS256, since every cloud takes that. Its id is its thumbprint (RFC 7638), shortened.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from godwit.base import private_files

ALGORITHM = "RS256"
FILE = "machine-tokens.key"
_KEY_BITS = 2048


@dataclass(frozen=True)
class Signer:
    """The key that signs."""

    key: rsa.RSAPrivateKey
    key_id: str

    def sign(self, claims: Mapping[str, Any]) -> str:
        """Return a token that says this."""
        headers = {"kid": self.key_id, "typ": "JWT"}
        return jwt.encode(dict(claims), self.key, algorithm=ALGORITHM, headers=headers)

    def public(self) -> dict[str, str]:
        """Return the public key as a JWK."""
        return {**_jwk(self.key), "kid": self.key_id, "use": "sig", "alg": ALGORITHM}


def ensure(directory: Path) -> Signer:
    """Return the signer, making `machine-tokens.key` when it is missing."""
    file = directory / FILE
    if not file.exists():
        made = rsa.generate_private_key(public_exponent=65_537, key_size=_KEY_BITS)
        pem = made.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        private_files.write(file, pem.decode())
    key = serialization.load_pem_private_key(file.read_bytes(), None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise TypeError(f"{file} holds no RSA key")
    members = json.dumps(_jwk(key), sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(members.encode()).hexdigest()
    return Signer(key, digest[:32])


def _jwk(key: rsa.RSAPrivateKey) -> dict[str, str]:
    told = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {name: str(told[name]) for name in ("kty", "n", "e")}
