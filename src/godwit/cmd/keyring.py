"""The keyring of one server: `python -m godwit.cmd.keyring --settings FILE`.

Started as root, which it is for as long as it takes to open its directory and its socket; then it
is a user of its own that owns nothing else, cannot come back and leaves no core dump.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from pathlib import Path

from godwit.base import clock, errors, log, notify, private_memory, settings
from godwit.host import identity
from godwit.keyring import roots, server, vault

logger = logging.getLogger("godwit.keyring")


def main() -> int:
    """Read the settings and serve; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", type=Path, required=True)
    arguments = parser.parse_args()
    log.set_up("keyring")
    try:
        private_memory.keep_out_of_core_dumps()
        return asyncio.run(_run(settings.read_resolved(arguments.settings)))
    except errors.Failure as failure:
        logger.error("%s%s", failure.message, f" ({failure.hint})" if failure.hint else "")  # noqa: TRY400
    except OSError as error:
        logger.error("cannot start: %s", error)  # noqa: TRY400 (the message says it all)
    return 1


async def _run(resolved: settings.Settings) -> int:
    """Serve until told to stop."""
    paths = resolved.paths
    asking = os.geteuid()
    # Only root can become somebody else; for others, as in tests, it stays who it is.
    own = resolved.host.keyring_uid if asking == 0 else None
    keys = roots.Roots.load(paths.data / "keyring", clock.SystemClock(), owner=own)
    private = identity.read_sealing_key(paths.data)
    listening = server.listen(paths.run / "keyring.sock")
    told = notify.open_line()
    if own is not None:
        private_memory.become(own)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    serving = await server.Server(vault.Vault(keys, private), allowed=asking).start(listening)
    async with serving:
        _ready(told)
        logger.info(
            "the keyring holds %d root keys, as user %d", len(keys.told().ids), os.getuid()
        )
        await stopping.wait()
    return 0


def _ready(told: socket.socket | None) -> None:
    if told is not None:
        with told, contextlib.suppress(OSError):
            told.sendall(b"READY=1")


if __name__ == "__main__":
    sys.exit(main())
