"""A server joins the cluster: what it says of itself, how it proves it, what it is told.

Spoken over TLS with the joining endpoint of control, whose certificate the new server knows by
its SHA-256 from the token (`Invitation`). Every key that has a private half for signing signs
the body: nobody joins with another's key.

    POST /join      Signed(JoinRequest)     → JoinAnswer; again with the same keys: the same
    POST /standing  Signed(StandingRequest) → StandingAnswer
"""

import base64
import binascii
import hashlib
import hmac
import json
from typing import Any, Literal

import nkeys
import pydantic
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from godwit.base import errors
from godwit.wire.facts import MemberFact, MemberState
from godwit.wire.record import Record
from godwit.wire.secrets import SealedKey

_PREFIX = "godwit-join-1."
_CONTEXT = b"godwit-join-1\n"
_PUBLIC_BYTES = 35
_USER_PREFIX = 20 << 3
"""An nkey is base32 of a prefix byte, 32 bytes of Ed25519 and their CRC-16, low byte first."""
MOST_BYTES = 65_536
CONTROL = "control-"
"""How the secret of a token for control begins: the digest that is kept holds it to that."""


class Invitation(Record):
    """What a new server needs to find the cluster, to trust it and to be let in: the token.

    Attributes:
        address: `host:port` of the joining endpoint.
        fingerprint: SHA-256 of the cluster's certificate, in hex.
        secret: Good once.
    """

    address: str
    fingerprint: str
    secret: str = pydantic.Field(repr=False)

    def text(self) -> str:
        """Return the token."""
        body = json.dumps([self.address, self.fingerprint, self.secret], separators=(",", ":"))
        return _PREFIX + base64.urlsafe_b64encode(body.encode()).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> "Invitation":
        """Return what a token says.

        Raises:
            Failure: `invalid_argument` when it is none.
        """
        prefix, _, body = text.strip().rpartition(".")
        padded = body + "=" * (-len(body) % 4)
        try:
            said = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
            address, fingerprint, secret = (said if prefix + "." == _PREFIX else [])[:3]
            return cls(address=address, fingerprint=fingerprint, secret=secret)
        except (ValueError, TypeError) as error:
            raise errors.invalid(
                "this is no token to join with, or a part of it is missing",
                hint="`godwit host token` on the first host prints one, in one line",
            ) from error

    @property
    def for_control(self) -> bool:
        """Whether a server may come to run control by it."""
        return self.secret.startswith(CONTROL)

    @property
    def digest(self) -> str:
        """Return what the cluster keeps of the secret."""
        return hashlib.sha256(self.secret.encode()).hexdigest()


class JoinRequest(Record):
    """A server asks to be let in.

    Attributes:
        keys: The public nkey of each component that it may come to run.
        sealing_key: X25519, base64: what apps' keys are sealed to.
        mesh_key: WireGuard's, base64.
        endpoints: Where its WireGuard can be reached, `address:port`.
        address: Under which others reach what runs there; `None` for the one in the mesh.
        ports: Of what others may have to reach, by role.
        bus: Whether it is to be one of its region's bus servers though there is one.
        control: Whether it is to run control as well.
        at_ms: Its clock.
        edge_key: The public key of its edge's authority for certificates, PEM.
    """

    v: int = 1
    secret: str = pydantic.Field(repr=False)
    region: str
    zone: str = "0000"
    keys: dict[str, str]
    sealing_key: str
    mesh_key: str
    endpoints: tuple[str, ...] = ()
    address: str | None = None
    ports: dict[str, int] = {}
    bus: bool = False
    control: bool = False
    at_ms: int
    release: str = ""
    edge_key: str = ""


class Registry(Record):
    """The platform's registry.

    Attributes:
        name: What references to its images begin with.
        at: Where it is reached, `address:port`.
    """

    name: str
    at: str


class ControlParts(Record):
    """What control needs to run on a further host.

    Attributes:
        database: The URL of the platform's database.
        keys: What the files of its keys hold, by their names.
        roots: The keyring's root keys, sealed for the new host alone.
    """

    database: str = pydantic.Field(repr=False)
    keys: dict[str, str] = pydantic.Field(repr=False)
    roots: SealedKey


class JoinAnswer(Record):
    """The server is a member: who it is, and what it must know of the others.

    Attributes:
        bus_secret: What the bus servers of its region know each other by; empty when it is none.
        members: Every member, this one among them.
        edge_chain: What vouches for `JoinRequest.edge_key`, the root's certificate last, PEM.
        control: `None` where it is not to run.
        fly_src_key: What its edge signs `Fly-Src` with, PEM; empty when it has none.
    """

    v: int = 1
    host_id: str
    host_number: int
    region: str
    zone: str
    roles: tuple[str, ...]
    apps_domain: str
    registry: Registry | None = None
    bus_secret: str = pydantic.Field("", repr=False)
    members: tuple[MemberFact, ...]
    edge_chain: str = ""
    control: ControlParts | None = None
    fly_src_key: str = pydantic.Field("", repr=False)


