"""The tables by which firmware describes a PC to an operating system.

"Advanced Configuration and Power Interface (ACPI) Specification" 6.3, "ACPI Software Programming Model"; HPET, MCFG,
WAET and DMAR are by the documents it names: "IA-PC HPET Specification", "PCI Firmware Specification", Microsoft's
"Windows ACPI Emulated Devices Table", and "Virtualization Technology for Directed I/O". What stands in the DSDT is
another language: `aml.py`.
"""

# mypy: disable-error-code="valid-type, type-arg"
from __future__ import annotations

from typing import ClassVar

from hv.spec.layout import Layout, Register, bits, raw, u8, u16, u32, u64
from hv.spec.numbering import Numbering

RSDP_SIGNATURE = b"RSD PTR "
RSDP_ALIGNMENT = 16
FIRST_RSDP_SIZE = 20            # what the first checksum is over: all that ACPI 1.0 had
FACS_ALIGNMENT = 64
NO_C2, NO_C3 = 0xFFF, 0xFFF     # P_LVLx_LAT beyond 100 and 1000: there is no such state
EVERY_PROCESSOR, EVERY_X2APIC_PROCESSOR = 0xFF, 0xFFFF_FFFF     # processor UID of an NMI entry
FIRST_X2APIC_ID = 255           # of a processor that needs a Processor Local x2APIC entry


class AddressSpace(Numbering):
    """space_id of a GenericAddress."""

    SYSTEM_MEMORY = 0
    SYSTEM_IO = 1
    PCI_CONFIG = 2
    EMBEDDED_CONTROLLER = 3
    SMBUS = 4
    FUNCTIONAL_FIXED_HARDWARE = 0x7F


class Rsdp(Layout):
    """Root System Description Pointer; "Root System Description Pointer (RSDP)". On 16 bytes in 0xE0000..0xFFFFF."""

    signature: raw[8]           # RSDP_SIGNATURE
    checksum: u8                # the first FIRST_RSDP_SIZE bytes add up to 0
    oem_id: raw[6]
    revision: u8                # 0 for ACPI 1.0, 2 since
    rsdt_address: u32
    length: u32
    xsdt_address: u64
    extended_checksum: u8       # all bytes add up to 0
    reserved: raw[3]


class SdtHeader(Layout):
    """What every table but the FACS begins with; "System Description Table Header"."""

    signature: raw[4]
    length: u32                 # bytes of the whole table
    revision: u8
    checksum: u8                # all bytes of the table add up to 0
    oem_id: raw[6]
    oem_table_id: raw[8]
    oem_revision: u32
    creator_id: raw[4]
    creator_revision: u32


class GenericAddress(Layout):
    """Where a register is; "Generic Address Structure"."""

    space_id: u8                # AddressSpace
    bit_width: u8
    bit_offset: u8
    access_size: u8             # 1 byte, 2 word, 3 dword, 4 qword; 0 undefined
    address: u64


class BootArchitecture(Register):
    """iapc_boot_arch; "IA-PC Boot Architecture Flags"."""

    WIDTH: ClassVar[int] = 16
    legacy_devices = bits(0)    # there are devices on the ISA bus that software sees
    has_8042 = bits(1)          # a keyboard controller at 60h and 64h
    vga_not_present = bits(2)
    msi_not_supported = bits(3)
    pcie_aspm_controls = bits(4)    # 1: the operating system must not enable ASPM
    cmos_rtc_not_present = bits(5)


class FixedFeatures(Register):
    """flags of the FADT; "Fixed ACPI Description Table Fixed Feature Flags"."""

    WIDTH: ClassVar[int] = 32
    wbinvd = bits(0)            # the instruction works
    wbinvd_flush = bits(1)
    proc_c1 = bits(2)           # HLT works, on all processors
    p_lvl2_up = bits(3)
    pwr_button = bits(4)        # 1: there is no power button in the fixed registers
    slp_button = bits(5)        # 1: nor a sleep button
    fix_rtc = bits(6)           # 1: the RTC's wake status is not in the fixed registers
    rtc_s4 = bits(7)
    tmr_val_ext = bits(8)       # the PM timer has 32 bits, else 24
    dck_cap = bits(9)
    reset_reg_sup = bits(10)    # reset_reg and reset_value work
    sealed_case = bits(11)
    headless = bits(12)
    cpu_sw_slp = bits(13)
    pci_exp_wak = bits(14)
    use_platform_clock = bits(15)
    s4_rtc_sts_valid = bits(16)
    remote_power_on_capable = bits(17)
    force_apic_cluster_model = bits(18)
    force_apic_physical_destination_mode = bits(19)
    hw_reduced_acpi = bits(20)  # there are no fixed registers at all
    low_power_s0_idle_capable = bits(21)


