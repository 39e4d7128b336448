"""How a machine's exit is told: the event clients read, a line for its log. Pure."""

from dataclasses import dataclass
from typing import Any

from godwit.base import clock
from godwit.wire import shim

LOST = "the machine's VM is gone and left no record of how it ended"
OUT_OF_MEMORY = "the VM needed more memory than it may have, and the host's kernel killed it"
UNKNOWN_CODE = -1
"""The exit code when nobody knows how it ended."""
_NO_SIGNAL = -1


@dataclass(frozen=True)
class Exit:
    """One exit in plain values.

    Attributes:
        key: The same for the same exit, however often it is taken in.
        code: 128 + signal when a signal ended it; -1 when nobody knows.
        last_words: The last lines of its output, after an exit that nobody asked for.
    """

    key: str
    code: int
    guest_code: int
    guest_signal: int
    vmm_signal: int
    oom_killed: bool
    at_ms: int
    sentence: str
    last_words: tuple[str, ...] = ()

    @property
    def brief(self) -> str:
        """Return how it ended in a few words: what a machine at rest says of itself."""
        if self.oom_killed:
            return f"ran out of memory and was killed (exit code {self.code})"
        return f"exited with code {self.code}"

    def request(
        self,
        *,
        requested: bool,
        restarting: bool,
        restart_count: int,
        last_words: tuple[str, ...] = (),
    ) -> dict[str, Any]:
        """Return the `request` of the event (spec/machines.md §3.4).

        `last_words` is the crash report: it is there after exits that nobody asked for only.
        """
        event = {
            "exit_code": self.code,
            "guest_exit_code": self.guest_code,
            "guest_signal": self.guest_signal,
            "signal": self.vmm_signal,
            "oom_killed": self.oom_killed,
            "requested_stop": requested,
            "restarting": restarting,
            "exited_at": clock.rfc3339(self.at_ms),
        }
        crash = {"last_words": list(last_words)} if last_words else {}
        return {
            "exit_event": event,
            "MonitorEvent": {"exit_event": event},
            "restart_count": restart_count,
            **crash,
        }


def of_record(record: shim.ExitRecord, *, ran_out: bool = False) -> Exit:
    """Return the exit that a shim wrote down.

    Args:
        record: Of the shim.
        ran_out: The host's kernel killed the VMM for want of memory.
    """
    guest = record.guest
    vmm_signal = record.vmm.signal if record.vmm.signal is not None else _NO_SIGNAL
    broke_away = 128 + vmm_signal if vmm_signal > 0 else UNKNOWN_CODE
    return Exit(
        key=f"exit:{record.instance_id}:{record.exited_at_ms}",
        code=guest.exit_code if guest else broke_away,
        guest_code=guest.exit_code if guest else UNKNOWN_CODE,
        guest_signal=guest.signal if guest and guest.signal is not None else _NO_SIGNAL,
        vmm_signal=vmm_signal,
        oom_killed=guest.oom_killed if guest else ran_out,
        at_ms=record.exited_at_ms,
        sentence=OUT_OF_MEMORY if ran_out and guest is None else _sentence(record),
    )


def lost(instance_id: str, started_at_ms: int, at_ms: int) -> Exit:
    """Return the exit of a VM that left no record: its host went down, or its shim was killed."""
    return Exit(
        key=f"lost:{instance_id}:{started_at_ms}",
        code=UNKNOWN_CODE,
        guest_code=UNKNOWN_CODE,
        guest_signal=_NO_SIGNAL,
        vmm_signal=_NO_SIGNAL,
        oom_killed=False,
        at_ms=at_ms,
        sentence=LOST,
    )


def with_last_word(sentence: str, last_word: str) -> str:
    """Return why a machine rests, with the last line it wrote, if it crashed."""
    if not sentence or not last_word:
        return sentence
    return f"{sentence}; it wrote last: {last_word}"


def _sentence(record: shim.ExitRecord) -> str:
    guest = record.guest
    if record.failure is not None and guest is None:
        return f"Main child could not be started: {record.failure.message}"
    if guest is None:
        how = (
            f"signal {record.vmm.signal}"
            if record.vmm.signal is not None
            else f"exit code {record.vmm.exit_code}"
        )
        why = {
            "killed": "the platform ended the VM",
            "boot_deadline": "the guest did not boot in time",
        }.get(record.cause, "the VM ended without the guest's word")
        return f"{why} ({how})"
    if guest.oom_killed:
        return f"Main child was killed for want of memory with code: {guest.exit_code}"
    if guest.signal is not None:
        return f"Main child exited with signal {guest.signal}, code: {guest.exit_code}"
    return f"Main child exited normally with code: {guest.exit_code}"
