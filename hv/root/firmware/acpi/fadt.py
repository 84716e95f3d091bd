"""The FADT and the FACS: where the registers of ACPI are. ACPI "Fixed ACPI Description Table (FADT)"."""

from __future__ import annotations

from hv.root.firmware.board import Board
from hv.spec.acpi import NO_C2, NO_C3, AddressSpace, BootArchitecture, Facs, Fadt, FixedFeatures, GenericAddress
from hv.spec.pc import ACPI_CONTROL, ACPI_EVENT, ACPI_TIMER, RESET_CONTROL, Irq

RESET_VALUE = 6                 # to port 0xCF9: RST_CPU and SYS_RST
_MINOR_VERSION = 3              # ACPI 6.3
_CENTURY = 0x32                 # CMOS
_HYPERVISOR = b"MsHyperV"       # the vendor whose interfaces a guest finds; "Hypervisor Vendor Identity"
_FACS_VERSION = 2
_ACCESS = {8: 1, 16: 2, 32: 3}  # access_size by bits


def _ports(first: int, width: int, access: int) -> GenericAddress:
    """*width* bits of registers from port *first* on, read *access* bits at a time."""
    return GenericAddress(space_id=AddressSpace.SYSTEM_IO, bit_width=width, access_size=_ACCESS[access], address=first)


def _bits(ports: range) -> int:
    return 8 * len(ports)


def facs() -> bytes:
    """Nothing waits, and nobody holds the global lock."""
    return Facs(signature=b"FACS", length=Facs.SIZE, version=_FACS_VERSION).pack()


def fadt(board: Board, facs_gpa: int, dsdt_gpa: int) -> Fadt:
    """The table. No SMI, no GPE, no C2 or C3; the machine is in ACPI mode from the beginning."""
    return Fadt(
        firmware_ctrl=facs_gpa, dsdt=dsdt_gpa, x_dsdt=dsdt_gpa, sci_int=Irq.ACPI, minor_version=_MINOR_VERSION,
        pm1a_evt_blk=ACPI_EVENT.start, pm1_evt_len=len(ACPI_EVENT), x_pm1a_evt_blk=_ports(ACPI_EVENT.start, 32, 16),
        pm1a_cnt_blk=ACPI_CONTROL.start, pm1_cnt_len=len(ACPI_CONTROL),
        x_pm1a_cnt_blk=_ports(ACPI_CONTROL.start, _bits(ACPI_CONTROL), 16),
        pm_tmr_blk=ACPI_TIMER.start, pm_tmr_len=len(ACPI_TIMER),
        x_pm_tmr_blk=_ports(ACPI_TIMER.start, _bits(ACPI_TIMER), 32),
        p_lvl2_lat=NO_C2, p_lvl3_lat=NO_C3, century=_CENTURY, reset_reg=_ports(RESET_CONTROL, 8, 8),
        reset_value=RESET_VALUE, hypervisor_vendor_identity=_HYPERVISOR,
        iapc_boot_arch=BootArchitecture(legacy_devices=1, has_8042=int(board.has_keyboard), vga_not_present=1).raw,
        flags=FixedFeatures(wbinvd=1, proc_c1=1, slp_button=1, fix_rtc=1, tmr_val_ext=1, reset_reg_sup=1).raw)
