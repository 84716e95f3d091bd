"""Frames on a pipe: four bytes of length, then MessagePack. Plain data only; nothing in a frame can be code."""

from __future__ import annotations

import os
from typing import Any

import msgspec

HEADER = 4
LONGEST_REQUEST = 64 << 20              # bytes; a caller that sends more made a mistake

_DECODER = msgspec.msgpack.Decoder()


class WireError(Exception):
    """What came is no frame."""


def frame(message: Any, longest: int) -> bytes:
    """*message* as a frame; WireError when it is no plain data, or longer than *longest* bytes."""
    try:
        body = msgspec.msgpack.encode(message, enc_hook=_refuse)
    except OverflowError:
        raise WireError("an integer of more than 64 bits") from None
    except RecursionError:
        raise WireError("data that is nested too deep, or holds itself") from None
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        raise WireError(str(error)) from None
    if len(body) > longest:
        raise WireError(f"{len(body)} bytes; at most {longest} are taken")
    return len(body).to_bytes(HEADER, "little") + body


def _refuse(value: Any) -> Any:
    raise TypeError(f"`{type(value).__name__}` is no plain data")


def body_of(data: bytes) -> Any:
    """What a frame's body says; WireError when it says nothing."""
    try:
        return _DECODER.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, ValueError) as error:
        raise WireError(f"bytes that are no message: {error}") from None


def take(received: bytearray, longest: int) -> tuple[Any] | None:
    """Take the first whole frame off *received*; None while it is not all there; WireError when it is too long."""
    if len(received) < HEADER:
        return None
    size = int.from_bytes(received[:HEADER], "little")
    if size > longest:
        raise WireError(f"a message of {size} bytes; at most {longest} are taken")
    if len(received) < HEADER + size:
        return None
    body = bytes(received[HEADER : HEADER + size])
    del received[: HEADER + size]
    return (body_of(body),)


def send(fd: int, data: bytes) -> None:
    """Write all of *data*."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def receive(fd: int) -> Any:
    """The next message on *fd*; EOFError at its end."""
    return body_of(_exactly(fd, int.from_bytes(_exactly(fd, HEADER), "little")))


def _exactly(fd: int, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = os.read(fd, size - len(parts))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)
