"""Values and small parts that several parts of a machine's config share. Pure."""

import base64
import binascii
import contextlib
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from godwit.base import durations
from godwit.control.config_part import Part

STOP_SIGNALS = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGTERM")
LONGEST_STOP_MS = 300_000
_HEADER_NAME = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,200}$"
_HEADER_VALUE = r"^[^\x00-\x08\x0a-\x1f\x7f]{0,2000}$"
"""RFC 9110, §5."""


def duration_ms(value: object) -> int:
    """Return Go's notation (`1m30s`) or whole nanoseconds in milliseconds.

    Raises:
        ValueError: It is neither.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value // 10**6
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            total = durations.parse(value)
            if total >= 0:
                return total // durations.MILLISECOND
    raise ValueError("must be a duration such as 10s, 1m30s or 500ms")


def _absolute(path: str) -> str:
    if not path.startswith("/") or "\0" in path:
        raise ValueError("must be an absolute path")
    return path


def _variable(values: dict[str, str]) -> dict[str, str]:
    for name, value in values.items():
        if not name or "=" in name or "\0" in name:
            raise ValueError(f"{name!r} is not the name of a variable")
        if "\0" in value:
            raise ValueError(f"the value of {name} holds a NUL byte")
    return values


def _variable_name(name: str) -> str:
    if not name or "=" in name or "\0" in name:
        raise ValueError(f"{name!r} is not the name of a variable")
    return name


def _base64(text: str) -> str:
    try:
        base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("must be base64") from error
    return text


def _signal(name: str) -> str:
    spoken = name.upper() if name.upper().startswith("SIG") else f"SIG{name.upper()}"
    if spoken not in STOP_SIGNALS:
        raise ValueError(f"must be one of {', '.join(STOP_SIGNALS)}")
    return spoken


Duration = Annotated[int, BeforeValidator(duration_ms)]
AbsolutePath = Annotated[str, AfterValidator(_absolute)]
Variables = Annotated[dict[str, str], AfterValidator(_variable)]
VariableName = Annotated[str, AfterValidator(_variable_name)]
Port = Annotated[int, Field(ge=1, le=65_535)]
StopSignal = Annotated[str, AfterValidator(_signal)]


class CheckHeader(Part):
    """A header of a check's request."""

    name: Annotated[str, Field(pattern=_HEADER_NAME)]
    values: list[Annotated[str, Field(pattern=_HEADER_VALUE)]] = []


class Restart(Part):
    """What happens when the main process exits."""

    policy: Literal["no", "never", "always", "on-failure", "on-fail", "spot-price"] | None = None
    max_retries: int | None = Field(None, ge=0, le=10_000)


class StopConfig(Part):
    """How the main process is asked to end."""

    signal: StopSignal | None = None
    timeout: Duration | None = None

    @field_validator("timeout")
    @classmethod
    def _bounded(cls, value: int | None) -> int | None:
        if value is not None and value > LONGEST_STOP_MS:
            raise ValueError("must be at most 5m")
        return value


class File(Part):
    """A file put into the root before the process starts."""

    guest_path: AbsolutePath
    raw_value: Annotated[str, AfterValidator(_base64)] | None = None
    secret_name: str | None = None
    image_config: str | None = None
    mode: int | None = Field(None, ge=0, le=0o7777)

    @model_validator(mode="after")
    def _one_source(self) -> "File":
        given = (self.raw_value, self.secret_name, self.image_config)
        if sum(value is not None for value in given) != 1:
            raise ValueError("give one of raw_value, secret_name and image_config")
        return self


class EnvFrom(Part):
    """A variable that says something of the machine."""

    env_var: VariableName
    field_ref: Literal["id", "version", "app_name", "private_ip", "region", "image"]


class ProcessSecret(Part):
    """A variable with a secret of the app; named like it unless said."""

    env_var: VariableName
    name: str = ""
