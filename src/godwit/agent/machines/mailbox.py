"""What a driver takes in and what all drivers of a host use: plain values, no behaviour."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from godwit.agent.machines import lifecycle, work
from godwit.base import tasks
from godwit.durable import journal, runner
from godwit.wire import host_rpc, shim


@dataclass(frozen=True)
class Shared:
    """What all drivers of a host use.

    Attributes:
        hold: Takes what a machine needs from the books; raises when it does not fit.
        changed: Told a machine's id after every change of it.
        revision: Returns the next revision.
    """

    host: work.Host
    journal: journal.Journal
    runner: runner.Runner[work.Work]
    tasks: tasks.Tasks
    hold: Callable[[str, host_rpc.Resources], None]
    changed: Callable[[str], None]
    revision: Callable[[], int]


@dataclass(frozen=True)
class Ended:
    """A guest event: what ran has ended, and the record of how, if there is one.

    Attributes:
        ran_out: The host's kernel killed the VMM for want of memory.
    """

    record: shim.ExitRecord | None
    ran_out: bool = False


@dataclass(eq=False)
class Asked:
    """A request in the mailbox; `answer` is set once its fate is on disk.

    Attributes:
        permit: Raises when who asks may not change the machine now.
    """

    request: lifecycle.Request
    input: Mapping[str, Any]
    permit: Callable[[], None]
    answer: "asyncio.Future[str]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
