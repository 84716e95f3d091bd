"""Which linear addresses the instruction at RIP may access: what the engine does not say of an access that EPT refused.

The engine names the guest-physical address. The linear one is found by going through what the instruction could have
meant, each translated by the guest's own tables, until one leads there: either to the page itself, or over a
paging-structure entry that lies in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from hv.instructions.decode import Decoded, MemoryOperand, RegisterOperand, Undecodable, linear_address, read_register
from hv.instructions.memory_operations import operand_address
from hv.machine.faults import Access, GuestFault, NestedFault
from hv.machine.fetch import decode_at
from hv.machine.paging import LINEAR_32, LINEAR_64, Walk, walk
from hv.machine.ram import pages_of
from hv.spec.x86 import PAGE_SIZE, PageTableEntry
from hv.vmx.intercepts.operands import access_at

if TYPE_CHECKING:
    from hv.vmx.vcpu import Vcpu

_READ, _WRITE, _EXECUTE = Access.READ.value, Access.WRITE.value, Access.EXECUTE.value
_ACCESSED, _DIRTY = PageTableEntry(accessed=1).raw, PageTableEntry(dirty=1).raw
_LONG_PUSHES = frozenset({"pusha", "pushal", "pushaw", "enter", "lcall"})
_LONGEST_FRAME = 64             # bytes that one instruction pushes or pops at most: PUSHA, an IRET between levels

# Instructions that access what no operand of theirs names.
_PUSHES, _POPS = ("push", "call", "lcall", "enter"), ("pop", "ret", "lret", "iret", "leave")
_SEGMENT_LOADS = frozenset({"lds", "les", "lfs", "lgs", "lss", "ljmp", "lcall", "lret", "retf", "iret", "iretd",
                            "iretq", "verr", "verw", "lar", "lsl", "lldt", "ltr", "pop"})
_NO_ACCESS = frozenset({"lea", "nop", "prefetchw", "prefetch", "prefetchnta", "prefetcht0", "prefetcht1",
                        "prefetcht2"})
_STATES, _STATE_SIZE = ("fxsave", "fxrstor", "fnsave", "frstor", "fnstenv", "fldenv"), 512
_BIT_STRINGS = frozenset({"bt", "bts", "btr", "btc"})


_NO_WALK = Walk(0, PAGE_SIZE, [], writable=True, user=True, executable=True)    # that there was one is all one asks


class Reference(NamedTuple):
    """*size* bytes at *gva* that an instruction may access; *access* is what it does with them (bits of `Access`)."""

    gva: int
    size: int
    access: int = _READ


class Met(NamedTuple):
    """How an access came to guest-physical *gpa*.

    *guest* is what the guest's tables say of *gva* when the page itself was accessed; None for an access to a paging
    structure, where *marks* says that an accessed or dirty flag was to be set. *access* is as in `Reference`.
    """

    gva: int
    gpa: int
    guest: Walk | None
    access: int
    marks: bool = False

    @property
    def writes(self) -> bool:
        """It cannot be done without a write."""
        return self.marks or (self.guest is not None and bool(self.access & _WRITE))


def meeting(vcpu: Vcpu, gpa: int, access: int) -> Met | None:
    """How the instruction at RIP met *gpa*, by *access* as the engine says; None when nothing it does leads there.

    The engine walks the guest's tables as if it wrote to them, so only a write can be an access to one.
    """
    plain = _plain_meeting(vcpu, gpa, access) if not access & _EXECUTE else None
    if plain is not None:
        return plain
    found = [met for met in _meetings(vcpu, gpa >> 12, access) if met.guest is not None or access == _WRITE]
    exact = next((met for met in found if met.gpa == gpa), None)
    if exact is not None:
        return exact
    page = next((met for met in found if met.guest is not None), None)      # in the middle of what it accesses
    return page and page._replace(gva=page.gva & -PAGE_SIZE | gpa & PAGE_SIZE - 1, gpa=gpa)


def _plain_meeting(vcpu: Vcpu, gpa: int, access: int) -> Met | None:
    """The usual: the one operand of the instruction leads to *gpa*, which cannot be read, so it is no paging structure.
    """
    if access & _WRITE and _is_readable(vcpu, gpa):
        return None
    state, memory = vcpu.state, vcpu.memory
    try:
        decoded, operation = access_at(vcpu)
        wanted = _WRITE if operation.write else _READ
        gva = operand_address(decoded, state, operation)
        if memory.gpa_of(memory.mode, gva, wanted, state.cpl, False) != gpa:
            return None
    except (Undecodable, GuestFault, NestedFault):
        return None
    return Met(gva, gpa, _NO_WALK, operation.memory.access)


def _is_readable(vcpu: Vcpu, gpa: int) -> bool:
    try:
        vcpu.second_level.translate(gpa, _READ)
    except NestedFault:
        return False
    return True


def meetings(vcpu: Vcpu, gpa: int) -> list[Met]:
    """Everything that the instruction at RIP does with the page of *gpa*, in its order."""
    return list(_meetings(vcpu, gpa >> 12, _READ))


def _meetings(vcpu: Vcpu, page: int, access: int) -> Iterator[Met]:
    for reference in references(vcpu, access):
        for gva, _ in pages_of(reference.gva, reference.size):
            yield from _met(vcpu, gva, page, reference.access)


def _met(vcpu: Vcpu, gva: int, page: int, wanted: int) -> Iterator[Met]:
    mode = vcpu.memory.mode
    gva &= LINEAR_64 if vcpu.state.bits == 64 else LINEAR_32
    try:
        found = walk(mode, gva, Access(0), 0, vcpu.memory.load_entry)
    except NestedFault as fault:
        if fault.gpa >> 12 == page:
            yield Met(gva, fault.gpa, None, wanted)
        return
    except GuestFault:
        return
    for level, rule in zip(found.levels, mode.levels, strict=False):
        if level.gpa >> 12 == page:
            flags = _ACCESSED | (_DIRTY if wanted & _WRITE and level is found.levels[-1] else 0)
            yield Met(gva, level.gpa, None, wanted, marks=rule.has_rights and bool(flags & ~level.raw))
    if found.gpa >> 12 == page:
        yield Met(gva, found.gpa, found, wanted)


def references(vcpu: Vcpu, access: int) -> Iterator[Reference]:
    """What the instruction at RIP may access: its own bytes, for a fetch (*access* 4) nothing else."""
    state = vcpu.state
    if access & _EXECUTE:
        yield Reference(state.linear_rip, PAGE_SIZE)        # its page, and the next
        return
    try:
        decoded = decode_at(state, vcpu.memory)
    except (Undecodable, GuestFault, NestedFault):
        decoded = None
    if decoded is not None:
        yield from operand_references(vcpu, decoded)
        yield from _implied(vcpu, decoded)
    yield Reference(state.linear_rip, PAGE_SIZE)            # walks for its fetch are accesses to data


def operand_references(vcpu: Vcpu, decoded: Decoded) -> Iterator[Reference]:
    """What the operands of *decoded*, the instruction at RIP, name."""
    if decoded.mnemonic in _NO_ACCESS:
        return
    for operand in decoded.operands:
        if isinstance(operand, MemoryOperand):
            try:
                gva = linear_address(decoded, vcpu.state, operand)
            except Undecodable:             # an index that is no general register
                continue
            gva += _bit_offset(vcpu, decoded, operand)
            size = _STATE_SIZE if decoded.mnemonic.startswith(_STATES) else max(operand.size, 1)
            yield Reference(gva, size, operand.access)


def _bit_offset(vcpu: Vcpu, decoded: Decoded, operand: MemoryOperand) -> int:
    """A bit string reaches as far from its operand as the register says."""
    last = decoded.operands[-1]
    if decoded.mnemonic not in _BIT_STRINGS or not isinstance(last, RegisterOperand):
        return 0
    bits = 8 * last.size
    number = read_register(vcpu.state, last.name)
    number -= (number >> bits - 1) << bits
    return number // bits * operand.size


def _implied(vcpu: Vcpu, decoded: Decoded) -> Iterator[Reference]:
    state, name = vcpu.state, decoded.mnemonic
    if name.startswith(_PUSHES + _POPS):
        base = 0 if decoded.bits == 64 else state.ss.base
        wrap = LINEAR_64 if decoded.bits == 64 else LINEAR_32 if state.ss.big else 0xFFFF
        pointer = state.rbp if name == "leave" else state.rsp
        if name.startswith(_PUSHES):
            size = _LONGEST_FRAME if name in _LONG_PUSHES else 8 if decoded.bits == 64 else 4
            yield Reference(base + (pointer - size & wrap), size, _WRITE)
        else:
            yield Reference(base + (pointer & wrap), _LONGEST_FRAME)
    if name in _SEGMENT_LOADS or (name == "mov" and _names_segment(decoded)):
        for table in (state.gdtr, state.ldtr):
            yield Reference(table.base, min(table.limit, 0xFFFF) + 1)
    if name in ("xlatb", "xlat"):
        yield Reference(linear_address(decoded, state, _table_of_xlat(decoded, vcpu)), 1)
    if name in ("maskmovq", "maskmovdqu"):
        yield Reference((0 if decoded.bits == 64 else state.ds.base) + state.rdi, 16, _WRITE)


def _names_segment(decoded: Decoded) -> bool:
    return any(getattr(operand, "name", "") in ("es", "ss", "ds", "fs", "gs") for operand in decoded.operands)


def _table_of_xlat(decoded: Decoded, vcpu: Vcpu) -> MemoryOperand:
    return MemoryOperand("ds", "rbx", "al", 1, 0, 1, decoded.bits)
