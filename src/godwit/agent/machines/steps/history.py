"""Steps that write history: launches, exits, versions."""

from collections.abc import Mapping
from typing import Any

from godwit.agent.machines import records
from godwit.agent.machines.work import Work
from godwit.durable.runner import Step
from godwit.wire import host_rpc

_WRITE_S = 30.0
_LONGEST_WAIT_S = 120.0
_LONGEST_PAUSE_MS = 60_000
"""Release 0.1 journaled the end of the pause and not its length."""


async def log_launch(work: Work, _: Mapping[str, Mapping[str, Any]]) -> None:
    """Ensure this launch is in the history (spec/machines.md §3.4: launch, then start)."""
    await work.note("launch", "starting", {"restart_count": work.machine.restarts.count})


async def record_exit(work: Work, _: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Ensure the end of what ran is in the history, and its usage interval closed."""
    found = await work.note_exit()
    if found is None:
        return {}
    last_word = found.last_words[-1] if found.last_words else ""
    return {"exit_code": found.code, "last_word": last_word}


async def adopt_version(work: Work, _: Mapping[str, Mapping[str, Any]]) -> None:
    """Ensure the machine's record is that of the new version."""
    update = host_rpc.Update.model_validate(work.input["update"])
    if work.machine.instance_id != update.instance_id:
        await work.store(records.updated(work.machine, update, work.host.clock.now_ms()))
    await work.host.secrets.forget_others(work.machine)


async def wait_before_restart(work: Work, _: Mapping[str, Mapping[str, Any]]) -> None:
    """Wait until the restart policy's pause is over."""
    until_ms = int(work.input.get("until_ms", 0))
    left_s = (until_ms - work.host.clock.now_ms()) / 1000
    if left_s > 0:
        work.say(f"restarting in {left_s:.0f} s")
        # Bounded: a clock that was set back must not hold the machine down.
        longest_s = int(work.input.get("wait_ms", _LONGEST_PAUSE_MS)) / 1000
        await work.host.clock.sleep(min(left_s, longest_s))


STEPS: tuple[Step[Work], ...] = (
    Step("log_launch", "launching", log_launch, _WRITE_S, None),
    Step("record_exit", "taking in the exit", record_exit, _WRITE_S, None),
    Step("adopt_version", "putting the new version in place", adopt_version, _WRITE_S, None),
    Step(
        "wait_before_restart",
        "waiting to restart",
        wait_before_restart,
        _LONGEST_WAIT_S,
        None,
    ),
)
