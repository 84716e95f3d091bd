"""Instructions that leave a guest only while they are watched: the room above says which, and pays for no others.

`ProcessorState.watch` takes any of them together. What `traps.py` names and is not listed here always leaves the guest.
"""

from __future__ import annotations

from hv.spec.numbering import Flags


class Watched(Flags):
    """One bit per family of instructions. Those of control registers stand where the engine has its switches."""

    READ_CR0 = 1 << 0       # MOV from CR0, SMSW
    READ_CR3 = 1 << 3
    READ_CR4 = 1 << 4
    WRITE_CR3 = 1 << 19
    INVLPG = 1 << 32
    STORE_TABLES = 1 << 33          # SGDT, SIDT, SLDT, STR
    LOAD_TABLES = 1 << 34           # LGDT, LIDT, LLDT; LTR always leaves


CONTROL_REGISTERS = Watched.READ_CR0 | Watched.READ_CR3 | Watched.READ_CR4 | Watched.WRITE_CR3
