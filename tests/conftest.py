"""Time is virtual here, and every run of a test is the same run: so it is for what hypothesis draws."""

from hypothesis import settings

settings.register_profile("hvlab", deadline=None, derandomize=True)
settings.load_profile("hvlab")
