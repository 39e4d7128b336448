"""Servers that join, for the tests."""

import base64
import secrets
from dataclasses import dataclass, field
from typing import Any

import nkeys
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from godwit.control import joining as service
from godwit.testing.control import OPERATOR, World
from godwit.wire import joining
from godwit.wire.joining import Invitation, JoinAnswer, JoinRequest

ENDPOINT = "198.51.100.7:51820"


def _seed() -> str:
    seed: bytes = nkeys.encode_seed(secrets.token_bytes(32), nkeys.PREFIX_BYTE_USER)
    return seed.decode()


def _public(seed: str) -> str:
    key: bytes = nkeys.from_seed(bytearray(seed.encode())).public_key
    return key.decode()


def _x25519() -> str:
    raw = X25519PrivateKey.generate().public_key().public_bytes_raw()
    return base64.b64encode(raw).decode()


@dataclass
class Server:
    """A server with keys of its own."""

    seeds: dict[str, str] = field(
        default_factory=lambda: {name: _seed() for name in ("host", "edge", "dns", "catalog")}
    )
    sealing_key: str = field(default_factory=_x25519)
    mesh_key: str = field(default_factory=_x25519)

    def request(self, world: World, token: str, **changes: Any) -> JoinRequest:
        """Return what it asks."""
        asked: dict[str, Any] = {
            "secret": Invitation.parse(token).secret,
            "region": "fra",
            "keys": {name: _public(seed) for name, seed in self.seeds.items()},
            "sealing_key": self.sealing_key,
            "mesh_key": self.mesh_key,
            "endpoints": (ENDPOINT,),
            "ports": {"bus": 4222},
            "at_ms": world.clock.now_ms(),
            "release": "0.1.0",
        }
        return JoinRequest.model_validate(asked | changes)

    def sign(self, request: JoinRequest) -> joining.Signed:
        """Return the request signed by all its keys."""
        return joining.sign("join", request, list(self.seeds.values()))

    async def send(self, world: World, request: JoinRequest) -> JoinAnswer:
        """Ask."""
        return await service.join(world.ctx, self.sign(request))

    async def join(self, world: World, token: str, **changes: Any) -> JoinAnswer:
        """Join."""
        return await self.send(world, self.request(world, token, **changes))


def open_to_servers(world: World) -> World:
    """Return the world with its joining endpoint set up."""
    return world.options(
        join_address="203.0.113.1:4281", join_fingerprint="ab" * 32, join_root=b"root"
    )


async def token(world: World, **wanted: Any) -> str:
    """Make a token to join with."""
    _, text = await service.create_token(world.ctx, OPERATOR, service.NewJoinToken(**wanted))
    return text
