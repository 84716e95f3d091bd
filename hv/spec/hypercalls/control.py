"""The words of a hypercall: its input value, its result value, and the trust level many inputs name.

TLFS "Hypercall Inputs", "Hypercall Outputs".
"""

# mypy: disable-error-code="valid-type, type-arg"
from __future__ import annotations

from hv.spec.layout import Register, bits


class HypercallControl(Register):
    """The hypercall input value: RCX in 64-bit mode; TLFS "Hypercall Inputs". Bits no field names must be zero."""

    call_code = bits(15, 0)
    fast = bits(16)                     # parameters in registers
    variable_header_size = bits(26, 17)     # units of 8 bytes
    is_nested = bits(31)
    rep_count = bits(43, 32)            # elements in the whole list
    rep_start = bits(59, 48)            # the first one to do now


class HypercallResult(Register):
    """The hypercall result value: RAX in 64-bit mode; TLFS "Hypercall Outputs"."""

    status = bits(15, 0)                # HvStatus
    reps_complete = bits(43, 32)        # absolute: rep_start + what this attempt did


class HvInputVtl(Register):
    """HV_INPUT_VTL: which virtual trust level a call means; 0 = the current one."""

    WIDTH = 8
    target_vtl = bits(3, 0)
    use_target_vtl = bits(4)
