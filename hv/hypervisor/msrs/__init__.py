"""The MSRs a partition sees beside the processor's own: synthetic ones, and those of its virtual APIC.

TLFS "Synthetic MSRs". One file for each family; importing one of them here is what makes its MSRs exist. `registry.py`
says how one is declared, read and written. Reserved bits that must be preserved are. What no file provides is #GP.
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
