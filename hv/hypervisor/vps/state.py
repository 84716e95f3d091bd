"""The states of a VP that are no registers: saved as bytes, and taken over again.

TLFS "HvCallGetVpState". One pair of functions for each kind. What is taken over was possibly made by nobody: every
field is checked before the first is stored, and INVALID_SAVE_RESTORE_STATE leaves the VP as it was.
# Simplified: messages that wait for a slot of the SynIC are no part of any state, and stay where they are; nor is what
# the VP assist page holds, nor the time-unhalted timer's place in its period. No kind of state has a place for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.timers.stimer import RESERVED
from hv.machine.apic_registers import value_of
from hv.spec.apic import (
    LOWEST_LEGAL_VECTOR,
    LVT_READ_ONLY,
    LVT_WRITABLE,
    ApicRegister,
    DivideConfiguration,
    Icr,
    Lvt,
    Svr,
    XapicDestination,
)
from hv.spec.fxsave import FCW_INIT, MXCSR_MASK, FxSaveImage
from hv.spec.hv_status import HvStatus
from hv.spec.vp_state import HvGetSetVpStateType, LocalApicState, SyntheticTimersState, XsaveArea
from hv.spec.x86 import PAGE_SIZE

if TYPE_CHECKING:
    from hv.hypervisor.vps.vp import VirtualProcessor
    from hv.machine.apic import LocalApic

R = ApicRegister
X87, SSE = 1, 2                         # components of an XSAVE area
_U32 = 0xFFFF_FFFF
_LVT = {R.LVT_TIMER: "lvt_timer", R.LVT_THERMAL: "lvt_thermal", R.LVT_PERFORMANCE: "lvt_perfmon",
        R.LVT_LINT0: "lvt_lint0", R.LVT_LINT1: "lvt_lint1", R.LVT_ERROR: "lvt_error", R.LVT_CMCI: "lvt_cmci"}
_ILLEGAL_VECTORS = (1 << LOWEST_LEGAL_VECTOR) - 1
_ERRORS = 0xFF
Save = Callable[["VirtualProcessor"], bytes]
Restore = Callable[["VirtualProcessor", bytes], None]


class State(NamedTuple):
    """One kind of state: its size in bytes, and its two ways."""

    size: int
    save: Save
    restore: Restore


def _require(condition: object, text: str) -> None:
    if not condition:
        raise HypercallError(HvStatus.INVALID_SAVE_RESTORE_STATE, text)


# --- local APIC ---------------------------------------------------------------------------------------------------

def _save_apic(vp: VirtualProcessor) -> bytes:
    apic: LocalApic = vp.apic
    kept, timer = apic.save(), apic.timer
    return LocalApicState(
        apic_id=value_of(apic, R.ID), version=value_of(apic, R.VERSION), ldr=value_of(apic, R.LDR), dfr=kept["dfr"],
        spurious=kept["svr"], isr=_words(kept["isr"]), tmr=_words(kept["tmr"]), irr=_words(kept["irr"]),
        esr=kept["esr"], icr_high=kept["icr"] >> 32, icr_low=kept["icr"] & _U32, error_status=kept["errors"],
        initial_count=timer.initial, counter_value=timer.current, divide_configuration=timer.divide,
        **{name: apic.lvt[entry] for entry, name in _LVT.items()}).pack()


def _restore_apic(vp: VirtualProcessor, data: bytes) -> None:
    """TPR, IA32_APIC_BASE and the TSC deadline are registers, and stay as they are."""
    state, apic = LocalApicState.parse(data), vp.apic
    _check_apic(apic, state)
    kept = apic.save()
    lvt = {entry: getattr(state, name) & ~LVT_READ_ONLY for entry, name in _LVT.items()}
    timer = Lvt(lvt[R.LVT_TIMER])
    apic.restore({
        **kept, "irr": _vectors(state.irr), "isr": _vectors(state.isr), "tmr": _vectors(state.tmr),
        "ldr": kept["ldr"] if apic.is_x2apic else state.ldr, "dfr": state.dfr, "svr": state.spurious,
        "esr": state.esr, "errors": state.error_status, "icr": state.icr_high << 32 | state.icr_low,
        "lvt": [lvt[entry] for entry in LVT_WRITABLE],
        "timer": {**kept["timer"], "mode": timer.timer_mode, "masked": timer.masked, "initial": state.initial_count,
                  "divide": state.divide_configuration, "count": state.counter_value,
                  "gate": 0}})


def _check_apic(apic: LocalApic, state: LocalApicState) -> None:
    for name, register in (("apic_id", R.ID), ("version", R.VERSION)):
        _require(getattr(state, name) == value_of(apic, register), f"{name} is not that of the vp")
    if apic.is_x2apic:
        _require(state.ldr == value_of(apic, R.LDR), "the logical id is not that of the vp")
    else:
        _require(not state.ldr & XapicDestination.RESERVED, f"ldr {state.ldr:#x}: reserved bits")
    _require(not state.spurious & Svr.RESERVED, f"spurious {state.spurious:#x}: reserved bits")
    for entry, name in _LVT.items():
        value = getattr(state, name)
        _require(not value & ~(LVT_WRITABLE[entry] | LVT_READ_ONLY), f"{name} {value:#x}: reserved bits")
    for name in ("isr", "tmr", "irr"):
        _require(not _vectors(getattr(state, name)) & _ILLEGAL_VECTORS, f"{name} has a vector below 16")
    _require(not (state.icr_high << 32 | state.icr_low) & Icr.RESERVED, "icr: reserved bits")
    _require(not (state.esr | state.error_status) & ~_ERRORS, "errors that there are not")
    _require(not state.divide_configuration & DivideConfiguration.RESERVED, "divide configuration: reserved bits")
    _require(state.counter_value <= state.initial_count, "the timer's count is above its initial one")


def _words(vectors: int) -> tuple[int, ...]:
    return tuple(vectors >> 32 * n & _U32 for n in range(8))


def _vectors(words: Any) -> int:
    return sum(int(word) << 32 * n for n, word in enumerate(words))


# --- x87 and SSE --------------------------------------------------------------------------------------------------

def _save_xsave(vp: VirtualProcessor) -> bytes:
    return XsaveArea(legacy=vp.regs.fp.save(), components=X87 | SSE).pack()


def _restore_xsave(vp: VirtualProcessor, data: bytes) -> None:
    """What XRSTOR does: a component whose bit is 0 becomes as it is after reset; MXCSR is loaded in any case."""
    area = XsaveArea.parse(data)
    _require(not area.components & ~(X87 | SSE), f"components {area.components:#x}")
    _require(not area.compaction and not any(area.reserved), "the header is not that of a standard area")
    image = area.legacy
    _require(not image.mxcsr & ~MXCSR_MASK, f"mxcsr {image.mxcsr:#x}: reserved bits")
    if not area.components & X87:
        image = FxSaveImage(control=FCW_INIT, mxcsr=image.mxcsr, xmm=image.xmm)
    if not area.components & SSE:
        image.xmm = FxSaveImage().xmm
    vp.regs.fp.load(image)


# --- SynIC pages and timers ---------------------------------------------------------------------------------------

def _save_messages(vp: VirtualProcessor) -> bytes:
    return vp.synic.space.memory.read(vp.synic.message_page, PAGE_SIZE)


def _restore_messages(vp: VirtualProcessor, data: bytes) -> None:
    vp.synic.space.memory.write(vp.synic.message_page, data)
    vp.synic.scan()


def _save_event_flags(vp: VirtualProcessor) -> bytes:
    return vp.synic.space.memory.read(vp.synic.event_page, PAGE_SIZE)


def _restore_event_flags(vp: VirtualProcessor, data: bytes) -> None:
    vp.synic.space.memory.write(vp.synic.event_page, data)


def _save_timers(vp: VirtualProcessor) -> bytes:
    return vp.timers.save().pack()


def _restore_timers(vp: VirtualProcessor, data: bytes) -> None:
    state = SyntheticTimersState.parse(data)
    timers: Any = state.timers
    for number, timer in enumerate(timers):
        _require(not timer.config & RESERVED, f"configuration {timer.config:#x} of timer {number}: reserved bits")
    vp.timers.restore(state)


T = HvGetSetVpStateType
STATES: dict[int, State] = {
    T.LAPIC_STATE: State(LocalApicState.SIZE, _save_apic, _restore_apic),
    T.XSAVE: State(XsaveArea.SIZE, _save_xsave, _restore_xsave),
    T.SIM_PAGE: State(PAGE_SIZE, _save_messages, _restore_messages),
    T.SIEF_PAGE: State(PAGE_SIZE, _save_event_flags, _restore_event_flags),
    T.SYNTHETIC_TIMERS: State(SyntheticTimersState.SIZE, _save_timers, _restore_timers),
}
