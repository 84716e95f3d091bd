"""The guests in guests/: each ends as its header says, twice the same, and the attacker reaches nothing."""

import hashlib
import random
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hv.commands.building import build
from hv.commands.description import read
from hv.image.library import guest_names, guests_folder
from hv.image.load import load
from hv.platform import Machine
from hv.root.vmwp import DEVICE_VECTOR
from hv.spec.exits import ExitReason, InterruptionType
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.x86 import PAGE_SIZE
from hv.trace import events
from hv.vmx.exit import VmExit

EXTERNAL = InterruptionType.EXTERNAL_INTERRUPT
MINE = (
    "attacker",
    "crash",
    "crasher",
    "device_domain",
    "dma",
    "hello",
    "hypercaller",
    "hypercalls",
    "hypercalls32",
    "long_mode",
    "msr_reader",
    "pc_devices",
    "receiver",
    "remapping",        # in test_viommu.py
    "ref_tsc",
    "ring",
    "ring_attacker",
    "root_child",
    "start_vp",
    "stimer",
    "synic",
    "synic_partner",
    "timer",
    "smp",              # in test_smp.py
    "tlb_flush",        # there too
    "two_vps",
    "typewriter",       # in commands/test_interactive.py
    "unhalted",
    "viommu",           # in test_viommu.py
)
NEED_TWO_VPS = ("two_vps", "start_vp")
NEED_PC = ("pc_devices", "ring", "ring_attacker")


class Run:
    """A machine with VMs, run to their end; *records* is what happened."""

    def __init__(self, *names, slice_ticks=100_000, budget=None):
        self.machine = Machine(memory_mib=20 + 4 * len(names), slice_ticks=slice_ticks)
        self.records = []
        self.machine.trace.listen(self.records.append)
        self.vms = []
        for name in names:
            self.vms.append(self.machine.create_vm(
                name, load(str(guests_folder() / f"{name}.asm")), memory_mib=4, vps=2 if name in NEED_TWO_VPS else 1,
                dma_device=name in ("device_domain", "dma", "attacker"), pc=name in NEED_PC,
                devices=("ring",) if name in NEED_PC else (), other=self.vms[0] if self.vms else None))
        if len(self.vms) == 2:
            self.machine.connect(self.vms[0], 1, self.vms[1])
            self.machine.connect(self.vms[1], 1, self.vms[0])
        self.machine.run(budget)
        self.first = self.vms[0]

    def of(self, kind, vm=None):
        """Events of one kind, of one VM's partition if given."""
        return [record.event for record in self.records
                if isinstance(record.event, kind) and (vm is None or record.partition == vm.partition_id)]

    def exits(self, vm, reason):
        return [exit for exit in self.of(VmExit, vm) if exit.reason == reason]

    def ram(self, vm):
        first = vm.worker.pages[0] * PAGE_SIZE
        return self.machine.memory.read(first, vm.worker.memory_bytes)

    def fingerprint(self):
        """All that must be equal in two runs."""
        parts = [self.machine.clock.tsc, len(self.records)]
        for vm in self.vms:
            for vp in vm.partition.vps.values():
                parts += [bytes(vp.regs.gpr), vp.regs.rip, vp.regs.rflags, tuple(vp.vcpu.exits), vp.runtime]
            parts += [vm.ended, vm.why, vm.serial, hashlib.sha256(self.ram(vm)).hexdigest()]
        return parts, [(record.sequence, record.tsc, record.partition, record.vp, type(record.event).__name__)
                       for record in self.records]

    def close(self):
        self.machine.close()


@pytest.fixture
def run():
    runs = []

    def start(*names, **more):
        runs.append(Run(*names, **more))
        return runs[-1]
    yield start
    for one in runs:
        one.close()


# --- each as its header says --------------------------------------------------------------------------------------

