"""The whole program: arguments in, exit code out, and every error told at its edge."""

import contextlib
import os
import sys
import traceback
from collections.abc import Sequence

import typer
from typer._completion_classes import completion_init

from godwit.base import errors
from godwit.cli import exits, registry, tree
from godwit.cli.session import Session

COMPLETION = "_GODWIT_COMPLETE"
"""Set by shells that ask for completions; see `completion`."""
_DEBUG = ("GODWIT_DEBUG", "FLY_VERBOSE")
_OFF = ("", "0", "false")


def run(
    arguments: Sequence[str],
    session: Session,
    entries: Sequence[registry.Entry] = registry.ENTRIES,
) -> int:
    """Run one command and return the exit code.

    Args:
        arguments: What was typed after `godwit`.
        session: What the command has to work with.
        entries: The commands there are.
    """
    if session.environ.get(COMPLETION):
        completion_init()  # teaches Typer the shells; `main` answers and ends the process
    root = tree.Root(entries)
    try:
        with contextlib.redirect_stdout(session.out.stdout):  # where Typer prints help
            code = root.main(
                args=list(arguments), prog_name="godwit", standalone_mode=False, obj=session
            )
        session.out.stdout.flush()
    except errors.Failure as failure:
        _tell_failure(session, failure)
        return exits.of_failure(failure)
    except typer.TyperException as error:
        return _tell_usage(session, error)
    except (KeyboardInterrupt, typer.Abort):
        session.out.say("interrupted")
        return exits.INTERRUPTED
    except BrokenPipeError:
        _silence_stdout()
        return exits.FAILED
    except Exception as error:  # noqa: BLE001 - the edge of the program
        return _tell_bug(session, error)
    return code if isinstance(code, int) else exits.OK


def _tell_failure(session: Session, failure: errors.Failure) -> None:
    session.out.error(failure.message)
    request_id = getattr(failure, "request_id", "")
    if request_id:
        session.out.say(f"       request id {request_id}")
    if failure.hint:
        session.out.hint(failure.hint)
    if _debugging(session):
        session.out.say(traceback.format_exc())


def _tell_usage(session: Session, error: typer.TyperException) -> int:
    context = getattr(error, "ctx", None)
    message = error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":
        session.out.say(message)
        return exits.USAGE
    session.out.error(message[:1].lower() + message[1:].rstrip("."))
    command = context.command_path if context is not None else "godwit"
    session.out.hint(f"`{command} --help` tells what it takes")
    return error.exit_code


def _tell_bug(session: Session, error: Exception) -> int:
    if _debugging(session):
        session.out.say(traceback.format_exc())
    session.out.error(f"this is a bug in godwit: {type(error).__name__}: {error}")
    if not _debugging(session):
        session.out.hint("run it again with --debug, or GODWIT_DEBUG=1, to see where")
    return exits.FAILED


def _debugging(session: Session) -> bool:
    return session.debug or any(session.environ.get(name, "") not in _OFF for name in _DEBUG)


def _silence_stdout() -> None:
    """Keep the interpreter from complaining about a reader that went away."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
