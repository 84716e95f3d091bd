"""A VP that is saved half way and restored in another partition goes on as if nothing had happened."""

import pytest

from hv.image.load import load
from hv.platform import Machine
from hv.root import saved_vp
from hv.spec.hv_registers import HvRegisterName as N
from hv.spec.x86 import PAGE_SIZE

# Adds up in every kind of register while timer interrupts come; the output depends on none of them being lost.
SOURCE = """
.include "lib/machine.inc"
.bits 64
.org 0x10000
.entry start
SUM = 0x200000
ROUNDS = 30000
TIMER = 0x41
start:
    call hypercall_init
    lea rax, [rip + on_timer]
    mov edi, TIMER
    call idt_set
    call idt_load
    mov ecx, 0xC0000082                     ; LSTAR: the processor's MSRs move too
    mov eax, 0x12345678
    xor edx, edx
    wrmsr
    mov eax, 0x11223344
    mov dr1, rax
    mov ebx, APIC
    mov dword ptr [rbx + APIC_SVR], 0x1FF
    mov dword ptr [rbx + APIC_DIVIDE], 0x0B
    mov dword ptr [rbx + APIC_LVT_TIMER], 0x20000 | TIMER
    mov dword ptr [rbx + APIC_INITIAL], 3000
    sti
    fninit
    fld1
    fldz                                    ; ST(0) = sum, ST(1) = 1
    mov eax, 1
    cvtsi2sd xmm9, eax
    xorpd xmm10, xmm10
    mov dword ptr [SUM], 0x5F80             ; rounds up: the control word must move
    ldmxcsr [SUM]
    xor r14d, r14d
    mov ecx, ROUNDS
.round:
    .byte 0xD8, 0xC1                        ; fadd st, st(1)
    addsd xmm10, xmm9
    inc r14
    dec ecx
    jnz .round
    cli
    mov dword ptr [rbx + APIC_INITIAL], 0
    mov rax, r14
    call line
    fistp qword ptr [SUM]
    mov rax, [SUM]
    call line
    mov qword ptr [SUM], 3
    cvtsi2sd xmm1, qword ptr [SUM]
    mov rax, 0x3FE0000000000000             ; 0.5
    movq xmm2, rax
    addsd xmm10, xmm2
    cvtsd2si rax, xmm10                     ; rounded up
    call line
    mov ecx, 0xC0000082
    rdmsr
    call line
    mov rax, dr1
    call line
    cmp dword ptr [rip + ticks], 3          ; there were interrupts on both sides
    setae al
    movzx eax, al
    call line
    mov ecx, HV_VP_INDEX
    rdmsr
    call line
    call clear_input
    mov ecx, 0x8                            ; HvCallNotifyLongSpinWait: the hypercall page is there
    call hypercall
    call line
    jmp power_off
line:
    call print_dec
    push rax
    mov al, '\\n'
    call putc
    pop rax
    ret
on_timer:
    inc dword ptr [rip + ticks]
    push rax
    mov eax, APIC
    mov dword ptr [rax + APIC_EOI], 0
    pop rax
    iretq
.include "lib/serial64.inc"
.include "lib/idt64.inc"
.include "lib/hypercall64.inc"
.align 4
ticks: .long 0
"""
EXPECTED = "30000\n30000\n30001\n305419896\n287454020\n1\n0\n0\n"


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("guest") / "wanderer.asm"
    path.write_text(SOURCE)
    return load(str(path))


class Move:
    """VM *first* runs; *second* has the same program, and stands still."""

    def __init__(self, image):
        self.machine = Machine(memory_mib=40)
        self.winhv = self.machine.root.winhv
        self.first, self.second = (self.machine.create_vm(name, image, memory_mib=4) for name in ("first", "second"))
        self.second.worker.stop()

    def run(self, ticks):
        self.machine.run(self.machine.clock.tsc + ticks)

    def move(self):
        """The first VM's memory and VP become the second's as well."""
        self.first.worker.stop()
        self.second.worker.write(0, self.first.worker.read(0, self.first.worker.memory_bytes))
        saved_vp.restore(self.winhv, self.second.partition_id, 0, self.saved(self.first))

    def saved(self, vm):
        return saved_vp.save(self.winhv, vm.partition_id, 0)


@pytest.fixture
def move(image):
    made = Move(image)
    yield made
    made.machine.close()


@pytest.mark.parametrize("ticks", [30_000, 150_000, 300_001])
def test_a_vp_moved_half_way_ends_as_the_one_that_stayed(move, ticks):
    """The same output, and the same registers at the end, but for the moment."""
    move.run(ticks)
    move.move()
    rounds = move.winhv.get_vp_register(move.first.partition_id, 0, N.R14)
    assert 0 < rounds < 30000
    assert (move.first.serial, move.second.serial) == ("", "")
    move.first.worker.start()
    move.run(20_000_000)
    move.second.worker.start()
    move.run(20_000_000)
    assert (move.first.ended, move.second.ended) == ("shutdown", "shutdown")
    assert move.first.serial == move.second.serial == EXPECTED
    ends = [move.saved(vm) for vm in (move.first, move.second)]
    for end in ends:
        del end.registers[N.TSC]
    assert ends[0] == ends[1]


def test_what_is_restored_is_what_was_saved(move):
    move.run(100_000)
    move.winhv.set_vp_registers(move.first.partition_id, 0, {N.APIC_INIT_COUNT: 0, N.EXPLICIT_SUSPEND: 1})
    move.move()
    first, second = move.saved(move.first), move.saved(move.second)
    del first.registers[N.TSC], second.registers[N.TSC]
    assert first == second
    assert first.registers[N.HYPERCALL] == (0x61001).to_bytes(16, "little")


def test_the_time_stamp_counter_goes_on_from_where_it_was(move):
    move.run(100_000)
    move.move()
    first, second = (move.winhv.get_vp_register(vm.partition_id, 0, N.TSC) for vm in (move.first, move.second))
    assert 0 <= first - second < 100_000            # what the move took


def test_a_vp_that_waits_for_its_parent_is_not_saved(move):
    move.winhv.set_vp_registers(move.first.partition_id, 0, {N.INTERCEPT_SUSPEND: 1})
    with pytest.raises(saved_vp.VpWaits):
        move.saved(move.first)


def test_messages_and_flags_move_with_their_pages(move):
    partition = move.machine.hypervisor.partitions[move.first.partition_id]
    memory, synic = move.machine.memory, partition.vps[0].synic
    memory.write(synic.message_page, b"message".ljust(PAGE_SIZE, b"\1"))
    memory.write(synic.event_page, b"flags".ljust(PAGE_SIZE, b"\2"))
    move.winhv.set_vp_registers(partition.id, 0, {N.SIMP: 0x202001, N.SIEFP: 0x203001, N.SCONTROL: 1, N.SINT2: 0x52})
    move.move()
    other = move.machine.hypervisor.partitions[move.second.partition_id].vps[0].synic
    assert memory.read(other.message_page, 7) == b"message"
    assert memory.read(other.event_page, 5) == b"flags"
    assert (other.simp.raw, other.siefp.raw, other.scontrol.raw, other.sints[2].raw) == (0x202001, 0x203001, 1, 0x52)