class BusRequest(Record):
    """A member offers to serve its region's bus beside others, with a token as one joins with.

    Attributes:
        key: The public nkey of what keeps its bus and the region's catalog.
        address: As in `JoinRequest`.
        port: Of its bus server.
    """

    v: int = 1
    secret: str = pydantic.Field(repr=False)
    host_id: str
    key: str
    address: str | None = None
    port: int = pydantic.Field(ge=1, le=65_535)
    at_ms: int


class BusAnswer(Record):
    """It does from now on: its roles, and what it must know of the others."""

    v: int = 1
    roles: tuple[str, ...]
    bus_secret: str = pydantic.Field(repr=False)
    members: tuple[MemberFact, ...]


class StandingRequest(Record):
    """A host that cannot reach the bus asks whether it still belongs.

    Attributes:
        edge_key: As in `JoinRequest`, if it is to be vouched for (again).
        wants_fly_src_key: It has none yet.
    """

    v: int = 1
    host_id: str
    at_ms: int
    edge_key: str = ""
    wants_fly_src_key: bool = False


class StandingAnswer(Record):
    """What may be done with it, and where the others are now.

    Attributes:
        fly_src_key: As in `JoinAnswer`, where it was asked for.
    """

    v: int = 1
    state: MemberState
    members: tuple[MemberFact, ...] = ()
    edge_chain: str = ""
    fly_src_key: str = pydantic.Field("", repr=False)


class Problem(Record):
    """Why not."""

    code: errors.Code
    message: str
    hint: str = ""


Kind = Literal["join", "standing", "bus"]


class Signed(Record):
    """A body and who stands for it.

    Attributes:
        kind: What the body is, so that none passes for another.
        body: JSON, as it was signed.
        signatures: By public nkey, base64.
    """

    v: int = 1
    kind: Kind
    body: str
    signatures: dict[str, str]


def bus_secret(root: bytes, region: str) -> str:
    """Return what the bus servers of a region know each other by."""
    return hmac.new(root, f"bus {region}".encode(), hashlib.sha256).hexdigest()


def sign(kind: Kind, body: Record, seeds: list[str]) -> Signed:
    """Return a body signed by the owners of these nkey seeds."""
    text = body.model_dump_json()
    signatures = {}
    for seed in seeds:
        pair = nkeys.from_seed(bytearray(seed.strip().encode()))
        signature: bytes = pair.sign(_signed_bytes(kind, text))
        signatures[pair.public_key.decode()] = base64.b64encode(signature).decode()
    return Signed(kind=kind, body=text, signatures=signatures)


def signers(signed: Signed) -> frozenset[str]:
    """Return the nkeys whose owners signed.

    Raises:
        Failure: `permission_denied` when one of the signatures is wrong.
    """
    for key, signature in signed.signatures.items():
        try:
            public_key(key).verify(
                base64.b64decode(signature, validate=True),
                _signed_bytes(signed.kind, signed.body),
            )
        except (InvalidSignature, binascii.Error) as error:
            raise errors.Failure(
                "permission_denied", f"the signature by the key {key} is wrong"
            ) from error
    return frozenset(signed.signatures)


def public_key(nkey: str) -> Ed25519PublicKey:
    """Return what an nkey of a user is to cryptography.

    Raises:
        Failure: `invalid_argument` when it is none.
    """
    try:
        raw = base64.b32decode(nkey + "=" * (-len(nkey) % 8))
    except (binascii.Error, ValueError):
        raw = b""
    sound = (
        len(raw) == _PUBLIC_BYTES
        and raw[0] == _USER_PREFIX
        and nkeys.crc16(bytearray(raw[:-2])) == int.from_bytes(raw[-2:], "little")
    )
    if not sound:
        raise errors.invalid(f"{nkey[:60]!r} is not an nkey of a user")
    return Ed25519PublicKey.from_public_bytes(raw[1:-2])


def parse_x25519(text: str) -> bytes:
    """Return the 32 bytes of an X25519 public key.

    Raises:
        Failure: `invalid_argument` when it is none.
    """
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error:
        raw = b""
    if len(raw) != 32 or not any(raw):  # noqa: PLR2004 - RFC 7748
        raise errors.invalid(f"{text[:60]!r} is not an X25519 key")
    return raw


def read_body(signed: Signed, kind: type[Any], named: str) -> Any:
    """Return the body of a signed message.

    Raises:
        Failure: `invalid_argument` when it is another one, or cannot be read.
    """
    if signed.kind != named:
        raise errors.invalid(f"this is a {signed.kind}, not a {named}")
    try:
        return kind.model_validate_json(signed.body)
    except pydantic.ValidationError as error:
        raise errors.invalid(f"the {named} request cannot be read: {error}") from error


def _signed_bytes(kind: str, text: str) -> bytes:
    return _CONTEXT + kind.encode() + b"\n" + text.encode()
