"""What a piece of the hypervisor is called with, and what it answers: copies of a VP, of a VM exit, of a hypercall.

It is in the piece's own process, and what the piece imports as `hypervisor`:

    from hypervisor import Advance, Inject

    def handle_cpuid(vp, exit):
        vp.regs.eax = 0
        return Advance()

Names are those of `hv/hypervisor/`, so that a handler reads like one of ours. Nothing here is trusted: numbers are
checked so that a learner is told where one does not fit, and what comes back is checked again by who asked.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

GENERAL = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{number}" for number in range(8, 16)))
_LOW = {f"e{name[1:]}": name for name in GENERAL[:8]} | {f"{name}d": name for name in GENERAL[8:]}


class Advance(NamedTuple):
    """Done: RIP moves past the instruction, and the guest goes on."""


class Retry(NamedTuple):
    """What stopped it is repaired: the same instruction runs again."""


class Inject(NamedTuple):
    """The guest gets an exception at this instruction; *address* is CR2 of a page fault."""

    vector: int
    error_code: int | None = None
    address: int | None = None


class Halt(NamedTuple):
    """This VP cannot go on, for the reason given."""

    why: str


VERDICTS = (Advance, Retry, Inject, Halt)


class GuestFault(Exception):
    """The guest's own mistake: raised by a handler, it is `Inject`."""

    def __init__(self, vector: int, error_code: int | None = None, address: int | None = None) -> None:
        super().__init__(vector, error_code, address)


class Registers:
    """Registers of the exit: `rax` to `r15`, their low halves (`eax`: a write clears the upper half), and to read only
    `rip`, `rflags`, `cr0`, `cr3`, `cr4`."""

    general: dict[str, int]
    fixed: dict[str, int]

    def __init__(self, general: dict[str, int], fixed: dict[str, int]) -> None:
        object.__setattr__(self, "general", general)
        object.__setattr__(self, "fixed", fixed)

    def __getattr__(self, name: str) -> int:
        if name in _LOW:
            return int(self.general[_LOW[name]]) & 0xFFFF_FFFF
        known: dict[str, int] = self.general | self.fixed
        if name not in known:
            raise AttributeError(f"there is no register `{name}`")
        return known[name]

    def __setattr__(self, name: str, value: int) -> None:
        if name == "rip":
            raise AttributeError("only the run loop moves RIP: return Advance()")
        if name not in self.general and name not in _LOW:
            raise AttributeError(f"`{name}` is no register that a handler writes")
        bits = 32 if name in _LOW else 64
        if type(value) is not int or not 0 <= value < 1 << bits:
            shown = hex(value) if type(value) is int else type(value).__name__
            raise ValueError(f"{name} takes a number of {bits} bits; found {shown:.40}")
        self.general[_LOW.get(name, name)] = value


class VirtualProcessor:
    """The VP that left its guest: `index`, `regs`, and whatever doors there are, as methods."""

    def __init__(self, index: int, general: dict[str, int], fixed: dict[str, int], doors: dict[str, Any]) -> None:
        self.index, self.regs = index, Registers(general, fixed)
        vars(self).update(doors)


class VmExit:
    """The exit's fields by the manual's names; `reason` is a word, such as "CPUID"."""

    def __init__(self, fields: dict[str, Any]) -> None:
        vars(self).update(fields)


class Call:
    """A hypercall: its fields, and whatever doors there are, as methods."""

    def __init__(self, fields: dict[str, Any], doors: dict[str, Any]) -> None:
        vars(self).update(fields, **doors)


def _exit_handler(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function(vp, exit)`, which answers a verdict: what it decided, and the registers it left."""
    def called(vp: dict[str, Any], exit: dict[str, Any], **doors: Any) -> list[Any]:
        processor = VirtualProcessor(**vp, doors=doors)
        try:
            verdict = function(processor, VmExit(exit))
        except GuestFault as fault:
            verdict = Inject(*fault.args)
        return [_told(verdict), processor.regs.general]
    return called


def _told(verdict: Any) -> list[Any]:
    if type(verdict) in VERDICTS:
        return [type(verdict).__name__, *verdict]
    if isinstance(verdict, type):
        return ["no verdict", f"the class {verdict.__name__}"]
    return ["no verdict", "None" if verdict is None else f"a value of type {type(verdict).__name__}"]


def _hypercall(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function(call)`, which answers the result value."""
    return lambda fields, **doors: function(Call(fields, doors))


KITS: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "": lambda function: function, "exit": _exit_handler, "hypercall": _hypercall}


def module() -> ModuleType:
    """The module `hypervisor` of a piece."""
    made = ModuleType("hypervisor", "Verdicts of an exit handler, and the fault that it may raise.")
    vars(made).update({one.__name__: one for one in (*VERDICTS, GuestFault)})
    return made
