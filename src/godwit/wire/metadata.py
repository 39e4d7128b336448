"""How much metadata a machine may have, wherever it comes in. Pure.

They are in the machine's record in the catalog, which is bounded (`facts.MOST_BYTES`).
"""

from collections.abc import Mapping

from godwit.base import encoded, errors

MOST_BYTES = 28_672
"""Of keys and values together, as JSON in UTF-8; the process group counts twice."""
LONGEST_KEY = 256
_GROUP = "fly_process_group"


def check(values: Mapping[str, str], what: str = "metadata") -> None:
    """Return if metadata are neither too much nor oddly named.

    Args:
        values: All of a machine's.
        what: The field they came in.

    Raises:
        Failure: `invalid_argument`.
    """
    for key in values:
        check_key(key, what)
    told = [values, values.get(_GROUP, "")]
    if sum(encoded.size(each) for each in told) > MOST_BYTES:
        raise errors.invalid(
            f"{what}: more than {MOST_BYTES} bytes of JSON in all",
            hint="keep large data in a volume",
        )


def check_key(key: str, what: str = "metadata") -> None:
    """Return if a key is neither empty nor too long.

    Raises:
        Failure: `invalid_argument`.
    """
    if not 0 < len(key) <= LONGEST_KEY:
        raise errors.invalid(f"{what}: a key must have 1 to {LONGEST_KEY} characters")
