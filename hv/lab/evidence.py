"""The hash of what happened in a run: the same for the same program on every machine.

Each kept event is a line of JSON with its place, VM and VP, in order; in front stand how many were not kept, how each
VM ended, and the work: VM exits and ticks of virtual time. So two runs with one hash took the same way for as long.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from hv.lab.finding import ANY, Run
from hv.lab.words import event_name
from hv.printable import printable


def trace_hash(run: Run, vms: Iterable[str]) -> str:
    """SHA-256 of the run, in hexadecimal."""
    digest = hashlib.sha256(_line([run.left_out(ANY), run.work(ANY), _ends(run, vms)]))
    for one in run.happened:
        digest.update(_line([printable(one.place), one.vm, one.vp, event_name(one.event), one.event.inspect()]))
    return digest.hexdigest()


def _ends(run: Run, vms: Iterable[str]) -> dict[str, list[str]]:
    return {vm: [printable(word) for word in run.ended(vm)] for vm in sorted(vms)}


def _line(data: Any) -> bytes:
    return json.dumps(data, default=_plain, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _plain(value: Any) -> str:
    """Bytes are hexadecimal. Anything else has no form of its own: its `repr` could hold an address."""
    if isinstance(value, bytes | bytearray):
        return value.hex()
    raise TypeError(f"an event holds a {type(value).__name__}, which has no canonical form")
