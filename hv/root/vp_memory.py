"""Memory as an instruction of a VP sees it: linear addresses, behind which are RAM, devices, or nothing.

Where an address leads is what the VP's own page tables say, and they are walked by the hypervisor
(HvCallTranslateVirtualAddress), which marks pages as used as the processor does. RAM is root's own mapping of the VM's
pages; pages that the hypervisor or a device of the machine has laid over it are reached by HvCallReadGpa and
HvCallWriteGpa; everything else is the board's.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from hv.root.motherboard import Motherboard
from hv.root.winhv import WinHv
from hv.spec.hv_registers import HvRegisterName
from hv.spec.hypercalls.memory import AccessGpaResult, TranslateGvaFlags, TranslateGvaResult
from hv.spec.synic import HvExecutionState, InterceptAccess, MemoryIntercept
from hv.spec.x86 import PAGE_SIZE, Cr4, Efer, PageFaultError, Vector

_OFFSET = PAGE_SIZE - 1
_READ = TranslateGvaFlags(validate_read=1, set_page_table_bits=1).raw
_WRITE = TranslateGvaFlags(validate_write=1, set_page_table_bits=1).raw
_EXECUTE = TranslateGvaFlags(validate_execute=1, set_page_table_bits=1).raw
_CPL, _LMA = HvExecutionState(cpl=3).raw, HvExecutionState(efer_lma=1).raw
_U32, _U64 = (1 << 32) - 1, (1 << 64) - 1


class GuestException(Exception):
    """What the guest gets instead; *address* is CR2 of a page fault."""

    def __init__(self, vector: int, error_code: int | None, address: int | None = None) -> None:
        super().__init__()
        self.vector, self.error_code, self.address = vector, error_code, address


class Ram(Protocol):
    """The memory of a VM, from 0 on."""

    memory_bytes: int

    def read(self, gpa: int, size: int) -> bytes: ...
    def write(self, gpa: int, data: bytes) -> None: ...


class _Page(NamedTuple):
    """Where a page of linear addresses leads."""

    gpa: int
    overlay: bool       # not the VM's own page: the hypervisor's, or a device's of the machine
    mapped: bool        # the partition has memory there


class VpMemory:
    """For one instruction of the VP whose *intercept* it is."""

    def __init__(self, winhv: WinHv, partition_id: int, ram: Ram, board: Motherboard,
                 intercept: MemoryIntercept) -> None:
        header = intercept.header
        state = header.execution_state
        self._winhv, self._partition_id, self._vp_index = winhv, partition_id, header.vp_index
        self._ram, self._board = ram, board
        self._user, self._long = state & _CPL == 3, bool(state & _LMA)
        known = _Page(intercept.gpa & ~_OFFSET, False, False)
        self._pages = {(intercept.gva & ~_OFFSET, _READ): known}
        if header.access_type == InterceptAccess.WRITE:
            self._pages[intercept.gva & ~_OFFSET, _WRITE] = known

    def read(self, gva: int, size: int) -> int:
        """The little-endian integer of *size* bytes."""
        parts = [self._load(page, offset, count) for page, offset, count in self._places(gva, size, _READ)]
        return int.from_bytes(b"".join(parts), "little")

    def write(self, gva: int, size: int, value: int) -> None:
        """Store *size* bytes; nothing when any of them is refused."""
        data, done = value.to_bytes(size, "little"), 0
        for page, offset, count in self._places(gva, size, _WRITE):
            self._store(page, offset, data[done : done + count])
            done += count

    def check_write(self, gva: int, size: int) -> None:
        """Raise what `write` would raise."""
        self._places(gva, size, _WRITE)

    def fetch(self, gva: int, size: int) -> bytes:
        """*size* bytes of instructions, or the page fault of the first that cannot be fetched."""
        return b"".join(self._load(page, offset, count) for page, offset, count in self._places(gva, size, _EXECUTE))

    # --- where it is -----------------------------------------------------------------------------

    def _places(self, gva: int, size: int, access: int) -> list[tuple[_Page, int, int]]:
        """(page, offset, bytes) of each page's part, in order; every one is translated before any is touched."""
        found = []
        while size:
            at = gva & (_U64 if self._long else _U32)
            count = min(size, PAGE_SIZE - (at & _OFFSET))
            found.append((self._page(at, access), at & _OFFSET, count))
            gva, size = gva + count, size - count
        return found

    def _page(self, gva: int, access: int) -> _Page:
        key = gva & ~_OFFSET, access
        if key not in self._pages:
            self._pages[key] = self._translate(gva, access)
        return self._pages[key]

    def _translate(self, gva: int, access: int) -> _Page:
        if self._long and not _is_canonical(gva):
            raise GuestException(Vector.GP, 0)
        found = self._winhv.translate_virtual_address(self._partition_id, self._vp_index, gva, access)
        match found.result_code:
            case TranslateGvaResult.SUCCESS:
                return _Page(found.gpa_page * PAGE_SIZE, bool(found.overlay_page), True)
            case TranslateGvaResult.GPA_UNMAPPED:
                return _Page(found.gpa_page * PAGE_SIZE, False, False)
            case TranslateGvaResult.PAGE_NOT_PRESENT | TranslateGvaResult.PRIVILEGE_VIOLATION \
                    | TranslateGvaResult.INVALID_PAGE_TABLE_FLAGS as refusal:
                raise GuestException(Vector.PF, self._page_fault(refusal, access), gva)
            case _:                     # the hypervisor's own page, which nobody writes
                raise GuestException(Vector.GP, 0)

    def _page_fault(self, refusal: int, access: int) -> int:
        """SDM "Interrupt 14 -- Page-Fault Exception (#PF)", the error code."""
        code = PageFaultError.USER if self._user else PageFaultError(0)
        if refusal != TranslateGvaResult.PAGE_NOT_PRESENT:
            code |= PageFaultError.PRESENT
        if refusal == TranslateGvaResult.INVALID_PAGE_TABLE_FLAGS:
            code |= PageFaultError.RESERVED
        if access == _WRITE:
            code |= PageFaultError.WRITE
        if access == _EXECUTE and self._tells_fetches():
            code |= PageFaultError.FETCH
        return int(code)

    def _tells_fetches(self) -> bool:
        """I/D exists with NX or SMEP only."""
        def ask(name: HvRegisterName) -> int:
            return self._winhv.get_vp_register(self._partition_id, self._vp_index, name)

        return bool(ask(HvRegisterName.EFER) & Efer.NXE or ask(HvRegisterName.CR4) & Cr4.SMEP)

    # --- what is there ---------------------------------------------------------------------------

    def _load(self, page: _Page, offset: int, count: int) -> bytes:
        gpa = page.gpa + offset
        if not page.mapped:
            return self._board.read_memory(gpa, count).to_bytes(count, "little")
        if not page.overlay and gpa < self._ram.memory_bytes:
            return self._ram.read(gpa, count)
        result, data = self._winhv.read_gpa(self._partition_id, self._vp_index, gpa, count)
        return data if result == AccessGpaResult.SUCCESS else b"\xff" * count

    def _store(self, page: _Page, offset: int, data: bytes) -> None:
        gpa = page.gpa + offset
        if not page.mapped:
            self._board.write_memory(gpa, len(data), int.from_bytes(data, "little"))
        elif not page.overlay and gpa < self._ram.memory_bytes:
            self._ram.write(gpa, data)
        else:
            self._winhv.write_gpa(self._partition_id, self._vp_index, gpa, data)


def _is_canonical(gva: int) -> bool:
    return gva >> 47 in (0, 0x1FFFF)
