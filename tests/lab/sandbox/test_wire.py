"""A frame is plain data within a size, or nothing."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as some

from hv.lab.sandbox.wire import WireError, frame, take

PLAIN = some.recursive(some.none() | some.booleans() | some.integers(-(1 << 63), (1 << 64) - 1) | some.text()
                       | some.binary() | some.floats(allow_nan=False),
                       lambda inner: some.lists(inner) | some.dictionaries(some.text(), inner), max_leaves=8)


@given(PLAIN, PLAIN)
def test_frames_come_back_one_by_one_however_they_are_cut(one, two):
    data, received, got = frame(one, 1 << 20) + frame(two, 1 << 20), bytearray(), []
    for byte in data:
        received.append(byte)
        while (message := take(received, 1 << 20)) is not None:
            got.append(message[0])
    assert got == [one, two]


@given(some.binary(max_size=64))
def test_any_bytes_are_a_message_or_a_wire_error(data):
    received = bytearray(data)
    with suppress(WireError):
        while take(received, 32) is not None:
            assert len(received) <= len(data) - 4


@pytest.mark.parametrize("message", [b"x" * 100, {"a": ["x" * 100]}])
def test_a_long_message_is_refused_on_both_ends(message):
    with pytest.raises(WireError, match="at most 50"):
        frame(message, 50)
    with pytest.raises(WireError, match="at most 50"):
        take(bytearray(frame(message, 1000)), 50)
