"""Partitions with many VPs: locks, interrupts between them, flushes, code that one patches; the same in each run."""

import hashlib
import re

import pytest

from hv.hypervisor.vps.vp import VirtualProcessor
from hv.image.assembler import assemble
from hv.image.library import guests_folder
from hv.image.load import image_of
from hv.platform import Machine
from hv.trace import events
from hv.trace.events import SwitchReason

PRELUDE = '.include "lib/machine.inc"\n.bits 64\n.org 0x10000\n.entry start\n'
LIBRARIES = "".join(f'.include "lib/{name}.inc"\n' for name in ("serial64", "idt64", "hypercall64", "smp64"))


class Run:
    """A guest with *vps* processors, run to its end; *switches* are the events, if they are asked for."""

    def __init__(self, source, vps, slice_ticks=100_000, until=None, trace=False):
        self.machine = Machine(memory_mib=24, slice_ticks=slice_ticks)
        self.records = []
        try:
            if trace:
                self.machine.trace.listen(self.records.append)
            vm = self.machine.create_vm("smp", image_of(assemble(source, "smp", folders=(guests_folder(),))), 4, vps)
            self.machine.run(until)
            self.serial, self.ended, self.tsc = vm.serial, vm.ended, self.machine.clock.tsc
            self.partition = vm.partition
            self.runtimes = [vp.runtime for vp in vm.partition.vps.values()]
            self.exits = [tuple(vp.vcpu.exits) for vp in vm.partition.vps.values()]
            first = vm.worker.pages[0] << 12
            self.ram = hashlib.sha256(self.machine.memory.read(first, 4 << 20)).hexdigest()
        finally:
            self.machine.close()

    @property
    def fingerprint(self):
        told = [(record.tsc, record.partition, record.vp, repr(record.event)) for record in self.records]
        return self.serial, self.ended, self.tsc, self.runtimes, self.exits, self.ram, told

    def switches(self):
        return [record.event for record in self.records if isinstance(record.event, events.VpSwitch)
                and record.event.partition == self.partition.id]


def shipped(name, **constants):
    source = (guests_folder() / f"{name}.asm").read_text()
    for constant, value in constants.items():
        source, count = re.subn(rf"^{constant}( *)= .*$", rf"{constant}\1= {value}", source, flags=re.M)
        assert count == 1
    return source


def program(start, ap_main, tail=""):
    """VP 0 begins at *start*, behind `smp_start` with EAX = how many VPs there are; the others come to *ap_main*."""
    return (f"{PRELUDE}start:\n call idt_load\n call smp_start\n{start}\n jmp power_off\nap_main:\n{ap_main}\n"
            f".asleep:\n cli\n hlt\n jmp .asleep\n{tail}\n{LIBRARIES}")


# --- the shipped guests -------------------------------------------------------------------------------------------

def counted(run):
    return [int(number) for number in re.findall(r"^VP \d+ counted (\d+)$", run.serial, re.M)]


def test_smp_counts_to_100_000_under_one_lock():
    run = Run(shipped("smp"), 4)
    assert run.ended == "shutdown"
    assert run.serial.startswith("4 VPs are here\n3 interrupts sent by ICR, and taken\n"
                                 "HvCallSendSyntheticClusterIpi: status 0x0000000000000000, taken 3\n")
    assert sum(counted(run)) == 100_000
    assert max(counted(run)) < 26_000                   # a ticket lock is fair
    handoffs = re.search(r"^together 100000, the lock changed hands (\d+)$", run.serial, re.M)
    assert int(handoffs[1]) > 99_000


@pytest.mark.parametrize("vps", [1, 3, 8])
@pytest.mark.parametrize("slice_ticks", [3_000, 100_000])
def test_smp_is_the_same_in_each_run_whatever_the_slices_are(vps, slice_ticks):
    first, second = (Run(shipped("smp", TOTAL=400), vps, slice_ticks, trace=True) for _ in range(2))
    assert first.fingerprint == second.fingerprint
    assert first.ended == "shutdown"
    assert sum(counted(first)) == 400
    assert len(counted(first)) == vps


def test_sixty_four_vps_start_and_take_turns():
    run = Run(shipped("smp", TOTAL=1500), 64)
    assert run.serial.startswith("64 VPs are here\n63 interrupts sent by ICR")
    assert "taken 63\n" in run.serial
    assert sum(counted(run)) == 1500
    assert min(counted(run)) >= 10


SEEN = ("VP 1 sees page A\n moved: A flushed by HvCallFlushVirtualAddressSpace: B\n"
        " moved: B flushed for everybody and all spaces: A\n moved: A flushed by HvCallFlushVirtualAddressList: B\n"
        " moved: B flushed by HvCallFlushVirtualAddressSpaceEx: A\n"
        " moved: A flushed by HvCallFlushVirtualAddressListEx: B\n moved: B flushed by an interrupt and INVLPG: A\n")


def test_tlb_flush_sees_the_old_page_until_the_flush_and_the_new_one_behind_it():
    assert Run(shipped("tlb_flush"), 2).serial == SEEN


def test_without_a_flush_the_old_page_stays(monkeypatch):
    """The guest can tell: hypercalls that only say they have flushed are found out."""
    monkeypatch.setattr(VirtualProcessor, "flush_translations", lambda vp, cr3: True)
    seen = re.findall(r"moved: (.) flushed .*: (.)", Run(shipped("tlb_flush"), 2).serial)
    assert len(seen) == 6
    assert any(before == after for before, after in seen)


