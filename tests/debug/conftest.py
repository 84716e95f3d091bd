"""Sessions that many tests of this room begin with."""

import pytest

from tests.debug.sessions import session_over


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    """`export` writes where one is."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def timer():
    session = session_over(("timer", "timer", 1))
    yield session
    session.machine.close()
