"""What a parent can ask to hear of; TLFS "HV_INTERCEPT_TYPE", "HV_INTERCEPT_ACCESS_TYPE_MASK"."""

from __future__ import annotations

from hv.spec.layout import Layout, u8, u16, u32, u64
from hv.spec.numbering import Flags, Numbering


class HvInterceptType(Numbering):
    """What kind of thing; the comment says what the parameter is."""

    IO_PORT = 0             # port number
    MSR = 1                 # MSR index
    CPUID = 2               # leaf
    EXCEPTION = 3           # vector
    RESERVED0 = 4           # was control registers
    MMIO = 5
    GLOBAL_CPUID = 6        # 0: every leaf
    APIC_SMI = 7
    HYPERCALL = 8           # 0: every VMCALL
    APIC_INIT_SIPI = 9
    MC_UPDATE_PATCH_LEVEL_MSR_READ = 0xA
    APIC_WRITE = 0xB        # a mask of registers
    MSR_INDEX = 0xC         # MSR index
    UNKNOWN_SYNIC_CONNECTION = 0xD      # 0: a message or an event to a connection that is not there
    APIC_EOI = 0xE          # 0: every level-triggered interrupt
    RETARGET_INTERRUPT_WITH_UNKNOWN_DEVICE_ID = 0xF     # 0: HvCallRetargetDeviceInterrupt of a device it has not
    EXCEPTION_TRAP = 0x10
    IO_PORT_RANGE = 0x11    # first port | last port << 16
    REGISTER = 0x12


class HvInterceptAccess(Flags):
    """Which accesses; 0 removes the intercept."""

    READ = 1
    WRITE = 2
    EXECUTE = 4


class InterceptResultInput(Layout):
    """HvCallUnregisterInterceptResult; HvCallRegisterInterceptResult begins with it. Of a CPUID leaf."""

    partition_id: u64
    vp_index: u32               # or ANY_VP
    intercept_type: u32         # HvInterceptType.CPUID
    eax: u32                    # the leaf
    ecx: u32                    # the subleaf, if it matters
    subleaf_specific: u8        # 1: for this subleaf only
    always_override: u8         # 1: also where the leaf is not intercepted
    padding: u16


class CpuidResultRegister(Layout):
    """What a register shall hold, in the bits of the mask."""

    value: u32
    mask: u32


class RegisterInterceptResultInput(Layout):
    """HvCallRegisterInterceptResult."""

    input: InterceptResultInput
    eax: CpuidResultRegister
    ebx: CpuidResultRegister
    ecx: CpuidResultRegister
    edx: CpuidResultRegister
    reserved: u32


class CheckForIoInterceptInput(Layout):
    """HvCallCheckForIoIntercept."""

    partition_id: u64
    vp_index: u32
    input_vtl: u8               # HvInputVtl
    padding: u8
    port: u16
    size: u8                    # bytes
    is_write: u8
    reserved: u16
    reserved1: u32


class CheckForIoInterceptOutput(Layout):
    """HvCallCheckForIoIntercept: 1 when a message would be sent."""

    intercept: u8


class InstallInterceptInput(Layout):
    """HvCallInstallIntercept."""

    partition_id: u64
    access_type: u32            # HvInterceptAccess
    intercept_type: u32         # HvInterceptType
    intercept_parameter: u64


assert InstallInterceptInput.SIZE == 24
assert InterceptResultInput.SIZE == 28
assert RegisterInterceptResultInput.SIZE == 64
