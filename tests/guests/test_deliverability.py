"""A parent that waits until its child can take an NMI, an interrupt, or a message; TLFS "Deliverability Notifications".

The guests write port 0x70 where the parent shall begin to wait, and port 0x71 where it would be too late.
"""

import random

import pytest

from hv.spec import synic as s
from hv.spec.hv_registers import DeliverabilityNotificationsRegister, InternalActivityRegister
from hv.spec.hv_registers import HvRegisterName as N
from hv.spec.intercepts import HvInterceptType as T
from hv.spec.synic import HvMessageType as M
from tests.guest_runner import run_guest
from tests.guests.test_intercept_types import Parent, past

PORTS = [(T.IO_PORT, 0x70, 3), (T.IO_PORT, 0x71, 3)]
NMI, INTERRUPT = (DeliverabilityNotificationsRegister(nmi_notification=1),
                  DeliverabilityNotificationsRegister(interrupt_notification=1))
WAIT, LATE = "out 0x70, al;", "out 0x71, al;"
# An IDT at 0x60000 whose gates are filled in with the address of the label in RDI, at the vector in ECX.
IDT = ("jmp start; table: .word 0xFFF; .quad 0x60000;"
       "gate: shl ecx, 4; lea rcx, [rcx + 0x60000]; mov [rcx], di; mov word ptr [rcx + 2], cs;"
       "mov word ptr [rcx + 4], 0x8E00; shr rdi, 16; mov [rcx + 6], edi; ret;"
       "start: mov rsp, 0x70000; lidt [rip + table];")
BOTH = pytest.mark.parametrize("virtualized", [True, False], ids=["processor", "software"])


class Waiter(Parent):
    """At port 0x70 it asks for *wanted*; of each notification it keeps what *see* says. *answer* completes it."""

    def __init__(self, wanted, see=lambda winhv, vm: None, answer=lambda message: {}):
        super().__init__(PORTS, self._answer)
        self.wanted, self.see, self.reply, self.seen = wanted, see, answer, []

    def __call__(self, machine, vm):
        super().__call__(machine, vm)
        self.winhv, self.vm = machine.root.winhv, vm.partition_id

    def _answer(self, message):
        if message.header.message_type == M.X64_IO_PORT_INTERCEPT:
            at = s.IoPortIntercept.parse(message.payload).port
            return past(message) | ({N.DELIVERABILITY_NOTIFICATIONS: self.wanted.raw} if at == 0x70 else {})
        self.seen.append(self.see(self.winhv, self.vm))
        return self.reply(message)

    @property
    def order(self):
        """Ports by number, notifications by type."""
        return [s.IoPortIntercept.parse(each.payload).port if each.header.message_type == M.X64_IO_PORT_INTERCEPT
                else each.header.message_type for each in self.messages]


def run(code, waiter, virtualized=None, **options):
    return run_guest(f"{code}; cli; hlt", prepare=waiter, apic_virtualization=virtualized, **options)


def body(waiter, layout=s.InterruptionDeliverable):
    (message,) = [each for each in waiter.messages if each.header.message_type != M.X64_IO_PORT_INTERCEPT]
    return layout.parse(message.payload)


@BOTH
def test_the_parent_is_told_behind_the_shadow_of_sti(virtualized):
    waiter = Waiter(INTERRUPT)
    run(f"cli; {WAIT} mov ecx, 100; spin: dec ecx; jnz spin; {LATE} sti; nop; here: nop; lea rax, [rip + here]",
        waiter, virtualized)
    assert waiter.order == [0x70, 0x71, M.X64_INTERRUPTION_DELIVERABLE]
    message = body(waiter)
    assert message.deliverable_type == s.PendingInterruptionType.INTERRUPT
    assert message.header.rflags & 1 << 9
    assert not s.HvExecutionState(message.header.execution_state).interrupt_shadow


@BOTH
def test_where_interrupts_are_on_the_parent_is_told_at_once(virtualized):
    waiter = Waiter(INTERRUPT)
    run(f"sti; nop; {WAIT} nop; {LATE}", waiter, virtualized)
    assert waiter.order == [0x70, M.X64_INTERRUPTION_DELIVERABLE, 0x71]


