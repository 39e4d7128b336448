"""What may be wrong with what a config puts into machines: variables, files, groups, commands.

Part of `check`, which runs these rules after its own (spec/config-cli.md §1.1, §1.4, §1.8,
§1.11 to §1.13, §1.17).
"""

import binascii
import re
from base64 import b64decode
from collections.abc import Iterator

from godwit.appconfig import containers, raw
from godwit.appconfig.model import Config, File, MachineCheck, Static
from godwit.appconfig.problems import MISSING, Path, Problem

_MOST_STATICS = 10
_SECRET_WORDS = re.compile(
    r"(?:^|_)(?:SECRET|PASSWORD|PASSWD|PASSPHRASE|TOKEN|PRIVATE_KEY|API_KEY|ACCESS_KEY|"
    r"CREDENTIALS?|DATABASE_URL)(?:$|_)",
    re.IGNORECASE,
)
_GROUP = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}")
_INTERNAL = "fly_app_"


def problems(config: Config) -> Iterator[Problem]:
    """Yield what is wrong or doubtful with the contents of machines."""
    yield from _env(config)
    yield from _groups(config)
    yield from _machine_config(config)
    for path, check in machine_checks(config):
        if not check.command:
            yield Problem((*path, "command"), MISSING)
    for index, file in enumerate(config.files):
        yield from _file(("files", index), file)
    yield from _statics(config)


def machine_checks(config: Config) -> Iterator[tuple[Path, MachineCheck]]:
    """Yield every machine check of a config with its place."""
    for index, one in enumerate(config.machine_checks):
        yield ("machine_checks", index), one
    if config.http_service is not None:
        for index, one in enumerate(config.http_service.machine_checks):
            yield ("http_service", "machine_checks", index), one
    for number, service in enumerate(config.services):
        for index, one in enumerate(service.machine_checks):
            yield ("services", number, "machine_checks", index), one


def _env(config: Config) -> Iterator[Problem]:
    for name, value in config.env.items():
        if not name or "=" in name:
            yield Problem(("env", name), "expected a name without = in it")
        elif name.startswith("FLY_"):
            yield Problem(
                ("env", name), "names that begin with FLY_ are the platform's", "warning"
            )
        elif value and _SECRET_WORDS.search(name):
            yield Problem(
                ("env", name),
                "looks like a secret, and everybody who reads the file or a release sees it: "
                "use `godwit secrets set`",
                "warning",
            )


def _groups(config: Config) -> Iterator[Problem]:
    for name in config.processes:
        if not _GROUP.fullmatch(name):
            yield Problem(
                ("processes", name),
                "expected a name of letters, digits, _, - and ., at most 63 of them",
            )
        elif name.startswith(_INTERNAL):
            yield Problem(
                ("processes", name), f"names that begin with {_INTERNAL} are the platform's"
            )


def _machine_config(config: Config) -> Iterator[Problem]:
    experimental = config.experimental.machine_config if config.experimental else None
    for path, text in (
        (("machine_config",), config.machine_config),
        (("experimental", "machine_config"), experimental),
    ):
        if not text:
            continue
        try:
            raw.parse(text)
        except ValueError as error:
            yield Problem(path, str(error))
    yield from containers.problems(config)


def _file(path: Path, file: File) -> Iterator[Problem]:
    if not file.guest_path.startswith("/"):
        yield Problem((*path, "guest_path"), f'expected an absolute path, got "{file.guest_path}"')
    if file.raw_value and not (file.local_path or file.secret_name):
        try:
            b64decode(file.raw_value, validate=True)
        except (binascii.Error, ValueError):
            yield Problem(
                (*path, "raw_value"), "is not base64, so it is taken as the text itself", "warning"
            )


def _statics(config: Config) -> Iterator[Problem]:
    for index, one in enumerate(config.statics):
        path: Path = ("statics", index)
        if not one.url_prefix.startswith("/"):
            yield Problem((*path, "url_prefix"), f'expected a path from /, got "{one.url_prefix}"')
        for before, other in enumerate(config.statics[:index]):
            if _overlap(one, other):
                yield Problem(
                    (*path, "url_prefix"),
                    f'"{one.url_prefix}" overlaps with statics[{before}] ("{other.url_prefix}")',
                )
    if len(config.statics) > _MOST_STATICS:
        yield Problem(("statics", _MOST_STATICS), f"expected at most {_MOST_STATICS}")


def _overlap(one: Static, other: Static) -> bool:
    first, second = (f"{each.url_prefix.rstrip('/')}/" for each in (one, other))
    return first.startswith(second) or second.startswith(first)
