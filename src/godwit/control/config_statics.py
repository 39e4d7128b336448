"""Files of a machine that clients are given without the app: `statics`. Pure."""

from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from godwit.control.config_fields import AbsolutePath
from godwit.control.config_part import Part

MOST_STATICS = 10
LONGEST_PREFIX = 256
"""Every edge is told of them."""
_LONGEST_PATH = 1_024


def _prefix(text: str) -> str:
    if not text.startswith("/") or any(mark in text for mark in "\0?#"):
        raise ValueError("must be a path from /, without a query")
    return text


def _below(path: str) -> str:
    if path.startswith("/") or "\0" in path or ".." in path.split("/"):
        raise ValueError("must be a path below guest_path")
    return path


class Static(Part):
    """A directory of the machine, and where clients find what is in it."""

    guest_path: Annotated[AbsolutePath, Field(max_length=_LONGEST_PATH)]
    url_prefix: Annotated[str, AfterValidator(_prefix), Field(max_length=LONGEST_PREFIX)]
    tigris_bucket: str = ""
    index_document: Annotated[str, AfterValidator(_below), Field(max_length=LONGEST_PREFIX)] = ""

    @model_validator(mode="after")
    def _is_in_the_machine(self) -> Self:
        if self.tigris_bucket:
            raise ValueError("tigris_bucket: there are no buckets, files are the machine's own")
        return self