SERIAL = {
    "hello": r"hello from a partition\n",
    "long_mode": r"RPL\nEFER is 0x0000000000000500, long mode is active\n",
    "two_vps": r"VP 0 counted 10000\nVP 1 counted 10000\ntogether 20000\n",
    "start_vp": r"HvCallGetVpIndexFromApicId: result 0x0000000100000000\nthe VP with APIC id 1 has index 1\n"
                r"start in long mode without paging: status 0x0{14}50\nstart with our own registers: status 0x0{16}\n"
                r"hello from VP 1\nits EFER is 0x0{13}d00\nstart it again: status 0x0{14}15\n",
    "timer": r"timer interrupts: 10\n",
    "device_domain": r"HvCallGetIommuCapabilities: status 0x0{16}\naddresses of a device have bits: 48\n"
                     r"HvCallRetargetDeviceInterrupt: status 0x0{16}\nHvCallCreateDeviceDomain: status 0x0{16}\n"
                     r"HvCallMapDeviceGpaPages: status 0x0{16}\nHvCallAttachDeviceDomain: status 0x0{16}\n"
                     r"a copy inside the domain: done\nthe bytes are in place\n"
                     r"a copy of a page that is not in it: the IOMMU refused\n"
                     r"HvCallUnmapDeviceGpaPages: status 0x0{16}\n"
                     r"a copy of a page that is no more in it: the IOMMU refused\n"
                     r"HvCallDeleteDeviceDomain with a device: status 0x0{14}19\n"
                     r"HvCallDetachDeviceDomain: status 0x0{16}\nHvCallDeleteDeviceDomain: status 0x0{16}\n",
    "dma": r"interrupt taken, device status 0x000000000000000a, the bytes are in place\n",
    "crasher": r"",
    "hypercaller": r"(message \d posted, status 0x0000000000000012\n){5}HvCallCreatePartition: status 0x0+6\n",
    "hypercalls": r"(ok     .*\n){59}59 of 59 as the TLFS says\n",
    "hypercalls32": r"(ok     .*\n){14}14 of 14 as the TLFS says\n",
    "receiver": r"waiting for messages\n",
    "synic": r"SynIC version 1\nno partner answers: this guest is half of guests/synic\.toml\n",
    "crash": r"running\nrunning again, after a crash at 0x0000000000010059\n"
             r"the synthetic MSRs are reset, and the time is not\n",
    "ref_tsc": r"page and MSR agree in 10000 samples: at most 6 and 6 x 100 ns from one to the other\n"
               r"our own TSC: the sequence is 0, and the MSR goes on\noff: our page is as it was\n",
    "ring": r"network card at 0x0{14}10, its registers at 0x0{8}f0000000\n"
            r"sent/received/errors: 1/1/0, buffers filled: 1024\+476, the frame came back\n",
    "ring_attacker": r"256 rings of nonsense: \d{3} errors, \d\d frames\n"
                     r"256 messages of nonsense: 0 interrupts that nobody named\n",
    "pc_devices": r"ACPI: the PM timer is port 0x0608, the switch is port 0x0604\n"
                  r"PCI 00:00\.0 1414:29c0, class 0600\nPCI 00:02\.0 1414:0417, class 0200\n"
                  r"the clock says 2024-01-01 00:00:00\nI/O APIC: 24 pins, the interval timer is on pin 2\n"
                  r"this text goes out sixteen bytes at a time\nthat took 4 interrupts of the 16550\n"
                  r"10 ms of the interval timer are 358\d\d ticks of the PM timer\n",
    "root_child": r"a hypercall failed, status 0x0+6: only root may do that \(hv run root_child --root\)\n",
    "stimer": r"one-shot: one message, 0 x 100 ns late at most\n"
              r"auto-enable: each count starts it, one that is past expires at once\n"
              r"periodic: ten messages, 0 x 100 ns late at most\nlazy: ten messages, 0 x 100 ns late at most\n"
              r"direct: ten interrupts and no message\nbusy slot: the second message came after EOM\n"
              r"missed ticks: 1, 2 and 8 of eight were told\noff: nothing comes\n",
    "unhalted": r"10 ticks in ten periods of work\n0 ticks in twenty periods of sleep\n"
                r"1 tick after the rest of the period that the sleep had cut in two\n"
                r"2 NMIs in two periods with interrupts off\n0 ticks while it is off\n",
}
ENDED = {"crasher": "triple-fault", "receiver": "halt"}


