"""Sweeps: work that is looked for again and again, and that may fail for now."""

import logging
from collections.abc import Awaitable, Callable

from godwit.base import clock, errors

logger = logging.getLogger(__name__)


async def for_ever(
    time: clock.Clock, sweep: Callable[[], Awaitable[None]], *, every_s: float, later: str
) -> None:
    """Sweep for ever.

    Args:
        time: What it rests on.
        sweep: One of them; what fails in it is done by the next.
        every_s: How long it rests between two.
        later: What is said of a failure: `moves go on later`.
    """
    while True:
        try:
            await sweep()
        except errors.Failure as failure:
            logger.warning("%s: %s", later, failure.message)
        await time.sleep(every_s)
