"""A hypercall whose parameters are handed over as bytes: for who holds the machine still and stands outside of it.

The door (`door.py`) takes parameters from the memory or the registers of a caller who is about to go on. Here nobody
executes VMCALL: no memory of the caller is touched, no time passes, and a rep call is done to its end. Who may do what
is asked as there.
"""

from __future__ import annotations

import struct

import hv.hypervisor.hypercalls  # noqa: F401  registers the handlers
from hv.hypervisor.errors import CallIntercepted, HypercallError
from hv.hypervisor.hypercalls.registry import HYPERCALLS, Call, Declaration, Reps, require
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.codes import HypercallCode

_UNIT = 8                       # bytes of a unit of a variable header


def call_directly(call: Call, code: HypercallCode, data: bytes, elements: bytes = b"") -> None:
    """Do the call *code* as its caller would: *data* is its input, *elements* the list of a rep call.

    HypercallError when it is refused; of a rep call the elements before the refused one are done.
    One without a list, that only gives something back, is not done here.
    """
    declaration = HYPERCALLS.get(int(code))
    if declaration is None:
        raise HypercallError(HvStatus.INVALID_HYPERCALL_CODE, f"{code.name} is not built")
    missing = declaration.privilege & ~call.partition.privileges
    require(not missing, f"{code.name} needs privilege {missing:#x}", HvStatus.ACCESS_DENIED)
    try:
        declaration.handler(call, *_arguments(declaration, data, elements))
    except CallIntercepted:
        raise HypercallError(HvStatus.ACCESS_DENIED, f"the caller's parent wants to do {code.name} itself") from None


def _arguments(declaration: Declaration, data: bytes, elements: bytes) -> list[object]:
    """What the handler takes; INVALID_HYPERCALL_INPUT when the bytes are not of its shape."""
    name, wrong = declaration.code.name, HvStatus.INVALID_HYPERCALL_INPUT
    behind, fixed = len(data) - declaration.input_size, declaration.input_size
    require(behind >= 0 and not behind % _UNIT and (declaration.variable or not behind),
            f"{name} has {fixed} bytes of input, not {len(data)}", wrong)
    require(not int.from_bytes(data[:fixed], "little") & declaration.reserved, f"{name}: reserved bytes must be zero")
    arguments: list[object] = [declaration.input.parse(data)] if declaration.input else []
    if declaration.variable:
        arguments.append(struct.unpack(f"<{behind // _UNIT}Q", data[fixed:]))
    if declaration.rep:
        size = declaration.rep_input.SIZE if declaration.rep_input else 0
        require(size and elements and not len(elements) % size, f"{name} has elements of {size} bytes", wrong)
        arguments.append(Reps(elements, declaration.rep_input, 0, len(elements) // size))
    else:
        require(not elements, f"{name} is a simple call", wrong)
    return arguments
