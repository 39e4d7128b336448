"""Who this host is: `host.json` and the keys of its components.

Made once, at the first `godwit up`; read by every component. A host has its own keys from the
first day, also when it is the only one.
"""

import base64
import json
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import nkeys
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from godwit.base import ids, private_files
from godwit.base.settings import ROLES, Role
from godwit.wire.record import Record

COMPONENTS: Mapping[str, Role] = {
    "control": "control",
    "host": "agent",
    "edge": "edge",
    "dns": "dns",
    "catalog": "bus",
}
"""What has a key of its own on the bus, and the role it is part of."""
FIRST_HOST_NUMBER = 65_537
"""Numbers below 65,536 are the platform's."""


class HostIdentity(Record):
    """`host.json`.

    Attributes:
        host_number: The 32 host bits of 6PN addresses; below 65,536 is kept for the platform.
        epoch: Grows when the host's records were restored from a copy; orders its facts.
        public_key: The nkey of the host itself.
        sealing_key: The X25519 key, base64, that apps' keys are sealed to for this host.
        mesh_key: Its WireGuard public key, base64.
        roles: What runs here (`base.settings.ROLES`); none in files of releases before hosts
            joined, which were everything.
    """

    v: int = 1
    host_id: str
    host_number: int
    region: str
    zone: str
    epoch: int
    public_key: str
    sealing_key: str = ""
    mesh_key: str = ""
    roles: tuple[Role, ...] = ROLES


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
    """Return the host's identity and keys, making what is missing.

    A host that has joined keeps to what it was given then; one that has not is the first of a
    cluster of its own.
    """
    (data / "keys").mkdir(mode=0o700, parents=True, exist_ok=True)
    path = data / "host.json"
    known = HostIdentity.model_validate_json(path.read_text()) if path.exists() else None
    keys = ensure_keys(data, known.roles if known else ROLES)
    halves = ensure_halves(data)
    if known is not None:
        told = known.model_copy(update=halves)
        if told != known:
            # Of a release without them, or a key was made anew.
            write(data, told)
        return told, keys
    identity = HostIdentity(
        host_id=ids.host_id(),
        host_number=FIRST_HOST_NUMBER,
        region=region,
        zone=zone,
        epoch=1,
        public_key=keys.public["host"],
        **halves,
    )
    write(data, identity)
    return identity, keys


def roles(data: Path) -> tuple[Role, ...]:
    """Return what runs on this host; everything, before it was ever brought up."""
    path = data / "host.json"
    if not path.exists():
        return ROLES
    return HostIdentity.model_validate_json(path.read_text()).roles


def ensure_keys(data: Path, roles: Collection[Role]) -> Keys:
    """Return the keys of what runs here, making those that are missing.

    Everything on the bus has one of its own; the operator's token is where control is.
    """
    directory = data / "keys"
    # The host's own key says who it is, also where no agent runs.
    wanted = [name for name, role in COMPONENTS.items() if name == "host" or role in roles]
    keys = Keys(directory, {name: _ensure_seed(directory / f"{name}.seed") for name in wanted})
    if "control" in roles and not keys.operator_token.exists():
        private_files.write(keys.operator_token, f"godwit_{secrets.token_urlsafe(32)}\n")
    return keys


def ensure_halves(data: Path) -> dict[str, str]:
    """Return the public halves of the keys that seal, by their names in `HostIdentity`."""
    return {
        "sealing_key": _ensure_x25519(sealing_key_file(data)),
        "mesh_key": _ensure_x25519(mesh_key_file(data)),
    }


def sealing_key_file(data: Path) -> Path:
    """Return the file with the private half of `HostIdentity.sealing_key`, for root alone."""
    return data / "keys" / "host.x25519"


def mesh_key_file(data: Path) -> Path:
    """Return the file with the private half of `HostIdentity.mesh_key`, as `wg` reads it."""
    return data / "keys" / "mesh.key"


def read_sealing_key(data: Path) -> X25519PrivateKey | None:
    """Return the key that opens what is sealed for this host, if it was ever brought up."""
    path = sealing_key_file(data)
    if not path.exists():
        return None
    text = path.read_text().strip()
    return X25519PrivateKey.from_private_bytes(base64.b64decode(text, validate=True))


def _ensure_x25519(path: Path) -> str:
    if not path.exists():
        made = X25519PrivateKey.generate().private_bytes_raw()
        private_files.write(path, base64.b64encode(made).decode() + "\n")
    private = X25519PrivateKey.from_private_bytes(base64.b64decode(path.read_text().strip()))
    return base64.b64encode(private.public_key().public_bytes_raw()).decode()


def write(data: Path, identity: HostIdentity) -> None:
    """Keep who this host is."""
    private_files.write(data / "host.json", json.dumps(identity.model_dump(), indent=2) + "\n")


def _ensure_seed(path: Path) -> str:
    if not path.exists():
        seed = nkeys.encode_seed(secrets.token_bytes(32), nkeys.PREFIX_BYTE_USER)
        private_files.write(path, seed.decode() + "\n")
    pair = nkeys.from_seed(bytearray(path.read_text().strip().encode()))
    public: bytes = pair.public_key
    return public.decode()
