"""Intercept messages: what the parent reads on SINT0, and how a VP waits and goes on."""

import pytest

from hv.hypervisor.intercepts import intercepts
from hv.hypervisor.intercepts.shown import segment_of, segment_register
from hv.machine.faults import Access
from hv.machine.idt import Event, EventKind
from hv.machine.registers import Segment
from hv.spec import synic as s
from hv.spec.msrs import Msr
from hv.trace.events import InterceptCompleted, InterceptSent
from tests.hypervisor.fakes import Machine

SIM = 0x3000
T = s.HvMessageType


@pytest.fixture
def machine():
    made = Machine()
    synic = made.root_vp.synic
    synic.write_msr(Msr.HV_SCONTROL, 1)
    synic.write_msr(Msr.HV_SIMP, SIM | 1)
    synic.write_msr(Msr.HV_SINT0, 0x30)
    made.vp = made.child().vps[0]
    regs = made.vp.regs
    regs.rip, regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rflags = 0x7C00, 0xAA, 0xCC, 0xDD, 0xBB, 0x202
    return made


def taken(machine, layout):
    """The message of root's SINT0, its payload parsed; the slot is emptied and EOM written."""
    message = s.HvMessage.parse(machine.root.space.read(SIM, s.MESSAGE_SIZE))
    machine.root.space.write(SIM, bytes(4))
    machine.root_vp.synic.write_msr(Msr.HV_EOM, 0)
    assert message.header.sender == machine.vp.partition.id
    assert message.header.payload_size == layout.SIZE
    return message.header.message_type, layout.parse(message.payload)


def test_an_out_suspends_the_vp_until_its_parent_answers(machine):
    intercepts.send_io_port(machine.vp, 0x3F8, 1, True, 2, instruction=b"\xee")
    assert machine.vp.intercept_suspend
    assert machine.root_vp.apic.irr == 1 << 0x30
    kind, body = taken(machine, s.IoPortIntercept)
    assert (kind, body.port, s.HvIoPortAccessInfo(body.access_info).access_size, body.rax) == \
        (T.X64_IO_PORT_INTERCEPT, 0x3F8, 1, 0xAA)
    header = body.header
    assert (header.access_type, header.rip, header.rflags) == (s.InterceptAccess.WRITE, 0x7C00, 0x202)
    assert header.length_and_cr8 == 2
    assert header.cs.attributes == 0xA09B
    state = s.HvExecutionState(header.execution_state)
    assert (state.cpl, state.cr0_pe, state.efer_lma) == (0, 1, 1)
    intercepts.complete(machine.vp)
    assert not machine.vp.intercept_suspend
    child = machine.vp.partition.id
    assert machine.events(InterceptSent) == [InterceptSent(T.X64_IO_PORT_INTERCEPT, child, 0)]
    assert machine.events(InterceptCompleted) == [InterceptCompleted(T.X64_IO_PORT_INTERCEPT, child, 0)]


def test_messages_of_several_vps_wait_in_order(machine):
    second = machine.hypervisor.create_vp(machine.vp.partition, 1)
    intercepts.send_msr(machine.vp, 0x1B, False, 2)
    intercepts.send_msr(second, 0x1C, True, 2)
    first, then = taken(machine, s.MsrIntercept)[1], taken(machine, s.MsrIntercept)[1]
    assert [(each.header.vp_index, each.msr_number, each.header.access_type) for each in (first, then)] == \
        [(0, 0x1B, s.InterceptAccess.READ), (1, 0x1C, s.InterceptAccess.WRITE)]


def test_cpuid_carries_the_default_answer(machine):
    intercepts.send_cpuid(machine.vp, (1, 2, 3, 4), 2)
    _, body = taken(machine, s.CpuidIntercept)
    assert (body.rax, body.rbx, body.rcx, body.rdx) == (0xAA, 0xBB, 0xCC, 0xDD)
    assert (body.default_rax, body.default_rbx, body.default_rcx, body.default_rdx) == (1, 2, 3, 4)


def test_memory_tells_unmapped_from_forbidden(machine):
    partition = machine.vp.partition
    intercepts.send_memory(machine.vp, 0x900123, Access.WRITE, gva=0x55)
    kind, body = taken(machine, s.MemoryIntercept)
    assert (kind, body.gpa, body.gva) == (T.UNMAPPED_GPA, 0x900123, 0x55)
    assert body.header.access_type == s.InterceptAccess.WRITE
    assert s.HvMemoryAccessInfo(body.access_info).gva_valid
    partition.space.map(1, partition.space.mapping(1).spa >> 12, Access.READ)
    intercepts.send_memory(machine.vp, 0x1000, Access.EXECUTE)
    kind, body = taken(machine, s.MemoryIntercept)
    assert (kind, body.header.access_type) == (T.GPA_INTERCEPT, s.InterceptAccess.EXECUTE)


def test_an_exception_carries_every_register(machine):
    machine.vp.regs.r15 = 0xF15
    intercepts.send_exception(machine.vp, 14, 2, parameter=0xDEAD)
    kind, body = taken(machine, s.ExceptionIntercept)
    assert (kind, body.exception_vector, body.error_code, body.exception_parameter) == \
        (T.X64_EXCEPTION_INTERCEPT, 14, 2, 0xDEAD)
    assert (body.registers[0], body.registers[2], body.registers[15]) == (0xAA, 0xDD, 0xF15)


def test_a_triple_fault_is_an_unrecoverable_exception(machine):
    intercepts.send_unrecoverable_exception(machine.vp)
    assert taken(machine, s.HeaderOnlyIntercept)[0] == T.UNRECOVERABLE_EXCEPTION