def test_the_guest_in_the_documentation_prints_who_the_hypervisor_is(tmp_path):
    """docs/guests.md, "A guest of your own": a student copies it as it stands."""
    text = (Path(__file__).parents[2] / "docs" / "guests.md").read_text(encoding="utf-8")
    place = tmp_path / "vendor.asm"
    place.write_text(text.partition("```asm\n")[2].partition("```")[0])
    machine = Machine()
    try:
        vm = machine.create_vm("vendor", load(str(place)), memory_mib=4)
        machine.run(200_000_000)
        assert (vm.ended, vm.serial) == ("shutdown", "Microsoft Hv\n")
    finally:
        machine.close()


def test_every_guest_of_ours_is_tested_here():
    assert set(MINE) <= set(guest_names())


@pytest.mark.parametrize("name", sorted(SERIAL))
def test_a_guest_prints_what_its_header_says_and_ends(run, name):
    result = run(name, budget=400_000_000 if name == "receiver" else None)
    assert re.fullmatch(SERIAL[name], result.first.serial)
    assert result.first.ended == ENDED.get(name, "shutdown")


@pytest.mark.parametrize("names", [
    ("hypercalls",),
    ("hypercalls32",),
    ("hello",),
    ("long_mode",),
    ("two_vps",),
    ("start_vp",),
    ("timer",),
    ("dma",),
    ("device_domain",),
    ("crasher",),
    ("msr_reader",),
    ("stimer",),
    ("ref_tsc",),
    ("crash",),
    ("ring",),
    ("pc_devices",),
    ("hypercaller", "receiver"), ("timer", "dma")], ids="+".join)
def test_two_runs_cannot_be_told_apart(run, names):
    assert run(*names).fingerprint() == run(*names).fingerprint()


def test_pc_devices_shows_how_far_it_came(run):
    """Each part begins with a POST code, and FF is the end."""
    assert [post.code for post in run("pc_devices").of(events.PostCode)] == [0x10, 0x20, 0x30, 0x40, 0x50, 0xFF]


def test_pc_devices_says_what_it_needs():
    """Without a PC board there are no tables, so it looks for nothing else."""
    machine = Machine(memory_mib=20)
    vm = machine.create_vm("plain", load(str(guests_folder() / "pc_devices.asm")), memory_mib=4)
    machine.run(20_000_000)
    assert (vm.ended, "hv run pc_devices --pc" in vm.serial) == ("shutdown", True)
    machine.close()


def test_hello_exits_once_for_each_port_access(run):
    """Two exits for each letter (status, data) and one for the power port; each is asked of root and completed."""
    result = run("hello")
    ports = result.of(events.PortIo, result.first)
    text = "hello from a partition\n"
    assert [chr(io.value) for io in ports if io.port == 0x3F8] == list(text)
    assert len(ports) == 2 * len(text) + 1
    assert len(result.of(events.InterceptSent)) == len(result.of(events.InterceptCompleted)) == len(ports)
    assert "".join(event.text for event in result.of(events.SerialOutput)) == text


def test_long_mode_writes_lme_itself(run):
    result = run("long_mode")
    assert events.MsrWrite(0xC0000080, 0x100) in result.of(events.MsrWrite, result.first)


def test_crasher_is_one_exit_of_reason_2(run):
    result = run("crasher")
    assert [exit.reason for exit in result.of(VmExit)] == [ExitReason.TRIPLE_FAULT]
    assert result.first.why == "vp 0 triple-faulted at rip 0x10007"
    assert result.of(events.GuestEnded) == [events.GuestEnded("triple-fault")]


