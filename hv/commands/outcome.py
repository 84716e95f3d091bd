"""What a run came to, as plain data: the same for the same guest, byte for byte."""

from __future__ import annotations

from typing import Any

from hv.commands.errors import GUEST_CRASHED, TRUE
from hv.commands.screen import shown_time
from hv.debug.numbers import REGISTERS
from hv.machine.clock import EXIT_TICKS
from hv.printable import one_line
from hv.spec.exits import ExitReason

SEGMENTS = ("cs", "ss", "ds", "es", "fs", "gs", "ldtr", "tr")
TABLES = ("gdtr", "idtr")
CRASHES = ("triple-fault", "error", "budget")


def registers(state: Any) -> dict[str, Any]:
    """Every register of one VP, as hexadecimal strings."""
    shown: dict[str, Any] = {name: hex(getattr(state, name)) for name in REGISTERS}
    for name in SEGMENTS:
        segment = getattr(state, name)
        shown[name] = {"selector": hex(segment.selector), "base": hex(segment.base), "limit": hex(segment.limit),
                       "rights": hex(segment.rights)}
    for name in TABLES:
        table = getattr(state, name)
        shown[name] = {"base": hex(table.base), "limit": hex(table.limit)}
    return shown


def exits_by_reason(vps: list[Any]) -> dict[str, int]:
    """How often each exit happened, over all *vps*, in the order of the reason's number."""
    counts: dict[str, int] = {}
    for reason in range(128):
        total = sum(vp.vcpu.exits[reason] for vp in vps)
        if total:
            counts[ExitReason(reason).name] = total
    return counts


def retired_work(vp: Any) -> int:
    """Bytes of code that *vp* executed: its time without what its exits cost.

    # Simplified: a block cut short by a fault counts whole, and the step past one costs nothing.
    """
    work: int = vp.runtime - EXIT_TICKS * sum(vp.vcpu.exits)
    return max(0, work)


def vps_of(vm: Any) -> list[Any]:
    """The VPs of *vm*, in order."""
    return [vm.partition.vps[index] for index in sorted(vm.partition.vps)]


def ended(vm: Any) -> str:
    """How *vm* ended; a VM that still runs has used up its budget."""
    return str(vm.ended or "budget")


def crash_of(vm: Any) -> dict[str, Any] | None:
    """What *vm* reported of its own crash; None when it did not."""
    report = vm.crash
    return report and {"parameters": [hex(each) for each in report.parameters], "message": report.message}


def debug_exit_of(vm: Any) -> dict[str, int]:
    """The value that *vm* left with, if its guest did: port 0xF4 of a PC."""
    value = getattr(vm, "debug_exit", None)         # neither a root partition nor a bare machine has a PC board
    return {} if value is None else {"debug_exit": value}


def of_vm(vm: Any) -> dict[str, Any]:
    """What became of one VM."""
    vps = vps_of(vm)
    return {
        "name": vm.name, "kind": vm.kind, "ended": ended(vm), "why": vm.why or "", "serial": vm.serial,
        "crash": crash_of(vm), "resets": vm.resets, **debug_exit_of(vm),
        "vps": [{"index": vp.index, "registers": registers(vp.guest_regs)} for vp in vps],
        "exits": exits_by_reason(vps), "retired_work": sum(map(retired_work, vps)),
    }


def of_machine(machine: Any, vms: list[Any]) -> dict[str, Any]:
    """What became of the run, and whether it was a parallel one: of a single VM directly, of several under `vms`."""
    clock: dict[str, Any] = {"parallel": True} if machine.parallel else {}
    clock |= {"virtual_time_100ns": machine.clock.time_100ns, "tsc": machine.clock.tsc}
    return {**of_vm(vms[0]), **clock} if len(vms) == 1 else {"vms": [of_vm(vm) for vm in vms], **clock}


def exit_code(vms: list[Any]) -> int:
    """3 when one of them crashed, says that it did, or used up its budget, else 0.

    A guest that left by isa-debug-exit has said so itself: its value times two plus one, of which a shell sees 8 bits.
    """
    if any(ended(vm) in CRASHES or vm.crash for vm in vms):
        return GUEST_CRASHED
    left = [value for vm in vms for value in debug_exit_of(vm).values()]
    return left[0] << 1 & 0xFF | 1 if left else TRUE


def summary(machine: Any, vms: list[Any]) -> list[str]:
    """A few lines for people."""
    lines = []
    for vm in vms:
        vps = vps_of(vm)
        exits = ", ".join(f"{name} {count}" for name, count in exits_by_reason(vps).items()) or "none"
        left = "".join(f" with {value:#x}" for value in debug_exit_of(vm).values())
        lines.append(f"{vm.name}: {ended(vm)}{left}" + (f" ({vm.why})" if vm.why else ""))
        if vm.crash:
            lines.append(f"  crash report  {one_line(str(vm.crash))}")
        if vm.resets:
            lines.append(f"  resets        {vm.resets}")
        lines += [f"  exits         {exits}", f"  retired work  {sum(map(retired_work, vps))} bytes of code"]
    return [*lines, f"virtual time  {shown_time(machine.clock.tsc)} ({machine.clock.tsc} ticks)"]
