"""Streams as they should be: made, brought to their form, with as many copies as there can be."""

import dataclasses
import logging

import nats.js.errors
from nats.js import JetStreamContext
from nats.js.api import StreamConfig

logger = logging.getLogger(__name__)

_OTHER_CONFIGURATION = 10_058


async def ensure(jetstream: JetStreamContext, wanted: StreamConfig, *, migrate: bool) -> bool:
    """Ensure that a stream is there; return whether it has as many copies as it should.

    While not so many servers are there it has one copy, and this is to be done again.

    Args:
        jetstream: Of the region's bus.
        wanted: The stream.
        migrate: Bring one that is there to this form; else it stays as it is.

    Raises:
        APIError: Not even that can be.
    """
    try:
        await _ensure(jetstream, wanted, migrate=migrate)
    except nats.js.errors.APIError as error:
        if (wanted.num_replicas or 1) == 1:
            raise
        logger.info("the stream %s has one copy for now: %s", wanted.name, error.description)
        # What is there, in whatever form, stays.
        await _ensure(jetstream, dataclasses.replace(wanted, num_replicas=1), migrate=False)
        return False
    return True


async def _ensure(jetstream: JetStreamContext, wanted: StreamConfig, *, migrate: bool) -> None:
    try:
        await jetstream.add_stream(wanted)
    except nats.js.errors.APIError as error:
        if error.err_code != _OTHER_CONFIGURATION:
            raise
        if migrate:
            await jetstream.update_stream(wanted)
            logger.info("the stream %s is brought to today's form", wanted.name)
