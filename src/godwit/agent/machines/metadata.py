"""Metadata of machines: their config's, until the endpoint writes to them.

A write makes no version and restarts nothing. It belongs to the version it was made at: an update
brings the metadata of its own config, as clients do that send the whole config back. Edges and DNS
follow at once; the environment of the process keeps what the config said. Rules are pure
functions; `MetadataBook` holds what was written, as stored.
"""

from collections.abc import Mapping
from datetime import datetime

from godwit.agent.machines import config as settings
from godwit.agent.machines import holdings, views
from godwit.base import clock, errors
from godwit.durable.database import Writer
from godwit.wire import host_rpc
from godwit.wire import metadata as limits


class MetadataBook:
    """What was written to the metadata of this host's machines."""

    def __init__(self, database: Writer, the_clock: clock.Clock) -> None:
        self._database = database
        self._clock = the_clock
        self._written: dict[str, dict[str, holdings.Written]] = {}

    async def load(self) -> None:
        """Read what an earlier agent stored."""
        self._written = {}
        for machine_id, written in await self._database.read(holdings.metadata):
            self._written.setdefault(machine_id, {})[written.instance_id] = written

    def drop(self, machine_id: str) -> None:
        """Forget a machine whose record is gone."""
        self._written.pop(machine_id, None)

    def written(self, machine_id: str, version: str) -> holdings.Written | None:
        """Return what was written at a version; `None` while its config says it all."""
        return self._written.get(machine_id, {}).get(version)

    async def patch(self, snapshot: views.Snapshot, asked: host_rpc.MetadataPatch) -> bool:
        """Set and remove keys; return whether anything changed.

        Raises:
            Failure: `failed_precondition` (not at that version, or written since),
                `invalid_argument` (too long).
        """
        machine = snapshot.machine
        written = self.written(machine.machine_id, snapshot.version)
        check(asked, snapshot.version, updated_at_ms(snapshot, written))
        before = values(snapshot, written)
        after = patched(before, asked.metadata)
        if after == before:
            return False
        entry = holdings.Written(
            instance_id=snapshot.version,
            values=after,
            # Every write is told from the one before, whatever the clock does.
            updated_at_ms=max(self._clock.now_ms(), updated_at_ms(snapshot, written) + 1),
        )
        kept = self._written.get(machine.machine_id, {})
        old = kept.get(machine.instance_id)
        after_write = {entry.instance_id: entry}
        if old is not None:
            after_write = {old.instance_id: old} | after_write
        # Taken up at once: a write that comes meanwhile starts from this one.
        self._written[machine.machine_id] = after_write
        try:
            await self._database.write(lambda tx: holdings.put_metadata(tx, machine, entry))
        except Exception:
            if self._written.get(machine.machine_id) is after_write:
                self._written[machine.machine_id] = kept
            raise
        return True


def values(snapshot: views.Snapshot, written: holdings.Written | None) -> dict[str, str]:
    """Return a machine's metadata as it is now."""
    return settings.metadata(snapshot.config) if written is None else dict(written.values)


def updated_at_ms(snapshot: views.Snapshot, written: holdings.Written | None) -> int:
    """Return when a machine was last changed, its metadata included."""
    return max(snapshot.machine.updated_at_ms, written.updated_at_ms if written else 0)


def patched(before: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    """Return metadata with keys set and, by null or an empty string, removed.

    Raises:
        Failure: `invalid_argument`.
    """
    after = dict(before)
    for key, value in changes.items():
        limits.check_key(key)
        if value:
            after[key] = value
        else:
            after.pop(key, None)
    limits.check(after)
    return after


def check(asked: host_rpc.MetadataPatch, version: str, at_ms: int) -> None:
    """Return if the caller has seen what it writes over, as far as it says what it has seen.

    Raises:
        Failure: `failed_precondition`, `invalid_argument` (no time).
    """
    if asked.machine_version and asked.machine_version != version:
        raise errors.Failure(
            "failed_precondition",
            f"the machine is at version {version}, not {asked.machine_version}",
            hint="read the machine again and repeat the write",
        )
    if asked.updated_at and _ms(asked.updated_at) != at_ms:
        raise errors.Failure(
            "failed_precondition",
            f"the machine was changed at {clock.rfc3339(at_ms)}, not {asked.updated_at}",
            hint="read the machine again and repeat the write",
        )


def _ms(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise errors.invalid(f"updated_at: {text!r} is not an RFC 3339 time") from error
    if moment.tzinfo is None:
        raise errors.invalid(f"updated_at: {text!r} has no time zone")
    return round(moment.timestamp() * 1000)
