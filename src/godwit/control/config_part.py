"""What all parts of a machine's config are made from. Pure."""

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Part(BaseModel):
    """A part of the config: strict types, zero values dropped, unknown fields allowed."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _drop_zero_values(cls, given: Any) -> Any:
        if isinstance(given, dict):
            return {key: value for key, value in given.items() if not is_zero(value)}
        return given


def is_zero(value: object) -> bool:
    """Tell whether a value means "unset": Go's `""`, `0`, `null`, empty lists and maps."""
    return value is None or (not isinstance(value, bool) and value in ("", 0)) or value in ([], {})
