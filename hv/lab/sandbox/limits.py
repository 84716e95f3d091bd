"""What a piece of Python may use."""

from __future__ import annotations

from typing import Annotated

import msgspec

Positive = Annotated[int, msgspec.Meta(gt=0)]


class Limits(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """*steps*, *asks* and sizes decide a verdict, for they are the same on every machine; seconds are a safety net."""

    steps: Positive = 1_000_000         # lines of the piece that one call may run
    asks: Positive = 100_000            # times that one call may use a door
    answer_bytes: Positive = 1 << 20    # of one message
    printed_bytes: Positive = 64 << 10  # kept; a piece that prints sixteen times as much is stopped
    memory_mib: Positive = 256          # of address space, the interpreter's own 60 included
    cpu_seconds: Positive = 5           # of the process, start to end
    wall_seconds: Positive = 30         # of all waiting for one process
    file_bytes: Positive = 1 << 20      # of each file in the scratch folder
    open_files: Positive = 32
    processes: Positive = 16            # threads included; no process where the system call filter is on