@BOTH
def test_a_priority_that_is_too_high_holds_the_notification_back(virtualized):
    """Class 4 is not above task priority 4; it is above 3."""
    waiter = Waiter(DeliverabilityNotificationsRegister(interrupt_notification=1, interrupt_priority=4))
    run(f"mov eax, 5; mov cr8, rax; sti; nop; {WAIT} mov eax, 4; mov cr8, rax; nop; {LATE}"
        f"mov eax, 3; mov cr8, rax; nop; {LATE}", waiter, virtualized)
    assert waiter.order == [0x70, 0x71, M.X64_INTERRUPTION_DELIVERABLE, 0x71]
    assert body(waiter).header.length_and_cr8 >> 4 == 3


@BOTH
def test_an_interrupt_in_service_holds_it_back_until_its_eoi(virtualized):
    """Vector 0x51 is in service: class 5 is not above it, whatever the task priority is."""
    waiter = Waiter(DeliverabilityNotificationsRegister(interrupt_notification=1, interrupt_priority=5))
    run(f"{IDT} lea rdi, [rip + handler]; mov ecx, 0x51; call gate;"
        "mov ebx, 0xFEE00000; mov dword ptr [rbx + 0xF0], 0x1FF; sti; mov dword ptr [rbx + 0x300], 0x40051; nop; nop;"
        f"{LATE} cli; hlt;"
        f"handler: {WAIT} sti; nop; {LATE} mov dword ptr [rbx + 0xB0], 0; nop; iretq", waiter, virtualized)
    assert waiter.order == [0x70, 0x71, M.X64_INTERRUPTION_DELIVERABLE, 0x71]


def test_eoi_by_the_assist_page_is_a_real_one_while_the_parent_waits():
    """The interrupt was offered to end without an exit; the guest finds that offer withdrawn."""
    waiter = Waiter(DeliverabilityNotificationsRegister(interrupt_notification=1, interrupt_priority=5))
    guest = run(f"{IDT} lea rdi, [rip + handler]; mov ecx, 0x51; call gate;"
                "xor edx, edx; mov ecx, 0x40000073; mov eax, 0x50001; wrmsr; mov esi, 0x50000;"
                "mov ebx, 0xFEE00000; mov dword ptr [rbx + 0xF0], 0x1FF; sti;"
                "mov dword ptr [rbx + 0x300], 0x40051; nop; cli; hlt;"
                f"handler: mov r9d, [rsi]; {WAIT} mov r8d, [rsi]; sti; nop; {LATE}"
                "mov dword ptr [rbx + 0xB0], 0; nop; iretq", waiter, False)
    assert (waiter.order, guest.r9, guest.r8) == ([0x70, 0x71, M.X64_INTERRUPTION_DELIVERABLE], 1, 0)


@BOTH
def test_the_parents_interrupt_arrives_where_it_was_told(virtualized):
    """The answer to the notification is the interruption; and with it the waiting is over."""
    event = 1 | 0x61 << 16              # pending, external, vector 0x61
    waiter = Waiter(INTERRUPT, answer=lambda message: {N.PENDING_INTERRUPTION: event})
    guest = run(f"{IDT} lea rdi, [rip + handler]; mov ecx, 0x61; call gate; xor r8d, r8d; {WAIT} sti; nop; {LATE}"
                "cli; hlt; handler: inc r8d; iretq", waiter, virtualized)
    assert (waiter.order, guest.r8) == ([0x70, M.X64_INTERRUPTION_DELIVERABLE, 0x71], 1)


@BOTH
def test_a_guest_that_halts_stays_halted_while_its_parent_is_told(virtualized):
    """HLT ends by an interrupt, and that is the parent's to give."""
    def activity(winhv, vm):
        return winhv.get_vp_register(vm, 0, N.INTERNAL_ACTIVITY_STATE)

    waiter = Waiter(INTERRUPT, activity, lambda message: {N.PENDING_INTERRUPTION: 1 | 0x61 << 16})
    guest = run(f"{IDT} lea rdi, [rip + handler]; mov ecx, 0x61; call gate; xor r8d, r8d; cli; {WAIT} sti; hlt; {LATE}"
                "cli; hlt; handler: inc r8d; iretq", waiter, virtualized)
    assert (waiter.order, guest.r8) == ([0x70, M.X64_INTERRUPTION_DELIVERABLE, 0x71], 1)
    assert waiter.seen == [InternalActivityRegister(halt_suspend=1).raw]


