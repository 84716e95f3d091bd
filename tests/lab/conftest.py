"""Tests of this room keep no progress outside their own folder."""

import pytest


@pytest.fixture(autouse=True)
def _own_state(monkeypatch, tmp_path):
    monkeypatch.setenv("HVLAB_STATE", str(tmp_path / "state"))