# --- spinning -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("pause", ["nop", "pause"])
def test_two_vps_that_wait_for_each_other_get_on(pause):
    """Without PAUSE it takes a slice for each turn, but it goes on."""
    wait = f".w{{0}}: {pause}\n cmp dword ptr [0x220000], {{0}}\n jne .w{{0}}\n mov dword ptr [0x220000], {{1}}\n"
    run = Run(program("".join(wait.format(2 * n, 2 * n + 1) for n in range(20)),
                      "".join(wait.format(2 * n + 1, 2 * n + 2) for n in range(20))), 2, until=60_000_000)
    assert run.ended == "shutdown"
    assert (run.tsc < 5_000_000) is (pause == "pause")


def test_eight_vps_that_pause_under_a_ticket_lock_reach_the_holder_each_time():
    run = Run(shipped("smp", TOTAL=800), 8, trace=True)
    whys = [switch.why for switch in run.switches()]
    handoffs = int(re.search(r"changed hands (\d+)$", run.serial, re.M)[1])
    assert handoffs > 500
    assert whys.count(SwitchReason.SPINS) < 1.1 * handoffs
    assert whys.count(SwitchReason.SLICE_OVER) < 10
    assert run.tsc < 5_000_000


def test_a_vp_that_spins_with_interrupts_off_gets_on_when_the_halted_one_is_woken():
    """VP 1 sleeps until an IPI; VP 0 spins for what its handler does, without PAUSE and with interrupts off."""
    run = Run(program("""
        mov edi, 0x41
        lea rax, [rip + handler]
        call idt_set
        cli
        mov ebx, APIC
        mov dword ptr [rbx + APIC_ICR_HIGH], 1 << 24
        mov dword ptr [rbx + APIC_ICR_LOW], 0x41
    .spin:
        cmp dword ptr [0x220000], 7
        jne .spin
    """, "sti\n.sleep:\n hlt\n jmp .sleep", """
    handler:
        mov dword ptr [0x220000], 7
        mov eax, APIC
        mov dword ptr [rax + APIC_EOI], 0
        iretq"""), 2, until=20_000_000, trace=True)
    assert run.ended == "shutdown"
    assert SwitchReason.WOKEN in [switch.why for switch in run.switches()]


def test_a_long_spin_that_is_told_gives_the_processor_to_the_others():
    """HvCallNotifyLongSpinWait, instead of the slice that a loop without PAUSE would use up."""
    run = Run(program("""
        call hypercall_init
    .wait:
        mov ecx, 0x10008
        mov edx, 100
        mov eax, HYPERCALL_PAGE
        call rax
        cmp dword ptr [0x220000], 1
        jne .wait
    """, """
        mov ecx, 20000
    .work:
        dec ecx
        jnz .work
        mov dword ptr [0x220000], 1
    """), 2, until=20_000_000, trace=True)
    assert run.ended == "shutdown"
    assert SwitchReason.SPINS in [switch.why for switch in run.switches()]
    assert run.tsc < 2_000_000


# --- code that another one patches --------------------------------------------------------------------------------

@pytest.mark.parametrize("serialize", ["cpuid", "nop"], ids=["with-cpuid", "without"])
def test_code_that_one_vp_patches_is_what_the_other_runs(serialize):
    """SDM "Handling Self- and Cross-Modifying Code" wants a serializing instruction. Here it also works without one:
    the engine watches every store to code."""
    run = Run(program("""
        mov ebp, 5
    .round:
        inc byte ptr [rip + patched + 1]            ; the immediate of MOV
        inc dword ptr [0x220000]
        mov eax, [0x220000]
    .wait:
        pause
        cmp [0x220040], eax
        jne .wait
        dec ebp
        jnz .round
        mov eax, [0x220080]
        call print_dec
    """, f"""
        xor esi, esi
    .look:
        pause
        cmp [0x220000], esi
        je .look
        mov esi, [0x220000]
        xor eax, eax
        {serialize}
        call patched
        imul ecx, [0x220080], 10
        add ecx, eax
        mov [0x220080], ecx
        mov [0x220040], esi
        jmp .look
    """, "patched: mov eax, 2\n ret"), 2, until=40_000_000)
    assert (run.serial, run.ended) == ("34567", "shutdown")


# --- nothing is free, and nothing is lost -------------------------------------------------------------------------

def test_a_halted_vp_costs_nothing():
    """The same work with 1 VP and with 64 of which 63 sleep: not one exit and not one turn more behind the start."""
    work = "mov r14d, 40\n.exits: xor eax, eax\n cpuid\n dec r14d\n jnz .exits"
    alone, many = (Run(program(work, ""), vps, trace=True) for vps in (1, 64))
    started = next(n for n, record in enumerate(many.records) if isinstance(record.event, events.Cpuid))
    assert not [record for record in many.records[started:] if isinstance(record.event, events.VpSwitch)
                and record.event.vp]
    assert sum(sum(exits) for exits in alone.exits) > 40
    assert [n for n, exits in enumerate(many.exits) if exits[10]] == [0]


PAUSE = 40                          # VM exit reason


def test_a_delay_of_a_vp_that_runs_alone_takes_few_exits():
    """100 ms of PAUSE until the time-stamp counter is there: nobody else can run, so time passes faster the longer it
    takes; by a 64th at most it takes longer than it should."""
    run = Run(program("""
        rdtsc
        shl rdx, 32
        lea rbx, [rax + rdx + 200000000]
    .delay:
        pause
        rdtsc
        shl rdx, 32
        or rax, rdx
        cmp rax, rbx
        jb .delay
        sub rax, rbx
        call print_dec
    """, "nop"), 1)
    assert run.ended == "shutdown"
    assert int(run.serial) <= 200_000_000 / 63
    assert 64 < run.exits[0][PAUSE] < 1000
