"""The register page of a VP: while the VP waits for its parent, the parent finds its registers in memory.

TLFS "HvCallMapVpStatePage". A parent that emulates an instruction needs most registers of the VP and changes some: with
the page it makes no hypercall for them. What it changed it says by the dirty flags, and the VP has it when it goes on.
# Simplified: a register that the parent sets by hypercall meanwhile does not change in the page.
"""

from __future__ import annotations

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
_ALONE = {"rip": N.RIP, "rflags": N.RFLAGS, "cr0": N.CR0, "cr3": N.CR3, "cr4": N.CR4, "cr8": N.CR8, "efer": N.EFER,
          "dr7": N.DR7, "pending_interruption": N.PENDING_INTERRUPTION, "interrupt_state": N.INTERRUPT_STATE}
_VALID, _DIRTY = HvRegisterPage.offset_of("is_valid"), HvRegisterPage.offset_of("dirty")


class RegisterPage(StatePage):
    """That of *vp*, filled while it waits."""

    name = "registers"

    def __init__(self, vp: VirtualProcessor, reader: Partition, place: int | None) -> None:
        super().__init__(vp, reader, place)
        if vp.intercept_suspend:
            self.fill()

    def fill(self) -> None:
        """The VP has begun to wait: show its registers."""
        vp = self.vp
        alone: dict[str, Any] = {name: integer(get_register(vp, register)) for name, register in _ALONE.items()}
        halves = [int.from_bytes(get_register(vp, name)[half : half + 8], "little") for name in _XMM for half in (0, 8)]
        page = HvRegisterPage(
            version=VERSION, is_valid=1, gp_registers=tuple(integer(get_register(vp, name)) for name in _GENERAL),
            xmm=tuple(halves), segments=tuple(HvSegmentRegister.parse(get_register(vp, name)) for name in _SEGMENTS),
            **alone)
        self.reader.memory.write(self.spa, page.pack())

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
        memory.write(self.spa + _VALID, b"\0")
        memory.write(self.spa + _DIRTY, bytes(4))


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
