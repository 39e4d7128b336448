"""The base of every record that crosses a process: frozen, versioned, tolerant of newer fields."""

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """A frozen record.

    Unknown fields are ignored, so version N reads what N+1 wrote; fields added later have
    defaults, so N+1 reads what N wrote.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")
