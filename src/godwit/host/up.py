"""`godwit up`, `upgrade` and `down`: one host from nothing to serving, and back to nothing.

Called by `cmd.host` (the supervising process) and by the CLI's commands of the same names.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from godwit.base import errors, notify, private_files, processes, tasks
from godwit.base.clock import SystemClock
from godwit.base.settings import Settings, read_resolved
from godwit.builder import jail
from godwit.host import (
    cgroup_root,
    components,
    identity,
    layout,
    listeners,
    requirements,
    running,
    standing,
    supervisor,
    units,
)
from godwit.host.identity import Keys

_PARK_S = 150.0
_UP_S = 400.0
_DOWN_S = 240.0
_HAND_OVER_S = 90.0
_HAND_OVER = signal.SIGUSR2
"""Ends the supervising process and its components, and leaves the machines to a successor."""


async def up(settings: Settings, *, told: Callable[[str], None]) -> None:
    """Bring the host up, stay until SIGTERM or SIGINT, take it down again.

    Args:
        settings: The resolved settings.
        told: Called with one sentence for each stage.

    Raises:
        Failure: Something that this host needs is missing, or Godwit is already up here.
    """
    requirements.demand(settings)
    standing.demand(settings.paths.data, SystemClock())
    run = settings.paths.run
    run.mkdir(mode=0o711, parents=True, exist_ok=True)
    with _only_one(run):
        (run / "ready").unlink(missing_ok=True)
        # From here on `down` asks this process instead of clearing up under it.
        running.write(run / "host.json", running.this())
        roles = identity.roles(settings.paths.data)
        former = supervisor.predecessors(run, components.plan(settings, roles))
        left = supervisor.end_leftovers(run, spared=former)
        if left:
            told(f"ended what a former run left behind: {', '.join(left)}")
        # What is taken over from has its addresses, and hands them on.
        listeners.demand_free(settings, [role for role in roles if role not in former])
        await _serve(settings, former.values(), told)


async def _serve(
    settings: Settings, former: Collection[running.Process], told: Callable[[str], None]
) -> None:
    run = settings.paths.run
    stopping, handing_over, removed = asyncio.Event(), asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    supervisor.stop_signal(loop, stopping.set)

    def hand_over() -> None:
        handing_over.set()
        stopping.set()

    loop.add_signal_handler(_HAND_OVER, hand_over)
    who, keys = await layout.prepare(settings)
    parts = supervisor.Supervisor(
        components.plan(settings, who.roles),
        run,
        settings.paths.data / "log",
        supervisor.environment(),
    )
    try:
        if await _until_ready(parts, stopping):
            if "control" in who.roles:
                write_cli_config(settings, keys)
            (run / "ready").touch()
            notify.notify("READY=1")
            told(_is_up(settings))
            await _until_stopped(settings, former, stopping, removed)
        notify.notify("STOPPING=1")
        told("going down")
    finally:
        await parts.stop(handing_over=handing_over.is_set())
        if not handing_over.is_set():
            await clean_up(settings)
    told("left to a successor" if handing_over.is_set() else "Godwit is down")
    if removed.is_set():
        raise standing.removed(settings.paths.data)


async def _until_stopped(
    settings: Settings,
    former: Collection[running.Process],
    stopping: asyncio.Event,
    removed: asyncio.Event,
) -> None:
    """Wait until somebody asks to stop, or this host is no member any more."""
    async with tasks.Tasks("standing") as owned:
        for process in former:
            owned.spawn(supervisor.retire(process), name=f"retire {process.pid}")
        stopped = owned.spawn(stopping.wait(), name="stop")
        gone = owned.spawn(
            standing.until_removed(settings.paths.data, SystemClock()), name="removal"
        )
        await asyncio.wait({stopped, gone}, return_when=asyncio.FIRST_COMPLETED)
        if gone.done():
            await gone
            removed.set()


async def _until_ready(parts: supervisor.Supervisor, stopping: asyncio.Event) -> bool:
    """Return whether everything became ready before somebody asked to stop."""
    async with tasks.Tasks("up") as owned:
        starting = owned.spawn(parts.start(), name="start")
        stopped = owned.spawn(stopping.wait(), name="stop")
        await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            return False
        try:
            await starting
        except TimeoutError as error:
            waiting = [name for name, ready in parts.ready().items() if not ready]
            raise errors.Failure(
                "unavailable",
                f"not ready in time: {', '.join(waiting)}",
                hint="their logs are in the data directory's log folder",
            ) from error
    return True


async def clean_up(settings: Settings) -> None:
    """Leave no VM, tap, mount, nftables table, cgroup or temporary file of this instance.

    Machines that ran are remembered as such and come back at the next `up`.

    Raises:
        Failure: Machines could not be stopped, or the store could not be unmounted.
    """
    run = settings.paths.run
    resolved = run / "settings.json"
    if resolved.exists():
        try:
            await processes.run(
                [sys.executable, "-m", "godwit.cmd.agent", "--settings", str(resolved), "park"],
                timeout_s=_PARK_S,
            )
        except processes.ProgramFailed as error:
            # Nothing else is undone: what is left must be found by the next attempt.
            raise errors.Failure(
                "failed_precondition",
                f"machines could not be stopped: {error}",
                hint="mend that, then `godwit down` again",
            ) from error
    await jail.Jails(run / "builder").sweep()
    await layout.unmount_store(settings.paths.data)
    cgroup_root.remove(settings.instance)
    layout.clear_run(run)


def start_detached(settings: Settings, *, told: Callable[[str], None]) -> None:
    """Start the supervising process in the background and wait until the host is up.

    Raises:
        Failure: It did not come up; the message holds the end of its log.
    """
    requirements.demand(settings)
    standing.demand(settings.paths.data, SystemClock())
    run = settings.paths.run
    if running.read(run / "host.json") is not None:
        if (run / "ready").exists():
            told("Godwit is already up")
            return
        _await_ready(settings, None)
        return
    # A killed predecessor may have left the word that it was ready.
    (run / "ready").unlink(missing_ok=True)
    (settings.paths.data / "log").mkdir(mode=0o700, parents=True, exist_ok=True)
    log = settings.paths.data / "log" / "host.log"
    start = settings.paths.data / "settings.json"
    private_files.write(start, settings.model_dump_json(indent=2))
    with log.open("ab") as output:
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-m", "godwit.cmd.host", "--settings", str(start)],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, output.fileno(), 1),
                (os.POSIX_SPAWN_DUP2, output.fileno(), 2),
            ],
            setsid=True,
        )
    _await_ready(settings, running.of(pid))
    told(_is_up(settings))


def _await_ready(settings: Settings, process: running.Process | None) -> None:
    ready = settings.paths.run / "ready"
    deadline = time.monotonic() + _UP_S
    while not ready.exists():
        if (process is not None and not process.alive) or time.monotonic() > deadline:
            log = settings.paths.data / "log" / "host.log"
            tail = "".join(log.read_text().splitlines(keepends=True)[-12:])
            raise errors.Failure("unavailable", f"Godwit did not come up:\n{tail}", hint=str(log))
        time.sleep(0.05)


def upgrade(settings: Settings, *, told: Callable[[str], None]) -> None:
    """Put this release's programs in the place of those that run; no machine is stopped.

    Args:
        settings: Where this release's programs are, what the former release did not know, and
            where other hosts reach this one, if they say; all else stays as the host was
            brought up.
        told: Called with one sentence for each stage.

    Raises:
        Failure: Godwit is not up here, something that this release needs is missing (then what
            runs is left alone), or the former release did not hand over in time.
    """
    run, programs = settings.paths.run, settings.paths.programs
    process = running.read(run / "host.json")
    if process is None:
        raise errors.Failure(
            "failed_precondition", "Godwit is not up here", hint="start it with `godwit up -d`"
        )
    kept = json.loads((run / "settings.json").read_text())
    kept["paths"]["programs"] = str(programs)
    kept |= {section: kept[section] | reach for section, reach in _reach(settings).items()}
    settings = Settings.model_validate(_completed(kept, settings.model_dump(mode="json")))
    requirements.demand(settings)
    # A release that knows nothing of handing over is ended by the signal all the same; its
    # components are ended by the successor then.
    supervised = units.under_systemd(process.pid)
    # Whoever waits for the successor must not take the predecessor's word.
    (run / "ready").unlink(missing_ok=True)
    process.signal(_HAND_OVER)
    if not process.wait(_HAND_OVER_S):
        raise errors.Failure("deadline_exceeded", f"pid {process.pid} did not hand over in time")
    told("the former release has stopped; its machines run on")
    if supervised:
        # Systemd starts the successor, by the unit's own settings.
        _await_ready(settings, None)
        told(_is_up(settings))
        return
    start_detached(settings, told=told)


_REACH = {"listen": {"join", "mesh"}, "host": {"endpoints", "join_address"}}
"""A host may move, and begin to have others, without stopping its machines."""


def _reach(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return where other hosts reach this one, as far as its settings say."""
    return {
        section: getattr(settings, section).model_dump(
            mode="json", include=keys, exclude_unset=True
        )
        for section, keys in _REACH.items()
    }


