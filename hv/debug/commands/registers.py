"""regs, disasm, vp: the virtual processor looked at."""

from __future__ import annotations

from collections.abc import Iterator

from hv.debug.completion import Word
from hv.debug.errors import DebugError
from hv.debug.looking import instructions
from hv.debug.registry import command
from hv.debug.session import Session
from hv.debug.targets import runnable
from hv.machine.faults import GuestFault, NestedFault
from hv.spec.x86 import Rflags

_FLAGS = ("CF", "PF", "AF", "ZF", "SF", "TF", "IF", "DF", "OF")


def _register_files(session: Session, typed: str) -> list[Word]:
    return [Word("fp", "x87 and SSE")]


def _vps(session: Session, typed: str) -> Iterator[Word]:
    for vm in session.guests:
        for index, vp in session.vps_of(vm).items():
            yield Word(f"{vm.name}.{index}", condition(vm, vp))


@command("regs", "r", "registers", which=_register_files)
def regs(session: Session, which: str = "") -> str:
    """Show the registers of the VP looked at; `regs fp` its x87 and SSE registers.

    Example: `regs`, `regs fp`
    """
    if which == "fp":
        return floating_point(session)
    if which:
        raise DebugError(f"`{which}` are no registers: say `regs` or `regs fp`")
    state = session.vp.guest_regs
    rows = [("rax", "rbx", "rcx", "rdx"), ("rsi", "rdi", "rbp", "rsp"), ("r8", "r9", "r10", "r11"),
            ("r12", "r13", "r14", "r15")]
    lines = ["  ".join(f"{name:<3} {getattr(state, name):016x}" for name in row) for row in rows]
    lines.append(f"rip {state.rip:016x}  rflags {state.rflags:08x} [{flags(state.rflags)}]  cpl {state.cpl}  "
                 f"{state.bits} bit")
    lines.append("  ".join(f"{name} {getattr(state, name):x}" for name in ("cr0", "cr2", "cr3", "cr4", "efer")))
    for name in ("cs", "ss", "ds", "es", "fs", "gs", "tr", "ldtr"):
        segment = getattr(state, name)
        lines.append(f"{name:<4} {segment.selector:04x}  base {segment.base:x}  limit {segment.limit:x}  "
                     f"rights {segment.rights:05x}")
    for name in ("gdtr", "idtr"):
        table = getattr(state, name)
        lines.append(f"{name} base {table.base:x}  limit {table.limit:x}")
    return "\n".join(lines)


def floating_point(session: Session) -> str:
    """The x87 registers from the top of the stack on, the XMM registers, and what controls them."""
    fp = session.vp.regs.fp
    top = fp.status >> 11 & 7
    lines = [f"fcw {fp.control:04x}  fsw {fp.status:04x}  tag {fp.tag:02x}  mxcsr {fp.mxcsr:08x}"]
    for n in range(8):
        used = "" if fp.tag >> (top + n & 7) & 1 else "  empty"
        lines.append(f"st{n} {fp.st(n)[::-1].hex()}{used}")
    lines += [f"xmm{n:<2} {fp.xmm(n)[::-1].hex()}" for n in range(16)]
    return "\n".join(lines)


def flags(value: int) -> str:
    """The names of the flags that are set."""
    return " ".join(name for name in _FLAGS if value & Rflags[name])


@command("disasm", "x", "disassemble")
def disasm(session: Session, address: int | None = None, n: int = 8) -> list[str]:
    """Disassemble *n* instructions from *address*, or from where the VP is.

    Example: `disasm`, `disasm rip 4`
    """
    if not 1 <= n <= 200:
        raise DebugError(f"{n} instructions are out of range 1..200")
    vp, here = session.vp, session.linear_rip
    lines = []
    for gva, code, text in instructions(vp, here if address is None else address, n):
        name = session.places.name(session.vm.name, gva)
        if "+" not in name and not name.startswith("0x"):
            lines.append(f"{name}:")
        source = session.places.source(session.vm.name, gva)
        lines.append(f"{'=>' if gva == here else '  '} {gva:08x}  {code.hex(' '):<24}  {text:<36}  {source}".rstrip())
    return lines


def where(session: Session) -> str:
    """Where the VP looked at is: one line, with the instruction it runs next."""
    if session.found_vp is None:
        return f"{session.vm.name} has no vp {session.vp_index} any more"
    try:
        line = disasm(session, None, 1)[-1]
    except (GuestFault, NestedFault, DebugError):
        line = f"=> {session.linear_rip:08x}  (no code can be read there)"
    return line if runnable(session.found_vp) else f"{line}  (waits)"


@command("vp", "look", which=_vps)
def vp(session: Session, which: str = "") -> list[str]:
    """Look at another VP (`vp 1`, `vp receiver.0`); without an argument, list them all.

    Example: `vp`, `vp 0`
    """
    if which:
        session.look_at(which)
        return [where(session)]
    lines = []
    for vm in session.guests:
        for index, found in session.vps_of(vm).items():
            mark = "*" if (vm, index) == (session.vm, session.vp_index) else " "
            lines.append(f"{mark} {vm.name}.{index}  {condition(vm, found)}")
    return lines or ["no VP is left"]


def condition(vm: object, found: object) -> str:
    """What a VP does, in a word or two."""
    if getattr(vm, "ended", None) is not None:
        return f"ended: {getattr(vm, 'ended', '')}"
    for attribute, text in (("stopped_because", "stopped"), ("wait_for_sipi", "waits for SIPI"),
                            ("intercept_suspend", "waits for its parent"), ("explicit_suspend", "suspended")):
        if getattr(found, attribute):
            return text
    if getattr(found, "runnable", False):
        return "runs"
    return "halted"
