"""PAUSE, MONITOR and MWAIT: what a guest does while it waits for something.

SDM "Changes to Instruction Behavior in VMX Non-Root Operation", "Controls for PAUSE-Loop Exiting".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hv.instructions.decode import Decoded
from hv.machine.faults import Access, GuestFault
from hv.machine.paging import LINEAR_32, LINEAR_64
from hv.spec.exits import ExitReason, MwaitQualification
from hv.spec.vmcs import PrimaryControls
from hv.spec.x86 import Vector
from hv.vmx.exit import VmExit
from hv.vmx.intercepts.operands import advance, length_of

if TYPE_CHECKING:
    from hv.vmx.vcpu import Vcpu

_PAUSE_EXITING = PrimaryControls.PAUSE_EXITING.value
_MONITOR_EXITING, _MWAIT_EXITING = PrimaryControls.MONITOR_EXITING.value, PrimaryControls.MWAIT_EXITING.value
_OVERRIDES = {0x26: "es", 0x2E: "cs", 0x36: "ss", 0x3E: "ds", 0x64: "fs", 0x65: "gs"}
_PAUSE, _PAUSE_EXIT = 0x90F3, ExitReason.PAUSE        # F3 90; naming a member of an enumeration costs a call
_NEVER = -1


class Waiting:
    """What the processor remembers of a guest that waits. A VM entry ends it: *entries* is the count of those."""

    def __init__(self) -> None:
        self._entries = _NEVER          # at the last PAUSE at CPL 0
        self._first = self._last = 0    # TSC of the loop's first and last PAUSE
        self._armed = _NEVER            # entries at the last MONITOR

    def loops(self, entries: int, tsc: int, gap: int, window: int) -> bool:
        """A PAUSE at CPL 0; True when it belongs to a loop that has lasted longer than *window* ticks."""
        if entries != self._entries or tsc - self._last > gap:
            self._entries, self._first = entries, tsc
        self._last = tsc
        return tsc - self._first > window

    def arm(self, entries: int) -> None:
        """Address-range monitoring begins."""
        self._armed = entries

    def is_armed(self, entries: int) -> bool:
        """# Simplified: a store to the range does not end the monitoring."""
        return self._armed == entries

    def disarm(self) -> None:
        """MWAIT ends it."""
        self._armed = _NEVER


def pause(vcpu: Vcpu, detail: int) -> VmExit | None:
    controls = vcpu.controls
    if controls.primary & _PAUSE_EXITING or (
            controls.pause_loops and not vcpu.state.cpl
            and vcpu.waiting.loops(_entries(vcpu), vcpu.clock.tsc, *controls.pause_loops)):
        plain = vcpu.engine.code_head() & 0xFFFF == _PAUSE
        return VmExit(_PAUSE_EXIT, 0, 2 if plain else length_of(vcpu))
    advance(vcpu, length_of(vcpu))
    return None


def _entries(vcpu: Vcpu) -> int:
    """Each VM exit is followed by an entry."""
    return sum(vcpu.exits)


def monitor(vcpu: Vcpu, decoded: Decoded) -> VmExit | bool:
    """SDM "MONITOR - Set Up Monitor Address": #UD at CPL > 0, then the exit, then its faults."""
    state = vcpu.state
    if state.cpl:
        return False
    if vcpu.controls.primary & _MONITOR_EXITING:
        return VmExit(ExitReason.MONITOR, 0, decoded.length)
    if state.rcx & _word(state.bits):
        raise GuestFault(Vector.GP, 0)
    vcpu.memory.check(_monitored(vcpu), 1, Access.READ)
    vcpu.waiting.arm(_entries(vcpu))
    advance(vcpu, decoded.length)
    return True


def _monitored(vcpu: Vcpu) -> int:
    """The linear address: DS:rAX, or another segment by a prefix."""
    state = vcpu.state
    prefixes, _, _ = vcpu.memory.fetch(state.linear_rip, 15).partition(b"\x0f")
    segment = next((_OVERRIDES[byte] for byte in reversed(prefixes) if byte in _OVERRIDES), "ds")
    size = {16: 32, 32: 16, 64: 32}[state.bits] if 0x67 in prefixes else state.bits
    offset: int = state.rax & (1 << size) - 1
    if state.bits == 64 and segment not in ("fs", "gs"):
        return offset
    base: int = getattr(state, segment).base
    return base + offset & (LINEAR_64 if state.bits == 64 else LINEAR_32)


def mwait(vcpu: Vcpu, decoded: Decoded) -> VmExit | bool:
    """SDM "MWAIT - Monitor Wait": without the exit it is the hint that the manual lets it be, and does not wait."""
    state = vcpu.state
    if state.cpl:
        return False
    armed = vcpu.waiting.is_armed(_entries(vcpu))
    if vcpu.controls.primary & _MWAIT_EXITING:
        return VmExit(ExitReason.MWAIT, MwaitQualification(armed=int(armed)).raw, decoded.length)
    if state.rcx & _word(state.bits):           # no extension of it is offered
        raise GuestFault(Vector.GP, 0)
    vcpu.waiting.disarm()
    advance(vcpu, decoded.length)
    return True


def _word(bits: int) -> int:
    """ECX, or in 64-bit code RCX."""
    return LINEAR_64 if bits == 64 else LINEAR_32
