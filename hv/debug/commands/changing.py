"""set, rdmsr, wrmsr, vmwrite: registers, MSRs and VMCS fields are changed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from hv.debug.completion import Word, numbers
from hv.debug.conditions import closest
from hv.debug.errors import DebugError
from hv.debug.msr_names import msr_called, msr_words, shown_name
from hv.debug.register_names import Part, part_called, parts
from hv.debug.registry import command
from hv.debug.render import Changed
from hv.debug.session import Session
from hv.hypervisor.msrs.absent import ABSENT
from hv.hypervisor.msrs.processor import READERS
from hv.hypervisor.msrs.registry import OURS, read_unchecked
from hv.hypervisor.registers.table import REGISTERS, get_register
from hv.hypervisor.vps.vp import VirtualProcessor
from hv.machine.faults import GuestFault
from hv.replay.changes import SetMsr, SetRegister, SetVmcsField
from hv.spec.synthetic_msrs import SYNTHETIC_MSR_TABLE
from hv.spec.vmcs import VmcsField
from hv.vmx.checks import entry_result

ONLY_WRITTEN = "(only written)"
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
    return Changed(name.lower(), ONLY_WRITTEN if before is None else part.of(before),
                   number if now is None else part.of(now), next_entry(vp))


@command("rdmsr", msr=msr_words)
def rdmsr(session: Session, msr: str) -> dict[str, Any]:
    """Show an MSR of the VP looked at, with its bits where it has names for them.

    By index or name. Of one that a guest cannot read it says why.

    Example: `rdmsr IA32_EFER`, `rdmsr HV_X64_MSR_SINT2`, `rdmsr 0xC0000082`
    """
    index = msr_called(session, msr)
    value = msr_value(session.vp, index)
    if value is None:
        why = ABSENT.get(index)
        raise DebugError(f"{shown_name(index)} cannot be read", why or "a guest's RDMSR of it is #GP")
    row = SYNTHETIC_MSR_TABLE.get(index)
    bits = row.layout(value).inspect() if row is not None and row.layout is not None else {}
    return {shown_name(index): value, **{name: part for name, part in bits.items() if name != "raw"}}


@command("wrmsr", msr=msr_words, text=numbers)
def wrmsr(session: Session, msr: str, text: str) -> Changed:
    """Write an MSR of the VP looked at as its own WRMSR would, with all that comes of that.

    By index or name. Privileges of the partition are not asked, all other rules hold.

    Example: `wrmsr IA32_LSTAR start`, `wrmsr HV_X64_MSR_SINT2 0x10050`
    """
    index, vp = msr_called(session, msr), session.vp
    value = in_width(session, text, shown_name(index), 64)
    before = msr_value(vp, index)
    session.change(SetMsr(vp.partition.id, vp.index, index, value))
    now = msr_value(vp, index)
    return Changed(shown_name(index), ONLY_WRITTEN if before is None else before, value if now is None else now,
                   next_entry(vp))


def msr_value(vp: VirtualProcessor, index: int) -> int | None:
    """What RDMSR would give, whatever privileges the partition has; None where that is #GP."""
    try:
        if index in OURS:
            return read_unchecked(vp, index)
        return READERS[index](vp, index) if index in READERS else None
    except GuestFault:
        return None


def _fields(session: Session, typed: str) -> Iterator[Word]:
    yield from (Word(field.name, f"{int(field):#06x}") for field in VmcsField)


@command("vmwrite", field=_fields, text=numbers)
def vmwrite(session: Session, field: str, text: str) -> Changed:
    """Write a field of the VMCS of the VP looked at, as the hypervisor's VMWRITE does: for those who study checks.

    Nothing is refused but what VMWRITE refuses; what the next VM entry will say of it is told at once.

    Example: `vmwrite GUEST_RIP start`, `vmwrite EXCEPTION_BITMAP 1 << 14`
    """
    vp, known = session.vp, one_field(field)
    value = in_width(session, text, known.name, known.mask.bit_length())
    before = vp.vcpu.vmcs.read(known)
    session.change(SetVmcsField(vp.partition.id, vp.index, known.name, value))
    return Changed(known.name, before, vp.vcpu.vmcs.read(known), next_entry(vp))


def one_field(name: str) -> VmcsField:
    """The VMCS field of that name; DebugError with the nearest ones."""
    if name.upper() not in VmcsField.__members__:
        near = closest(name, VmcsField.__members__)
        raise DebugError(f"`{name}` is no VMCS field", f"near: {', '.join(near)}" if near else "`vmcs` shows them")
    return VmcsField[name.upper()]


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
    """Lines about what comes next: a VM entry that would fail, a parent that may still write registers."""
    failure = entry_result(vp.vcpu.entry()).failure
    fails = () if failure is None else (f"the next VM entry fails: {failure}; `vmentry` explains",)
    asked = ("its parent is about to answer an exit, and may write registers over this",)
    return fails + asked if vp.intercept_suspend else fails


def _whole(vp: VirtualProcessor, part: Part) -> int | None:
    """All of the register that *part* is of; None when it cannot be read."""
    if REGISTERS[part.register][0] is None:
        return None
    return int.from_bytes(get_register(vp, part.register), "little")
