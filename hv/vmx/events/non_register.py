"""What of a guest's state is in no register: activity, blocking, pending debug exceptions.

SDM "Guest Non-Register State". The fields hold whatever software wrote, reserved bits too: VM entry checks them.
# Simplified: STI blocks the next instruction's interrupts also where RFLAGS.IF was 1 before it: the engine keeps no
word of that. On silicon only the STI that sets IF does, so of two in a row the second blocks nothing.
"""

from __future__ import annotations

from hv.instructions.decode import RegisterOperand, Undecodable, decode
from hv.machine.faults import GuestFault, NestedFault
from hv.machine.linear import LinearMemory
from hv.machine.state import ProcessorState
from hv.spec.vmcs import ActivityState, Interruptibility, PendingDebugExceptions
from hv.spec.x86 import MAX_INSTRUCTION_LENGTH, PAGE_SIZE

STI, MOV_SS = Interruptibility.BLOCKING_BY_STI.value, Interruptibility.BLOCKING_BY_MOV_SS.value
NMI = Interruptibility.BLOCKING_BY_NMI.value
ACTIVE, HLT = ActivityState.ACTIVE.value, ActivityState.HLT.value
SHUTDOWN, WAIT_FOR_SIPI = ActivityState.SHUTDOWN.value, ActivityState.WAIT_FOR_SIPI.value
SINGLE_STEP = PendingDebugExceptions(bs=1).raw
PENDING = PendingDebugExceptions(bs=1, enabled_breakpoint=1).raw        # either makes a #DB of what is pending
_STI, _POP_SS, _MOV_SEGMENT = 0xFB, 0x17, 0x8E


class NonRegisterState:
    """Of one virtual processor. *pending_debug* is a raw `PendingDebugExceptions`, *activity* an `ActivityState`."""

    def __init__(self, state: ProcessorState, memory: LinearMemory) -> None:
        self._state, self._memory = state, memory
        self.reset()

    def reset(self) -> None:
        """As after INIT: nothing is blocked, nothing pends."""
        self.activity = ACTIVE
        self.pending_debug = 0
        self.nmi_blocked = False                    # NMIs (virtual ones, when the controls have them), until IRET
        self._written: int | None = None            # what blocks the next instruction, if software said
        self._written_at: int | None = None         # RIP of that instruction, once the guest was entered
        self._rest = 0                              # bits that block nothing here
        self.returning: tuple[int, int] | None = None   # RIP and RSP of the IRET that unblocked NMIs, until it is done

    # --- what blocks -------------------------------------------------------------------------------------

    @property
    def shadow(self) -> int:
        """What blocks the next instruction's interrupts: 0, `STI`, or `MOV_SS`, which also blocks NMIs and #DB."""
        state = self._state
        if not state.interrupt_shadow:
            return 0
        if self._written is not None and self._written_at in (None, state.rip):
            return self._written
        return shadow_left_behind(state, self._memory)

    @property
    def saved_debug(self) -> int:
        """GUEST_PENDING_DEBUG_EXCEPTIONS as an exit saves it: the single step over a MOV SS pends until the instruction
        behind it is done, whose own step makes one #DB of both. SDM "Saving Non-Register State".
        """
        held = self._state.single_stepping and not self.written and self.shadow & MOV_SS
        return self.pending_debug | SINGLE_STEP if held else self.pending_debug

    @property
    def written(self) -> bool:
        """The blocking of the next instruction is software's word, and it has not run yet."""
        return self._written is not None

    def entered(self) -> None:
        """The guest is entered: what software wrote holds for the instruction at RIP."""
        if self._written is not None:
            self._written_at = self._state.rip

    def instruction_done(self) -> None:
        """What software wrote about the one before is over."""
        self._written = self._written_at = None

    @property
    def interruptibility(self) -> int:
        """GUEST_INTERRUPTIBILITY_STATE."""
        return self.shadow | (NMI if self.nmi_blocked else 0) | self._rest

    @interruptibility.setter
    def interruptibility(self, value: int) -> None:
        shadow = value & (STI | MOV_SS)
        self._state.interrupt_shadow = bool(shadow)
        self._written, self._written_at = shadow or None, None
        self.nmi_blocked = bool(value & NMI)
        self._rest = value & ~(STI | MOV_SS | NMI)


def shadow_left_behind(state: ProcessorState, memory: LinearMemory) -> int:
    """Which instruction left the shadow that the engine shows at RIP: it has one bit for both, so the code tells.

    0 when it was neither: the engine was made to run an instruction alone (`Engine.run_alone`).
    """
    code = _code_before(state, memory)
    if state.bits != 64 and code[-1:] == bytes((_POP_SS,)):
        return MOV_SS
    if any(_is_mov_ss(code[-length:], state.bits) for length in range(2, len(code) + 1)):
        return MOV_SS
    return STI if code[-1:] == bytes((_STI,)) else 0


def _code_before(state: ProcessorState, memory: LinearMemory) -> bytes:
    """Up to 15 bytes before RIP, as many as may be fetched."""
    end = state.linear_rip
    in_page = (end - 1) % PAGE_SIZE + 1
    for size in (MAX_INSTRUCTION_LENGTH, min(in_page, MAX_INSTRUCTION_LENGTH)):
        try:
            return memory.fetch(end - size, size)
        except (GuestFault, NestedFault):
            continue
    return b""


def _is_mov_ss(code: bytes, bits: int) -> bool:
    if _MOV_SEGMENT not in code[:-1]:
        return False
    try:
        decoded = decode(code, bits)
    except Undecodable:
        return False
    target = decoded.operands[0] if decoded.operands else None
    return (decoded.length == len(code) and decoded.mnemonic == "mov" and isinstance(target, RegisterOperand)
            and target.name == "ss")
