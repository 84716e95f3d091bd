"""Memory around an address, by its three kinds of address, and what has changed in it."""

from __future__ import annotations

from collections.abc import Mapping

from hv.step.model import Model
from hv.step.moment import ROW, Row
from hv.step.text import Line

_THREE = 63                     # columns from which on each row has its three addresses
_WIDE = 96                      # and from which on it has sixteen bytes


def lines(model: Model, width: int, height: int) -> list[Line]:
    """In *width* columns and *height* lines."""
    moment, before = model.moment, model.earlier
    if not moment.there:
        return [[("dim", f"{moment.who} is not there any more")]]
    if moment.looked_at is None:
        return [[("bad", f"{model.look}: {moment.no_memory}")]]
    then = {row.gva: row.data for row in before.memory} if before is not None and before.who == moment.who else {}
    size = ROW if width >= _WIDE else ROW // 2
    shown = [_found(model, moment.looked_at, moment.memory), _heading(width, size)]
    for row in moment.memory:
        for part in range(0, ROW, size):
            shown.append(_row(row, part, size, then, moment.looked_at, width >= _THREE))
            if row.data is None:
                break
    return shown[:height]


def _found(model: Model, address: int, rows: tuple[Row, ...]) -> Line:
    """The address that is looked at, three times."""
    row = next((row for row in rows if row.gva <= address < row.gva + ROW), None)
    line: Line = [("name", f"{model.look}"), ("dim", "  gva "), ("", f"{address:x}")]
    for kind, start in (("gpa", row.gpa if row else None), ("spa", row.spa if row else None)):
        if start is not None and row is not None:
            line += [("dim", f"  ->  {kind} "), ("", f"{start + address - row.gva:x}")]
    return line if row is not None and row.data is not None else [*line, ("bad", f"  {row.why if row else ''}")]


def _heading(width: int, size: int) -> Line:
    addresses = f"{'gva':<10}{'gpa':<10}{'spa':<10}" if width >= _THREE else f"{'gva':<10}"
    return [("dim", addresses + " ".join(f"+{number:x}" for number in range(size)))]


def _row(row: Row, part: int, size: int, then: Mapping[int, bytes | None], here: int, three: bool) -> Line:
    line: Line = [("", f"{row.gva + part:08x}  ")]
    if three:
        line += [("dim", f"{address + part:08x}  " if address is not None else f"{'-':<10}")
                 for address in (row.gpa, row.spa)]
    if row.data is None:
        return [*line, ("bad", row.why)]
    old = then.get(row.gva)
    for number in range(part, part + size):
        new = old is not None and old[number] != row.data[number]
        marked = row.gva + number == here
        style = "new" if new else "here" if marked else "dim" if not row.data[number] else ""
        line += [(style, f"{row.data[number]:02x}"), ("", " ")]
    text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row.data[part : part + size])
    return [*line, ("dim", f" {text}")]
