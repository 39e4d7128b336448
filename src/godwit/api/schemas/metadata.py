"""Metadata of machines."""

from godwit.api.schemas.common import In, Out, ShortText, Text


class PatchMetadata(In):
    """Keys to set; null or an empty value removes one, those left out stay.

    `machine_version` and `updated_at` say what the caller has seen: 412 when it is no longer so.
    """

    metadata: dict[Text, Text | None] = {}
    machine_version: ShortText | None = None
    updated_at: ShortText | None = None


class SetValue(In):
    """One value; an empty one removes the key."""

    value: Text = ""
    updated_at: ShortText | None = None


class Value(Out):
    """One value of a machine's metadata."""

    value: str
