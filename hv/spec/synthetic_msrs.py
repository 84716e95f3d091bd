"""Every synthetic MSR: who may do what with it, whose it is, what it is after reset, which bits must stay clear.

TLFS "Synthetic MSRs". What a row says holds where the MSR is there; a hypervisor offers those whose privilege CPUID
reports. A bit of `must_be_zero` is #GP(0) when it is written; a reserved bit that is not in it is kept. Where the
manual leaves that open, the row is what we decided.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from hv.spec.cpuid import HvPrivilege
from hv.spec.layout import Register
from hv.spec.msrs import (
    C_STATES,
    CRASH_PARAMETERS,
    SINT_COUNT,
    SINT_RESET,
    STIMER_COUNT,
    HvCrashCtl,
    HvGuestOsId,
    HvHypercallMsr,
    HvNpiepConfig,
    HvReenlightenmentControl,
    HvReferenceTsc,
    HvReset,
    HvScontrol,
    HvSiefp,
    HvSimp,
    HvSirbp,
    HvStatsPage,
    HvStimerConfig,
    HvSynicSint,
    HvTscEmulationControl,
    HvTscEmulationStatus,
    HvTscInvariantControl,
    HvUnhaltedTimerConfig,
    HvVpAssistPage,
    Msr,
)

P = HvPrivilege
ALL = (1 << 64) - 1


class Scope(Enum):
    """Whose register it is."""

    PARTITION = "partition"     # one, and every VP sees it
    VP = "VP"                   # each VP has its own


class SyntheticMsr(NamedTuple):
    """One row. *access* is "RW", "R" (WRMSR is #GP) or "W" (RDMSR is #GP); a *reset* of None is not one fixed value."""

    msr: Msr
    access: str
    scope: Scope
    privilege: HvPrivilege | None       # None: everybody may
    meaning: str
    layout: type[Register] | None = None
    reset: int | None = 0
    must_be_zero: int = 0


def bit_range(high: int, low: int) -> int:
    """The mask of bits *high* down to *low*."""
    return (1 << high + 1) - (1 << low)


def _rows() -> Iterator[SyntheticMsr]:
    yield from _IDENTITY
    yield from _TIME
    yield from _APIC
    yield from _SYNIC
    for n in range(SINT_COUNT):
        yield SyntheticMsr(Msr(Msr.HV_SINT0 + n), "RW", Scope.VP, P.ACCESS_SYNIC_REGS,
                           f"what SINT {n} does with a message or an event: its vector, masked, AutoEOI, polling; an "
                           "unmasked one needs a vector of 16 or more", HvSynicSint, SINT_RESET)
    for n in range(STIMER_COUNT):
        yield SyntheticMsr(Msr(Msr.HV_STIMER0_CONFIG + 2 * n), "RW", Scope.VP, P.ACCESS_SYNTHETIC_TIMER_REGS,
                           f"mode of synthetic timer {n}: enabled, periodic, lazy, auto-enabled, direct; its SINT or "
                           "vector", HvStimerConfig, must_be_zero=bit_range(15, 13) | bit_range(63, 20))
        yield SyntheticMsr(Msr(Msr.HV_STIMER0_COUNT + 2 * n), "RW", Scope.VP, P.ACCESS_SYNTHETIC_TIMER_REGS,
                           f"synthetic timer {n}: reference time of its expiry, or its period, in 100 ns; 0 stops it")
    yield from _POWER
    yield from _STATISTICS
    yield from _DEBUG
    for n in range(CRASH_PARAMETERS):
        yield SyntheticMsr(Msr(Msr.HV_CRASH_P0 + n), "RW", Scope.PARTITION, None,
                           f"crash parameter {n}: the guest's own number{_CRASH_WORDS.get(n, '')}; survives a reset")
    yield from _GUEST
    for index in range(Msr.HV_NESTED_SCONTROL, Msr.HV_NESTED_EOM + 1):
        yield SyntheticMsr(Msr(index), "RW", Scope.VP, P.ACCESS_SYNIC_REGS,
                           f"{Msr(index - 0x1000).name} of the hypervisor below, for a nested one", reset=None)


_CRASH_WORDS = {3: ", or the address of its message", 4: ", or the size of its message in bytes, at most 4096"}

_IDENTITY = (
    SyntheticMsr(Msr.HV_GUEST_OS_ID, "RW", Scope.PARTITION, P.ACCESS_HYPERCALL_MSRS,
                 "who the guest's operating system is; 0 takes the hypercall page away", HvGuestOsId),
    SyntheticMsr(Msr.HV_HYPERCALL, "RW", Scope.PARTITION, P.ACCESS_HYPERCALL_MSRS,
                 "where the hypercall page is; it can be enabled once the guest has said who it is", HvHypercallMsr,
                 must_be_zero=bit_range(11, 2)),
    SyntheticMsr(Msr.HV_VP_INDEX, "R", Scope.VP, P.ACCESS_VP_INDEX, "the number of the VP", reset=None),
    SyntheticMsr(Msr.HV_RESET, "RW", Scope.PARTITION, P.ACCESS_RESET_REG,
                 "writing bit 0 resets the partition; reads 0", HvReset, must_be_zero=bit_range(63, 1)),
)
_TIME = (
    SyntheticMsr(Msr.HV_VP_RUNTIME, "R", Scope.VP, P.ACCESS_VP_RUN_TIME_REG, "100 ns that the VP ran", reset=None),
    SyntheticMsr(Msr.HV_TIME_REF_COUNT, "R", Scope.PARTITION, P.ACCESS_PARTITION_REFERENCE_COUNTER,
                 "100 ns since the partition was created", reset=None),
    SyntheticMsr(Msr.HV_REFERENCE_TSC, "RW", Scope.PARTITION, P.ACCESS_PARTITION_REFERENCE_TSC,
                 "where the page is that gives the reference time without an exit", HvReferenceTsc),
    SyntheticMsr(Msr.HV_TSC_FREQUENCY, "R", Scope.PARTITION, P.ACCESS_FREQUENCY_REGS, "Hz of the TSC", reset=None),
    SyntheticMsr(Msr.HV_APIC_FREQUENCY, "R", Scope.PARTITION, P.ACCESS_FREQUENCY_REGS,
                 "Hz that the timer of the local APIC counts, divided by one", reset=None),
    SyntheticMsr(Msr.HV_NPIEP_CONFIG, "RW", Scope.VP, None,
                 "which of SGDT, SIDT, SLDT and STR are kept from CPL 3", HvNpiepConfig,
                 must_be_zero=bit_range(63, 4)),
)
_APIC = (
    SyntheticMsr(Msr.HV_EOI, "W", Scope.VP, P.ACCESS_INTR_CTRL_REGS, "ends the interrupt in service",
                 must_be_zero=bit_range(63, 32)),
    SyntheticMsr(Msr.HV_ICR, "RW", Scope.VP, P.ACCESS_INTR_CTRL_REGS, "both halves of the APIC's ICR: sends an IPI"),
    SyntheticMsr(Msr.HV_TPR, "RW", Scope.VP, P.ACCESS_INTR_CTRL_REGS, "the APIC's task priority",
                 must_be_zero=bit_range(63, 8)),
    SyntheticMsr(Msr.HV_VP_ASSIST_PAGE, "RW", Scope.VP, P.ACCESS_INTR_CTRL_REGS,
                 "where the VP assist page is, empty when it appears", HvVpAssistPage),
)
_SYNIC = (
    SyntheticMsr(Msr.HV_SCONTROL, "RW", Scope.VP, P.ACCESS_SYNIC_REGS, "the SynIC is on", HvScontrol),
    SyntheticMsr(Msr.HV_SVERSION, "R", Scope.VP, P.ACCESS_SYNIC_REGS, "version of the SynIC", reset=1),
    SyntheticMsr(Msr.HV_SIEFP, "RW", Scope.VP, P.ACCESS_SYNIC_REGS, "where the page of event flags is", HvSiefp),
    SyntheticMsr(Msr.HV_SIMP, "RW", Scope.VP, P.ACCESS_SYNIC_REGS, "where the page of messages is", HvSimp),
    SyntheticMsr(Msr.HV_EOM, "RW", Scope.VP, P.ACCESS_SYNIC_REGS,
                 "a slot of the message page was emptied: whatever is written, what waits is delivered; reads 0"),
    SyntheticMsr(Msr.HV_SIRBP, "RW", Scope.VP, P.ACCESS_SYNIC_REGS, "where the page of event rings is", HvSirbp),
)
_POWER = (
    *(SyntheticMsr(Msr(Msr.HV_POWER_STATE_TRIGGER_C1 + n), "R", Scope.VP, P.CPU_MANAGEMENT,
                   f"reading it puts the logical processor into C{n + 1}") for n in range(C_STATES)),
    *(SyntheticMsr(Msr(Msr.HV_POWER_STATE_CONFIG_C1 + n), "RW", Scope.VP, P.CPU_MANAGEMENT,
                   f"how the logical processor gets into C{n + 1}") for n in range(C_STATES)),
)
_STATISTICS = (
    SyntheticMsr(Msr.HV_STATS_PARTITION_RETAIL_PAGE, "RW", Scope.PARTITION, P.ACCESS_STATS_REG,
                 "where the page of the partition's counters is", HvStatsPage),
    SyntheticMsr(Msr.HV_STATS_PARTITION_INTERNAL_PAGE, "RW", Scope.PARTITION, P.ACCESS_STATS_REG,
                 "where the page of the partition's internal counters is", HvStatsPage),
    SyntheticMsr(Msr.HV_STATS_VP_RETAIL_PAGE, "RW", Scope.VP, P.ACCESS_STATS_REG,
                 "where the page of the VP's counters is", HvStatsPage),
    SyntheticMsr(Msr.HV_STATS_VP_INTERNAL_PAGE, "RW", Scope.VP, P.ACCESS_STATS_REG,
                 "where the page of the VP's internal counters is", HvStatsPage),
)
_DEBUG = (
    SyntheticMsr(Msr.HV_SYNTH_DEBUG_CONTROL, "RW", Scope.PARTITION, P.ACCESS_DEBUG_MSRS,
                 "sends to the debugger, or receives"),
    SyntheticMsr(Msr.HV_SYNTH_DEBUG_STATUS, "R", Scope.PARTITION, P.ACCESS_DEBUG_MSRS, "what became of that"),
    SyntheticMsr(Msr.HV_SYNTH_DEBUG_SEND_BUFFER, "RW", Scope.PARTITION, P.ACCESS_DEBUG_MSRS,
                 "address of the page to send from"),
    SyntheticMsr(Msr.HV_SYNTH_DEBUG_RECEIVE_BUFFER, "RW", Scope.PARTITION, P.ACCESS_DEBUG_MSRS,
                 "address of the page to receive into"),
    SyntheticMsr(Msr.HV_SYNTH_DEBUG_PENDING_BUFFER, "RW", Scope.PARTITION, P.ACCESS_DEBUG_MSRS,
                 "address of the page whose first byte says that data wait"),
)
_GUEST = (
    SyntheticMsr(Msr.HV_GUEST_IDLE, "R", Scope.VP, P.ACCESS_GUEST_IDLE_REG,
                 "reading it idles the VP until an interrupt is pending, deliverable or not"),
    SyntheticMsr(Msr.HV_CRASH_CTL, "RW", Scope.PARTITION, None,
                 "reads what is supported; a write with crash_notify reports a crash, and is not kept", HvCrashCtl,
                 reset=HvCrashCtl(crash_notify=1, crash_message=1).raw),
    SyntheticMsr(Msr.HV_REENLIGHTENMENT_CONTROL, "RW", Scope.PARTITION, P.ACCESS_REENLIGHTENMENT_CONTROLS,
                 "the interrupt that tells of a migration to another TSC frequency", HvReenlightenmentControl,
                 must_be_zero=bit_range(15, 8) | bit_range(31, 17)),
    SyntheticMsr(Msr.HV_TSC_EMULATION_CONTROL, "RW", Scope.PARTITION, P.ACCESS_REENLIGHTENMENT_CONTROLS,
                 "after a migration the old TSC frequency is emulated", HvTscEmulationControl,
                 must_be_zero=bit_range(63, 1)),
    SyntheticMsr(Msr.HV_TSC_EMULATION_STATUS, "RW", Scope.PARTITION, P.ACCESS_REENLIGHTENMENT_CONTROLS,
                 "the TSC is emulated; a guest ends that by writing 0", HvTscEmulationStatus, must_be_zero=ALL),
    SyntheticMsr(Msr.HV_STIME_UNHALTED_TIMER_CONFIG, "RW", Scope.VP, None,
                 "the interrupt of the timer that counts while the VP is not halted", HvUnhaltedTimerConfig,
                 must_be_zero=bit_range(63, 9)),
    SyntheticMsr(Msr.HV_STIME_UNHALTED_TIMER_COUNT, "RW", Scope.VP, None, "its period in 100 ns; 0 stops it"),
    SyntheticMsr(Msr.HV_TSC_INVARIANT_CONTROL, "RW", Scope.PARTITION, P.ACCESS_TSC_INVARIANT_CONTROLS,
                 "CPUID reports the TSC as invariant; it cannot be taken back", HvTscInvariantControl,
                 must_be_zero=bit_range(63, 1)),
)

SYNTHETIC_MSR_TABLE: dict[int, SyntheticMsr] = {int(row.msr): row for row in _rows()}
