"""Time is virtual here, and every run of a test is the same run: so it is for what hypothesis draws."""

import pytest
from hypothesis import settings

settings.register_profile("hvlab", deadline=None, derandomize=True)
settings.load_profile("hvlab")


def pytest_addoption(parser):
    parser.addoption("--full-size", action="store_true", help="the few tests that take a minute run at their full size")


@pytest.fixture(scope="session")
def full_size(request):
    """Whether a test that shows something at a size, which a smaller one shows too, runs at the large one."""
    return request.config.getoption("--full-size")
