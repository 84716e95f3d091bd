"""Intercept messages: a child did what its parent must answer, so the VP waits and the parent is told on SINT0.

TLFS "Intercepts". One function per kind fills the payload from the VP's registers and queues it; from then on the VP is
intercept-suspended, until the parent has set the registers and writes 0 to the InterceptSuspend register.
"""

from __future__ import annotations

from functools import partial
from struct import Struct
from typing import TYPE_CHECKING, Any

from hv.hypervisor.intercepts.shown import segment_register
from hv.hypervisor.intercepts.string_io import complete_element
from hv.hypervisor.synic.synic import QueuedMessage
from hv.machine.faults import Access, GuestFault, NestedFault
from hv.spec.synic import (
    SINT_INTERCEPT,
    CpuidIntercept,
    ExceptionIntercept,
    HeaderOnlyIntercept,
    HvExceptionInfo,
    HvInterceptHeader,
    HvIoPortAccessInfo,
    HvMemoryAccessInfo,
    HvMessageType,
    HypercallIntercept,
    InterceptAccess,
    InvalidVpRegisterMessage,
    IoPortIntercept,
    MemoryIntercept,
    MsrIntercept,
)
from hv.trace.events import InterceptCompleted, InterceptSent

if TYPE_CHECKING:
    from hv.hypervisor.partitions.partition import Partition
    from hv.hypervisor.vps.vp import VirtualProcessor

CACHE_WRITE_BACK = 6
MAX_INSTRUCTION = 15
_HEADER = Struct("<" + HvInterceptHeader.FORMAT)
_IO_PORT_MESSAGE, _IO_PORT = Struct("<" + IoPortIntercept.FORMAT).pack, HvMessageType.X64_IO_PORT_INTERCEPT
_MEMORY_MESSAGE = Struct("<" + MemoryIntercept.FORMAT).pack
_GPA, _UNMAPPED = HvMessageType.GPA_INTERCEPT, HvMessageType.UNMAPPED_GPA
_GVA_VALID, _GVA_GPA_VALID = HvMemoryAccessInfo(gva_valid=1).raw, HvMemoryAccessInfo(gva_gpa_valid=1).raw
_READ, _WRITE, _EXECUTE = (
    access.value for access in (InterceptAccess.READ, InterceptAccess.WRITE, InterceptAccess.EXECUTE))
_ACCESS_WRITE, _ACCESS_EXECUTE = Access.WRITE.value, Access.EXECUTE.value
_GENERAL_REGISTERS = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                      "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15")


def send(vp: VirtualProcessor, message_type: HvMessageType, payload: bytes) -> None:
    """Suspend *vp* and queue the message for its parent; *payload* is that of its type."""
    parent = vp.partition.parent
    assert parent is not None, "root has nobody to ask"
    vp.intercept_suspend = True
    vp.asked_at = vp.regs.rip
    vp.partition.awaiting[vp.index] = message_type
    if vp.register_page is not None:
        vp.register_page.fill()
    if vp.message_page is not None:
        vp.message_page.show(message_type, payload)
    if vp.dispatched is None:
        _queue(vp, parent, message_type, payload)
    else:
        vp.dispatched.come_back_later()
    vp.kick()
    if vp.partition.trace.listening:
        vp.partition.trace.emit(InterceptSent(message_type, vp.partition.id, vp.index))


def _queue(vp: VirtualProcessor, parent: Partition, message_type: HvMessageType, payload: bytes) -> None:
    """A VP has one buffer for its messages: what the parent has not even seen is replaced."""
    if vp.message is not None:
        forget(vp)
    if parent.vps:                      # a parent without a processor hears nothing
        receiver = parent.vps[min(parent.vps)]
        if receiver.synic.post_now(SINT_INTERCEPT, message_type, payload, vp.partition.id):
            return
        message = QueuedMessage(message_type, payload, vp.partition.id, partial(_delivered, vp))
        vp.message = receiver, message
        receiver.synic.post(SINT_INTERCEPT, message)


def _delivered(vp: VirtualProcessor) -> None:
    vp.message = None


def forget(vp: VirtualProcessor) -> None:
    """The message of *vp* that waits for its parent's slot, if there is one, is not sent any more."""
    if vp.message is not None:
        receiver, message = vp.message
        vp.message = None
        receiver.synic.withdraw(SINT_INTERCEPT, message)


def complete(vp: VirtualProcessor) -> None:
    """The parent has answered (InterceptSuspend was cleared): *vp* may run on.

    When the parent moved RIP it did an instruction, which a guest may have been stepping over, and which ends the
    shadow of an STI before it. INVALID_REGISTER_VALUE when the register page has what no register can hold.
    """
    if vp.register_page is not None:
        vp.register_page.load()
    message_type = vp.partition.awaiting.pop(vp.index, 0)
    vp.intercept_suspend = False
    element, vp.string_element = vp.string_element, None
    if element is not None:
        complete_element(vp, element)
    if message_type and vp.regs.rip != vp.asked_at and vp.pending_event is None:
        vp.regs.clear_resume_flag()     # which an EPT violation sets: the instruction is done
        vp.regs.interrupt_shadow = False
        if vp.regs.single_stepping:
            vp.owe_single_step()
    vp.kick()
    if vp.partition.trace.listening:
        vp.partition.trace.emit(InterceptCompleted(message_type, vp.partition.id, vp.index))


def instruction_at(vp: VirtualProcessor) -> bytes:
    """The bytes of the instruction at RIP, for who must carry it out: as many as can be fetched, at most 15."""
    try:
        return vp.vcpu.memory.fetch(vp.regs.linear_rip, MAX_INSTRUCTION)
    except (GuestFault, NestedFault):
        return b""


