"""Who this host is: `host.json` and the keys of its components.

Made once, at the first `godwit up`; read by every component. A host has its own keys from the
first day, also when it is the only one.
"""

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

import nkeys

from godwit.base import ids
from godwit.wire.record import Record

COMPONENTS = ("control", "host", "edge", "dns")
_FIRST_HOST_NUMBER = 65_537


class HostIdentity(Record):
    """`host.json`.

    Attributes:
        host_number: The 32 host bits of 6PN addresses; below 65,536 is kept for the platform.
        epoch: Grows when the host's records were restored from a copy; orders its facts.
        public_key: The nkey of the host itself.
    """

    v: int = 1
    host_id: str
    host_number: int
    region: str
    zone: str
    epoch: int
    public_key: str


@dataclass(frozen=True)
class Keys:
    """Where the seeds and tokens lie, and the public keys of the seeds."""

    directory: Path
    public: dict[str, str]

    def seed(self, component: str) -> Path:
        """Return the file with a component's nkey seed."""
        return self.directory / f"{component}.seed"

    @property
    def operator_token(self) -> Path:
        """Return the file with the operator's API token."""
        return self.directory / "admin.token"


def ensure(data: Path, region: str, zone: str) -> tuple[HostIdentity, Keys]:
    """Return the host's identity and keys, making what is missing."""
    directory = data / "keys"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    public = {name: _ensure_seed(directory / f"{name}.seed") for name in COMPONENTS}
    keys = Keys(directory, public)
    if not keys.operator_token.exists():
        write_private(keys.operator_token, f"godwit_{secrets.token_urlsafe(32)}\n")
    path = data / "host.json"
    if path.exists():
        return HostIdentity.model_validate_json(path.read_text()), keys
    identity = HostIdentity(
        host_id=ids.host_id(),
        host_number=_FIRST_HOST_NUMBER,
        region=region,
        zone=zone,
        epoch=1,
        public_key=public["host"],
    )
    write_private(path, json.dumps(identity.model_dump(), indent=2) + "\n")
    return identity, keys


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    scratch = path.with_name(path.name + ".new")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)


def _ensure_seed(path: Path) -> str:
    if not path.exists():
        seed = nkeys.encode_seed(secrets.token_bytes(32), nkeys.PREFIX_BYTE_USER)
        write_private(path, seed.decode() + "\n")
    pair = nkeys.from_seed(bytearray(path.read_text().strip().encode()))
    public: bytes = pair.public_key
    return public.decode()
