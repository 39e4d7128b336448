"""Terminals: a command in a guest while somebody types, carried by requests and answers.

A client reads output past a position and writes input at a position, both counted in bytes since
the beginning, so an answer that was lost is asked for again and nothing is typed twice. Verbs of
`wire.host_rpc`: `machine.terminal.open`, `machine.terminal.read`, `machine.terminal.write` and
`machine.terminal.close`.
"""

from typing import Literal

from pydantic import Field

from godwit.wire.record import Record

LONGEST_READ_S = 30.0
MOST_INPUT_BYTES = 65_536


class Window(Record):
    """The size of a terminal, in characters."""

    rows: int = Field(24, ge=1, le=10_000)
    cols: int = Field(80, ge=1, le=10_000)


class OpenTerminal(Record):
    """Start a command.

    Attributes:
        window: `None` gives it pipes instead of a terminal.
        container: Which of several containers it runs in; empty is the main one.
        machine: It runs beside the containers, in the machine itself.
        nonce: The caller's proof of holding the machine's lease.
    """

    machine_id: str
    command: tuple[str, ...]
    user: str = ""
    container: str = ""
    machine: bool = False
    term: str = ""
    window: Window | None = None
    nonce: str | None = None


class OfTerminal(Record):
    """Body of requests about a terminal that is open, and the answer to `open`."""

    machine_id: str
    terminal_id: str


class ReadTerminal(OfTerminal):
    """Ask for output past a position; what is before it is forgotten.

    Attributes:
        wait_s: How long to wait for some, at most `LONGEST_READ_S`.
    """

    after: int = Field(0, ge=0)
    wait_s: float = Field(0.0, ge=0.0, le=LONGEST_READ_S)


class Piece(Record):
    """Output as it came."""

    stream: Literal["stdout", "stderr"]
    data_base64: str


class TerminalOutput(Record):
    """What came, and once nothing more can come how the command ended.

    Attributes:
        position: What to ask for next.
        exit_code: 128 + signal when a signal ended it.
    """

    position: int
    pieces: tuple[Piece, ...] = ()
    ended: bool = False
    exit_code: int | None = None
    exit_signal: int | None = None


class WriteTerminal(OfTerminal):
    """Type something, say that nothing more will be typed, resize.

    Attributes:
        at: Where in the input the data begins; what was taken already is not typed again.
    """

    at: int = Field(0, ge=0)
    data_base64: str = ""
    eof: bool = False
    window: Window | None = None


class Typed(Record):
    """How much of the input has been taken."""

    position: int
