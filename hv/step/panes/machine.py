"""The machine: partitions, their VPs and devices, interrupts that wait, and the way of each device's interrupt."""

from __future__ import annotations

from hv.step.model import Model
from hv.step.text import Line, cut, padded, width_of
from hv.step.world import PartitionState, VpState, World, device_name

_WIDEST = 76
_MOST_VPS = 12                  # of a partition: one of 64 would fill the screen


def lines(model: Model, width: int, height: int) -> list[Line]:
    """In *width* columns and *height* lines: a box for each partition, in which the VP that runs is marked."""
    moment, before = model.moment, model.earlier
    wide = min(width, _WIDEST)
    earlier = {} if before is None else {(one.number, vp.number): vp for one in before.world.partitions
                                         for vp in one.vps}
    shown: list[Line] = []
    for partition in moment.world.partitions:
        rows = [_vp(wide - 4, vp, (partition.name, vp.number) == moment.runs,
                    earlier.get((partition.number, vp.number), vp)) for vp in partition.vps[:_MOST_VPS]]
        if len(partition.vps) > _MOST_VPS:
            rows.append([("dim", f"  and {len(partition.vps) - _MOST_VPS} more")])
        if partition.devices:
            rows.append([("dim", "  devices "), ("", ", ".join(partition.devices))])
        shown += _boxed(_title(partition), rows, wide)
    shown += _below(moment.world)
    return shown[:height]


def _title(partition: PartitionState) -> Line:
    return [("name", partition.name), ("dim", f"  partition {partition.number}, {partition.state}")]


def _boxed(title: Line, rows: list[Line], width: int) -> list[Line]:
    inside = width - 4
    top: Line = [("dim", "┌ "), *cut(title, inside), ("", " ")]
    top.append(("dim", "─" * max(0, width - 1 - width_of(top)) + "┐"))
    return [top, *([("dim", "│ "), *padded(row, inside), ("dim", " │")] for row in rows),
            [("dim", "└" + "─" * (width - 2) + "┘")]]


def _vp(width: int, vp: VpState, runs: bool, before: VpState) -> Line:
    """`=> vp 0  runs now   irr 30  isr -`."""
    does, room = "runs now" if runs else vp.does, max(8, min(20, width - 30))
    line: Line = [("here" if runs else "", "=>" if runs else "  "), ("", f" vp {vp.number:<2} "),
                  ("new" if before.does != vp.does else "good" if runs else "", f"{does[:room]:<{room}} ")]
    for name, now, then in (("irr", vp.irr, before.irr), ("isr", vp.isr, before.isr)):
        style = "new" if now != then else "" if now else "dim"
        line += [("dim", f"{name} "), (style, f"{_vectors(now):<5}"), ("", " ")]
    return line if vp.enabled else [*line, ("dim", "apic off")]


def _vectors(vectors: tuple[int, ...]) -> str:
    return " ".join(f"{vector:02x}" for vector in vectors) or "-"


def _below(world: World) -> list[Line]:
    """The ways of interrupts, and what belongs to nobody."""
    names = {partition.number: partition.name for partition in world.partitions}
    lines: list[Line] = []
    for route in world.routes:
        vps = ", ".join(f"{names.get(route.partition, route.partition)}.{vp}" for vp in route.vps)
        lines.append([("", device_name(route.source_id)), ("dim", "  ->  physical vector "),
                      ("", f"{route.vector:02x}"), ("dim", "  ->  "), ("", f"{route.guest_vector:02x}"),
                      ("dim", " of "), ("name", vps)])
    if not lines:
        lines.append([("dim", "no device's interrupt is routed to a partition")])
    physical = world.physical
    waits = f"irr {_vectors(physical.irr)}  isr {_vectors(physical.isr)}"
    lines.append([("dim", "the processor's own APIC  "), ("" if physical.irr or physical.isr else "dim", waits)])
    lines.append([("dim", f"{world.free_devices} devices are root's to give")])
    return lines
