"""What may be asked of a machine, when, and where it leads. Pure: a table.

    created ──start──► started ──stop──► stopped ──destroy──► destroyed
       │                 │  ▲               │
       └─prepare──► stopped └──relaunch     └──start──► started
    started ──suspend──► suspended ──resume──► started   (no usable snapshot: start, same root)
    any operation that cannot succeed ──fail──► failed ──start/destroy──► …

`State` is stored. The transient names that users see (`starting`, `stopping`, …) come from the
one running operation and are never stored. A request that arrives during an operation is judged
against the state the operation will lead to; some break off what is in their way.
"""

from dataclasses import dataclass
from typing import Literal

from godwit.base.errors import Code

State = Literal["created", "started", "stopped", "suspended", "failed", "destroyed"]
STATES: tuple[State, ...] = State.__args__  # type: ignore[attr-defined]

Request = Literal[
    "start", "wake", "stop", "restart", "update", "replace", "suspend", "destroy", "kill"
]
"""`wake` is a start for a request that waits at the edge, `replace` an update with skip_launch,
`kill` a destroy with force."""
REQUESTS: tuple[Request, ...] = Request.__args__  # type: ignore[attr-defined]

Kind = Literal[
    "prepare",
    "start",
    "resume",
    "relaunch",
    "stop",
    "suspend",
    "restart",
    "update",
    "replace",
    "settle",
    "fail",
    "clear",
    "destroy",
]
KINDS: tuple[Kind, ...] = Kind.__args__  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Course:
    """Where an operation leads.

    Attributes:
        target: State at its end; `None` keeps the one before.
        shown: What users see while it runs; `None` shows the stored state.
        yields_to: Requests that break it off.
        tearing_down: Part of the way down: never aborts, runs until it is done.
    """

    target: State | None
    shown: str | None
    yields_to: frozenset[Request] = frozenset()
    tearing_down: bool = False


_ANYTHING_STRONGER: frozenset[Request] = frozenset({"stop", "update", "replace", "kill"})

COURSES: dict[Kind, Course] = {
    "prepare": Course("stopped", None, frozenset({"update", "replace", "destroy", "kill"})),
    "start": Course("started", "starting", _ANYTHING_STRONGER),
    "resume": Course("started", "starting", _ANYTHING_STRONGER),
    # After an exit, by the restart policy; it may be waiting, and a restart need not.
    "relaunch": Course("started", "restarting", _ANYTHING_STRONGER | {"restart"}),
    "restart": Course("started", "restarting", _ANYTHING_STRONGER),
    "update": Course("started", "replacing", _ANYTHING_STRONGER),
    "replace": Course("stopped", "replacing", frozenset({"update", "replace", "kill"})),
    "suspend": Course("suspended", "suspending", _ANYTHING_STRONGER | {"restart"}),
    "stop": Course("stopped", "stopping", frozenset({"kill"}), tearing_down=True),
    # The process ended by itself and stays down.
    "settle": Course("stopped", "stopping", tearing_down=True),
    # An operation was given up; takes down what it left.
    "fail": Course("failed", "stopping", frozenset({"kill"}), tearing_down=True),
    # Remains were found beside a machine at rest.
    "clear": Course(None, None, tearing_down=True),
    "destroy": Course("destroyed", "destroying", tearing_down=True),
}

TRANSIENT: frozenset[str] = frozenset(
    course.shown for course in COURSES.values() if course.shown is not None
) | {"created", "creating", "updating"}
"""Names that are not `settled` (spec/machines.md §3.6)."""


MEANINGS: dict[str, str] = {
    "created": "Taken on by its host; its image is being brought there.",
    "starting": "On its way up: image, network, disk, VM, boot; or on from its snapshot.",
    "started": "Its process runs.",
    "stopping": "On its way down; what it used is taken away.",
    "stopped": "At rest. It holds no memory, so a start may find none; the next boot has a fresh"
    " root.",
    "suspending": "Its memory and devices are being saved.",
    "suspended": "At rest with its memory and disk saved; its memory stays reserved. A start runs"
    " it on from there, or boots it with the same disk when the snapshot is of no use.",
    "restarting": "On its way down and up again, or waiting for the restart policy's pause.",
    "replacing": "A new version takes the place of the present one.",
    "failed": "An operation was given up and what it left is taken down; the sentence says why.",
    "destroying": "On its way to be gone.",
    "destroyed": "Gone. It can still be read for a while.",
}
"""What each state that users see means, in the order of a life."""


