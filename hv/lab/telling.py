"""A run told from its beginning: each VM exit with its number, the source line, and what followed."""

from __future__ import annotations

from hv.lab.checks import ANY
from hv.lab.comparing import left_out_words
from hv.lab.runner import FinishedRun
from hv.lab.words import event_words, is_exit
from hv.printable import printable


def told(run: FinishedRun) -> list[str]:
    """What was recorded, line by line, and how each VM ended."""
    several, vps = len(run.vms) > 1, any(one.vp for one in run.happened)
    rows = []
    for one in run.happened:
        who = (one.vm if several else "") + (f" VP {one.vp}" if vps else "")
        number = f"E{one.number}" if is_exit(one.event) else ""
        rows.append((number, who.strip(), one.place, event_words(one.event, always=True)))
    widths = [max((len(row[n]) for row in rows), default=0) for n in range(3)]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, [*widths, 0], strict=True)
                       if width or cell).rstrip() for row in rows]
    return [printable(line) for line in lines + left_out_words(run, ANY) + _ends(run, several)]


def _ends(run: FinishedRun, several: bool) -> list[str]:
    lines = []
    for name in run.vms:
        how, why, place = run.ended(name)
        details = ", ".join(part for part in (why, place) if part)
        lines.append((f"{name} " if several else "") + f"ended: {how}" + (f" ({details})" if details else ""))
    return lines


