"""What each request does: a list of steps per operation. Pure data.

Step names are what the journal records; `lifecycle.COURSES` says where each operation leads.
"""

from dataclasses import dataclass

from godwit.agent.machines.lifecycle import Kind


@dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes:
        steps: Names, in order.
        harmless: How many of the first steps touch nothing of a machine at rest: an operation
            given up there leaves the machine as it was.
    """

    steps: tuple[str, ...]
    harmless: int = 0


START = Operation(
    (
        "log_launch",
        "check_secrets",
        "fetch_image",
        "clear_remains",
        "await_turn",
        "plumb_network",
        "prepare_vm",
        "spawn_vmm",
        "boot",
    )
)
STOP = Operation(("signal_guest", "await_exit", "record_exit", "discard_vmm", "release_network"))
TEARDOWN = Operation(("record_exit", "discard_vmm", "release_network"))
SUSPEND = Operation(
    ("save_state", "discard_keeping_disk", "release_network"),
    harmless=1,
)
# Without a usable snapshot it hands over to a start that keeps the root.
RESUME = Operation(
    ("fetch_image", "clear_remains", "plumb_network", "resume_vm", "await_resumed"),
    harmless=1,
)
PREPARE = Operation(("fetch_image",))
RESTART = Operation((*STOP.steps, *START.steps))
RELAUNCH = Operation(("record_exit", "discard_vmm", "wait_before_restart", *START.steps))
REPLACE = Operation(("fetch_new_image", *STOP.steps, "adopt_version"), harmless=1)
UPDATE = Operation((*REPLACE.steps, *START.steps), harmless=1)
DESTROY = STOP

OPERATIONS: dict[Kind, Operation] = {
    "prepare": PREPARE,
    "start": START,
    "resume": RESUME,
    "relaunch": RELAUNCH,
    "stop": STOP,
    "suspend": SUSPEND,
    "restart": RESTART,
    "update": UPDATE,
    "replace": REPLACE,
    "settle": TEARDOWN,
    "fail": TEARDOWN,
    "clear": TEARDOWN,
    "destroy": DESTROY,
}
