"""The SynIC as a guest's code meets it: what empties a slot and ends an interrupt brings the next message."""

from __future__ import annotations

import pytest

from hv.commands import metrics_synic
from hv.hypervisor.hypervisor import Hypervisor
from hv.hypervisor.synic.synic import QueuedMessage
from hv.platform import Machine
from hv.spec.hypercalls.codes import HypercallCode
from hv.trace import events
from tests.guest_runner import image_of
from tests.guests.test_interrupts import EOI, LOG, X2APIC_EOI, X2APIC_ON, XAPIC_ON, guest, xapic_ipi

VECTOR = 0x52
SLOT = 0x120200                         # of SINT 2, with SIMP at 0x120000
HV_EOI = "push rax; push rcx; push rdx; mov ecx, 0x40000070; xor eax, eax; xor edx, edx; wrmsr; " \
         "pop rdx; pop rcx; pop rax"
EOM = HV_EOI.replace("0x40000070", "0x40000084")
TAKE = f"movzx eax, byte ptr [{SLOT + 16}]; mov [r14], al; inc r14; mov dword ptr [{SLOT}], 0"
SPURIOUS = f"cmp dword ptr [{SLOT}], 0; je empty"


def wrmsr(msr, low):
    return f"mov ecx, {msr:#x}; mov eax, {low:#x}; xor edx, edx; wrmsr"


def listening(sint=VECTOR):
    """SIMP, SINT 2 and SCONTROL, as a driver writes them."""
    return "; ".join((wrmsr(0x40000083, 0x120001), wrmsr(0x40000092, sint), wrmsr(0x40000080, 1)))


@pytest.fixture(params=[pytest.param(True, id="virtualized"), pytest.param(False, id="by-exits")])
def machine(request, monkeypatch):
    monkeypatch.setattr(Hypervisor, "apic_virtualization", request.param)
    machine = Machine(memory_mib=24)
    yield machine
    machine.close()


def started(machine, body, handler, apic=XAPIC_ON):
    """A VM that has run until it waits, with two messages for it: "A" in its slot, "B" behind."""
    vm = machine.create_vm("guest", image_of(guest(body, {VECTOR: handler}, apic)), memory_mib=2)
    machine.run(until_tsc=machine.clock.tsc + 100_000)
    for text in (b"A", b"B"):
        vm.partition.vps[0].synic.post(2, QueuedMessage(1, text, 0))
    machine.run(until_tsc=machine.clock.tsc + 2_000_000)
    return vm


def taken(machine, vm):
    return machine.memory.read(vm.worker.pages[0] * 4096 + LOG, 4).rstrip(b"\0")


ENDS = [pytest.param(XAPIC_ON, EOI, id="apic-page"), pytest.param(X2APIC_ON, X2APIC_EOI, id="x2apic-msr"),
        pytest.param(XAPIC_ON, HV_EOI, id="synthetic-msr"), pytest.param(X2APIC_ON, HV_EOI, id="synthetic-msr-x2apic")]


@pytest.mark.parametrize(("apic", "eoi"), ENDS)
def test_an_eoi_of_any_kind_brings_the_next_message(machine, apic, eoi):
    """TLFS "Message Delivery": the EOI of the SINT's vector is as good as EOM."""
    vm = started(machine, f"{listening()}; sti; w:; cmp r14d, {LOG + 2}; jne w", f"{TAKE}; {eoi}", apic)
    assert (taken(machine, vm), vm.ended) == (b"AB", "halt")


def test_an_eoi_before_the_slot_is_empty_brings_nothing(machine):
    vm = started(machine, f"{listening()}; sti; w:; cmp r14d, {LOG + 2}; jne w", f"{EOI}; {TAKE}")
    assert taken(machine, vm) == b"A"


def test_an_auto_eoi_sint_needs_eom_and_no_eoi(machine):
    """TLFS "SINTx Registers": the interrupt is over when it is taken, which is before the slot is empty."""
    vm = started(machine, f"{listening(VECTOR | 1 << 17)}; sti; w:; cmp r14d, {LOG + 2}; jne w", f"{TAKE}; {EOM}")
    assert (taken(machine, vm), vm.partition.vps[0].apic.isr) == (b"AB", 0)


def test_an_interrupt_of_an_auto_eoi_vector_brings_what_waits(machine):
    """Its automatic EOI is an EOI: here of an IPI that has the vector of the SINT."""
    body = f"{listening(VECTOR | 1 << 17)}; sti; w:; cmp r14d, {LOG + 1}; jne w; {xapic_ipi(VECTOR)}; " \
           f"v:; cmp r14d, {LOG + 2}; jne v"
    vm = started(machine, body, f"{SPURIOUS}; {TAKE}; empty:")
    assert (taken(machine, vm), vm.partition.vps[0].apic.isr) == (b"AB", 0)


@pytest.mark.parametrize("quiet", [1 << 16, 1 << 18], ids=["masked", "polling"])
def test_a_guest_polls_a_quiet_sint_with_eom(machine, quiet):
    """No interrupt, and the protocol is the same."""
    poll = f"cmp dword ptr [{SLOT}], 0; je w; {TAKE}; {EOM}; cmp r14d, {LOG + 2}; jne w"
    vm = started(machine, f"{listening(VECTOR | quiet)}; sti; w:; {poll}", "mov byte ptr [r14], 'I'; inc r14")
    assert (taken(machine, vm), vm.ended) == (b"AB", "halt")


@pytest.mark.parametrize("call", [metrics_synic.POST, metrics_synic.SIGNAL], ids=["message", "event"])
def test_what_is_sent_takes_one_switch_to_arrive(call):
    """The receiver sleeps, and has more right to the processor than who was just woken by a timer and sent."""
    machine, records = Machine(memory_mib=48), []
    try:
        metrics_synic.pair_of_guests(machine, call, count=30)
        machine.trace.listen(records.append)
        machine.run()
        sent = [n for n, record in enumerate(records) if isinstance(record.event, events.Hypercall)
                and record.event.code in (HypercallCode.POST_MESSAGE, HypercallCode.SIGNAL_EVENT)]
        assert len(sent) == 30
        for n in sent:
            then = [record.event for record in records[n : n + 12]]
            taken = next(n for n, event in enumerate(then) if isinstance(event, events.Injected))
            assert [type(event) for event in then[:taken] if isinstance(event, events.VpSwitch | events.VpHalted)] == [
                events.VpSwitch]            # the sender is left at once, and comes to its HLT later
    finally:
        machine.close()