def test_msr_reader_reads_what_the_manuals_say(run):
    result = run("msr_reader")
    lines = dict(re.findall(r"^(.*?) {2,}(.*)$", result.first.serial, re.MULTILINE))
    assert lines["HV_GUEST_OS_ID"] == "0x8100000000010000"
    assert lines["HV_HYPERCALL"] == "0x0000000000061001"
    assert lines["HV_TSC_FREQUENCY"] == f"{2_000_000_000:#018x}"
    assert lines["HV_SINT2"] == "0x0000000000010000"
    assert lines["IA32_APIC_BASE"] == "0x00000000fee00900"
    assert [name for name, value in lines.items() if value == "#GP"] == [
        "0x12345 (no such MSR)", "0x40000FFF (no such)", "write VP_INDEX"]
    faults = [(fault.vector, fault.error_code) for fault in result.of(events.Fault)]
    assert faults == [(13, 0)] * 3


def test_timer_interrupts_come_at_equal_distances(run):
    result = run("timer")
    at = [record.tsc for record in result.records
          if isinstance(record.event, events.Injected) and record.event.vector == 0x30
          and record.partition == result.first.partition_id]
    assert len(at) == 10
    distances = [after - before for before, after in pairwise(at)]
    assert all(abs(distance - 100_000 * 10) < 10_000 for distance in distances)      # the bus clock is TSC / 10


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(slice_ticks=st.integers(2_000, 3_000_000))
def test_two_vps_count_exactly_whatever_the_slices_are(slice_ticks):
    """LOCK is atomic between VPs: a lost update would show in the sum."""
    result = Run("two_vps", slice_ticks=slice_ticks)
    try:
        assert result.first.serial == "VP 0 counted 10000\nVP 1 counted 10000\ntogether 20000\n"
        assert len(result.of(events.VpSwitch)) > 4
    finally:
        result.close()


def test_a_vp_that_is_started_has_no_exit_of_its_own(run):
    """No INIT, no SIPI, no mode switch: it reads its index and EFER, and halts."""
    result = run("start_vp")
    exits = [exit.reason for record in result.records if record.partition == 2 and record.vp == 1
             and isinstance(exit := record.event, VmExit)]
    assert exits == [ExitReason.RDMSR, ExitReason.RDMSR, ExitReason.HLT]
    assert [event.vp for event in result.of(events.VpStarted)] == [1]


@pytest.mark.parametrize("name", ["hypercalls", "hypercalls32"])
def test_a_long_list_of_hypercalls_is_interrupted_and_its_caller_sees_no_status_of_that(run, name):
    result = run(name)
    cut = [event.done for event in result.of(events.HypercallInterrupted, result.first)]
    assert cut == sorted(set(cut))
    assert 3 < len(cut) < 30
    whole = [call for call in result.of(events.Hypercall, result.first) if call.reps == 1000]
    assert [(call.status, call.control >> 48) for call in whole] == [(HvStatus.SUCCESS, cut[-1])]


# --- between partitions -------------------------------------------------------------------------------------------

def test_five_messages_arrive_in_order_and_nobody_else_hears_of_them(run):
    result = run("hypercaller", "receiver")
    sender, receiver = result.vms
    assert receiver.serial == "waiting for messages\n" + "".join(
        f"got message {n} Hyper-V!\n" for n in range(1, 6)) + "all messages are here\n"
    posts = [call for call in result.of(events.Hypercall, sender) if call.code == HypercallCode.POST_MESSAGE]
    assert [call.status for call in posts][-5:] == [HvStatus.SUCCESS] * 5
    delivered = [event for event in result.of(events.MessageDelivered) if event.sint == 2]
    assert len(delivered) == 5
    injected = [event.vector for event in result.of(events.Injected, receiver)]
    assert injected == [0x40] * 5
    assert not result.of(events.Injected, sender)


