"""One run of the program: where it runs, what it may ask, how it speaks.

Made once by `program`, handed to every command as the context's object. Tests make their own.
"""

import getpass
import io
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import typer

from godwit.base import errors
from godwit.base.clock import Clock, SystemClock
from godwit.cli import settings
from godwit.cli.output import Output


@dataclass
class Session:
    """What a command has.

    Attributes:
        environ: The environment's variables.
        directory: The working directory.
        out: How it speaks.
        ask: Reads an answer at the terminal; `None` when nobody is there to answer.
        ask_secret: Reads one that is not shown while it is typed.
        http: What carries requests in tests (an httpx transport); `None` for the network.
        clock: Time.
        token: What `--access-token` said.
        debug: Whether `--debug` was given.
        early: Options given before the command's name.
        stdin: What `machine exec --stdin` and others read that take something from there.
        browse: Opens an address in a browser; tells whether it could.
    """

    environ: Mapping[str, str]
    directory: Path
    out: Output
    ask: Callable[[str], str] | None = None
    ask_secret: Callable[[str], str] | None = None
    http: Any = None
    clock: Clock = field(default_factory=SystemClock)
    token: str | None = None
    debug: bool = False
    early: list[str] = field(default_factory=list)
    stdin: TextIO = field(default_factory=lambda: sys.stdin)
    browse: Callable[[str], bool] = lambda _: False

    @property
    def settings(self) -> settings.CliSettings:
        """Where the API is and who asks."""
        return settings.read(self.environ, token=self.token)

    @property
    def wants_json(self) -> bool:
        """Whether the environment asks for JSON everywhere."""
        return self.environ.get("FLY_JSON", "").lower() in ("1", "true")

    def read(self, most: int) -> bytes:
        """Return standard input, byte by byte.

        Raises:
            Failure: `invalid_argument` when there are more bytes than that.
        """
        raw = getattr(self.stdin, "buffer", None)
        whole = raw.read() if isinstance(raw, io.BufferedIOBase) else self.stdin.read().encode()
        if len(whole) > most:
            raise errors.invalid(f"standard input has more than {most} bytes")
        return whole

    def confirm(self, question: str, *, yes: bool, flag: str = "--yes") -> None:
        """Return once the user agrees.

        Raises:
            Failure: Nobody is there to ask, and the flag was not given.
            Abort: The user said no.
        """
        if yes:
            return
        if self.ask is None:
            raise errors.invalid(
                f"{question} Nobody is here to answer.", hint=f"pass {flag} to say yes"
            )
        answer = self.ask(f"{question} [y/N] ").strip().lower()
        if answer not in ("y", "yes"):
            self.out.say("Nothing was changed.")
            raise typer.Exit(1)

    def choose(self, question: str, choices: list[str], *, flag: str) -> str:
        """Return one of several, asking only when there is a choice and somebody to make it.

        Raises:
            Failure: There is a choice, nobody to ask, and the flag was not given.
        """
        if len(choices) == 1:
            return choices[0]
        if self.ask is None:
            raise errors.invalid(
                f"{question} There are {', '.join(choices)}.", hint=f"pass {flag} to choose"
            )
        while True:
            answer = self.ask(f"{question} ({', '.join(choices)}) ").strip()
            if answer in choices:
                return answer
            self.out.say(f'There is no "{answer}".')


def of(context: typer.Context) -> Session:
    """Return the session of a command."""
    found = context.find_object(Session)
    if found is None:
        raise RuntimeError("a command was called without a session")
    return found


def of_process() -> Session:
    """Return the session of this process: its streams, environment and directory."""
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    watched = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    output = Output(
        sys.stdout,
        sys.stderr,
        lively=watched,
        colour=sys.stdout.isatty() and sys.stderr.isatty() and not plain,
    )
    attended = sys.stdin.isatty() and sys.stderr.isatty()
    return Session(
        environ=os.environ,
        directory=Path.cwd(),
        out=output,
        ask=_ask if attended else None,
        ask_secret=getpass.getpass if attended else None,
        browse=_browse,
    )


def _ask(question: str) -> str:
    sys.stderr.write(question)
    sys.stderr.flush()
    answer = sys.stdin.readline()
    if not answer:
        raise KeyboardInterrupt
    return answer


def _browse(address: str) -> bool:
    import webbrowser  # noqa: PLC0415 - slow to load, used by one command

    return webbrowser.open(address)
