"""How properties are tried in every room: on the same examples each time, and without hurry.

A suite that was green must be green again when nothing changed. What only chance finds is looked
for in `make test-full`, with other examples in every run (`--hypothesis-profile searching`); what
it finds becomes an example of its own.
"""

from hypothesis import HealthCheck, settings

# A busy machine makes no example wrong.
settings.register_profile(
    "searching", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile("steady", settings.get_profile("searching"), derandomize=True)
settings.load_profile("steady")
