"""Property tests here have no deadline of their own: a busy machine is not a mistake."""

from hypothesis import settings

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
