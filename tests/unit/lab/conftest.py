"""Settings of this room's tests."""

from hypothesis import settings

# Examples take longer beside a busy machine; none of them is wrong for that.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
