"""The PC platform: which address, port and interrupt line is whose. What a partition with a PC board is built after.

Ports and lines are those of the IBM PC/AT, as the "Intel 82371 (PIIX)" and "ICH" data sheets keep them; addresses in
memory are those of Intel's chipsets since the 8254x ("I/O APIC", "HPET", "VT-d"); the ACPI ports are our choice, and
the FADT names them.
"""

from __future__ import annotations

from enum import IntEnum

from hv.spec.apic import DEFAULT_BASE as LOCAL_APIC_GPA

__all__ = ["LOCAL_APIC_GPA"]

# --- Guest-physical memory -----------------------------------------------------------------------

EBDA_GPA = 0x9F000                      # end of conventional memory
LEGACY_HOLE = range(0xA0000, 0x100000)  # VGA memory and ROMs: no RAM for an operating system
VGA_TEXT_GPA = 0xB8000                  # 80 x 25 characters, two bytes each
BIOS_GPA = 0xE0000                      # the BIOS area, 0xE0000..0xFFFFF: the RSDP is in it
LARGEST_LOW_MEMORY = 0xE000_0000        # RAM ends here at the latest
ECAM_GPA, ECAM_BUSES = 0xE000_0000, 16  # PCI Express configuration space: 1 MiB for each bus
PCI_WINDOW = range(0xF000_0000, 0xFEC0_0000)    # where BARs are
IO_APIC_GPA = 0xFEC0_0000
HPET_GPA = 0xFED0_0000
VIRTUAL_IOMMU_GPA = 0xFED9_0000

# --- I/O ports -----------------------------------------------------------------------------------

PIC_MASTER, PIC_SLAVE, PIC_TRIGGER = range(0x20, 0x22), range(0xA0, 0xA2), range(0x4D0, 0x4D2)
PIT, PIT_HZ = range(0x40, 0x44), 1_193_182
KEYBOARD_DATA, KEYBOARD_COMMAND = 0x60, 0x64
SYSTEM_CONTROL_B = 0x61                 # gate and output of the timer's channel 2
CMOS = range(0x70, 0x72)
POST_PORT = 0x80
SYSTEM_CONTROL_A = 0x92                 # A20, fast reset
DEBUG_EXIT = range(0xF4, 0xF8)          # isa-debug-exit: ends with status value * 2 + 1
COM1_PORTS = range(0x3F8, 0x400)
FW_CFG = range(0x510, 0x512)            # selector, data
ACPI_EVENT = range(0x600, 0x604)        # PM1a_EVT_BLK: status, enable
ACPI_CONTROL = range(0x604, 0x606)      # PM1a_CNT_BLK
ACPI_TIMER = range(0x608, 0x60C)        # PM_TMR_BLK
ACPI_TIMER_HZ = 3_579_545               # 32 bits: FADT flag TMR_VAL_EXT
ACPI_S5 = 0                             # SLP_TYP of the state that is off, for \_S5
PCI_ADDRESS, PCI_DATA = range(0xCF8, 0xCFC), range(0xCFC, 0xD00)
RESET_CONTROL = 0xCF9                   # one byte of PCI_ADDRESS's dword, and a register of its own


class Irq(IntEnum):
    """Lines of the two 8259s; the I/O APIC's pin of the same number, but for TIMER, which is on pin 2."""

    TIMER = 0
    KEYBOARD = 1
    CASCADE = 2
    COM2 = 3
    COM1 = 4
    RTC = 8
    ACPI = 9                            # the SCI: level-triggered
    MOUSE = 12


TIMER_PIN = 2                           # of the I/O APIC, for Irq.TIMER: MADT "Interrupt Source Override"
IO_APIC_PINS = 24
IO_APIC_ID = 0xF                        # its register has four bits, and its ids are no processor's
IO_APIC_RID = 0xF0F8                    # F0:1F.0: who its messages are from, for a remapping unit; DMAR says it
PCI_LINES = range(16, 20)               # pins of the I/O APIC for INTA..INTD of PCI
HPET_LINES = range(20, 24)              # pins that a timer of the HPET can have


def pci_line(device: int, pin: int) -> int:
    """The pin of the I/O APIC for INTA (*pin* 0) to INTD of a device on bus 0: its neighbours have others."""
    return PCI_LINES[(device + pin) % len(PCI_LINES)]
