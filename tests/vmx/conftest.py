"""One machine for each test that asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.vmx.vcpu_box import VcpuBox


@pytest.fixture
def box() -> Iterator[VcpuBox]:
    box = VcpuBox()
    yield box
    box.close()