def _completed(kept: dict[str, Any], present: dict[str, Any]) -> dict[str, Any]:
    """Return the kept settings with what they lack."""
    return present | {
        key: _completed(value, present[key]) if isinstance(value, dict) else value
        for key, value in kept.items()
    }


async def down(settings: Settings, *, told: Callable[[str], None]) -> None:
    """Take the host down, whoever started it and whatever is left of it.

    Raises:
        Failure: The supervising process did not end in time.
    """
    run = settings.paths.run
    resolved = run / "settings.json"
    if resolved.exists():
        settings = read_resolved(resolved)
    process = running.read(run / "host.json")
    if process is not None:
        process.signal(15)
        if not await asyncio.to_thread(process.wait, _DOWN_S):
            raise errors.Failure("deadline_exceeded", f"pid {process.pid} did not stop in time")
    elif not run.exists():
        told("Godwit is not up here")
        return
    if run.exists():
        # The supervising process was killed, or failed half way: do its work.
        with _only_one(run):
            await asyncio.to_thread(supervisor.end_leftovers, run)
            await clean_up(settings)
    told("Godwit is down")


def _is_up(settings: Settings) -> str:
    roles, apps = identity.roles(settings.paths.data), f"apps {edge_url(settings)}"
    if "control" in roles:
        return f"Godwit is up: API http://{settings.listen.api}, {apps}"
    return f"Godwit is up: {', '.join(roles)}; {apps}"


