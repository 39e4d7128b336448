"""The supervising process of one host: `python -m godwit.cmd.host --settings FILE`."""

import argparse
import asyncio
import logging
import sys
from pathlib import Path

from godwit.base import errors, log, processes
from godwit.base.settings import read_resolved
from godwit.host import up


def main() -> int:
    """Run until told to stop; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=Path, required=True)
    arguments = parser.parse_args()
    log.set_up("host")
    logger = logging.getLogger("godwit.host")
    try:
        asyncio.run(up.up(read_resolved(arguments.settings), told=logger.info))
    except errors.Failure as failure:
        logger.error("%s%s", failure.message, f" ({failure.hint})" if failure.hint else "")  # noqa: TRY400
        return 1
    except processes.ProgramFailed as failed:
        logger.error("%s", failed)  # noqa: TRY400 (the message says it all)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
