"""The x87 and SSE registers of a processor, in its engine context.

The engine keeps rounding and precision beside FCW and MXCSR, in a form of its own: those two are written through its
interface. All else is bytes of the context. XMM registers are 16 bytes here; the engine's are wider, and nobody is
offered more.
"""

from __future__ import annotations

import ctypes
import struct
from typing import Any, cast

from hv.machine import context as at
from hv.spec.fxsave import FCW_RESET, MXCSR_MASK, MXCSR_RESET, FxSaveImage, X87Register

X87_SIZE, XMM_SIZE = 10, 16
_TOP_SHIFT, _TOP = 11, 0x3800
_ST_STRIDE, _XMM_STRIDE = 16, 64


def _field(code: str, offset: int) -> Any:
    struct_, mask = struct.Struct(f"<{code}"), (1 << 8 * struct.calcsize(code)) - 1

    def get(self: FloatingPoint) -> int:
        return int(struct_.unpack_from(self._view, offset)[0])

    def put(self: FloatingPoint, value: int) -> None:
        struct_.pack_into(self._view, offset, value & mask)

    return property(get, put)


class FloatingPoint:
    """*view* has the bytes of a context. Without *context* no engine works with them, as for a processor in Python."""

    opcode = _field("H", at.FPU_OPCODE)
    instruction_pointer, data_pointer = _field("Q", at.FPU_IP), _field("Q", at.FPU_DP)
    _control, _mxcsr = _field("H", at.FPU_CONTROL), _field("I", at.MXCSR)
    _status, _top = _field("H", at.FPU_STATUS), _field("I", at.FPU_TOP)

    def __init__(self, view: memoryview, context: ctypes.c_void_p | None = None) -> None:
        self._view, self._context = view, context

    def reset(self) -> None:
        """As after power-up; SDM "IA-32 and Intel 64 Processor States Following Power-up, Reset, or INIT"."""
        self.load(FxSaveImage(control=FCW_RESET, tag=0xFF, mxcsr=MXCSR_RESET))

    @property
    def control(self) -> int:
        """FCW."""
        return int(self._control)

    @control.setter
    def control(self, value: int) -> None:
        if self._context is None:
            self._control = value
        else:
            at.write_register(self._context, at.FPU_CONTROL_WORD, value.to_bytes(2, "little"))

    @property
    def mxcsr(self) -> int:
        return int(self._mxcsr)

    @mxcsr.setter
    def mxcsr(self, value: int) -> None:
        assert not value & ~MXCSR_MASK, f"reserved bits in MXCSR {value:#x}"
        if self._context is None:
            self._mxcsr = value
        else:
            at.write_register(self._context, at.MXCSR_WORD, value.to_bytes(4, "little"))

    @property
    def status(self) -> int:
        """FSW, with the top of the stack in it."""
        return int(self._status & ~_TOP | (self._top & 7) << _TOP_SHIFT)

    @status.setter
    def status(self, value: int) -> None:
        self._status, self._top = value & ~_TOP, value >> _TOP_SHIFT & 7

    @property
    def tag(self) -> int:
        """Which registers are in use, bit n for number n: the abridged form."""
        return sum(1 << n for n in range(8) if not self._view[at.FPU_TAGS + n])

    @tag.setter
    def tag(self, value: int) -> None:
        for n in range(8):
            self._view[at.FPU_TAGS + n] = 0 if value >> n & 1 else 1

    def _st_place(self, number: int) -> int:
        return int(at.FPU_REGISTERS + (self._top + number & 7) * _ST_STRIDE)

    def st(self, number: int) -> bytes:
        """The 10 bytes of ST(*number*)."""
        place = self._st_place(number)
        return bytes(self._view[place : place + X87_SIZE])

    def set_st(self, number: int, value: bytes) -> None:
        """Store 10 bytes into ST(*number*); the tag stays."""
        place = self._st_place(number)
        self._view[place : place + X87_SIZE] = value

    def xmm(self, number: int) -> bytes:
        """The 16 bytes of XMM *number*."""
        place = at.XMM + _XMM_STRIDE * number
        return bytes(self._view[place : place + XMM_SIZE])

    def set_xmm(self, number: int, value: bytes) -> None:
        """Store 16 bytes into XMM *number*."""
        place = at.XMM + _XMM_STRIDE * number
        self._view[place : place + XMM_SIZE] = value

    def save(self) -> FxSaveImage:
        """What FXSAVE64 would write."""
        st = tuple(X87Register.parse(self.st(n) + bytes(6)) for n in range(8))
        xmm = struct.unpack("<32Q", b"".join(self.xmm(n) for n in range(16)))
        return FxSaveImage(control=self.control, status=self.status, tag=self.tag, opcode=self.opcode,
                           instruction_pointer=self.instruction_pointer, data_pointer=self.data_pointer,
                           mxcsr=self.mxcsr, mxcsr_mask=MXCSR_MASK, st=st, xmm=xmm)

    def load(self, image: FxSaveImage) -> None:
        """What FXRSTOR64 does; MXCSR has no reserved bit."""
        self.control, self.status, self.tag, self.mxcsr = image.control, image.status, image.tag, image.mxcsr
        self.opcode = image.opcode
        self.instruction_pointer, self.data_pointer = image.instruction_pointer, image.data_pointer
        st, xmm = cast(Any, image.st), cast(Any, image.xmm)
        for n in range(8):
            self.set_st(n, st[n].pack()[:X87_SIZE])
        halves = struct.pack("<32Q", *xmm)
        for n in range(16):
            self.set_xmm(n, halves[XMM_SIZE * n : XMM_SIZE * (n + 1)])

    def forget(self) -> None:
        """The context is about to go: from now on reading or writing a register is a ValueError."""
        self._view.release()
        self._context = None
