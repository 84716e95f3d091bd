"""The engine's side of guest mode: intercept codes, the control block and the permission maps it reads.

The engine under Unicorn implements AMD's intercepts; nobody above `hv/machine/` knows that. The control block
(VMCB) here holds only what the engine still reads after guest mode is on: the address of the MSR permission map, and
the place where it writes the address of a page fault. Everything else lives in the saved context (`context.py`).
"""

from __future__ import annotations

from hv.spec.numbering import Flags, Numbering

EXIT_BASE = 0x100               # the interrupt hook gets 0x100 + exit code
VMCB_MSRPM = 0x48               # u64: address of the MSR permission map (8 KiB)
VMCB_EXITINFO2 = 0x80           # u64: linear address of a #PF, guest-physical address of a nested fault
MSRPM_SIZE = 0x2000


class Intercept(Flags):
    """Intercept words 3 and 4 of the control block as one 64-bit mask; bit n is exit code 0x60 + n."""

    IDTR_READ = 1 << 6
    GDTR_READ = 1 << 7
    LDTR_READ = 1 << 8
    TR_READ = 1 << 9
    IDTR_WRITE = 1 << 10
    GDTR_WRITE = 1 << 11
    LDTR_WRITE = 1 << 12
    TR_WRITE = 1 << 13
    RDTSC = 1 << 14
    RDPMC = 1 << 15
    CPUID = 1 << 18
    IRET = 1 << 20
    SOFTWARE_INTERRUPT = 1 << 21
    INVD = 1 << 22
    PAUSE = 1 << 23
    HLT = 1 << 24
    INVLPG = 1 << 25
    INVLPGA = 1 << 26
    MSR = 1 << 28
    VMRUN = 1 << 32
    VMMCALL = 1 << 33
    VMLOAD = 1 << 34
    VMSAVE = 1 << 35
    STGI = 1 << 36
    CLGI = 1 << 37
    SKINIT = 1 << 38
    RDTSCP = 1 << 39
    WBINVD = 1 << 41
    MONITOR = 1 << 42
    MWAIT = 1 << 43


class SvmExit(Numbering):
    """Exit codes the engine reports; CR and DR accesses and exceptions are ranges that start here."""

    CR_READ = 0x00
    CR_WRITE = 0x10
    DR_READ = 0x20
    DR_WRITE = 0x30
    EXCEPTION = 0x40
    IDTR_READ = 0x66
    GDTR_READ = 0x67
    LDTR_READ = 0x68
    TR_READ = 0x69
    IDTR_WRITE = 0x6A
    GDTR_WRITE = 0x6B
    LDTR_WRITE = 0x6C
    TR_WRITE = 0x6D
    RDTSC = 0x6E
    RDPMC = 0x6F
    CPUID = 0x72
    IRET = 0x74
    SOFTWARE_INTERRUPT = 0x75
    INVD = 0x76
    PAUSE = 0x77
    HLT = 0x78
    INVLPG = 0x79
    INVLPGA = 0x7A
    MSR = 0x7C
    VMRUN = 0x80
    VMMCALL = 0x81
    VMLOAD = 0x82
    VMSAVE = 0x83
    STGI = 0x84
    CLGI = 0x85
    SKINIT = 0x86
    RDTSCP = 0x87
    WBINVD = 0x89
    MONITOR = 0x8A
    MWAIT = 0x8B
    NESTED_FAULT = 0x400


STORE_TABLES = Intercept.IDTR_READ | Intercept.GDTR_READ | Intercept.LDTR_READ | Intercept.TR_READ
LOAD_TABLES = Intercept.IDTR_WRITE | Intercept.GDTR_WRITE | Intercept.LDTR_WRITE

# What every guest is watched for, whatever the VMCS says: the layer above decides which of these become VM exits.
# IRET comes and goes with the mode: see `ProcessorState.refresh_hidden_flags`.
ALWAYS = (
    Intercept.TR_WRITE | Intercept.RDTSC | Intercept.RDPMC | Intercept.CPUID | Intercept.SOFTWARE_INTERRUPT
    | Intercept.INVD | Intercept.PAUSE | Intercept.HLT | Intercept.INVLPGA | Intercept.MSR | Intercept.VMRUN
    | Intercept.VMMCALL | Intercept.VMLOAD | Intercept.VMSAVE | Intercept.STGI | Intercept.CLGI | Intercept.SKINIT
    | Intercept.RDTSCP | Intercept.WBINVD | Intercept.MONITOR | Intercept.MWAIT
)
