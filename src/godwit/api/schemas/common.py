"""What all bodies share."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from godwit.control import config_part


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("holds a NUL byte")
    return text


class In(config_part.Part):
    """A body taken: strict types, Go's zero values are unset, unknown fields allowed."""


class Out(BaseModel):
    """An answer given."""

    model_config = ConfigDict(frozen=True)


Text = Annotated[str, AfterValidator(_no_nul)]
ShortText = Annotated[Text, Field(max_length=200)]
Json = dict[str, Any]


class ErrorBody(Out):
    """A refusal. `status` is `insufficient_capacity`, `name_taken` or `unknown`."""

    error: str
    status: str = "unknown"
    hint: str = ""


class Done(Out):
    """It was recorded and is being done."""

    ok: bool = True


ERRORS: dict[int | str, dict[str, Any]] = {
    "default": {"model": ErrorBody, "description": "What went wrong, and what to do."}
}
