"""One engine for each test that asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.machine.engine_box import EngineBox


@pytest.fixture
def box() -> Iterator[EngineBox]:
    box = EngineBox()
    yield box
    box.close()
