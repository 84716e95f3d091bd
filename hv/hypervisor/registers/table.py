"""The table of registers: `provide(name, get, put)` declares one, `get_register` and `set_register` use it.

A value is always 16 bytes; what is narrower stands in the low ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hv.hypervisor.errors import HypercallError
from hv.machine.faults import GuestFault
from hv.spec.hv_registers import HvRegisterName
from hv.spec.hv_status import HvStatus

if TYPE_CHECKING:
    from hv.hypervisor.vps.vp import VirtualProcessor

VALUE_SIZE = 16
_U64 = (1 << 64) - 1
Get = Callable[["VirtualProcessor"], bytes]
Put = Callable[["VirtualProcessor", bytes], None]

REGISTERS: dict[int, tuple[Get | None, Put | None]] = {}
_UNKNOWN: tuple[Get | None, Put | None] = (None, None)


def provide(name: HvRegisterName | int, get: Get | None = None, put: Put | None = None) -> None:
    """The register *name* exists; None where it cannot be read, or set. TypeError when it is provided already."""
    if int(name) in REGISTERS:
        raise TypeError(f"register {int(name):#x} is provided twice")
    REGISTERS[int(name)] = get, put


def get_register(vp: VirtualProcessor, name: int) -> bytes:
    """The 16 bytes of register *name*; INVALID_PARAMETER."""
    get = REGISTERS.get(name, _UNKNOWN)[0]
    if get is None:
        raise HypercallError(HvStatus.INVALID_PARAMETER, f"register {name:#x} is unknown or not built")
    return get(vp).ljust(VALUE_SIZE, b"\0")


def set_register(vp: VirtualProcessor, name: int, value: bytes) -> None:
    """Store 16 bytes into register *name*; INVALID_PARAMETER, INVALID_REGISTER_VALUE."""
    put = REGISTERS.get(name, _UNKNOWN)[1]
    if put is None:
        raise HypercallError(HvStatus.INVALID_PARAMETER, f"register {name:#x} is unknown or cannot be set")
    try:
        put(vp, value)
    except GuestFault as fault:
        raise HypercallError(HvStatus.INVALID_REGISTER_VALUE, f"register {name:#x}: {fault}") from fault


def integer(value: bytes) -> int:
    """The 64-bit number in a register value."""
    return int.from_bytes(value[:8], "little")


def as_bytes(value: int) -> bytes:
    """The low 64 bits of *value*, as a register value begins."""
    return (value & _U64).to_bytes(8, "little")
