"""Names for apps: from a directory's name, or made up."""

import re
import secrets

_LONGEST = 63
_ADJECTIVES = (
    "autumn", "bold", "brisk", "calm", "clear", "coastal", "crisp", "dawn", "distant", "early",
    "gentle", "grey", "high", "long", "northern", "open", "pale", "quiet", "silver", "southern",
    "still", "summer", "swift", "tidal", "wandering", "western", "wild", "winter",
)  # fmt: skip
_NOUNS = (
    "bay", "beach", "breeze", "cloud", "coast", "cove", "current", "delta", "dune", "feather",
    "flight", "flock", "harbour", "island", "lagoon", "marsh", "meadow", "mudflat", "ocean",
    "plover", "reef", "shore", "sky", "sound", "strait", "tide", "wave", "wing",
)  # fmt: skip


def from_directory(name: str) -> str:
    """Return a directory's name as the name of an app, empty when nothing is left of it."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:_LONGEST].rstrip("-")


def with_suffix(name: str) -> str:
    """Return a name that is probably free: what was wanted and three words of chance."""
    suffix = f"{secrets.choice(_ADJECTIVES)}-{secrets.choice(_NOUNS)}-{secrets.randbelow(10_000)}"
    head = name[: _LONGEST - len(suffix) - 1].rstrip("-")
    return f"{head}-{suffix}" if head else suffix
