"""What init will be handed at a machine's start, and that it fits one message. Pure.

A config is bounded by itself, and so are an app's secrets and what is taken from an image; a
machine of several processes is handed secrets and environment once for each of them, and a secret
once for each file that holds it. All together is bounded here, before a host is offered the
machine: there it could only fail.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Protocol

from godwit.base import encoded, errors
from godwit.control.config_containers import Container
from godwit.control.config_fields import File
from godwit.control.machine_config import Init, MachineConfig, Process
from godwit.images import config as image_config
from godwit.wire import guest

_FIXED_BYTES = 16_384
"""Network, names, and what is said of every machine."""
_OF_PLATFORM_BYTES = 4_096
"""`FLY_*`, the image's reference among them."""
_OF_FIELD_BYTES = 1_100
"""A variable that says something of the machine: at most its image's reference."""
MOST_IMAGE_FILE_BYTES = 32_768
"""Of an image's config that a file is made of, as base64."""
_AROUND_BYTES = 8
"""Quotes, colon and comma of a variable."""


class Sizes(Protocol):
    """How large an app's secrets are."""

    def whole(self) -> int:
        """Return what the environment with all of them takes."""

    def one(self, name: str) -> int:
        """Return what the value of one takes."""


class Known:
    """Sizes of the secrets that are there, by name, in bytes of the values in the clear."""

    def __init__(self, values: Mapping[str, int]) -> None:
        self._values = values

    def whole(self) -> int:
        """Return what the environment with all of them takes."""
        return sum(len(name) + self.one(name) + _AROUND_BYTES for name in self._values)

    def one(self, name: str) -> int:
        """Return what the value of one takes: no more than its base64."""
        return -(-self._values.get(name, 0) // 3) * 4


def check(config: MachineConfig, secrets: Sizes) -> None:
    """Return if what init will be handed fits.

    Raises:
        Failure: `invalid_argument`.
    """
    size = most_bytes(config, secrets)
    if size > guest.MOST_SPEC_BYTES:
        raise errors.invalid(
            f"config: with the app's secrets, a start would hand its processes and files up to"
            f" {size} bytes, at most {guest.MOST_SPEC_BYTES} are taken",
            hint="say ignore_app_secrets for processes that need none, or use fewer secret files",
        )


def most_bytes(config: MachineConfig, secrets: Sizes) -> int:
    """Return how large what init is handed can be, as JSON.

    Args:
        config: The machine's.
        secrets: Its app's.
    """
    several: Sequence[Process | Container | Init] = (
        config.containers or config.processes or (config.init or Init(),)
    )
    # The machine's own files are in each container, and in the machine itself.
    files = config.files * (len(config.containers) + 1)
    own = itertools.chain.from_iterable(one.files for one in config.containers)
    parts = (
        encoded.size(config.dns) if config.dns is not None else 0,
        sum(_of_file(file, secrets) for file in (*files, *own)),
        sum(encoded.size(one.healthchecks) for one in config.containers),
        sum(_of_process(process, config.env, secrets) for process in several),
    )
    return _FIXED_BYTES + sum(parts)


def _of_file(file: File, secrets: Sizes) -> int:
    content = secrets.one(file.secret_name) if file.secret_name else 0
    of_image = MOST_IMAGE_FILE_BYTES if file.image_config else 0
    return encoded.size(file) + content + of_image


def _of_process(
    process: Process | Container | Init, shared: Mapping[str, str], secrets: Sizes
) -> int:
    own: dict[str, str] = {}
    further = secrets.whole()
    if isinstance(process, Process | Container):
        own = process.env
        if isinstance(process, Process) and process.ignore_app_secrets:
            further = 0
        further += sum(
            len(one.env_var) + secrets.one(one.name or one.env_var) + _AROUND_BYTES
            for one in process.secrets
        )
        further += len(process.env_from) * _OF_FIELD_BYTES
    argv = (process.exec, process.entrypoint, process.cmd)
    env = guest.split_environment({**shared, **own})
    return encoded.size((argv, env)) + further + _OF_PLATFORM_BYTES + image_config.MOST_BYTES
