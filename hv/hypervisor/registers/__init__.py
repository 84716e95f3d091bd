"""The registers of a VP by name, as hypercalls get and set them.

TLFS "Virtual Processor Register Definitions". `table.py` says how one is provided, read and written; each other file is
a family, and importing it here is what makes its registers exist. A name that nobody provides is INVALID_PARAMETER.
"""

from hv.hypervisor.registers import (  # noqa: F401
    apic,
    execution,
    floating_point,
    processor,
    synthetic,
    timers,
)