class Fadt(SdtHeader):
    """Signature FACP; "Fixed ACPI Description Table (FADT)". Field names are the document's."""

    firmware_ctrl: u32          # the FACS
    dsdt: u32
    int_model: u8               # ACPI 1.0 only
    preferred_pm_profile: u8
    sci_int: u16                # line of the two 8259s
    smi_cmd: u32                # port; 0: the machine is in ACPI mode from the beginning
    acpi_enable: u8
    acpi_disable: u8
    s4bios_req: u8
    pstate_cnt: u8
    pm1a_evt_blk: u32           # ports
    pm1b_evt_blk: u32
    pm1a_cnt_blk: u32
    pm1b_cnt_blk: u32
    pm2_cnt_blk: u32
    pm_tmr_blk: u32
    gpe0_blk: u32
    gpe1_blk: u32
    pm1_evt_len: u8             # bytes
    pm1_cnt_len: u8
    pm2_cnt_len: u8
    pm_tmr_len: u8
    gpe0_blk_len: u8
    gpe1_blk_len: u8
    gpe1_base: u8
    cst_cnt: u8
    p_lvl2_lat: u16             # microseconds
    p_lvl3_lat: u16
    flush_size: u16
    flush_stride: u16
    duty_offset: u8
    duty_width: u8
    day_alrm: u8                # CMOS index
    mon_alrm: u8
    century: u8
    iapc_boot_arch: u16         # BootArchitecture
    reserved: u8
    flags: u32                  # FixedFeatures
    reset_reg: GenericAddress
    reset_value: u8
    arm_boot_arch: u16
    minor_version: u8
    x_firmware_ctrl: u64        # instead of firmware_ctrl: only one of the two is not 0
    x_dsdt: u64
    x_pm1a_evt_blk: GenericAddress
    x_pm1b_evt_blk: GenericAddress
    x_pm1a_cnt_blk: GenericAddress
    x_pm1b_cnt_blk: GenericAddress
    x_pm2_cnt_blk: GenericAddress
    x_pm_tmr_blk: GenericAddress
    x_gpe0_blk: GenericAddress
    x_gpe1_blk: GenericAddress
    sleep_control_reg: GenericAddress
    sleep_status_reg: GenericAddress
    hypervisor_vendor_identity: raw[8]


class Facs(Layout):
    """"Firmware ACPI Control Structure (FACS)". On 64 bytes; it has no checksum, as both sides write to it."""

    signature: raw[4]
    length: u32
    hardware_signature: u32
    firmware_waking_vector: u32
    global_lock: u32
    flags: u32
    x_firmware_waking_vector: u64
    version: u8
    reserved_1: raw[3]
    ospm_flags: u32
    reserved_2: raw[24]


class Madt(SdtHeader):
    """Signature APIC; "Multiple APIC Description Table (MADT)". Interrupt controller structures follow."""

    local_apic_address: u32
    flags: u32                  # bit 0, PCAT_COMPAT: there are two 8259s as well


class MadtType(Numbering):
    """What an interrupt controller structure begins with; "Interrupt Controller Structure Types"."""

    LOCAL_APIC = 0
    IO_APIC = 1
    INTERRUPT_SOURCE_OVERRIDE = 2
    NMI_SOURCE = 3
    LOCAL_APIC_NMI = 4
    LOCAL_APIC_ADDRESS_OVERRIDE = 5
    LOCAL_X2APIC = 9
    LOCAL_X2APIC_NMI = 10


class Structure(Layout):
    """What a structure inside the MADT begins with."""

    type: u8
    length: u8                  # bytes, these two included


class MpsInti(Register):
    """Polarity and trigger of a line; "MPS INTI Flags". 0 is what the bus has: of ISA edge, active high."""

    WIDTH: ClassVar[int] = 16
    polarity = bits(1, 0)       # 0 the bus's, 1 active high, 3 active low
    trigger = bits(3, 2)        # 0 the bus's, 1 edge, 3 level


