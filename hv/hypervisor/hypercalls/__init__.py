"""The hypercalls: one door, and a file for each family of calls.

`door.py` decodes the control word, checks form, privilege and addresses, and calls a handler which a family registered
with `@hypercall` (`registry.py`). Importing this package registers them all; the list below is the inventory.
"""

from hv.hypervisor.hypercalls import (  # noqa: F401
    debug,
    device_domains,
    device_interrupts,
    device_messages,
    devices,
    dispatch,
    extended,
    guest_memory,
    intercepts,
    interrupts,
    ipis,
    memory,
    messages,
    partitions,
    pools,
    ports,
    properties,
    registers,
    statistics,
    tlb,
    vp_state,
    vps,
)
