"""What a parent can ask to hear of; TLFS "HV_INTERCEPT_TYPE", "HV_INTERCEPT_ACCESS_TYPE_MASK"."""

from __future__ import annotations

from enum import IntEnum, IntFlag

from hv.spec.layout import Layout, u32, u64


class HvInterceptType(IntEnum):
    """What kind of thing; the comment says what the parameter is."""

    IO_PORT = 0             # port number
    MSR = 1                 # MSR index
    CPUID = 2               # leaf
    EXCEPTION = 3           # vector
    IO_PORT_RANGE = 0x11    # first port | last port << 16


class HvInterceptAccess(IntFlag):
    """Which accesses; 0 removes the intercept."""

    READ = 1
    WRITE = 2
    EXECUTE = 4


class InstallInterceptInput(Layout):
    """HvCallInstallIntercept."""

    partition_id: u64
    access_type: u32            # HvInterceptAccess
    intercept_type: u32         # HvInterceptType
    intercept_parameter: u64


assert InstallInterceptInput.SIZE == 24
