"""The MSRs of a partition: synthetic ones, those of its virtual APIC, and the processor's own.

TLFS "Synthetic MSRs". One file for each family; importing one of them here is what makes its MSRs exist. `registry.py`
says how one is declared, read and written. Reserved bits that must be preserved are. What no file provides is #GP.
The processor's own ones, which no privilege guards, are in `processor.py`.
"""

from hv.hypervisor.msrs import (  # noqa: F401
    apic,
    crash,
    debug,
    identity,
    migration,
    npiep,
    power,
    statistics,
    stimer,
    synic,
    time,
)
