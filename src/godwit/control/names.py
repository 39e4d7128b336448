"""Names nobody had to think of: adjective-noun-number."""

import secrets


def _words(text: str) -> list[str]:
    return text.split()


_ADJECTIVES = _words(
    "amber bold brave bright calm clear cold cool crisp damp dark dawn deep dry dusty early "
    "eager fair fast fine first fresh gentle green grey happy high icy kind late light little "
    "lively long loud lucky misty morning muddy noble northern old pale patient polished proud "
    "quick quiet rapid restless rough round salty sharp shy silent silver slow small snowy soft "
    "solitary spring still stormy summer swift tall twilight warm wild winter wise young"
)
_NOUNS = _words(
    "bay beach bird bluff breeze brook cape channel cliff cloud coast cove crane creek curlew "
    "delta dune dunlin egret estuary fjord flight flock fog gale gannet glacier godwit gull "
    "harbor haze heron ibis island knot lagoon lake marsh meadow mist moon mudflat ocean osprey "
    "petrel pine plover pond puffin rain reef ridge river rock sand sea shore shower skua sky "
    "snipe snow sound star storm strait stream sun surf swan tern tide wave whimbrel wind wing"
)


def make() -> str:
    """Return a new name such as `quiet-tern-4213`."""
    return f"{secrets.choice(_ADJECTIVES)}-{secrets.choice(_NOUNS)}-{secrets.randbelow(10_000)}"
