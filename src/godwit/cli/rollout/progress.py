"""What the user sees while a deploy runs: a live display at a terminal, plain lines elsewhere."""

import re
from collections import deque
from types import TracebackType
from typing import Any, Protocol, Self

from godwit.cli.output import Output

_TAIL = 8
_SPINNER = 4
_MACHINES = 16


class Progress(Protocol):
    """Tells of steps, one after another, each with lines and a state of its own."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End, leaving on the screen what happened."""

    def step(self, title: str) -> None:
        """Begin a step; the one before is done."""

    def line(self, text: str) -> None:
        """Tell a line of the step's output."""

    def state(self, text: str) -> None:
        """Tell how the step stands, when it changed."""

    def machine(self, machine_id: str, text: str) -> None:
        """Tell how a machine stands, when that changed."""

    def note(self, text: str) -> None:
        """Tell something that stays on the screen."""


class Plain:
    """One line for everything, for pipes, files and CI."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._said: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return

    def step(self, title: str) -> None:
        """Print a step's title."""
        self._said.clear()
        self._out.say(f"==> {title}")

    def line(self, text: str) -> None:
        """Print a line of output."""
        self._out.say(f"    {text}")

    def state(self, text: str) -> None:
        """Print how the step stands, unless only numbers changed since."""
        self.machine("", text)

    def machine(self, machine_id: str, text: str) -> None:
        """Print how a machine stands, unless only numbers changed since."""
        shape = re.sub("[0-9]+", "#", text)
        if shape != self._said.get(machine_id):
            self._said[machine_id] = shape
            self._out.say(f"    {text}")

    def note(self, text: str) -> None:
        """Print a remark."""
        self._out.say(f"    {text}")


class Live:
    """A display that is redrawn: the step, how it stands, the last lines of its output."""

    def __init__(self, out: Output) -> None:
        # Slow to load, and not needed in pipes: imported here.
        from rich.console import Console, Group  # noqa: PLC0415
        from rich.live import Live as Display  # noqa: PLC0415
        from rich.spinner import Spinner  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        self._text, self._group = Text, Group
        self._spinner = Spinner("dots")
        self._console = Console(file=out.stderr, highlight=False)
        self._display: Any = Display(console=self._console, transient=True, refresh_per_second=8)
        self._title = ""
        self._state = ""
        self._tail: deque[str] = deque(maxlen=_TAIL)
        self._machines: dict[str, str] = {}

    def __enter__(self) -> Self:
        self._display.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._settle("red" if error else "green", "✗" if error else "✓")
        if error:
            for line in self._tail:
                self._print(self._text(f"  {line}", style="dim"))
        self._display.stop()

    def step(self, title: str) -> None:
        """Leave the step before on the screen as done, and show this one."""
        self._settle("green", "✓")
        self._title, self._state = title, ""
        self._tail.clear()
        self._draw()

    def line(self, text: str) -> None:
        """Show a line of output among the last ones."""
        self._tail.append(text)
        self._draw()

    def state(self, text: str) -> None:
        """Show how the step stands."""
        self._state = text
        self._draw()

    def machine(self, machine_id: str, text: str) -> None:
        """Show how a machine stands, on a line of its own."""
        self._machines[machine_id] = text
        self._draw()

    def note(self, text: str) -> None:
        """Leave a remark on the screen."""
        self._print(self._text(f"  {text}"))

    def _settle(self, colour: str, mark: str) -> None:
        """Leave the step on the screen as it ended."""
        self._display.update("", refresh=True)
        if self._title:
            state = f": {self._state}" if self._state else ""
            self._print(self._text.assemble((f"{mark} ", colour), f"{self._title}{state}"))
            for text in self._machines.values():
                self._print(self._text(f"    {text}", style="dim"))
        self._title = ""
        self._machines.clear()

    def _print(self, text: Any) -> None:
        self._console.print(text, soft_wrap=True)

    def _draw(self) -> None:
        state = f" {self._state}" if self._state else ""
        head = self._text.assemble(self._title, (state, "dim"))
        head.truncate(max(1, self._console.width - _SPINNER), overflow="ellipsis")
        self._spinner.update(text=head)
        shown = [*list(self._machines.values())[-_MACHINES:], *self._tail]
        tail = [
            self._text(f"  {line}", style="dim", no_wrap=True, overflow="ellipsis")
            for line in shown
        ]
        self._display.update(self._group(self._spinner, *tail))


def of(out: Output) -> Progress:
    """Return the progress that suits where the program's talk goes."""
    return Live(out) if out.lively else Plain(out)
