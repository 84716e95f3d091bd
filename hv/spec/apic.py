"""The local APIC as the SDM's chapter "Advanced Programmable Interrupt Controller (APIC)" lays it out.

Register offsets in the 4 KiB page, the x2APIC MSR that stands for each, the interrupt command register, the local
vector table, and the MSI address and data a device writes. No behaviour: that is `hv/machine/apic.py`.
"""

from __future__ import annotations

from typing import ClassVar

from hv.spec.layout import Register, bits
from hv.spec.numbering import Flags, Numbering

DEFAULT_BASE = 0xFEE00000       # of the page, and of the window where a write is an interrupt
INTERRUPT_WINDOW_END = 0xFEF00000
X2APIC_MSR_FIRST = 0x800        # MSR number = 0x800 + (offset >> 4)
X2APIC_MSR_LAST = 0x83F
VERSION = 0x01060014            # integrated APIC, 7 LVT entries, EOI-broadcast suppression
LOWEST_LEGAL_VECTOR = 16
BROADCAST_XAPIC = 0xFF
BROADCAST_X2APIC = 0xFFFFFFFF
LVT_MASKED = 0x00010000


class ApicRegister(Numbering):
    """Offsets in the page; SDM "Local APIC Register Address Map"."""

    ID = 0x020
    VERSION = 0x030
    TPR = 0x080
    APR = 0x090                 # xAPIC only
    PPR = 0x0A0
    EOI = 0x0B0
    RRD = 0x0C0                 # xAPIC only
    LDR = 0x0D0
    DFR = 0x0E0                 # xAPIC only
    SVR = 0x0F0
    ISR = 0x100                 # 8 registers of 32 vectors each, 0x10 apart; so are TMR and IRR
    TMR = 0x180
    IRR = 0x200
    ESR = 0x280
    LVT_CMCI = 0x2F0
    ICR_LOW = 0x300
    ICR_HIGH = 0x310            # xAPIC only
    LVT_TIMER = 0x320
    LVT_THERMAL = 0x330
    LVT_PERFORMANCE = 0x340
    LVT_LINT0 = 0x350
    LVT_LINT1 = 0x360
    LVT_ERROR = 0x370
    TIMER_INITIAL = 0x380
    TIMER_CURRENT = 0x390
    TIMER_DIVIDE = 0x3E0
    SELF_IPI = 0x3F0            # x2APIC only

    @property
    def msr(self) -> int:
        """The MSR that stands for this register in x2APIC mode; SDM "x2APIC Register Address Space"."""
        return X2APIC_MSR_FIRST + (self >> 4)


# What software may change of each local vector table entry; SDM "Local Vector Table (LVT)".
LVT_WRITABLE: dict[ApicRegister, int] = {
    ApicRegister.LVT_CMCI: 0x000107FF,
    ApicRegister.LVT_TIMER: 0x000700FF,
    ApicRegister.LVT_THERMAL: 0x000107FF,
    ApicRegister.LVT_PERFORMANCE: 0x000107FF,
    ApicRegister.LVT_LINT0: 0x0001A7FF,
    ApicRegister.LVT_LINT1: 0x0001A7FF,
    ApicRegister.LVT_ERROR: 0x000100FF,
}
LVT_READ_ONLY = 0x5000          # delivery status and remote IRR: a write of them is ignored, not refused


class ApicBase(Register):
    """IA32_APIC_BASE; SDM "Local APIC Status and Location"."""

    bsp = bits(8)               # read-only: this processor booted the machine
    extended = bits(10)         # EXTD, x2APIC mode
    enabled = bits(11)          # EN
    page = bits(51, 12)         # frame of the register page


class Svr(Register):
    """Spurious-interrupt vector register; SDM "Spurious Interrupt"."""

    WIDTH: ClassVar[int] = 32
    vector = bits(7, 0)
    enabled = bits(8)           # software enable
    focus_disabled = bits(9)
    no_eoi_broadcast = bits(12)


