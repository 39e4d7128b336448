"""The saved state of suspended machines: what is kept, what it depends on, whether it is whole.

`<machine>/snapshot/state` holds processors and devices, and the memory too unless that lies in
`<machine>/memory`; `<machine>/snapshot/saved.json`, written last and durably, makes them a
snapshot. It is spent when the machine goes on, because its disk moves on from then.
"""

import functools
import hashlib
import logging
import shutil
from pathlib import Path

from pydantic import ValidationError

from godwit.agent.vmm import hypervisor, places
from godwit.base import errors
from godwit.wire.record import Record

logger = logging.getLogger(__name__)

_VERSION = 1
_CPUINFO = Path("/proc/cpuinfo")
_CPU_FIELDS = ("vendor_id", "cpu family", "model", "stepping", "microcode", "flags")


class Saved(Record):
    """`saved.json`.

    Attributes:
        build: `Hypervisor.build` of the VMM that saved it.
        cpu: Digest of the host's processor; a guest that knows other features would break.
        state_sha256: Digest of the state where it holds no memory; of one that does, the size
            has to do: reading it twice would double the time of going on.
        memory_bytes: Size of the memory's own file, if it has one.
    """

    v: int = _VERSION
    machine_id: str
    instance_id: str
    build: str
    cpu: str
    state_bytes: int
    state_sha256: str | None = None
    memory_bytes: int | None = None


class Snapshots:
    """The saved states of a host's machines."""

    def __init__(self, where: places.Places) -> None:
        self._places = where

    def files(self, machine_id: str) -> hypervisor.Snapshot:
        """Return where a machine's state and memory are kept."""
        state = self._places.directory(machine_id) / "snapshot" / "state"
        return hypervisor.Snapshot(state, self.memory(machine_id))

    def memory(self, machine_id: str) -> Path:
        """Return the file of a machine's memory, where it has one."""
        return self._places.directory(machine_id) / "memory"

    def begin(self, machine_id: str) -> hypervisor.Snapshot:
        """Make room for a machine's state; return where it goes."""
        self.spend(machine_id)
        files = self.files(machine_id)
        places.make_private(files.state.parent)
        return files

    def keep(self, saved: Saved, files: hypervisor.Snapshot) -> None:
        """Make what was written a snapshot; blocks until the disk has all of it.

        Raises:
            OSError: The disk does not take it.
        """
        self.note(self.settle(saved, files))

    def settle(self, saved: Saved, files: hypervisor.Snapshot) -> Saved:
        """Bring what was written to the disk and return what to note; no snapshot before that.

        Raises:
            OSError: The disk does not take it.
        """
        size = files.state.stat().st_size
        digest = _digest(files.state) if files.memory is not None else None
        memory = None if files.memory is None else files.memory.stat().st_size
        whole = saved.model_copy(
            update={"state_bytes": size, "state_sha256": digest, "memory_bytes": memory}
        )
        for path in (files.state, files.memory, self._places.scratch(saved.machine_id)):
            if path is not None:
                places.sync(path)
        return whole

    def note(self, whole: Saved) -> None:
        """Write down that a saved state is whole: from here on it is a snapshot."""
        places.write_private(self._note(whole.machine_id), whole.model_dump_json(), durably=True)

    def find(self, machine_id: str, instance_id: str) -> Saved | None:
        """Return what is said of the machine's saved state, if there is one of this version."""
        path = self._note(machine_id)
        try:
            saved = Saved.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (ValidationError, OSError) as error:
            logger.warning("%s cannot be read: %s", path, error)
            return None
        same = saved.machine_id == machine_id and saved.instance_id == instance_id
        return saved if same and saved.v == _VERSION else None

    def usable(self, wanted: Saved) -> hypervisor.Snapshot:
        """Return the machine's saved state, if this host can go on from it.

        Args:
            wanted: What it would be, were it saved here and now.

        Raises:
            Failure: `failed_precondition`, saying what does not fit.
        """
        saved = self.find(wanted.machine_id, wanted.instance_id)
        if saved is None:
            raise _unusable("there is none of this version")
        if saved.build != wanted.build:
            raise _unusable("another build of the VMM saved it")
        if saved.cpu != wanted.cpu:
            raise _unusable("it was saved on another processor")
        files = self.files(wanted.machine_id)
        if saved.memory_bytes is None:
            files = hypervisor.Snapshot(files.state, None)
        if not _is_whole(saved, files):
            raise _unusable("its files are damaged")
        return files

    def spend(self, machine_id: str) -> None:
        """Ensure that what is kept is no snapshot any more; its files may stay until `remove`."""
        note = self._note(machine_id)
        if note.exists():
            note.unlink()
            places.sync(note.parent)

    def remove(self, machine_id: str, *, memory: bool) -> None:
        """Ensure nothing is kept; the memory's file stays if the machine runs on it."""
        self.spend(machine_id)
        shutil.rmtree(self._note(machine_id).parent, ignore_errors=True)
        if memory:
            self.memory(machine_id).unlink(missing_ok=True)

    def _note(self, machine_id: str) -> Path:
        return self.files(machine_id).state.with_name("saved.json")


@functools.cache
def host_cpu() -> str:
    """Return a digest of this host's processor: its model and all it can do."""
    processor = _CPUINFO.read_text().partition("\n\n")[0]
    lines = [line for line in processor.splitlines() if line.split("\t")[0] in _CPU_FIELDS]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _is_whole(saved: Saved, files: hypervisor.Snapshot) -> bool:
    try:
        if files.state.stat().st_size != saved.state_bytes:
            return False
        if files.memory is not None and files.memory.stat().st_size != saved.memory_bytes:
            return False
        return saved.state_sha256 is None or _digest(files.state) == saved.state_sha256
    except OSError:
        return False


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unusable(why: str) -> errors.Failure:
    return errors.Failure("failed_precondition", f"the machine's saved state is unusable: {why}")