def send_io_port(vp: VirtualProcessor, port: int, size: int, write: bool, length: int, *, rax: int | None = None,
                 string: bool = False, rep: bool = False, instruction: bytes = b"") -> None:
    """IN or OUT of *size* bytes; *length* is the instruction's, in bytes. *rax* is shown instead of the VP's own."""
    regs, shown = vp.regs, vp.shown
    info = size if not string and not rep else HvIoPortAccessInfo(
        access_size=size, string_op=int(string), rep_prefix=int(rep)).raw
    send(vp, _IO_PORT, _IO_PORT_MESSAGE(
        *_header(vp, _WRITE if write else _READ, length), port, info, len(instruction), 0,
        regs.rax if rax is None else rax, instruction[:MAX_INSTRUCTION], *shown.ds, *shown.es,
        regs.rcx, regs.rsi, regs.rdi))


def send_msr(vp: VirtualProcessor, index: int, write: bool, length: int) -> None:
    """RDMSR or WRMSR of *index*."""
    access = InterceptAccess.WRITE if write else InterceptAccess.READ
    send(vp, HvMessageType.X64_MSR_INTERCEPT, MsrIntercept(
        header=header(vp, access, length), msr_number=index, rdx=vp.regs.rdx, rax=vp.regs.rax).pack())


def send_cpuid(vp: VirtualProcessor, default: tuple[int, int, int, int], length: int) -> None:
    """CPUID; *default* is what the hypervisor would answer in EAX, EBX, ECX, EDX."""
    regs, (eax, ebx, ecx, edx) = vp.regs, default
    send(vp, HvMessageType.X64_CPUID_INTERCEPT, CpuidIntercept(
        header=header(vp, InterceptAccess.EXECUTE, length), rax=regs.rax, rcx=regs.rcx, rdx=regs.rdx, rbx=regs.rbx,
        default_rax=eax, default_rcx=ecx, default_rdx=edx, default_rbx=ebx).pack())


def send_hypercall(vp: VirtualProcessor, length: int) -> None:
    """VMCALL, with every register that a hypercall has parameters in."""
    regs: Any = vp.regs
    send(vp, HvMessageType.HYPERCALL_INTERCEPT, HypercallIntercept(
        header=header(vp, InterceptAccess.EXECUTE, length), rax=regs.rax, rbx=regs.rbx, rcx=regs.rcx, rdx=regs.rdx,
        r8=regs.r8, rsi=regs.rsi, rdi=regs.rdi, xmm_registers=b"".join(map(regs.read_xmm, range(6)))).pack())


def send_memory(vp: VirtualProcessor, gpa: int, access: Access, *, gva: int | None = None, final: bool = True,
                length: int = 0, instruction: bytes = b"") -> None:
    """An access that the GPA space refuses: UNMAPPED_GPA when nothing is there, GPA_INTERCEPT when rights forbid it.

    *gva* leads to *gpa* when it is *final*; else it does so on the way through a paging structure.
    """
    mapped = vp.partition.space.visible(gpa >> 12) is not None
    info = 0 if gva is None else _GVA_VALID | _GVA_GPA_VALID if final else _GVA_VALID
    wanted = int(access)
    kind = _WRITE if wanted & _ACCESS_WRITE else _EXECUTE if wanted & _ACCESS_EXECUTE else _READ
    send(vp, _GPA if mapped else _UNMAPPED, _MEMORY_MESSAGE(
        *_header(vp, kind, length), CACHE_WRITE_BACK, len(instruction), info, vp.apic.cr8, 0, gva or 0, gpa,
        instruction[:MAX_INSTRUCTION]))


def send_exception(vp: VirtualProcessor, vector: int, error_code: int | None = None, *, parameter: int = 0,
                   software: bool = False, length: int = 0, instruction: bytes = b"") -> None:
    """An exception the parent asked for; *parameter* is CR2 of a page fault."""
    regs = vp.regs
    info = HvExceptionInfo(error_code_valid=int(error_code is not None), software_exception=int(software))
    send(vp, HvMessageType.X64_EXCEPTION_INTERCEPT, ExceptionIntercept(
        header=header(vp, InterceptAccess.EXECUTE, length), exception_vector=vector, exception_info=info.raw,
        instruction_byte_count=len(instruction), error_code=error_code or 0, exception_parameter=parameter,
        instruction_bytes=instruction[:MAX_INSTRUCTION], ds=segment_register(regs.ds), ss=segment_register(regs.ss),
        registers=tuple(getattr(regs, name) for name in _GENERAL_REGISTERS)).pack())


def send_unrecoverable_exception(vp: VirtualProcessor) -> None:
    """A triple fault: the VP cannot go on by itself."""
    send(vp, HvMessageType.UNRECOVERABLE_EXCEPTION, HeaderOnlyIntercept(header=header(vp)).pack())


def send_invalid_register(vp: VirtualProcessor) -> None:
    """VM entry refuses the VP's registers. It has no header, since they mean nothing."""
    send(vp, HvMessageType.INVALID_VP_REGISTER_VALUE, InvalidVpRegisterMessage(vp_index=vp.index).pack())


def header(vp: VirtualProcessor, access: InterceptAccess = InterceptAccess.EXECUTE,
           length: int = 0) -> HvInterceptHeader:
    """What every message about an instruction begins with; *length* in bytes, 0 where it is not known."""
    return HvInterceptHeader.parse(_HEADER.pack(*_header(vp, int(access), length)))


def _header(vp: VirtualProcessor, access: int, length: int) -> tuple[int, ...]:
    """The same as the values of its fields, those of CS among them. It looks what `vp.shown` has to show."""
    regs, shown = vp.regs, vp.shown
    shown.look()
    return (vp.index, length & 0xF | shown.cr8 << 4, access, shown.state, *shown.cs, regs.rip, regs.rflags)