@dataclass(frozen=True)
class Run:
    """Do it.

    Attributes:
        at_once: Breaks off the running operation; otherwise waits for its end.
    """

    kind: Kind
    at_once: bool = False


@dataclass(frozen=True)
class Done:
    """It is so already, or will be."""


@dataclass(frozen=True)
class Refuse:
    """It cannot be asked now."""

    code: Code
    sentence: str


Verdict = Run | Done | Refuse

_NOT_RUNNING = Refuse(
    "failed_precondition", "unable to suspend machine: only a started machine can be suspended"
)
_GONE = Refuse("not_found", "machine is destroyed")
_NOT_YET = Refuse("failed_precondition", "unable to start machine from current state: 'created'")
_REPLACED = Refuse("failed_precondition", "machine getting replaced, refusing to start")
_RUNNING = Refuse(
    "failed_precondition",
    "unable to destroy machine: it is started; stop it first or use force",
)

TABLE: dict[State, dict[Request, Verdict]] = {
    "created": {
        "start": _NOT_YET,
        "wake": _NOT_YET,
        "stop": Run("stop"),
        "restart": _NOT_YET,
        "update": Run("update"),
        "replace": Run("replace"),
        "suspend": _NOT_RUNNING,
        "destroy": Run("destroy"),
        "kill": Run("destroy"),
    },
    "started": {
        "start": Done(),
        "wake": Done(),
        "stop": Run("stop"),
        "restart": Run("restart"),
        "update": Run("update"),
        "replace": Run("replace"),
        "suspend": Run("suspend"),
        "destroy": _RUNNING,
        "kill": Run("destroy"),
    },
    "stopped": {
        "start": Run("start"),
        "wake": Run("start"),
        "stop": Done(),
        "restart": Run("restart"),
        "update": Run("update"),
        "replace": Run("replace"),
        "suspend": _NOT_RUNNING,
        "destroy": Run("destroy"),
        "kill": Run("destroy"),
    },
    "suspended": {
        "start": Run("resume"),
        "wake": Run("resume"),
        "stop": Run("stop"),
        "restart": Run("restart"),
        "update": Run("update"),
        "replace": Run("replace"),
        "suspend": Done(),
        "destroy": Run("destroy"),
        "kill": Run("destroy"),
    },
    "failed": {
        "start": Run("start"),
        "wake": Run("start"),
        "stop": Run("stop"),
        "restart": Run("restart"),
        "update": Run("update"),
        "replace": Run("replace"),
        "suspend": _NOT_RUNNING,
        "destroy": Run("destroy"),
        "kill": Run("destroy"),
    },
    "destroyed": {
        "start": _GONE,
        "wake": _GONE,
        "stop": _GONE,
        "restart": _GONE,
        "update": _GONE,
        "replace": _GONE,
        "suspend": _GONE,
        "destroy": Done(),
        "kill": Done(),
    },
}


def leads_to(state: State, operation: Kind | None) -> State:
    """Return the state the machine will rest in."""
    if operation is None:
        return state
    return COURSES[operation].target or state


def shown(state: State, operation: Kind | None) -> str:
    """Return the state as users see it, transient names included."""
    if operation is None:
        return state
    return COURSES[operation].shown or state


def decide(state: State, operation: Kind | None, request: Request) -> Verdict:
    """Judge a request: do it, it is so already, or refuse.

    Args:
        state: The stored state.
        operation: The running operation, if any.
        request: What is asked.
    """
    if operation == "prepare" and request in ("start", "wake", "restart"):
        return _NOT_YET
    if operation in ("update", "replace") and request == "start":
        return _REPLACED
    verdict = TABLE[leads_to(state, operation)][request]
    if operation is None or not isinstance(verdict, Run):
        return verdict
    return Run(verdict.kind, at_once=request in COURSES[operation].yields_to)


def holds_memory(state: State, operation: Kind | None) -> bool:
    """Tell whether the machine's memory is taken on its host (spec/machines.md §3.9).

    A machine on its way down holds it until it is down.
    """
    if operation is None:
        return state in ("started", "suspended")
    return leads_to(state, operation) == "started" or state in ("started", "suspended")
