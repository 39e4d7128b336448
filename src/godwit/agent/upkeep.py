"""What the agent does over and over beside its machines. Called by `agent.app`."""

import logging
import sqlite3
from collections.abc import Awaitable, Callable

from godwit.base import clock, errors, processes

logger = logging.getLogger(__name__)

Chore = Callable[[], Awaitable[None]]


async def every(the_clock: clock.Clock, seconds: float, doing: Chore) -> None:
    """Do something for ever, with a pause between.

    One bad moment, of the disk or of a program that is called, does not end it: it is said, and
    tried again after the pause.
    """
    while True:
        try:
            await doing()
        except (OSError, errors.Failure, processes.ProgramFailed, sqlite3.Error) as error:
            logger.warning("upkeep: %s", error)
        await the_clock.sleep(seconds)
