"""A machine as `SimulatedHost` keeps it."""

from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from godwit.base import errors, ids
from godwit.wire import host_rpc
from godwit.wire import secrets as sealing


def host_key() -> X25519PrivateKey:
    """Return a key that a host opens secrets with."""
    return X25519PrivateKey.generate()


@dataclass
class SimulatedMachine:
    """A machine as its simulated host keeps it.

    Attributes:
        drained_at: How many events it had when it was drained; a drain ends with the next.
        in_flight: What a drain finds left in the end.
        checks: How its checks went.
    """

    offer: host_rpc.Offer
    slot: int
    state: str = "created"
    cordoned: bool = False
    drained_at: int | None = None
    in_flight: int = 0
    revision: int = 1
    created_at_ms: int = 0
    updated_at_ms: int = 0
    events: list[host_rpc.MachineEvent] = field(default_factory=list)
    signals: list[str] = field(default_factory=list)
    versions: list[host_rpc.Version] = field(default_factory=list)
    metadata: dict[str, str] | None = None
    lease: host_rpc.Lease | None = None
    limit_mb: int = 0
    checks: tuple[host_rpc.CheckStatus, ...] = ()

    @property
    def version(self) -> host_rpc.Version:
        """Return the version in place."""
        return host_rpc.Version(version=self.offer.instance_id, user_config=self.offer.config)

    @property
    def config(self) -> dict[str, Any]:
        """Return the config, with the metadata that was written since."""
        if self.metadata is None:
            return self.offer.config
        return {**self.offer.config, "metadata": self.metadata}

    @property
    def draining(self) -> bool:
        """Tell whether it is kept from new requests until it moves on."""
        return self.state == "started" and self.drained_at == len(self.events)

    def drain(self) -> host_rpc.Drained:
        """Keep new requests away; return what is left in flight."""
        self.drained_at = len(self.events)
        return host_rpc.Drained(in_flight=self.in_flight, edges=1)

    def undrain(self) -> dict[str, Any]:
        """Let requests in again."""
        self.drained_at = None
        return {}

    def secrets(self, private: X25519PrivateKey) -> dict[str, bytes]:
        """Return what its process would find of secrets, opened with its host's key."""
        sealed = self.offer.secrets
        if sealed is None:
            return {}
        key = sealing.open_for_host(private, sealed.owner, sealed.key)
        return {
            one.name: sealing.open_value(key, sealed.owner, sealed.key.key_id, one)
            for one in sealed.values
        }

    def held(self, now_s: int) -> host_rpc.Lease | None:
        """Return the lease that holds now."""
        return self.lease if self.lease is not None and self.lease.expires_at > now_s else None

    def shown_lease(self, now_s: int) -> host_rpc.Lease | None:
        """Return it without its nonce."""
        held = self.held(now_s)
        return None if held is None else held.model_copy(update={"nonce": None})

    def check_lease(self, nonce: str | None, now_s: int) -> None:
        """Refuse a change under somebody else's lease.

        Raises:
            Failure: `conflict`.
        """
        held = self.held(now_s)
        if held is not None and nonce != held.nonce:
            raise errors.Failure("conflict", f"the machine is leased by {held.owner}")

    def take_lease(
        self, now_s: int, ttl_s: int, *, owner: str, description: str = ""
    ) -> host_rpc.Lease:
        """Begin a lease, or prolong the one that holds."""
        held = self.held(now_s)
        self.lease = host_rpc.Lease(
            nonce=ids.ulid().lower() if held is None else held.nonce,
            expires_at=now_s + ttl_s,
            owner=owner,
            description=description,
            version=self.offer.instance_id,
        )
        return self.lease
