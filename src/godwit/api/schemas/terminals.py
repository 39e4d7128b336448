"""Terminals in machines."""

from typing import Literal

from pydantic import Field

from godwit.api.schemas.common import In, Out, ShortText, Text
from godwit.base import errors
from godwit.control import machine_actions
from godwit.wire import terminals

_MOST_BASE64 = terminals.MOST_INPUT_BYTES * 2


class Window(In):
    """The size of a terminal, in characters."""

    rows: int = Field(24, ge=1, le=10_000)
    cols: int = Field(80, ge=1, le=10_000)

    def told(self) -> terminals.Window:
        """Return what the host is told."""
        return terminals.Window(rows=self.rows, cols=self.cols)


class OpenTerminal(In):
    """A command; without `window` it gets pipes instead of a terminal.

    `container` names one of several containers, `machine` means beside them: not both. Without
    either a machine of containers runs it in its main one: `app`, else the first.
    """

    command: list[Text] = Field(min_length=1, max_length=1_000)
    user: ShortText = ""
    term: ShortText = ""
    window: Window | None = None
    container: ShortText = ""
    machine: bool = False

    def wanted(self, machine_id: str, nonce: str | None) -> terminals.OpenTerminal:
        """Return what the service is asked."""
        if self.container and self.machine:
            raise errors.invalid("container: give container or machine, not both")
        return terminals.OpenTerminal(
            machine_id=machine_id,
            command=machine_actions.command(self.command, None),
            user=self.user,
            term=self.term,
            window=None if self.window is None else self.window.told(),
            container=self.container,
            machine=self.machine,
            nonce=nonce,
        )


class Opened(Out):
    """A terminal: read from it within 90 seconds, again and again."""

    id: str


class Piece(Out):
    """Output as it came."""

    stream: Literal["stdout", "stderr"]
    data_base64: str


class TerminalOutput(Out):
    """Output; `position` is what to ask for next. Once `ended`, nothing more comes."""

    position: int
    pieces: list[Piece]
    ended: bool
    exit_code: int | None
    exit_signal: int | None


class WriteTerminal(In):
    """Input that begins at byte `at`; what was taken already is not typed again."""

    at: int = Field(0, ge=0)
    data_base64: str = Field("", max_length=_MOST_BASE64)
    eof: bool = False
    window: Window | None = None


class Typed(Out):
    """How many bytes of the input were taken so far."""

    position: int