class MadtLocalApic(Structure):
    """"Processor Local APIC Structure"."""

    processor_uid: u8
    apic_id: u8
    flags: u32                  # bit 0 enabled, bit 1 can be brought online


class MadtIoApic(Structure):
    """"I/O APIC Structure"."""

    io_apic_id: u8
    reserved: u8
    address: u32
    interrupt_base: u32         # global system interrupt of its pin 0


class MadtOverride(Structure):
    """"Interrupt Source Override Structure": an ISA line that is not on the pin of its number, or not as ISA has it."""

    bus: u8                     # 0: ISA
    source: u8                  # line
    interrupt: u32              # global system interrupt
    flags: u16                  # MpsInti


class MadtLocalApicNmi(Structure):
    """"Local APIC NMI Structure"."""

    processor_uid: u8           # or EVERY_PROCESSOR
    flags: u16                  # MpsInti
    lint: u8


class MadtX2Apic(Structure):
    """"Processor Local x2APIC Structure"."""

    reserved: u16
    x2apic_id: u32
    flags: u32
    processor_uid: u32


class MadtX2ApicNmi(Structure):
    """"Local x2APIC NMI Structure"."""

    flags: u16
    processor_uid: u32          # or EVERY_X2APIC_PROCESSOR
    lint: u8
    reserved: raw[3]


MADT_STRUCTURES: dict[int, type[Structure]] = {
    MadtType.LOCAL_APIC: MadtLocalApic, MadtType.IO_APIC: MadtIoApic,
    MadtType.INTERRUPT_SOURCE_OVERRIDE: MadtOverride, MadtType.LOCAL_APIC_NMI: MadtLocalApicNmi,
    MadtType.LOCAL_X2APIC: MadtX2Apic, MadtType.LOCAL_X2APIC_NMI: MadtX2ApicNmi,
}


class Mcfg(SdtHeader):
    """PCI Firmware Specification "MCFG Table Description". McfgAllocations follow."""

    reserved: u64


class McfgAllocation(Layout):
    """Where the configuration space of some buses is; "Memory Mapped Enhanced Configuration Space"."""

    base: u64                   # of bus 0, whatever start_bus is
    segment: u16
    start_bus: u8
    end_bus: u8                 # the last one
    reserved: u32


class HpetTable(SdtHeader):
    """IA-PC HPET Specification "The HPET Description Table"."""

    block_id: u32               # the low half of the capabilities register
    base: GenericAddress
    number: u8
    minimum_tick: u16           # of its clock, in periodic mode
    page_protection: u8


class Waet(SdtHeader):
    """Windows ACPI Emulated Devices Table: what a guest need not do with devices that no silicon makes."""

    flags: u32                  # WaetFlags


class WaetFlags(Register):
    """flags of the WAET."""

    WIDTH: ClassVar[int] = 32
    rtc_good = bits(0)          # an RTC interrupt needs no read of register C
    pm_timer_good = bits(1)     # one read of the PM timer is enough


class Dmar(SdtHeader):
    """VT-d "DMA Remapping Reporting Structure". Remapping structures follow."""

    host_address_width: u8      # bits of an address of DMA, less one
    flags: u8                   # bit 0 INTR_REMAP
    reserved: raw[10]


class DmarType(Numbering):
    """type of a remapping structure."""

    DRHD = 0
    RMRR = 1
    ATSR = 2
    RHSA = 3
    ANDD = 4
    SATC = 5
    SIDP = 6


class DmarStructure(Layout):
    """What a remapping structure begins with; VT-d "Remapping Structure Types"."""

    type: u16                   # DmarType
    length: u16                 # bytes, these four included


class Drhd(DmarStructure):
    """"DMA Remapping Hardware Unit Definition Structure". Device scopes follow."""

    flags: u8                   # bit 0 INCLUDE_PCI_ALL
    size: u8
    segment: u16
    base: u64


class ScopeType(Numbering):
    """type of a device scope."""

    PCI_ENDPOINT = 1
    PCI_BRIDGE = 2
    IO_APIC = 3
    HPET = 4
    NAMESPACE_DEVICE = 5


class DeviceScope(Layout):
    """"Device Scope Structure", of a device on its start bus: the path is one step."""

    type: u8                    # ScopeType
    length: u8
    flags: u8
    reserved: u8
    enumeration_id: u8          # of an I/O APIC: its id in the MADT
    start_bus: u8
    device: u8
    function: u8