class DeliveryMode(Numbering):
    """How a message acts on its target; SDM "Interrupt Command Register (ICR)", "Local Vector Table"."""

    FIXED = 0
    LOWEST_PRIORITY = 1
    SMI = 2
    RESERVED = 3
    NMI = 4
    INIT = 5
    STARTUP = 6
    EXTINT = 7


class Shorthand(Numbering):
    """Destination shorthand of an ICR."""

    NONE = 0
    SELF = 1
    ALL = 2
    OTHERS = 3


class TimerMode(Numbering):
    """Timer mode of the timer's LVT entry; SDM "APIC Timer"."""

    ONE_SHOT = 0
    PERIODIC = 1
    TSC_DEADLINE = 2
    RESERVED = 3


class Lvt(Register):
    """One local vector table entry; SDM "Local Vector Table (LVT)"."""

    WIDTH: ClassVar[int] = 32
    vector = bits(7, 0)
    delivery_mode = bits(10, 8)     # DeliveryMode; not for the timer and the error entry
    delivery_status = bits(12)      # read-only
    polarity = bits(13)             # LINT only
    remote_irr = bits(14)           # LINT only, read-only
    level = bits(15)                # LINT only
    masked = bits(16)
    timer_mode = bits(18, 17)       # TimerMode, timer only


class Icr(Register):
    """Interrupt command register; SDM "Interrupt Command Register (ICR)"."""

    vector = bits(7, 0)
    delivery_mode = bits(10, 8)     # DeliveryMode
    logical = bits(11)              # destination mode
    delivery_status = bits(12)      # reads 0: a message is delivered at once
    level = bits(14)                # 0 only de-asserts INIT
    trigger = bits(15)              # 1 = level
    shorthand = bits(19, 18)        # Shorthand
    destination = bits(63, 32)      # xAPIC: only bits 63:56, see XapicDestination


class XapicDestination(Register):
    """A register with an 8-bit APIC id at the top: ID, LDR, ICR high."""

    WIDTH: ClassVar[int] = 32
    id = bits(31, 24)


class DivideConfiguration(Register):
    """Timer divide; SDM "Divide Configuration Register". Three bits that are not neighbours."""

    WIDTH: ClassVar[int] = 32
    low = bits(1, 0)
    high = bits(3)

    @property
    def divisor(self) -> int:
        """Bus clocks per count: 2, 4, .. 128, and 1 for the code 7."""
        code = self.high << 2 | self.low
        return 1 if code == 7 else 2 << code


class Esr(Flags):
    """Error status; SDM "Error Handling"."""

    SEND_CHECKSUM = 1 << 0
    RECEIVE_CHECKSUM = 1 << 1
    SEND_ACCEPT = 1 << 2            # nobody took the message
    RECEIVE_ACCEPT = 1 << 3
    REDIRECTIBLE_IPI = 1 << 4
    SEND_ILLEGAL_VECTOR = 1 << 5
    RECEIVE_ILLEGAL_VECTOR = 1 << 6
    ILLEGAL_REGISTER = 1 << 7       # xAPIC only; x2APIC raises #GP


class MsiAddress(Register):
    """Where a device writes to interrupt; SDM "Message Address Register Format"."""

    logical = bits(2)
    redirection_hint = bits(3)
    remappable = bits(4)            # VT-d: the rest is RemappableAddress
    extended_destination = bits(11, 5)      # bits 14..8 of the destination, where the platform has them
    destination = bits(19, 12)
    window = bits(63, 20)           # 0xFEE


class MsiData(Register):
    """What it writes; SDM "Message Data Register Format"."""

    WIDTH: ClassVar[int] = 32
    vector = bits(7, 0)
    delivery_mode = bits(10, 8)     # DeliveryMode
    assert_level = bits(14)
    level = bits(15)                # trigger mode


MSI_WINDOW = DEFAULT_BASE >> 20     # value of MsiAddress.window