def test_an_answer_without_an_interrupt_does_not_end_hlt():
    waiter = Waiter(INTERRUPT)
    guest = run(f"cli; {WAIT} sti; hlt; {LATE} cli; hlt", waiter)
    assert waiter.order == [0x70, M.X64_INTERRUPTION_DELIVERABLE]
    assert guest.rflags & 1 << 9        # it is at the first HLT


@BOTH
def test_an_nmi_waits_for_the_iret_of_the_last_ones_handler(virtualized):
    waiter = Waiter(NMI)
    send = "mov ebx, 0xFEE00000; mov dword ptr [rbx + 0x310], 0; mov dword ptr [rbx + 0x300], 0x4400; nop; nop;"
    guest = run(f"{IDT} lea rdi, [rip + handler]; mov ecx, 2; call gate; xor r8d, r8d; {send} {LATE} cli; hlt;"
                f"handler: {WAIT} inc r8d; {LATE} iretq", waiter, virtualized)
    assert waiter.order == [0x70, 0x71, M.X64_INTERRUPTION_DELIVERABLE, 0x71]
    assert (body(waiter).deliverable_type, guest.r8) == (s.PendingInterruptionType.NMI, 1)


def test_each_notification_is_a_message_and_clears_its_bits():
    seen = []
    waiter = Waiter(DeliverabilityNotificationsRegister(nmi_notification=1, interrupt_notification=1,
                                                       interrupt_priority=9), lambda winhv, vm: seen.append(
        DeliverabilityNotificationsRegister(winhv.get_vp_register(vm, 0, N.DELIVERABILITY_NOTIFICATIONS))))
    run(f"cli; {WAIT} nop; {LATE} sti; nop; nop; {LATE}", waiter)
    assert waiter.order == [0x70, M.X64_INTERRUPTION_DELIVERABLE, 0x71, M.X64_INTERRUPTION_DELIVERABLE, 0x71]
    assert [(each.nmi_notification, each.interrupt_notification, each.interrupt_priority) for each in seen] == [
        (0, 1, 9), (0, 0, 0)]


def test_a_parent_that_waits_no_more_is_told_nothing():
    waiter = Waiter(INTERRUPT)

    def withdraw(message):
        at = s.IoPortIntercept.parse(message.payload).port
        return past(message) | {N.DELIVERABILITY_NOTIFICATIONS: INTERRUPT.raw if at == 0x70 else 0}

    waiter.answer = withdraw
    run(f"cli; {WAIT} nop; {LATE} sti; nop; nop", waiter)
    assert waiter.order == [0x70, 0x71]


SYNIC = ("xor edx, edx; mov ecx, 0x40000080; mov eax, 1; wrmsr; mov ecx, 0x40000083; mov eax, 0x50001; wrmsr;"
         "mov ecx, 0x40000093; mov eax, 0x52; wrmsr; mov ebx, 0x50300;")     # the page at 0x50000, SINT 3, its slot


@BOTH
def test_a_slot_that_becomes_free_is_told_at_eom(virtualized):
    """The message in the slot gets MessagePending, so that the guest writes EOM when it has taken it."""
    waiter = Waiter(DeliverabilityNotificationsRegister(sints=1 << 3))
    guest = run(f"{SYNIC} mov dword ptr [rbx], 1; {WAIT} movzx r8d, byte ptr [rbx + 5]; mov dword ptr [rbx], 0;"
                "mov ecx, 0x40000084; xor eax, eax; wrmsr; nop;" + LATE, waiter, virtualized)
    assert waiter.order == [0x70, M.SYNIC_SINT_DELIVERABLE, 0x71]
    assert (body(waiter, s.SintDeliverable).deliverable_sints, guest.r8) == (1 << 3, 1)


