"""Processes and memory of running machines."""

from pydantic import Field

from godwit.api.schemas.common import In, Out
from godwit.wire import host_rpc

_MOST_MB = 2**31


class ListenSocket(Out):
    """Where a process listens."""

    proto: str
    address: str


class Process(Out):
    """A process. `rss` in bytes, `cpu` in percent of one, `rtime` seconds since `stime`."""

    pid: int
    command: str
    directory: str
    cpu: int
    rss: int
    rtime: int
    stime: int
    listen_sockets: list[ListenSocket]

    @classmethod
    def of(cls, process: host_rpc.GuestProcess) -> "Process":
        """Return a process as the API shows it."""
        return cls(**process.model_dump(mode="json"))


class Memory(Out):
    """A machine's memory: what its programs could still have, and what it may use."""

    available_mb: int
    limit_mb: int


class Cpu(Out):
    """A machine's CPU: `baseline` in CPUs, `balance` and `throttle` in hundredths of a second.

    All null where machines are not held to a baseline, or this one does not run.
    """

    baseline: float | None = None
    balance: int | None = None
    throttle: int | None = None


class SetMemory(In):
    """How much a machine may use: at most its guest's `max_memory_mb`."""

    limit_mb: int = Field(ge=1, lt=_MOST_MB)


class Reclaim(In):
    """How much to take back."""

    amount_mb: int = Field(ge=1, lt=_MOST_MB)


class Reclaimed(Out):
    """How much came."""

    actual_mb: int
