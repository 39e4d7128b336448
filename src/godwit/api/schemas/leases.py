"""Leases of machines, in the envelope clients know."""

from typing import Annotated, Literal

from pydantic import Field

from godwit.api.schemas.common import Done, In, Out, Text
from godwit.control import leases
from godwit.wire import host_rpc

Ttl = Annotated[int, Field(ge=0, le=leases.LONGEST_TTL_S)]


class AcquireLease(In):
    """A lease for `ttl` seconds; `?ttl=` says the same."""

    description: Annotated[Text, Field(max_length=1000)] = ""
    ttl: Ttl = 0


class Lease(Out):
    """A lease; `expires_at` in Unix seconds, `nonce` only for who acquired it."""

    nonce: str = ""
    expires_at: int
    owner: str
    description: str
    version: str

    @classmethod
    def of(cls, lease: host_rpc.Lease) -> "Lease":
        """Return a lease as the API shows it."""
        found = lease.model_dump(mode="json")
        return cls(**{key: value for key, value in found.items() if value is not None})


class LeaseEnvelope(Out):
    """A lease in its envelope."""

    status: Literal["success"] = "success"
    data: Lease


class DoneEnvelope(Out):
    """It is done."""

    status: Literal["success"] = "success"
    data: Done = Done()
