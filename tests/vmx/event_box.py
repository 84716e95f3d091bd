"""A vcpu whose events are looked at: handlers that note the frame they find, and fields set by name."""

from __future__ import annotations

from hv.machine.registers import Segment, Table, virtual_8086_segment
from hv.spec.exits import ExitReason, InterruptionInfo, InterruptionType
from hv.spec.vmcs import ExitControls, PinControls, PrimaryControls, VmcsField
from hv.spec.x86 import Rflags
from hv.vmx.exit import VmExit
from hv.vmx.vcpu import Vcpu
from tests.machine.engine_box import CODE, GDT, LEGACY, STACK
from tests.vmx.vcpu_box import HANDLERS, IDT, VcpuBox

F, R, T = VmcsField, ExitReason, InterruptionType
VALID = 1 << 31
MODES = ("real", "v86", "16", "32", "64", "compat", "user64", "user32")
WIDTHS = {"real": 2, "v86": 4, "16": 2, "32": 4, "64": 8, "compat": 8, "user64": 8, "user32": 4}
INNER_STACK = 0x40000
CODE_16, COMPATIBILITY, GUEST_16 = 0x38, 0x40, 0x48


def info(vector: int, kind: int, error: bool = False) -> int:
    """A valid interruption-information field."""
    return InterruptionInfo(vector=vector, type=int(kind), error_code_valid=int(error), valid=1).raw


def put(vcpu: Vcpu, **fields: int) -> None:
    """Write fields of the VMCS. An external interrupt is injected into a guest with RFLAGS.IF = 1 only."""
    if fields.get("VM_ENTRY_INTERRUPTION_INFO", 0) & (VALID | 0x700) == VALID:
        vcpu.state.rflags |= Rflags.IF.value
    for name, value in fields.items():
        vcpu.vmcs.write(F[name], value)


def control(vcpu: Vcpu, on: int, off: int = 0, field: VmcsField | None = None) -> None:
    """Set and clear bits of the controls that *on* and *off* belong to."""
    if field is None:
        field = {PinControls: F.PIN_BASED_CONTROLS, PrimaryControls: F.PRIMARY_PROC_CONTROLS,
                 ExitControls: F.VM_EXIT_CONTROLS}[type(on or off)]
    vcpu.vmcs.write(field, vcpu.vmcs.read(field) & ~int(off) | int(on))


def vcpu_in(box: VcpuBox, mode: str) -> Vcpu:
    """A vcpu at CODE in *mode*, with an IDT whose handlers are HLT and stacks for all of them."""
    bits = {"real": 16, "64": 64, "compat": 64, "user64": 64}.get(mode, 32)
    vcpu = box.vcpu(bits, user=mode.startswith("user"))
    state = vcpu.state
    if mode == "16":
        box.memory.write_u64(GDT + CODE_16, 0x00009B050000FFFF)     # base 0x50000: offsets have 16 bits
        for vector in range(256):
            gate = HANDLERS - 0x50000 + 16 * vector | CODE_16 << 16 | 0xE6 << 40
            box.memory.write_u64(IDT + vector * 8, gate)
        box.memory.write_u64(GDT + GUEST_16, 0x00009B010000FFFF)    # base CODE
        state.cs, state.rip = Segment(GUEST_16, CODE, 0xFFFF, 0x009B), 0
        state.gdtr = Table(GDT, 0x7F)
    if mode == "compat":
        box.memory.write_u64(GDT + COMPATIBILITY, 0x00CF9B000000FFFF)
        state.gdtr = Table(GDT, 0x7F)
        state.cs = Segment(COMPATIBILITY, 0, 0xFFFFFFFF, 0xC09B)
    if mode == "v86":
        state.cr3, state.cr0 = LEGACY, 0x80000033
        state.rflags = 0x20002
        for name in ("cs", "ss", "ds", "es", "fs", "gs"):
            setattr(state, name, virtual_8086_segment(0))
        state.cs = virtual_8086_segment(CODE >> 4)
        state.cpl, state.rip, state.rsp = 3, 0, 0x9000
    return vcpu


def frame(box: VcpuBox, vcpu: Vcpu, mode: str, count: int) -> list[int]:
    """*count* words of the frame the handler found."""
    width = WIDTHS[mode]
    at = vcpu.state.rsp + (vcpu.state.ss.base if mode == "real" else 0)
    data = box.memory.read(at, width * count)
    return [int.from_bytes(data[n * width : (n + 1) * width], "little") for n in range(count)]


def reasons(box: VcpuBox) -> list[ExitReason]:
    """The exits so far."""
    return [exit.reason for exit in box.exits]


def again(vcpu: Vcpu, exit: VmExit) -> None:
    """What every hypervisor does: the event that was interrupted is that of the next entry."""
    put(vcpu, VM_ENTRY_INTERRUPTION_INFO=exit.idt_vectoring_info & ~(1 << 12),
        VM_ENTRY_EXCEPTION_ERROR_CODE=exit.idt_vectoring_error_code,
        VM_ENTRY_INSTRUCTION_LENGTH=exit.instruction_length)


__all__ = ["CODE", "HANDLERS", "IDT", "INNER_STACK", "MODES", "STACK", "VALID", "F", "R", "T", "again", "control",
           "frame", "info", "put", "reasons", "vcpu_in"]
