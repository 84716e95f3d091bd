"""The registers of a VP by name, as hypercalls get and set them.

TLFS "Virtual Processor Register Definitions". `table.py` says how one is provided, read and written. Each file of the
list below is a family, and importing it is what makes its registers exist. A name that nobody provides is
INVALID_PARAMETER. `register_page.py` and `state_pages.py` show them, and the last intercept message, in pages of the
parent's memory; `dispatched.py` is about a VP whose parent works with those pages alone.
"""

from hv.hypervisor.registers import (  # noqa: F401
    apic,
    execution,
    floating_point,
    processor,
    synthetic,
    timers,
)
