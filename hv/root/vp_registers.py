"""The registers of a VP that waits for its worker, as the code of an instruction wants them: by name.

What the intercept message tells is not asked for; the rest is asked of the hypervisor when it is first looked at, or by
`ask` before, many at a time. What was changed goes back with the answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any, NamedTuple

from hv.root.winhv import RegisterContent, WinHv
from hv.spec.hv_registers import FpControlStatusRegister, HvRegisterName, PendingInterruptionRegister
from hv.spec.synic import HvExecutionState, HvInterceptHeader, HvSegmentAttributes, HvSegmentRegister
from hv.spec.x86 import Efer, Rflags, Vector

N = HvRegisterName
GENERAL = {name.lower(): HvRegisterName[name] for name in (
    "RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", *(f"R{n}" for n in range(8, 16)))}
_SEGMENTS = {name.lower(): HvRegisterName[name] for name in ("ES", "SS", "DS", "FS", "GS")}
_ASKED = GENERAL | _SEGMENTS
_EFER_LMA, _RF = Efer.LMA.value, Rflags.RF.value
_LMA = HvExecutionState(efer_lma=1).raw
_LONG, _BIG = HvSegmentAttributes(long=1).raw, HvSegmentAttributes(default_big=1).raw
_DR6_BS = 1 << 14
_TOP_SHIFT = 11                     # of FSW
_MMX_EXPONENT = 0xFFFF << 64        # what MMX leaves above the 8 bytes
_HARDWARE_EXCEPTION = 3
_DEBUG_TRAP = PendingInterruptionRegister(
    interruption_pending=1, interruption_type=_HARDWARE_EXCEPTION, interruption_vector=Vector.DB).raw


class SegmentTold(NamedTuple):
    """What operands need of a segment register."""

    base: int
    long: bool
    big: bool

    @classmethod
    def of(cls, register: HvSegmentRegister) -> SegmentTold:
        return cls(register.base, bool(register.attributes & _LONG), bool(register.attributes & _BIG))


class VpRegisters:
    """The registers of the VP whose intercept begins with *header*."""

    def __init__(self, winhv: WinHv, partition_id: int, header: HvInterceptHeader) -> None:
        self._winhv, self._partition_id, self._vp_index = winhv, partition_id, header.vp_index
        self._told: dict[str, Any] = {"rip": header.rip, "rflags": header.rflags}
        self._vectors: dict[int, bytes] = {}
        self._changed_vectors: dict[int, bytes] = {}
        self._changed_mmx: dict[int, int] = {}
        self._x87_changed = False
        self.rip, self.rflags = header.rip, header.rflags
        self.efer = _EFER_LMA if header.execution_state & _LMA else 0
        self.cs = SegmentTold.of(header.cs)

    def ask(self, names: Iterable[str]) -> None:
        """Get the registers *names* ("rax", "ds" ...) that are not known yet, by one hypercall."""
        wanted = [name for name in names if name not in self.__dict__]
        if not wanted:
            return
        values = self._winhv.get_vp_registers(self._partition_id, self._vp_index, [_ASKED[name] for name in wanted])
        for name, value in zip(wanted, values, strict=True):
            told = int.from_bytes(value[:8], "little") if name in GENERAL \
                else SegmentTold.of(HvSegmentRegister.parse(value))
            self.__dict__[name] = self._told[name] = told

    def __getattr__(self, name: str) -> Any:
        if name not in _ASKED:
            raise AttributeError(name)
        self.ask((name,))
        return self.__dict__[name]

    def read_xmm(self, number: int) -> bytes:
        """16 bytes."""
        if number not in self._vectors:
            self._vectors[number] = self._winhv.get_vp_registers(
                self._partition_id, self._vp_index, [HvRegisterName(N.XMM0 + number)])[0]
        return self._vectors[number]

    def write_xmm(self, number: int, value: bytes) -> None:
        self._vectors[number] = self._changed_vectors[number] = value

    def read_mmx(self, number: int) -> int:
        """The 8 bytes of MM*number*, which are those of an x87 register."""
        if number in self._changed_mmx:
            return self._changed_mmx[number]
        name = HvRegisterName(N.FP_MMX0 + (number - (self._x87.fp_status >> _TOP_SHIFT) & 7))
        value = self._winhv.get_vp_registers(self._partition_id, self._vp_index, [name])[0]
        return int.from_bytes(value[:8], "little")

    def write_mmx(self, number: int, value: int) -> None:
        self._changed_mmx[number] = value

    def enter_mmx(self) -> None:
        """SDM "Effect of MMX Instructions on the x87 FPU Tag Word": all are in use, and TOP is 0."""
        self._x87.fp_status &= ~(7 << _TOP_SHIFT)
        self._x87.fp_tag, self._x87_changed = 0xFF, True

    @cached_property
    def _x87(self) -> FpControlStatusRegister:
        value = self._winhv.get_vp_registers(self._partition_id, self._vp_index, [N.FP_CONTROL_STATUS])[0]
        return FpControlStatusRegister.parse(value)

    def single_step(self) -> dict[HvRegisterName, RegisterContent]:
        """#DB, the trap behind one element of a REP that is not done; SDM "Single-Step Exception Condition"."""
        self.rflags &= ~_RF
        dr6 = self._winhv.get_vp_register(self._partition_id, self._vp_index, N.DR6)
        return {N.DR6: dr6 | _DR6_BS, N.PENDING_INTERRUPTION: _DEBUG_TRAP}

    def changes(self) -> dict[HvRegisterName, RegisterContent]:
        """What the instruction has changed, RIP and RFLAGS among it."""
        found: dict[HvRegisterName, RegisterContent] = {}
        for name, register in _WRITTEN.items():
            value = self.__dict__.get(name)
            if value is not None and value != self._told.get(name):
                found[register] = value
        if self._x87_changed:           # TOP before the registers, which are named by their distance from it
            found[N.FP_CONTROL_STATUS] = self._x87.pack()
        found |= {HvRegisterName(N.FP_MMX0 + number): value | _MMX_EXPONENT
                  for number, value in self._changed_mmx.items()}
        return found | {HvRegisterName(N.XMM0 + number): value for number, value in self._changed_vectors.items()}


_WRITTEN = GENERAL | {"rip": N.RIP, "rflags": N.RFLAGS}
