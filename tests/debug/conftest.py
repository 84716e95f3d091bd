"""Sessions that many tests of this room begin with."""

import pytest

from tests.debug.sessions import session_over


@pytest.fixture
def timer():
    session = session_over(("timer", "timer", 1))
    yield session
    session.machine.close()
