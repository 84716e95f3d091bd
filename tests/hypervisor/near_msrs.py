"""What is near the truth in a write to each MSR: pages where nothing stands, live vectors, timers that soon expire.

A value of `ANYTHING` is as likely for every MSR; the rows below are what makes a guest's synthetic interrupt
controller, its timers and its APIC work, so that what comes later meets them at work.
"""

from __future__ import annotations

import random

from hv.spec.msrs import SYNTHETIC_MSRS, X2APIC_MSRS, Msr
from tests.hypervisor.near import FREE_PAGES, Draw, one_of

_PAGE_FLAGS = (1, 1, 1, 1, 1, 0, 3, 0xFFF)


def _page(chance: random.Random) -> int:
    return chance.choice((*FREE_PAGES, *FREE_PAGES, 0, 0x61, 0x3FF, 0x400, 1 << 28)) << 12 | chance.choice(_PAGE_FLAGS)


def _sint(chance: random.Random) -> int:
    return chance.choice((0x52, 0x41, 0x30, 0xFF, 0x10, 0xF)) | chance.choice((0, 0, 0, 1, 2, 4)) << 16


def _timer(chance: random.Random) -> int:
    direct = chance.choice((0, 0, 1)) << 12 | chance.choice((0x41, 0x52, 0xF)) << 4
    return chance.randrange(16) | direct | chance.choice((2, 2, 3, 15, 0)) << 16


def _ticks(chance: random.Random) -> int:
    """Of a one-shot timer an absolute time, of a periodic one a distance; units of 100 ns."""
    return chance.choice((0, 1, 10, 100, 1000, 5000, 10_000, 20_000, 1 << 40, (1 << 64) - 1))


def _icr(chance: random.Random) -> int:
    kind, shorthand = chance.choice((0, 0, 0, 1, 4, 5, 6, 2, 7)), chance.choice((0, 0, 1, 2, 3))
    vector = 8 if kind == 6 else chance.choice((0x41, 0x52, 0x30, 0xF, 0))
    return vector | kind << 8 | 1 << 14 | shorthand << 18 | chance.choice((0, 1, 2, 0xFF)) << chance.choice((32, 56))


_VECTOR = one_of(0x41, 0x52, 0x30, 0xF)
_LVT = one_of(0x10000, 0x700, 0x41, 0x20041, 0x40041, 0x60041, 0x400)
_SWITCH = one_of(0, 1, 1, 2)
_M = Msr
NEAR_MSRS: dict[int, Draw] = {
    **dict.fromkeys((_M.HV_HYPERCALL, _M.HV_REFERENCE_TSC, _M.HV_VP_ASSIST_PAGE, _M.HV_SIMP, _M.HV_SIEFP, _M.HV_SIRBP,
                     _M.HV_STATS_PARTITION_RETAIL_PAGE, _M.HV_STATS_VP_RETAIL_PAGE), _page),
    **dict.fromkeys(range(_M.HV_SINT0, _M.HV_SINT15 + 1), _sint),
    **dict.fromkeys(range(_M.HV_STIMER0_CONFIG, _M.HV_STIMER3_COUNT, 2), _timer),
    **dict.fromkeys(range(_M.HV_STIMER0_COUNT, _M.HV_STIMER3_COUNT + 1, 2), _ticks),
    **dict.fromkeys((_M.HV_ICR, _M.X2APIC_ICR), _icr), _M.X2APIC_SELF_IPI: _VECTOR,
    **dict.fromkeys((_M.HV_EOI, _M.X2APIC_EOI, _M.HV_EOM), one_of(0, 0, 0, 1)),
    **dict.fromkeys((_M.HV_TPR, _M.X2APIC_TPR), one_of(0, 0, 0x40, 0x50, 0xF0, 0x100)),
    **dict.fromkeys((_M.HV_SCONTROL, _M.HV_NPIEP_CONFIG, _M.HV_TSC_EMULATION_CONTROL, _M.HV_TSC_INVARIANT_CONTROL),
                    _SWITCH),
    **dict.fromkeys((_M.X2APIC_LVT_TIMER, _M.X2APIC_LVT_ERROR, _M.X2APIC_LVT_LINT0), _LVT),
    **dict.fromkeys((_M.X2APIC_INITIAL_COUNT, _M.TSC_DEADLINE), one_of(0, 1, 1000, 100_000)),
    _M.HV_REENLIGHTENMENT_CONTROL: one_of(0x41 | 1 << 16, 0, 1 << 32), _M.X2APIC_SVR: one_of(0x1FF, 0xFF, 0x1FF),
    _M.APIC_BASE: one_of(0xFEE0_0900, 0xFEE0_0D00, 0xFEE0_0800, 0xFEE0_0C00, 0x6_0900, 0xFEE0_0000),
    _M.HV_GUEST_OS_ID: one_of(0x8100_0000_0001_0000, 0x8100_0000_0001_0000, 0), _M.HV_RESET: one_of(0, 0, 0, 2),
    _M.HV_CRASH_P3: one_of(0x62000, 0, 1 << 63), _M.HV_CRASH_P4: one_of(16, 4096, 4097),
    _M.HV_CRASH_CTL: one_of(1 << 63, 3 << 62), _M.HV_SYNTH_DEBUG_CONTROL: one_of(1 | 16 << 16, 2, 3),
    **dict.fromkeys((_M.HV_SYNTH_DEBUG_SEND_BUFFER, _M.HV_SYNTH_DEBUG_RECEIVE_BUFFER),
                    one_of(0x62000, 0x63000, 1 << 63)),
}
_ROWS = tuple(NEAR_MSRS)
_NAMED = tuple(int(index) for index in Msr)


def an_msr(chance: random.Random) -> int:
    """One to read or write: mostly one that does something."""
    kind = chance.randrange(16)
    if kind < 10:
        return chance.choice(_ROWS)
    if kind < 13:
        return chance.choice(_NAMED)
    if kind < 15:
        return chance.choice((SYNTHETIC_MSRS, X2APIC_MSRS))[chance.randrange(0x100)]
    return chance.getrandbits(32)


def a_value(chance: random.Random, index: int) -> int:
    """What to write to it."""
    near = NEAR_MSRS.get(index)
    if near is not None and chance.random() < 0.9:
        return near(chance)
    return chance.choice((
        0, 1, chance.getrandbits(64), 1 << chance.randrange(64), chance.randrange(0x200) << 12 | chance.randrange(4),
        0x10000 | chance.randrange(256), chance.randrange(16, 256), chance.getrandbits(20), (1 << 64) - 1))