def edge_url(settings: Settings) -> str:
    """Return where apps answer, with a placeholder for the app's name."""
    port = settings.listen.edge.rpartition(":")[2]
    return f"http://<app>.{settings.apps_domain}" + ("" if port == "80" else f":{port}")


def write_cli_config(settings: Settings, keys: Keys) -> None:
    """Let this user's CLI reach this host, unless it was pointed elsewhere by hand."""
    directory = Path(
        os.environ.get("GODWIT_CONFIG_DIR")
        or Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "godwit"
    )
    path = directory / "cli.json"
    current: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        current = json.loads(path.read_text())
    if current and "written_by_up" not in current:
        return
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    content = {
        "v": 1,
        "api_url": f"http://{settings.listen.api}",
        "token": keys.operator_token.read_text().strip(),
        "edge_url": "http://127.0.0.1:" + settings.listen.edge.rpartition(":")[2],
        "apps_domain": settings.apps_domain,
        "registry": settings.listen.registry,
        "written_by_up": str(settings.paths.data),
    }
    private_files.write(path, json.dumps(content, indent=2) + "\n")


@contextlib.contextmanager
def _only_one(run: Path) -> Iterator[None]:
    """Hold the instance's lock.

    Raises:
        Failure: Another process holds it.
    """
    with (run / "up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = os.path.samestat(os.fstat(lock.fileno()), (run / "up.lock").stat())
        except (BlockingIOError, FileNotFoundError):
            held = False
        if not held:
            # Or its holder is just removing the run directory, the lock's file included.
            raise errors.Failure(
                "already_exists",
                f"Godwit is already up here (run directory {run})",
                hint="stop it with `godwit down`, or choose another instance and directories",
            )
        yield