def test_the_devices_interrupt_arrives_in_its_owner_and_in_nobody_else(run):
    result = run("timer", "dma")
    timer, dma = result.vms
    routed = result.of(events.InterruptRouted)
    assert [(event.partition, event.vector) for event in routed] == [(dma.partition_id, DEVICE_VECTOR)]
    assert [event.vector for event in result.of(events.Injected, dma) if event.kind == EXTERNAL] == [DEVICE_VECTOR]
    assert {event.vector for event in result.of(events.Injected, timer)} == {0x30}


def test_dma_lands_in_its_page_and_nowhere_else(run):
    """Every byte the device wrote is in the owner's page 0x301."""
    result = run("hello", "dma")
    dma = result.vms[1]
    writes = [event for event in result.of(events.Dma) if event.write]
    page = dma.worker.pages[0x301] * PAGE_SIZE
    assert sum(event.size for event in writes) == 64
    assert all(page <= event.spa and event.spa + event.size <= page + PAGE_SIZE for event in writes)
    assert dma.worker.read(0x301000, 64) == dma.worker.read(0x300000, 64) == bytes(range(0x41, 0x81))
    assert not result.of(events.DmaFault)


def test_two_partitions_use_a_function_of_the_card_each_at_once(run):
    """Each finds its own on its own bus; what the devices touch is their owner's, and their interrupts too."""
    result = run("ring", "ring", "dma", slice_ticks=20_000)
    for vm in result.vms[:2]:
        assert re.fullmatch(SERIAL["ring"], vm.serial)
    assert re.fullmatch(SERIAL["dma"], result.vms[2].serial)
    owners = {device.source_id: vm for vm in result.vms for device in vm.worker.devices}
    assert len(owners) == 3
    for event in result.of(events.Dma):
        assert event.spa // PAGE_SIZE in owners[event.source_id].worker.pages
    routed = [(event.source_id, event.vector) for event in result.of(events.InterruptRouted)]
    assert sorted(routed) == sorted([(rid, vector) for rid, vm in owners.items() if vm is not result.vms[2]
                                     for vector in (0x51, 0x52)] + [(result.vms[2].worker.device.source_id, 0x50)])
    assert not result.of(events.DmaFault)


