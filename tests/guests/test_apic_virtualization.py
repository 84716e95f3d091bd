"""What a guest's APIC costs it: which accesses exit, and what keeps working when the processor does the rest."""

from __future__ import annotations

import pytest

from hv.commands.metrics import exits_per_interrupt
from hv.hypervisor.interrupts.apic_virtualization import msr_bitmap
from hv.hypervisor.interrupts.vp_apic import VpApic
from hv.hypervisor.synic.synic import QueuedMessage
from hv.machine.apic import LocalApic
from hv.platform import Machine
from hv.spec.apic import ApicRegister as R
from hv.spec.exits import ExitReason
from hv.spec.vmcs import SecondaryControls, VmcsField
from hv.trace import events
from hv.vmx.exit import VmExit
from tests.guest_runner import image_of, run_guest
from tests.guests.test_interrupts import EOI, X2APIC_EOI, X2APIC_ON, XAPIC_ON, guest, log_of, mark, timer, xapic_ipi
from tests.proves import proves

E = ExitReason
TPR_BY_MSR = "push rax; push rcx; push rdx; mov ecx, 0x808; mov eax, {0}; xor edx, edx; wrmsr; " \
             "pop rdx; pop rcx; pop rax"
SINT2, SCONTROL = 0x40000092, 0x40000080


def exits_of(result) -> list[ExitReason]:
    return [event.reason for event in result.of(VmExit)]


# --- exits -------------------------------------------------------------------------------------------------------

@proves("control/SecondaryControls.VIRTUAL_INTERRUPT_DELIVERY", "control/PrimaryControls.USE_TPR_SHADOW")
def test_an_interrupt_costs_the_halt_and_nothing_more():
    """The figure of `hv bench`: it is counted, so it is the same on every host."""
    assert exits_per_interrupt(True, 20) == 1
    assert exits_per_interrupt(False, 20) == 4


@proves("control/SecondaryControls.VIRTUALIZE_X2APIC_MODE", "control/PrimaryControls.USE_MSR_BITMAPS")
def test_in_x2apic_mode_eoi_tpr_and_self_ipi_do_not_exit():
    body = f"sti; {TPR_BY_MSR.format('0x50')}; mov ecx, 0x83F; mov eax, 0x41; xor edx, edx; wrmsr; {mark('1')}; " \
           f"{TPR_BY_MSR.format('0')}; {mark('2')}"
    result = run_guest(guest(body, {0x41: f"{mark('A')}; {X2APIC_EOI}"}, X2APIC_ON))
    assert log_of(result) == "1A2"
    assert exits_of(result) == [E.RDMSR, E.WRMSR, E.WRMSR, E.HLT]       # IA32_APIC_BASE twice, SVR


def test_x2apic_registers_are_read_from_the_page_or_computed():
    """ICR as 64 bits, the version, PPR and the count that runs; a register that is not there is #GP."""
    send = "mov ecx, 0x830; mov eax, 0x40041; mov edx, 7; wrmsr"
    read = "; ".join(f"mov ecx, {msr}; rdmsr; mov [{0x100100 + 8 * n}], eax; mov [{0x100104 + 8 * n}], edx"
                     for n, msr in enumerate((0x803, 0x830, 0x80A, 0x80D, 0x802)))
    result = run_guest(guest(f"cli; {send}; {TPR_BY_MSR.format('0x35')}; {read}; mov ecx, 0x80E; rdmsr",
                             {0x41: "", 13: mark("G") + "; cli; hlt"}, X2APIC_ON))
    words = [int.from_bytes(result.memory[0x100100 + 8 * n :][:8], "little") for n in range(5)]
    assert words == [0x01060014, 7 << 32 | 0x40041, 0x35, 1, 0]
    assert log_of(result) == "G"


def test_registers_of_the_page_read_as_they_were_written():
    """Reserved bits read 0, a mask stays set while the APIC is off, the id cannot be changed."""
    written = (R.ID, R.LDR, R.DFR, R.ICR_HIGH)
    writes = "; ".join(f"mov dword ptr [rbx+{register:#x}], 0xFFFFFFFF" for register in written)
    reads = "; ".join(f"mov eax, [rbx+{register:#x}]; mov [{0x100100 + 4 * n}], eax" for n, register in enumerate(
        (R.ID, R.LDR, R.DFR, R.ICR_HIGH, R.SVR, R.LVT_TIMER, R.VERSION)))
    result = run_guest(guest(f"{writes}; mov dword ptr [rbx+0xF0], 0xFF; mov dword ptr [rbx+0x320], 0x41; {reads}", {}))
    words = [int.from_bytes(result.memory[0x100100 + 4 * n :][:4], "little") for n in range(7)]
    assert words == [0, 0xFF000000, 0xFFFFFFFF, 0xFF000000, 0xFF, 0x10041, 0x01060014]


