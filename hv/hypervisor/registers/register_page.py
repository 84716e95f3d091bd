"""The register page of a VP: while the VP waits for its parent, the parent finds its registers in memory.

TLFS "HvCallMapVpStatePage". A parent that emulates an instruction needs most registers of the VP and changes some: with
the page it makes no hypercall for them. What it changed it says by the dirty flags, and the VP has it when it goes on.
# Simplified: a register that the parent sets by hypercall meanwhile does not change in the page.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Any

from hv.hypervisor.registers.state_pages import StatePage
from hv.hypervisor.registers.table import get_register, integer, set_register
from hv.spec.hv_registers import HvRegisterName
from hv.spec.synic import HvSegmentRegister
from hv.spec.vp_state import HvRegisterPage, HvRegisterPageDirtyFlags

if TYPE_CHECKING:
    from hv.hypervisor.partitions.partition import Partition
    from hv.hypervisor.vps.vp import VirtualProcessor

N = HvRegisterName
VERSION = 1
_GENERAL, _SEGMENTS = range(N.RAX, N.R15 + 1), range(N.ES, N.GS + 1)
_XMM = range(N.XMM0, N.XMM5 + 1)
_ALONE = {"cr0": N.CR0, "cr3": N.CR3, "cr4": N.CR4, "cr8": N.CR8, "efer": N.EFER, "dr7": N.DR7,
          "pending_interruption": N.PENDING_INTERRUPTION, "interrupt_state": N.INTERRUPT_STATE}
_HEAD = HvRegisterPage(version=VERSION, is_valid=1).pack()[: HvRegisterPage.offset_of("gp_registers")]
INVALID = HvRegisterPage(version=VERSION).pack()[: len(_HEAD)]
_END = HvRegisterPage.offset_of("reserved1")
# Head; general registers and RIP; RFLAGS; end.
_PAGE = Struct(f"<{len(_HEAD)}s{8 * (len(_GENERAL) + 1)}sQ{HvRegisterPage.SIZE - _END}s").pack


class RegisterPage(StatePage):
    """That of *vp*, filled while it waits."""

    name = "registers"

    def __init__(self, vp: VirtualProcessor, reader: Partition, place: int | None) -> None:
        super().__init__(vp, reader, place)
        self._end = b""                         # what stands behind RFLAGS
        self._end_of: tuple[object, ...] = ()   # the VP's `shown.made_of`, when that was made
        if vp.intercept_suspend:
            self.fill()

    def fill(self) -> tuple[bytes, int]:
        """The VP has begun to wait: show its registers. General ones with RIP, and RFLAGS, since those are known now.
        """
        regs, shown = self.vp.regs, self.vp.shown
        shown.look()
        if shown.made_of is not self._end_of:
            self._end, self._end_of = _end_of_page(self.vp), shown.made_of
        general, rflags = regs.general, regs.rflags
        self.reader.memory.write(self.spa, _PAGE(_HEAD, general, rflags, self._end))
        return general, rflags

    def load(self) -> None:
        """The VP is to go on: it gets what is dirty, in order.

        INVALID_REGISTER_VALUE, and it goes on waiting: what came before the refused one is set, as by SetVpRegisters.
        """
        memory = self.reader.memory
        page: Any = HvRegisterPage.parse(memory.read(self.spa, HvRegisterPage.SIZE))
        if page.is_valid:
            for name, value in _changed(page):
                set_register(self.vp, name, value)
            if page.dirty:
                self.vp.registers_written()
        memory.write(self.spa, INVALID)


def _end_of_page(vp: VirtualProcessor) -> bytes:
    """What seldom changes, and stands behind the rest."""
    alone: dict[str, Any] = {name: integer(get_register(vp, register)) for name, register in _ALONE.items()}
    halves = [int.from_bytes(get_register(vp, name)[half : half + 8], "little") for name in _XMM for half in (0, 8)]
    segments = tuple(HvSegmentRegister.parse(get_register(vp, name)) for name in _SEGMENTS)
    return HvRegisterPage(xmm=tuple(halves), segments=segments, **alone).pack()[_END:]


def _changed(page: Any) -> list[tuple[int, bytes]]:
    """The registers whose group is dirty, with their values of 16 bytes."""
    dirty = HvRegisterPageDirtyFlags(page.dirty)
    found: list[tuple[int, bytes]] = []
    if dirty.general_purpose:
        found += [(name, page.gp_registers[n].to_bytes(16, "little")) for n, name in enumerate(_GENERAL)]
    if dirty.instruction_pointer:
        found.append((N.RIP, page.rip.to_bytes(16, "little")))
    if dirty.xmm:
        found += [(name, (page.xmm[2 * n] | page.xmm[2 * n + 1] << 64).to_bytes(16, "little"))
                  for n, name in enumerate(_XMM)]
    if dirty.segments:
        found += [(name, page.segments[n].pack()) for n, name in enumerate(_SEGMENTS)]
    if dirty.flags:
        found.append((N.RFLAGS, page.rflags.to_bytes(16, "little")))
    return found