def test_an_unusable_segment_is_not_present_and_comes_back_unusable():
    unusable = Segment(0, 0, 0, 0x10093)
    there = segment_register(unusable)
    assert there.attributes == 0x13
    assert segment_of(there).rights & 1 << 16


@pytest.mark.parametrize(("layout", "size", "places"), [
    (s.HvInterceptHeader, 40, {"vp_index": 0, "length_and_cr8": 4, "access_type": 5, "execution_state": 6, "cs": 8,
                               "rip": 24, "rflags": 32}),
    (s.IoPortIntercept, 128, {"port": 40, "access_info": 42, "instruction_byte_count": 43, "rax": 48,
                              "instruction_bytes": 56, "ds": 72, "es": 88, "rcx": 104, "rsi": 112, "rdi": 120}),
    (s.MemoryIntercept, 80, {"cache_type": 40, "instruction_byte_count": 44, "access_info": 45, "tpr_priority": 46,
                             "gva": 48, "gpa": 56, "instruction_bytes": 64}),
    (s.MsrIntercept, 64, {"msr_number": 40, "rdx": 48, "rax": 56}),
    (s.CpuidIntercept, 104, {"rax": 40, "rcx": 48, "rdx": 56, "rbx": 64, "default_rax": 72, "default_rcx": 80,
                             "default_rdx": 88, "default_rbx": 96}),
    (s.ExceptionIntercept, 240, {"exception_vector": 40, "exception_info": 42, "instruction_byte_count": 43,
                                 "error_code": 44, "exception_parameter": 48, "instruction_bytes": 64, "ds": 80,
                                 "ss": 96, "registers": 112}),
    (s.HypercallIntercept, 208, {"rax": 40, "rbx": 48, "rcx": 56, "rdx": 64, "r8": 72, "rsi": 80, "rdi": 88,
                                 "xmm_registers": 96, "flags": 192}),
    (s.HeaderOnlyIntercept, 40, {}),
    (s.InvalidVpRegisterMessage, 8, {"vp_index": 0}),
    (s.ApicEoiMessage, 8, {"vp_index": 0, "interrupt_vector": 4}),
], ids=lambda value: getattr(value, "__name__", ""))
def test_each_message_has_its_fields_where_the_manual_has_them(layout, size, places):
    """TLFS "Intercept Messages"; offsets within the payload, which has at most 240 bytes."""
    assert size == layout.SIZE <= s.MESSAGE_PAYLOAD_SIZE
    assert {name: layout.offset_of(name) for name in places} == places


def test_the_execution_state_tells_debugging_and_what_waits_to_be_delivered(machine):
    def state():
        intercepts.send_msr(machine.vp, 1, False, 2)
        found = s.HvExecutionState(taken(machine, s.MsrIntercept)[1].header.execution_state)
        return found.debug_active, found.interruption_pending, found.interrupt_shadow

    assert state() == (0, 0, 0)
    machine.vp.pending_event = Event(3, EventKind.EXCEPTION)
    machine.vp.regs.dr7, machine.vp.regs.interrupt_shadow = 0x401, True
    assert state() == (1, 1, 1)


def test_a_hypercall_message_has_the_registers_of_the_calling_convention(machine):
    machine.vp.regs.r8, machine.vp.regs.rsi, machine.vp.regs.rdi = 8, 6, 7
    for n in range(16):
        machine.vp.regs.write_xmm(n, bytes((n,)) * 16)
    intercepts.send_hypercall(machine.vp, 3)
    kind, body = taken(machine, s.HypercallIntercept)
    assert kind == T.HYPERCALL_INTERCEPT
    assert (body.rax, body.rbx, body.rcx, body.rdx, body.r8, body.rsi, body.rdi) == (0xAA, 0xBB, 0xCC, 0xDD, 8, 6, 7)
    assert body.xmm_registers == b"".join(bytes((n,)) * 16 for n in range(6))


def test_a_message_that_finds_its_parents_synic_off_waits(machine):
    machine.root_vp.synic.write_msr(Msr.HV_SCONTROL, 0)
    intercepts.send_msr(machine.vp, 0x1B, False, 2)
    assert machine.vp.intercept_suspend
    assert not machine.root.space.read(SIM, 4)[3]
    machine.root_vp.synic.write_msr(Msr.HV_SCONTROL, 1)
    assert taken(machine, s.MsrIntercept)[1].msr_number == 0x1B


def test_a_vp_has_one_buffer_so_a_parent_that_never_looks_keeps_one_message(machine):
    machine.root_vp.synic.write_msr(Msr.HV_SCONTROL, 0)
    for number in range(50):
        intercepts.send_msr(machine.vp, number, False, 2)
        intercepts.complete(machine.vp)
    assert len(machine.root_vp.synic.queues[s.SINT_INTERCEPT]) == 1
    machine.root_vp.synic.write_msr(Msr.HV_SCONTROL, 1)
    assert taken(machine, s.MsrIntercept)[1].msr_number == 49
    assert machine.vp.message is None


def test_the_message_of_a_vp_that_is_deleted_is_not_sent(machine):
    machine.root_vp.synic.write_msr(Msr.HV_SCONTROL, 0)
    intercepts.send_msr(machine.vp, 0x1B, False, 2)
    machine.hypervisor.delete_vp(machine.vp.partition, 0)
    assert not machine.root_vp.synic.queues[s.SINT_INTERCEPT]
