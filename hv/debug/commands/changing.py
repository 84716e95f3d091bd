"""set: registers are changed, as a parent would do it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hv.debug.completion import Word
from hv.debug.errors import DebugError
from hv.debug.register_names import Part, part_called, parts
from hv.debug.registry import command
from hv.debug.render import Changed
from hv.debug.session import Session
from hv.hypervisor.registers.table import REGISTERS, get_register
from hv.hypervisor.vps.vp import VirtualProcessor
from hv.replay.changes import SetRegister
from hv.vmx.checks import entry_result

_LONGEST = 60                   # digits of a number that is wider than 64 bits


def _registers(session: Session, typed: str) -> Iterator[Word]:
    yield from (Word(name, f"{part.width} bits") for name, part in parts().items())


@command("set", text=_registers)
def set_(session: Session, text: str) -> Changed:
    """Set a register of the VP looked at, or a part of one, as a parent does by HvCallSetVpRegisters.

    A value that it cannot hold is refused. Parts are flags and fields: zf, cr4.pae, cs.base, sint2.vector. As in code,
    a write of eax clears the upper half of rax. What VM entry would make of all registers together is told.

    Example: `set rax 5`, `set zf 1`, `set rip start`, `set fs.base = rsp+0x100`, `set xmm0 0x11223344`
    """
    name, value = assignment(text)
    part, vp = part_called(name), session.vp
    number = in_width(session, value, name, part.width)
    before = _whole(vp, part)
    session.change(SetRegister(vp.partition.id, vp.index, part.register.name, part.put(before or 0, number)))
    now = _whole(vp, part)
    return Changed(name.lower(), "(only written)" if before is None else part.of(before),
                   number if now is None else part.of(now), next_entry(vp))


def assignment(text: str) -> tuple[str, str]:
    """Name and value of `NAME VALUE`, `NAME = VALUE` or `NAME=VALUE`; DebugError."""
    found = re.fullmatch(r"\$?([\w.]+)(?:\s*=\s*|\s+)(\S.*)", text)
    if found is None:
        raise DebugError(f"`{text}` sets nothing", "write a name and a value: set rax 5")
    return found[1], found[2]


def in_width(session: Session, text: str, name: str, width: int) -> int:
    """The value of *text* for something of *width* bits, where -1 is all ones; DebugError."""
    wide = re.fullmatch(r"0x[0-9a-fA-F_]+", text) if width > 64 and len(text) <= _LONGEST else None
    value = int(text, 16) if wide and "__" not in text and text[-1] != "_" else session.number(text)
    if not -(1 << width - 1) <= value < 1 << width:
        raise DebugError(f"{value:#x} does not fit {name}, which has {width} bit{'s' if width > 1 else ''}")
    return value & (1 << width) - 1


def next_entry(vp: VirtualProcessor) -> tuple[str, ...]:
    """A line about the VM entry that comes next, if it would fail."""
    failure = entry_result(vp.vcpu.entry()).failure
    return () if failure is None else (f"the next VM entry fails: {failure}; `vmentry` explains",)


def _whole(vp: VirtualProcessor, part: Part) -> int | None:
    """All of the register that *part* is of; None when it cannot be read."""
    if REGISTERS[part.register][0] is None:
        return None
    return int.from_bytes(get_register(vp, part.register), "little")
