"""What is shown of a machine at one place of its run, taken down: plain values that stay when the machine goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from hv.debug.errors import DebugError
from hv.debug.looking import instructions, page_walk, read_gva, read_spa, text_of
from hv.debug.numbers import REGISTERS, address
from hv.hypervisor.errors import HypercallError
from hv.hypervisor.vps.vp import VirtualProcessor
from hv.image.model import Image
from hv.machine.faults import Access, BusError, GuestFault, NestedFault
from hv.replay.position import Position
from hv.spec.vmcs import VmcsField
from hv.step.world import World, world_of

CODE_BEFORE, CODE_AFTER = 12, 32        # instructions around the next one
MEMORY_ROWS, ROW, ABOVE = 48, 16, 1     # of memory, bytes in each, and how many stand before the address
SEGMENTS = ("cs", "ss", "ds", "es", "fs", "gs", "tr", "ldtr")
UNREADABLE = (GuestFault, NestedFault, DebugError, BusError, HypercallError)
_FIELDS = tuple(VmcsField)


class Who(NamedTuple):
    """A VP, by the name of its VM and its index."""

    vm: str
    vp: int

    def __str__(self) -> str:
        return f"{self.vm}.{self.vp}"


class Instruction(NamedTuple):
    """One instruction of the code around RIP."""

    gva: int
    code: bytes
    text: str


class Row(NamedTuple):
    """Sixteen bytes of memory with their three addresses; *why* there is nothing, when *data* is None."""

    gva: int
    gpa: int | None
    spa: int | None
    data: bytes | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Moment:
    """The machine at *position*, as *who* sees it; *runs* has the processor. Without a VP only the world is there."""

    position: Position
    tsc: int
    who: Who
    runs: Who
    world: World
    there: bool                         # the VP is
    bits: int
    rip: int                            # linear
    registers: Mapping[str, int]
    segments: Mapping[str, tuple[int, int, int, int]]       # selector, base, limit, rights
    vmcs: Mapping[VmcsField, int]
    code: tuple[Instruction, ...]
    no_code: str                        # why there is none
    looked_at: int | None               # the address that the user asked for
    memory: tuple[Row, ...]
    no_memory: str


def take(machine: Any, position: Position, who: Who, runs: Who, vp: VirtualProcessor | None, image: Image | None,
         names: Mapping[int, str], look: str) -> Moment:
    """What there is to see now; *look* is the expression of an address in memory."""
    world = world_of(machine, names)
    if vp is None:
        return Moment(position, machine.clock.tsc, who, runs, world, False, 64, 0, {}, {}, {}, (), "", None, (), "")
    regs = vp.guest_regs
    registers = {name: int(getattr(regs, name)) for name in REGISTERS} | {"cpl": int(regs.cpl)}
    read = vp.vcpu.vmcs.read
    code, no_code = _code(vp, image)
    looked_at, memory, no_memory = _memory(vp, look, registers | dict(image.symbols if image is not None else {}))
    return Moment(position, machine.clock.tsc, who, runs, world, True, regs.bits, regs.linear_rip, registers,
                  _segments(regs), {field: read(field) for field in _FIELDS}, code, no_code, looked_at, memory,
                  no_memory)


def _segments(regs: Any) -> dict[str, tuple[int, int, int, int]]:
    found = {}
    for name in SEGMENTS:
        segment = getattr(regs, name)
        found[name] = segment.selector, segment.base, segment.limit, segment.rights
    for name in ("gdtr", "idtr"):
        table = getattr(regs, name)
        found[name] = 0, table.base, table.limit, 0
    return found


def why_not(error: Exception) -> str:
    """Why something cannot be read, in a few words."""
    match error:
        case GuestFault():
            return "no page is mapped there by the guest"
        case NestedFault():
            return f"gpa {error.gpa:#x} is not mapped by the EPT"
        case DebugError():
            return error.message
    return str(error)


# --- code --------------------------------------------------------------------------------------------------


def _code(vp: VirtualProcessor, image: Image | None) -> tuple[tuple[Instruction, ...], str]:
    rip = vp.regs.linear_rip
    try:
        ahead = tuple(Instruction(*one) for one in instructions(vp, rip, CODE_AFTER)
                      if one[0] == rip or _is_code(image, rip, one[0]))
    except UNREADABLE as error:
        return (), why_not(error)
    return (*_before(vp, rip, image), *ahead), ""


def _is_code(image: Image | None, rip: int, gva: int) -> bool:
    """*gva* is no empty memory behind the end of the program, when *rip* is in it."""
    inside = [segment for segment in image.segments if segment.gpa <= rip < segment.gpa + len(segment.data)] \
        if image is not None else []
    return not inside or inside[0].gpa <= gva < inside[0].gpa + len(inside[0].data)


def _before(vp: VirtualProcessor, rip: int, image: Image | None) -> list[Instruction]:
    """The instructions of the program that lead up to *rip* without a gap, where lines are known."""
    places = image.places if image is not None else {}
    found: list[Instruction] = []
    end = rip
    while len(found) < CODE_BEFORE:
        start = next((end - size for size in range(1, 16) if end - size in places), None)
        if start is None or start < 0:
            break
        try:
            code = read_gva(vp, start, end - start)
        except UNREADABLE:
            break
        text, size = text_of(code, vp.regs.bits, start)
        if size != end - start:
            break                           # data, or code that was changed since
        found.insert(0, Instruction(start, code, text))
        end = start
    return found


# --- memory ------------------------------------------------------------------------------------------------


def _memory(vp: VirtualProcessor, look: str, names: Mapping[str, int]) -> tuple[int | None, tuple[Row, ...], str]:
    try:
        wanted = address(look, names)
    except DebugError as error:
        return None, (), str(error)
    first = max(0, min((wanted // ROW - ABOVE) * ROW, (1 << 64) - MEMORY_ROWS * ROW))
    pages: dict[int, Row] = {}
    rows = []
    for gva in range(first, first + MEMORY_ROWS * ROW, ROW):
        page = pages.get(gva >> 12)
        if page is None:
            page = pages[gva >> 12] = _page(vp, gva & -4096)
        rows.append(_row(page, gva))
    return wanted, tuple(rows), ""


def _page(vp: VirtualProcessor, gva: int) -> Row:
    gpa = spa = None
    try:
        gpa = page_walk(vp, gva).gpa
        spa = vp.partition.space.translate(gpa, Access.READ)
        return Row(gva, gpa, spa, read_spa(vp.partition, spa, 4096))
    except UNREADABLE as error:
        return Row(gva, gpa, spa, None, why_not(error))


def _row(page: Row, gva: int) -> Row:
    offset = gva - page.gva
    return Row(gva, None if page.gpa is None else page.gpa + offset, None if page.spa is None else page.spa + offset,
               None if page.data is None else page.data[offset : offset + ROW], page.why)
