"""What the program says, and where: data on stdout, talk on stderr, readable without colour."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


class Output:
    """The program's two streams.

    Attributes:
        lively: Whether somebody watches stderr at a terminal.
    """

    def __init__(
        self, stdout: TextIO, stderr: TextIO, *, lively: bool = False, colour: bool = False
    ) -> None:
        self.stdout = stdout
        self.stderr = stderr
        self.lively = lively
        self._colour = colour

    def data(self, text: str) -> None:
        """Print a line of what was asked for."""
        self.stdout.write(f"{text}\n")

    def raw(self, text: str) -> None:
        """Print what was asked for as it is."""
        self.stdout.write(text)
        self.stdout.flush()

    def json(self, value: Any) -> None:
        """Print a value as JSON."""
        self.data(json.dumps(value, indent=2, ensure_ascii=False))

    def table(self, headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Print rows in columns; nothing is cut."""
        cells = [[_cell(one) for one in row] for row in rows]
        heads = [header.upper() for header in headers]
        widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
        self.data(self._styled(_line(heads, widths), "bold"))
        for row in cells:
            self.data(_line(row, widths))

    def pairs(self, values: Mapping[str, object]) -> None:
        """Print names and values, one a line."""
        width = max(map(len, values), default=0)
        for name, value in values.items():
            self.data(f"{self._styled(name.ljust(width), 'bold')}  {_cell(value)}".rstrip())

    def say(self, text: str = "") -> None:
        """Say something to whoever watches."""
        self.stderr.write(f"{text}\n")
        self.stderr.flush()

    def warn(self, text: str) -> None:
        """Say that something is not as it should be."""
        self.say(f"{self._styled('warning:', 'yellow')} {text}")

    def hint(self, text: str) -> None:
        """Say what to do next, after a blank line."""
        self.say()
        self.say(f"{self._styled('hint:', 'cyan')} {text}")

    def error(self, text: str) -> None:
        """Say what went wrong."""
        self.say(f"{self._styled('error:', 'red')} {text}")

    def _styled(self, text: str, style: str) -> str:
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if self._colour else text


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value).replace("\n", " ")


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
