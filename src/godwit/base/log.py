"""Logging set-up of a process: one line per event, with the organization where there is one."""

import logging
import sys


def set_up(component: str, *, level: str = "INFO") -> None:
    """Send log lines of this process to stderr, prefixed by its component."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        logging.Formatter(f"%(asctime)s {component} %(levelname)s %(name)s: %(message)s")
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.getLogger("httpx").setLevel("WARNING")
