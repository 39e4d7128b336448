"""The kinds of values fly.toml has, each with the sentence that says what was expected.

Validators raise `PydanticCustomError` of type `expected`, whose message is shown as it is.
"""

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from godwit.appconfig import sizes
from godwit.base import durations, kernel_arguments

SIGNALS = (
    "SIGHUP",
    "SIGINT",
    "SIGQUIT",
    "SIGKILL",
    "SIGUSR1",
    "SIGUSR2",
    "SIGTERM",
)
"""Those that stop a machine. SIGSTOP, which some documents name, only freezes: it is refused."""
_LONGEST_BARE = 10**9


def expected(message: str) -> PydanticCustomError:
    """Return the error that carries a sentence for people."""
    return PydanticCustomError("expected", "{message}", {"message": message})


def _duration(bare_unit: int, bare_name: str) -> Callable[[Any], int | None]:
    def read(value: Any) -> int | None:
        if value is None or value == "":
            return None
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise expected(f"expected a duration such as 10s or 1m30s, {sizes.got(value)}")
        if isinstance(value, str):
            try:
                found = durations.parse(value)
            except ValueError as error:
                raise expected(str(error)) from error
        else:
            if not math.isfinite(value) or abs(value) > _LONGEST_BARE:
                raise expected(f"expected a number of {bare_name}, {sizes.got(value)}")
            found = int(value * bare_unit)
        if found < 0:
            raise expected(f"expected a duration that is not negative, {sizes.got(value)}")
        return found

    return read


def _whole(least: int, most: int, what: str) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if isinstance(value, str) and len(value) < 20 and value.strip().isdecimal():  # noqa: PLR2004
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise expected(f"expected {what}, {sizes.got(value)}")
        return value

    return read


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise expected(f"expected a number, {sizes.got(value)}")
    if not math.isfinite(value) or abs(value) > _LONGEST_BARE:
        raise expected(f"expected a number that is not this large, {sizes.got(value)}")
    return float(value)


def _kernel_args(value: Any) -> list[str]:
    found = value.split() if isinstance(value, str) else _strings(value)
    mistake = kernel_arguments.mistake(found)
    if mistake is not None:
        raise expected(f"kernel arguments: {mistake}")
    return found


def _header_value(value: Any) -> Any:
    if value is False or isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return value
    raise expected(f"expected false, a string or a list of strings, {sizes.got(value)}")


def _size(parse: Callable[[Any], int]) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if not isinstance(value, str | int | float):
            raise expected(f"expected a size, {sizes.got(value)}")
        try:
            return parse(value)
        except ValueError as error:
            raise expected(str(error)) from error

    return read


def _signal(value: Any) -> str:
    name = value.upper() if isinstance(value, str) else ""
    name = name if name.startswith("SIG") else f"SIG{name}"
    if name not in SIGNALS:
        raise expected(f"expected one of {', '.join(SIGNALS)}, {sizes.got(value)}")
    return name


def _autostop(value: Any) -> str:
    if isinstance(value, bool):
        return "stop" if value else "off"
    if value not in ("off", "stop", "suspend"):
        raise expected(f'expected "off", "stop" or "suspend", {sizes.got(value)}')
    return str(value)


def _restart_policy(value: Any) -> str:
    names = {
        "always": "always",
        "never": "no",
        "no": "no",
        "on-failure": "on-failure",
        "on-fail": "on-failure",
    }
    if not isinstance(value, str) or value not in names:
        raise expected(f'expected "always", "never" or "on-failure", {sizes.got(value)}')
    return names[value]


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise expected(f"expected a list of strings, {sizes.got(value)}")
    return value


SecondsDuration = Annotated[
    int | None, BeforeValidator(_duration(durations.SECOND, "seconds"), json_schema_input_type=str)
]
"""Nanoseconds; a bare number in the file is seconds."""
MillisecondsDuration = Annotated[
    int | None,
    BeforeValidator(_duration(durations.MILLISECOND, "milliseconds"), json_schema_input_type=str),
]
"""Nanoseconds; a bare number in the file is milliseconds (checks)."""
Port = Annotated[int, BeforeValidator(_whole(1, 65_535, "a port from 1 to 65535"))]
OpenPort = Annotated[int, BeforeValidator(_whole(0, 65_535, "a port from 0 to 65535"))]
Count = Annotated[int, BeforeValidator(_whole(0, 2**31 - 1, "a whole number, 0 or more"))]
Positive = Annotated[int, BeforeValidator(_whole(1, 2**31 - 1, "a whole number, 1 or more"))]
TtlSeconds = Annotated[
    int, BeforeValidator(_whole(10, 2**31 - 1, "a whole number of seconds, 10 or more"))
]
Number = Annotated[float, BeforeValidator(_number)]
MemoryMb = Annotated[int, BeforeValidator(_size(sizes.memory_mb))]
VolumeGb = Annotated[int, BeforeValidator(_size(sizes.volume_gb))]
Signal = Annotated[str, BeforeValidator(_signal)]
Autostop = Annotated[Literal["off", "stop", "suspend"], BeforeValidator(_autostop)]
RestartPolicy = Annotated[Literal["always", "no", "on-failure"], BeforeValidator(_restart_policy)]
KernelArgs = Annotated[list[str], BeforeValidator(_kernel_args)]
"""A list of strings, or one string with spaces between them."""
HeaderValue = Annotated[bool | str | list[str], BeforeValidator(_header_value)]
"""What a response header becomes: `False` for removed."""
Strings = Annotated[list[str], BeforeValidator(_strings)]
"""A list of strings; a single string is a list of one."""