def test_a_slot_that_is_free_is_told_at_once_and_only_of_the_sints_asked_for():
    waiter = Waiter(DeliverabilityNotificationsRegister(sints=1 << 3 | 1 << 4))
    run(f"{SYNIC} {WAIT} nop; {LATE} mov ecx, 0x40000094; mov eax, 0x53; wrmsr; nop;" + LATE, waiter)
    assert waiter.order == [0x70, M.SYNIC_SINT_DELIVERABLE, 0x71, M.SYNIC_SINT_DELIVERABLE, 0x71]


def test_a_child_that_asks_for_itself_only_stops_for_a_moment():
    """AccessVpRegisters lets it write the register; its worker has waited for nothing, and lets it go on."""
    guest = run_guest("sti; mov ecx, 0x40000000; mov edx, 0x81000000; xor eax, eax; wrmsr; mov ecx, 0x40000001;"
                      "xor edx, edx; mov eax, 0x61001; wrmsr; mov ebx, 0x62000; mov qword ptr [rbx], -1;"
                      "mov dword ptr [rbx + 8], 0xFFFFFFFE; mov dword ptr [rbx + 16], 0x00010006;"
                      "mov qword ptr [rbx + 32], 2; mov rcx, 0x100000051; mov rdx, rbx; mov eax, 0x61000; call rax;"
                      "mov r8d, 7; cli; hlt")
    assert (guest.ended, guest.r8) == ("halt", 7)


ROUNDS = 40
# Each round: interrupts off and on, a task priority, an interrupt and an NMI to itself. R8, R10 and R9 count those, and
# the parent's.
BUSY = (f"{IDT} lea rdi, [rip + own]; mov ecx, 0x51; call gate; lea rdi, [rip + given]; mov ecx, 0x61; call gate;"
        "lea rdi, [rip + nmi]; mov ecx, 2; call gate; xor r8d, r8d; xor r9d, r9d; xor r10d, r10d; mov ebx, 0xFEE00000;"
        f"mov dword ptr [rbx + 0xF0], 0x1FF; mov r12d, {ROUNDS};"
        f"loop: {WAIT} cli; mov eax, r12d; and eax, 7; mov cr8, rax; sti; mov dword ptr [rbx + 0x300], 0x40051; nop;"
        f"xor eax, eax; mov cr8, rax; {WAIT} mov dword ptr [rbx + 0x310], 0; mov dword ptr [rbx + 0x300], 0x4400; nop;"
        f"dec r12d; jnz loop; cli; hlt; own: inc r8d; {WAIT} mov dword ptr [rbx + 0xB0], 0; iretq;"
        "given: inc r9d; iretq; nmi: inc r10d; iretq")


@BOTH
@pytest.mark.parametrize("seed", range(5))
def test_whatever_the_parent_waits_for_no_interrupt_is_lost_or_doubled(seed, virtualized):
    """At each message it asks for something else, or gives an interrupt where it was told that it may."""
    chance, given = random.Random(seed), []

    def wish():
        return DeliverabilityNotificationsRegister(
            nmi_notification=chance.randrange(2), interrupt_notification=chance.randrange(2),
            interrupt_priority=chance.randrange(16), sints=chance.randrange(2)).raw

    def answer(message):
        registers = {N.DELIVERABILITY_NOTIFICATIONS: wish()} if chance.random() < 0.6 else {}
        if message.header.message_type == M.X64_IO_PORT_INTERCEPT:
            return past(message) | registers
        kind = s.InterruptionDeliverable.parse(message.payload).deliverable_type
        if kind == s.PendingInterruptionType.INTERRUPT and chance.random() < 0.7:
            given.append(kind)
            registers[N.PENDING_INTERRUPTION] = 1 | 0x61 << 16
        return registers

    guest = run_guest(BUSY, prepare=Parent(PORTS, answer), apic_virtualization=virtualized, budget=20_000_000)
    assert guest.ended == "halt"
    assert given
    assert (guest.r8, guest.r9, guest.r10) == (ROUNDS, len(given), ROUNDS)