def test_the_bitmap_lets_only_x2apic_msrs_through():
    bitmap = msr_bitmap()
    passed = [(half, msr) for half in (0, 0x800) for msr in range(0x2000) if not bitmap[half + msr // 8] >> msr % 8 & 1]
    assert {msr for half, msr in passed if half} == {0x808, 0x80B, 0x83F}
    assert {0x802, 0x808, 0x80F, 0x830, 0x838} <= {msr for half, msr in passed if not half}
    assert not {0x80A, 0x80B, 0x80E, 0x831, 0x839, 0x83F} & {msr for half, msr in passed if not half}
    assert bitmap[0x400:0x800] == bitmap[0xC00:] == b"\xff" * 0x400


# --- who must hear of an EOI -------------------------------------------------------------------------------------

def a_vm(machine, source, **options):
    return machine.create_vm("guest", image_of(source), memory_mib=2, **options)


@pytest.fixture
def machine():
    machine = Machine(memory_mib=24)
    yield machine
    machine.close()


@proves("exit/VIRTUALIZED_EOI")
def test_the_eoi_of_a_level_triggered_vector_is_told(machine):
    """SDM "EOI Virtualization": the bit of the bitmap comes with the first level-triggered acceptance."""
    handlers = dict.fromkeys((65, 82), f"inc byte ptr [{1048608}]; {EOI}")
    vm = a_vm(machine, guest(f"sti; w:; cmp byte ptr [{0x100020}], 2; jne w; {mark('.')}", handlers))
    vp, heard, ended = vm.partition.vps[0], [], []
    vp.apic.on_broadcast_eoi = heard.append
    handle = vp.vcpu.on_exit
    vp.vcpu.on_exit = lambda exit: (ended.append(exit.qualification) if exit.reason is E.VIRTUALIZED_EOI else None,
                                    handle(exit))[1]
    machine.run(until_tsc=machine.clock.tsc + 20_000)
    vp.apic.accept(0x41, level=True)
    vp.apic.accept(0x52)
    machine.run(until_tsc=machine.clock.tsc + 2_000_000)
    assert (heard, ended) == ([0x41], [0x41])
    assert vp.apic.irr == vp.apic.isr == 0


@proves("exit/VIRTUALIZED_EOI")
def test_a_message_that_waits_comes_with_the_eoi(machine):
    """TLFS "Message Delivery": the second message finds the slot taken; the guest empties it, and ends the first."""
    simp = "mov ecx, 0x40000083; mov eax, 0x120001; xor edx, edx; wrmsr"
    enable = f"mov ecx, {SCONTROL}; mov eax, 1; xor edx, edx; wrmsr; mov ecx, {SINT2}; mov eax, 0x52; wrmsr"
    take = "movzx eax, byte ptr [0x120210]; mov [r14], al; inc r14; mov dword ptr [0x120200], 0"
    vm = a_vm(machine, guest(f"{simp}; {enable}; mov byte ptr [{0x100020}], 1; sti; w:; cmp r14d, {0x100002}; jne w", {
        0x52: f"{take}; {EOI}"}))
    vp = vm.partition.vps[0]
    machine.run(until_tsc=machine.clock.tsc + 100_000)
    vp.synic.post(2, QueuedMessage(1, b"A", 0))
    vp.synic.post(2, QueuedMessage(1, b"B", 0))
    machine.run(until_tsc=machine.clock.tsc + 2_000_000)
    assert machine.memory.read(vm.worker.pages[0] * 4096 + 0x100000, 2) == b"AB"
    assert vp.vcpu.exits[E.VIRTUALIZED_EOI] == 1        # of the first; nobody waits for the second


def test_an_auto_eoi_sint_needs_no_eoi(machine):
    """TLFS "SINTx Registers", AutoEOI: such a VP's interrupts are injected, and two of one class follow each other."""
    enable = f"mov ecx, {SCONTROL}; mov eax, 1; xor edx, edx; wrmsr; mov ecx, {SINT2}; mov eax, 0x20052; wrmsr"
    vm = a_vm(machine, guest(f"{enable}; sti; w:; cmp r14d, {0x100003}; jne w", {
        0x52: mark("A"), 0x51: f"{mark('B')}; {EOI}"}))
    vp = vm.partition.vps[0]
    machine.run(until_tsc=machine.clock.tsc + 100_000)
    assert not vp.apic_delivers
    vp.apic.accept(0x52)
    vp.apic.accept(0x51)
    machine.run(until_tsc=machine.clock.tsc + 1_000_000)
    vp.apic.accept(0x52)
    machine.run(until_tsc=machine.clock.tsc + 1_000_000)
    assert machine.memory.read(vm.worker.pages[0] * 4096 + 0x100000, 3) == b"ABA"
    assert vp.apic.isr == 0


# --- where the registers are -------------------------------------------------------------------------------------

def shown(vm) -> bool:
    return vm.partition.space.overlay_at(0xFEE00) is not None


def test_the_page_stands_while_every_vp_has_its_registers_there(machine):
    """One VP in x2APIC mode takes it from both; the other's accesses are emulated, its interrupts still delivered."""
    vm = a_vm(machine, guest(f"{timer(0x41)}; sti; hlt; {mark('1')}", {0x41: f"{mark('T')}; {EOI}"}), vps=2)
    first, second = (vm.partition.vps[n] for n in range(2))
    assert shown(vm)
    second.apic.write_msr(0x1B, 0xFEE00C00)
    assert not shown(vm)
    machine.run(until_tsc=machine.clock.tsc + 2_000_000)
    assert machine.memory.read(vm.worker.pages[0] * 4096 + 0x100000, 3) == b"T1\0"
    assert first.vcpu.exits[E.EPT_VIOLATION]
    assert second.vcpu.vmcs.read(VmcsField.SECONDARY_PROC_CONTROLS) & SecondaryControls.VIRTUALIZE_X2APIC_MODE == 0
    second.apic.write_msr(0x80F, 0x1FF)
    assert second.vcpu.vmcs.read(VmcsField.SECONDARY_PROC_CONTROLS) & SecondaryControls.VIRTUALIZE_X2APIC_MODE


def test_an_apic_that_moves_its_page_is_found_there():
    body = f"mov ecx, 0x1B; mov eax, 0xFEF00900; xor edx, edx; wrmsr; mov ebx, 0xFEF00000; " \
           f"mov dword ptr [rbx+0xF0], 0x1FF; sti; {xapic_ipi(0x41)}; nop; {mark('.')}"
    result = run_guest(guest(body, {0x41: f"{mark('A')}; {EOI}"}))
    assert log_of(result) == "A."
    assert E.EPT_VIOLATION in exits_of(result)


def test_an_apic_switched_off_and_on_starts_anew():
    """SDM "Local APIC Status and Location": what was in service is forgotten, and delivery begins with SVR."""
    off = "mov ecx, 0x1B; rdmsr; and eax, 0xFFFFF7FF; wrmsr; or eax, 0x800; wrmsr"
    body = f"sti; {xapic_ipi(0x81)}; nop; {off}; {XAPIC_ON}; {xapic_ipi(0x41)}; nop; {mark('.')}"
    result = run_guest(guest(body, {0x81: mark("h"), 0x41: f"{mark('A')}; {EOI}"}))
    assert log_of(result) == "hA."


def test_saved_and_restored_an_apic_goes_on(machine):
    vm = a_vm(machine, guest(f"mov dword ptr [rbx+0x80], 0x20; cli; {xapic_ipi(0x41)}; {xapic_ipi(0x52)}; hlt", {}))
    machine.run(until_tsc=machine.clock.tsc + 100_000)
    apic = vm.partition.vps[0].apic
    assert isinstance(apic, VpApic)
    saved = apic.save()
    model = LocalApic(0, machine.clock)
    model.restore(saved)
    apic.init()
    assert apic.deliverable() is None
    apic.restore(model.save())
    assert apic.save() == saved
    assert (apic.deliverable(), apic.ppr, apic.virtual.rvi) == (0x52, 0x20, 0x52)
    assert apic.inspect()["irr"] == [0x41, 0x52]


def test_a_machine_without_it_has_the_plain_model():
    result = run_guest(guest(f"sti; {xapic_ipi(0x41)}; nop; {mark('.')}", {0x41: f"{mark('A')}; {EOI}"}),
                       apic_virtualization=False)
    assert log_of(result) == "A."
    assert not {E.APIC_ACCESS, E.APIC_WRITE, E.VIRTUALIZED_EOI} & set(exits_of(result))
    assert exits_of(result).count(E.EPT_VIOLATION) == 4


def test_a_vp_that_is_deleted_leaves_its_page_alone(machine):
    """A timer that was set must not reach a page that is somebody else's by then."""
    vm = a_vm(machine, guest(f"{timer(0x41, 1_000_000)}; cli; hlt", {}))
    machine.run(until_tsc=machine.clock.tsc + 50_000)
    page, apic = vm.partition.vp_pages[0].virtual_apic, vm.partition.vps[0].apic
    machine.destroy_vm(vm)
    machine.memory.write(page, bytes(4096))
    machine.clock.advance(10_000_000)
    machine.clock.run_due()
    apic.accept(0x55)
    assert machine.memory.read(page, 4096) == bytes(4096)


def test_the_guest_is_told_of_by_the_same_events():
    result = run_guest(guest(f"sti; {xapic_ipi(0x41)}; nop", {0x41: EOI}))
    assert [event.vector for event in result.of(events.Injected)] == [0x41]


@pytest.mark.parametrize("virtualized", [False, True])
def test_the_synthetic_msrs_are_recommended_where_they_save_an_exit(virtualized):
    """TLFS "Implementation Recommendations": bit 3, MSRs for EOI, ICR and TPR. They work either way."""
    body = f"mov eax, 0x40000004; push rbx; cpuid; pop rbx; mov r12d, eax; sti; {xapic_ipi(0x41)}; nop; {mark('.')}"
    eoi = "push rax; push rcx; push rdx; mov ecx, 0x40000070; xor eax, eax; xor edx, edx; wrmsr; " \
          "pop rdx; pop rcx; pop rax"
    result = run_guest(guest(f"{body}; {xapic_ipi(0x31)}; nop", {0x41: f"{mark('A')}; {eoi}", 0x31: mark("B")}),
                       apic_virtualization=virtualized)
    assert (bool(result.r12 & 8), log_of(result)) == (not virtualized, "A.B")
