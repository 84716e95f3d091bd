"""Tests of this room never touch the user's cache, and share one assembler process."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from hv.image.passes import Assembly
from hv.image.source import read_statements
from hv.image.worker import Worker

Encode = Callable[..., bytes]


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HVLAB_CACHE", "")


@pytest.fixture(scope="session")
def encode() -> Iterator[Encode]:
    """`encode(source, bits=64, origin=0x1000)`: the bytes of all segments, one after the other."""
    with Worker() as worker:

        def assembled(source: str, bits: int = 64, origin: int = 0x1000) -> bytes:
            assembly = Assembly(bits, origin, {})
            assembly.run(read_statements(source, "test.asm", ()), worker)
            return b"".join(bytes(data) for _, data in assembly.segments)

        yield assembled