def test_a_hostile_driver_of_a_card_reaches_nobody_else(run):
    """Half a thousand attacks beside a victim with a function of the same card, whose memory stays as it should be."""
    result = run("ring", "ring_attacker", slice_ticks=20_000)
    victim, attacker = result.vms
    alone = Run("ring")
    try:
        assert hashlib.sha256(result.ram(victim)).digest() == hashlib.sha256(alone.ram(alone.first)).digest()
    finally:
        alone.close()
    mine = attacker.worker.device.source_id
    touched = {event.spa // PAGE_SIZE for event in result.of(events.Dma) if event.source_id == mine}
    assert len(touched) > 20
    assert touched <= set(attacker.worker.pages)
    vectors = {(event.partition, event.vector >> 4) for event in result.of(events.InterruptRouted)
               if event.source_id == mine}
    assert vectors == {(attacker.partition_id, 0x6)}, "0x60..0x6F: what its messages name"
    assert len(result.of(events.DmaFault)) > 20
    assert re.fullmatch(SERIAL["ring"], victim.serial)
    result.machine.destroy_vm(attacker)
    assert result.machine.pci.functions[mine].inspect()["registers"]["tx_base"] == 0, "the next one finds nothing"


def test_the_synic_between_two_partitions():
    """guests/synic.toml: what the guest prints it has checked; twice the same."""
    shown = []
    for _ in range(2):
        machine, vms = build(read(guests_folder() / "synic.toml"))
        records = []
        machine.trace.listen(records.append)
        try:
            machine.run()
            assert [vm.ended for vm in vms] == ["shutdown", "shutdown"]
            shown.append((vms[0].serial, machine.clock.tsc, [repr(record.event) for record in records]))
        finally:
            machine.close()
    assert shown[0] == shown[1]
    assert shown[0][0].splitlines() == [
        "SynIC version 1", "a message is in the slot and another one waits",
        "ordinary: messages 3, interrupts 3, pending 2, in order",
        "polled:   messages 2, interrupts 0, pending 1, in order",
        "masked:   messages 2, interrupts 0, pending 1, in order",
        "AutoEOI:  messages 2, interrupts 2, pending 1, in order",
        "events: 0 5 9, interrupts 1", "cleared, signalled again: 5, interrupts 1",
        "monitor page, after its latency: 3, interrupts 1"]


# --- the attacker -------------------------------------------------------------------------------------------------

class Guard:
    """Hashes of every page of RAM that an attack must not change.

    What may change: the attacker's own pages, the pages of its pool (its EPT tables, its message page), and pages of
    root's that serve everybody: input and output of hypercalls, and the message page.
    """

    def __init__(self, machine, attacker):
        hypervisor = machine.hypervisor
        self.machine = machine
        own = set(attacker.worker.pages)
        pool = {spa >> 12 for spa in (*attacker.partition.pool._available, *attacker.partition.pool._in_use)}
        winhv, root_vp = machine.root.winhv, hypervisor.root.vps[0]
        serves = {winhv._input >> 12, winhv._output >> 12, root_vp.synic.message_page >> 12,
                  root_vp.synic.space.visible(machine.root.vid._slot >> 12).spa >> 12}
        self.checked = [page for page in range(machine.memory.size // PAGE_SIZE) if page not in own | pool | serves]
        self.before = self.look()

    def look(self):
        return {page: hashlib.blake2b(self.machine.memory.read(page * PAGE_SIZE, PAGE_SIZE)).digest()
                for page in self.checked}

    def changed(self):
        after = self.look()
        return [page for page in self.checked if after[page] != self.before[page]]


@pytest.fixture(scope="module")
def attack():
    """A victim that has run and ended, then the attacker beside it."""
    result = Run("hypercaller")
    attacker = result.machine.create_vm("attacker", load(str(guests_folder() / "attacker.asm")), memory_mib=4,
                                        dma_device=True, other=result.first)
    result.vms.append(attacker)
    result.guard = Guard(result.machine, attacker)
    result.machine.run()
    yield result
    result.close()


def test_every_attempt_is_refused_faults_or_meets_nothing(attack):
    lines = attack.vms[1].serial.splitlines()
    assert lines[-1] == "attacker has tried everything"
    assert len(lines) > 30
    own = "read another partition's device: the device is ours"
    allowed = re.compile(r".*: (refused, status 0x|fault, vector \d+, error code|nothing there, 0x0*ffffffff)")
    assert [line for line in lines[:-1] if not allowed.match(line) and not line.startswith(own)] == []
    assert attack.vms[1].ended == "shutdown"


def test_no_hypercall_of_the_attacker_succeeds(attack):
    calls = attack.of(events.Hypercall, attack.vms[1])
    assert len(calls) >= 9
    assert not [call for call in calls if call.status == HvStatus.SUCCESS]


def test_the_attack_changes_no_page_of_the_victim_the_root_or_the_hypervisor(attack):
    assert len(attack.guard.checked) > 3000
    assert attack.guard.changed() == []


def test_the_device_of_the_attacker_reaches_nothing_outside_its_domain(attack):
    faults = attack.of(events.DmaFault)
    assert len(faults) == 2
    assert [event.write for event in attack.of(events.Dma)] == [False, False]
    assert not attack.of(events.InterruptRouted, attack.vms[0])


RANDOM_CALLS = """
.include "lib/machine.inc"
.bits 64
.org 0x10000
.entry start
start:
    call catch_init
    call hypercall_init
    mov r12, {seed}
    mov r13d, {count}
.next:
    call random                     ; a control word: often a call that exists
    mov rcx, rax
    test al, 1
    jz .wild
    movzx ecx, ax
    and ecx, 0xFF
    bt rax, 40
    jnc .fast
    bts rcx, 32                     ; one rep
.fast:
    bt rax, 41
    jnc .input
    bts rcx, 16                     ; fast
    jmp .input
.wild:
    mov edx, 0x0FFF01FF
    and rcx, rdx
.input:
    cmp cx, 1                       ; HvCallSwitchVirtualAddressSpace: our own end, and nobody else's
    je .next
    mov [rip + control], rcx
    mov edi, INPUT_PAGE             ; a random input: small numbers are ids and pages
    mov ecx, 16
.fill:
    call random
    bt rax, 33
    jc .keep
    and eax, 7
.keep:
    mov [rdi], rax
    add rdi, 8
    dec ecx
    jnz .fill
    call random
    mov rdx, INPUT_PAGE
    mov r8, OUTPUT_PAGE
    bt rax, 50
    jc .places
    mov rdx, rax
    shr rdx, 20
    and rdx, -8
    bt rax, 51
    jc .places
    mov r8, rax
    shr r8, 30
    and r8, -8
.places:
    mov rcx, [rip + control]
    mov [rip + input], rdx
    mov [rip + output], r8
    mov eax, offset one_call
    call try
    dec r13d
    jnz .next
    jmp power_off
one_call:
    mov rcx, [rip + control]
    mov rdx, [rip + input]
    mov r8, [rip + output]
    mov eax, HYPERCALL_PAGE
    jmp rax
random:                             ; xorshift64: RAX and R12
    mov rax, r12
    shl rax, 13
    xor r12, rax
    mov rax, r12
    shr rax, 7
    xor r12, rax
    mov rax, r12
    shl rax, 17
    xor r12, rax
    mov rax, r12
    ret
.include "lib/serial64.inc"
.include "lib/idt64.inc"
.include "lib/catch64.inc"
.include "lib/hypercall64.inc"
.align 8
control: .quad 0
input:   .quad 0
output:  .quad 0
"""


@pytest.mark.parametrize("seed", [random.Random(n).getrandbits(62) | 1 for n in range(3)])
def test_random_hypercalls_of_a_child_change_nothing_outside_it(tmp_path, seed):
    source = tmp_path / "wild.asm"
    source.write_text(RANDOM_CALLS.format(seed=hex(seed), count=1500))
    machine = Machine(memory_mib=24)
    try:
        free = machine.root.memory.free_count
        victim = machine.create_vm("victim", load(str(guests_folder() / "receiver.asm")), memory_mib=2)
        machine.run(machine.clock.tsc + 300_000_000)
        assert victim.serial == "waiting for messages\n"
        attacker = machine.create_vm("wild", load(str(source)), memory_mib=4, other=victim)
        machine.connect(attacker, 1, victim)
        registers = bytes(victim.partition.vps[0].regs.gpr), victim.partition.vps[0].regs.rip
        balance, guard = machine.hypervisor.owners.inspect(), Guard(machine, attacker)
        calls = []
        machine.trace.listen(lambda record: calls.append(record.event.status)
                             if isinstance(record.event, events.Hypercall) and record.partition == attacker.partition_id
                             else None)
        machine.run(machine.clock.tsc + 400_000_000)
        assert attacker.ended == "shutdown"
        assert len(calls) > 800
        assert len(set(calls)) >= 5                 # many kinds of refusal were met
        assert (bytes(victim.partition.vps[0].regs.gpr), victim.partition.vps[0].regs.rip) == registers
        assert guard.changed() == []
        assert machine.hypervisor.owners.inspect() == balance
        for vm in (attacker, victim):
            machine.destroy_vm(vm)
        assert machine.root.memory.free_count == free
    finally:
        machine.close()
