"""What puts an engine into its guest mode: memory that only the engine sees, and the state of a VP that was never run.

The mode is AMD's, entered by writing its state rather than by an instruction; nobody above this room sees a number of
it. The control block and the MSR map stand beside the nested page tables, far above all RAM.
"""

from __future__ import annotations

import ctypes
import mmap
import struct

from unicorn import UC_PROT_ALL, Uc
from unicorn.unicorn_py3.unicorn import uclib

from hv.machine import context as at
from hv.machine import svm
from hv.machine.nested import NestedTables
from hv.spec.x86 import PAGE_SIZE

PRIVATE_BASE = 1 << 38              # engine addresses that no system-physical address reaches
_TABLES = 512                       # pages of nested tables: 1 GiB of guest memory before the cache starts over
_MSR_MAP, _NESTED = PAGE_SIZE, 3 * PAGE_SIZE
_OPEN_BUS = _NESTED + _TABLES * PAGE_SIZE
OPEN_BUS = PRIVATE_BASE + _OPEN_BUS     # a page of ones, for addresses at which nobody answers


class PrivateMemory:
    """Control block, MSR map and *nested* tables of the engine *uc*; RAM stands once more at *alias_base*."""

    def __init__(self, uc: Uc, alias_base: int) -> None:
        size = _OPEN_BUS + PAGE_SIZE
        self._map = mmap.mmap(-1, size)
        self._pin = ctypes.c_char.from_buffer(self._map)
        uc.mem_map_ptr(PRIVATE_BASE, size, UC_PROT_ALL, ctypes.addressof(self._pin))
        view = memoryview(self._map)
        view[_MSR_MAP:_NESTED] = b"\xff" * svm.MSRPM_SIZE       # every MSR access exits
        struct.pack_into("<Q", self._map, svm.VMCB_MSRPM, PRIVATE_BASE + _MSR_MAP)
        self._open_bus = view[_OPEN_BUS:]
        self.fault = view[svm.VMCB_EXITINFO2 : svm.VMCB_EXITINFO2 + 8].cast("Q")    # one word, see `fault_address`
        self.nested = NestedTables(view[_NESTED:_OPEN_BUS], PRIVATE_BASE + _NESTED, alias_base)

    def clear_open_bus(self) -> None:
        """Let the page of `OPEN_BUS` be ones."""
        self._open_bus[:] = b"\xff" * PAGE_SIZE

    @property
    def fault_address(self) -> int:
        """EXITINFO2: the address that the last page fault or nested fault was about."""
        return int(self.fault[0])

    @fault_address.setter
    def fault_address(self, value: int) -> None:
        self.fault[0] = value


def template(uc: Uc, nested_root: int) -> bytes:
    """The context of a VP that was never run: the engine's own reset state, in guest mode with nested paging."""
    context = at.allocate(uc)
    uclib.uc_context_save(uc._uch, context)
    image = at.view(context)
    put = struct.pack_into
    put("<Q", image, at.VMCB, PRIVATE_BASE)
    put("<Q", image, at.INTERCEPT, svm.ALWAYS)
    put("<2H", image, at.INTERCEPT_DR_READ, 0xFF, 0xFF)
    put("<I", image, at.INTERCEPT_EXCEPTIONS, 0xFFFF_FFFF)
    put("<QI", image, at.NESTED_CR3, nested_root, 7)
    put("<I", image, at.HFLAGS, struct.unpack_from("<I", image, at.HFLAGS)[0] & ~at.HFLAG_LMA)
    hidden = struct.unpack_from("<I", image, at.HFLAGS2)[0]
    put("<I", image, at.HFLAGS2, hidden | 1 | 1 << 6)       # GIF, nested paging
    put("<i", image, at.IN_FLIGHT, -1)
    put("<i", image, at.EXCEPTION_IS_INT, 0)
    put("<Q", image, at.EFER, 1 << 12)
    made = bytes(image)
    at.release(context)
    return made
