"""What is written down when the mistake was ours: `hv-report-N.json` in the current directory.

It holds the command line, the versions, the traceback, and the last events of the machine that was running, so that
the mistake can be repeated: a run is the same run every time.
"""

from __future__ import annotations

import json
import platform
import sys
import traceback
from importlib import metadata
from pathlib import Path
from typing import Any

from hv import __version__
from hv.trace.bus import Recent, Record, Trace

LAST_EVENTS = 200
_PACKAGES = ("unicorn", "capstone", "keystone-engine", "rich", "prompt_toolkit", "msgspec")
_watched: list[Recent] = []


def watch(trace: Trace) -> Recent:
    """Keep the last events of this machine for a report; the listener that does."""
    recent = Recent(LAST_EVENTS)
    trace.listen(recent)
    _watched[:] = [recent]
    return recent


def heard() -> list[Record]:
    """The last events of the machine that is watched."""
    return [record for recent in _watched for record in recent.records]


def write(error: BaseException, arguments: list[str], folder: Path | None = None) -> Path:
    """Write the report of *error* into *folder* (default: the current one) under the first free number; its path.

    OSError when it cannot be written.
    """
    text = json.dumps(content(error, arguments), indent=1, default=str) + "\n"
    folder, number = folder or Path(), 1
    while True:
        place = folder / f"hv-report-{number}.json"
        try:
            with place.open("x", encoding="utf-8") as file:
                file.write(text)
            return place
        except FileExistsError:
            number += 1


def content(error: BaseException, arguments: list[str]) -> dict[str, Any]:
    """The report as plain data."""
    return {
        "command": ["hv", *arguments],
        "error": f"{type(error).__name__}: {error}",
        "traceback": traceback.format_exception(error),
        "versions": versions(),
        "events": [described(record) for record in heard()],
    }


def versions() -> dict[str, str]:
    """Of hvlab, the interpreter, the system and the packages that matter."""
    found = {"hvlab": __version__, "python": sys.version.split()[0], "system": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "missing"
    return found


def described(record: Record) -> dict[str, Any]:
    """One event as plain data."""
    event = record.event
    shown = event.inspect() if hasattr(event, "inspect") else str(event)
    return {"n": record.sequence, "tsc": record.tsc, "partition": record.partition, "vp": record.vp,
            "kind": type(event).__name__, "event": shown}
