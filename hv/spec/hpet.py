"""The high precision event timers as Intel's "IA-PC HPET Specification" 1.0a lays them out.

No behaviour: that is `hv/root/vdev/hpet.py`.
"""

from __future__ import annotations

from hv.spec.layout import Register, bits
from hv.spec.numbering import Numbering

WINDOW_SIZE = 0x400                 # bytes that are decoded
TIMER_SIZE = 0x20                   # from one timer's registers to the next one's


class HpetRegister(Numbering):
    """Offsets of the 64-bit registers; "Register Model: Memory Map"."""

    CAPABILITIES = 0x000
    CONFIGURATION = 0x010
    STATUS = 0x020
    COUNTER = 0x0F0
    TIMERS = 0x100


class HpetTimerRegister(Numbering):
    """Offsets from a timer's first register."""

    CONFIGURATION = 0x00
    COMPARATOR = 0x08
    FSB_ROUTE = 0x10


class HpetCapabilities(Register):
    """"General Capabilities and ID Register"."""

    revision = bits(7, 0)
    last_timer = bits(12, 8)
    wide = bits(13)                 # the counter has 64 bits
    legacy = bits(15)               # "legacy replacement" is there
    vendor = bits(31, 16)           # as of PCI
    period = bits(63, 32)           # of the counter, in 10^-15 s; 100 ns at the most


class HpetConfiguration(Register):
    """"General Configuration Register"."""

    enabled = bits(0)               # the counter runs, and timers may interrupt
    legacy = bits(1)                # timer 0 has the interval timer's line, timer 1 the real-time clock's


class HpetTimer(Register):
    """"Timer N Configuration and Capabilities Register"."""

    level = bits(1)                 # else an edge for each time it expires
    enabled = bits(2)               # it interrupts
    periodic = bits(3)
    can_be_periodic = bits(4)       # read-only
    wide = bits(5)                  # likewise: it has 64 bits
    set_accumulator = bits(6)       # the next write to the comparator is more than the period; reads 0
    narrow = bits(8)                # it has 32 bits, because software wants so
    route = bits(13, 9)             # which pin of the I/O APIC; one that is not in `routes` is not taken
    fsb = bits(14)
    can_fsb = bits(15)              # read-only: it sends messages
    routes = bits(63, 32)           # read-only: a bit for each pin that it can have
