"""Changes are data: the same after a way through JSON, and done on any machine as on the first."""

import msgspec
import pytest

from hv.image.assembler import assemble
from hv.image.load import image_of
from hv.machine.faults import Access
from hv.platform import Machine
from hv.replay.acts import Changed
from hv.replay.changes import (
    LetThrough,
    LetTimePass,
    ParentCall,
    SetMemory,
    SetMsr,
    SetPhysicalMemory,
    SetRegister,
    SetVmcsField,
)
from hv.replay.file import KeptMachine, Replay, ReplayError, read
from hv.replay.fingerprint import fingerprint
from hv.replay.refusal import ChangeRefused
from hv.spec.x86 import PAGE_SIZE

IMAGE = image_of(assemble("""
    .bits 64
    .org 0x10000
    .entry start
start:
    add rax, 1
    mov [rsp - 8], rax
    hlt
""", "change.asm"))


def stored(*changes):
    """The replay file of a run in which these changes were made, as it is written."""
    return Replay(1, "", KeptMachine(False, {}, []), "", [Changed(change) for change in changes], "").encoded()


def restored(content, folder):
    (folder / "file").write_bytes(content)
    return [act.change for act in read(folder / "file").acts]


@pytest.fixture
def vm():
    machine = Machine(32)
    yield machine.create_vm("a", IMAGE, memory_mib=1)
    machine.close()


@pytest.mark.parametrize("change", [
    SetRegister(2, 0, "RAX", 5), SetRegister(2, 0, "XMM0", (1 << 128) - 1), SetMemory(2, 0xFFF, b"\x90\xff"),
    SetPhysicalMemory(0x1000, b""), SetMsr(2, 0, 0xC000_0082, (1 << 64) - 1), SetVmcsField(2, 0, "GUEST_RIP", 5),
    ParentCall(1, "SET_PARTITION_PROPERTY", b"abc", b"d"), LetThrough(0x30, False), LetTimePass(5),
])
def test_a_change_is_the_same_after_json(change, tmp_path):
    content = stored(change)
    assert restored(content, tmp_path) == [change]
    assert stored(*restored(content, tmp_path)) == content


@pytest.mark.parametrize("line", [
    b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"change":"register"}', b'{"change":"nothing"}',
    b'{"change":"register","partition":2,"vp":0,"name":"RAX","value":-1}',
    b'{"change":"register","partition":2,"vp":0,"name":"RAX","value":' + b"9" * 400 + b"}",
    b'{"change":"register","partition":2,"vp":0,"name":"RAX","value":1,"more":1}',
    b'{"change":"register","partition":2,"vp":0,"name":"FOO","value":1}',
    b'{"change":"memory","partition":2,"gpa":0,"data":"!"}',
    b'{"change":"memory","partition":2,"gpa":18446744073709551616,"data":"AA=="}',
    b'{"change":"physical memory","spa":-1,"data":"AA=="}',
    b'{"change":"hypercall","caller":1,"code":"NOTHING","input":""}',
    b'{"change":"msr","partition":2,"vp":0,"index":4294967296,"value":1}',
    b'{"change":"vmcs","partition":2,"vp":0,"field":"GUEST_ES_SELECTOR","value":65536}',
    b'{"change":"vmcs","partition":2,"vp":0,"field":"GUEST","value":1}',
])
def test_what_is_no_change_is_refused_in_one_line(line, tmp_path):
    whole = msgspec.json.encode(msgspec.json.decode(stored(SetMemory(2, 0, b""))))
    change = msgspec.json.encode(SetMemory(2, 0, b""))
    assert restored(whole, tmp_path) == [SetMemory(2, 0, b"")]
    with pytest.raises(ReplayError) as caught:
        restored(whole.replace(change, line), tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_the_guest_goes_on_with_a_register_as_it_was_set(vm):
    SetRegister(vm.partition_id, 0, "RAX", 0x41).apply(vm.machine)
    vm.machine.step(vm)
    assert vm.partition.vps[0].regs.rax == 0x42


def test_translated_code_that_is_written_over_is_dropped(vm):
    """The guest has run its first instruction; another one stands there the next time."""
    regs = vm.partition.vps[0].regs
    start = regs.rip
    vm.machine.step(vm)
    SetMemory(vm.partition_id, start, b"\x48\x83\xc0\x07").apply(vm.machine)        # add rax, 7
    SetRegister(vm.partition_id, 0, "RIP", start).apply(vm.machine)
    vm.machine.step(vm)
    assert regs.rax == 8


def test_memory_is_written_across_pages_whatever_the_rights(vm):
    space, page = vm.partition.space, 0x50
    space.map(page, space.mapping(page).spa >> 12, Access.READ)
    SetMemory(vm.partition_id, page * PAGE_SIZE - 2, b"abcd").apply(vm.machine)
    assert space.read(page * PAGE_SIZE - 2, 4) == b"abcd"


@pytest.mark.parametrize(("change", "words"), [
    (SetRegister(9, 0, "RAX", 5), "there is no partition 9"),
    (SetRegister(2, 7, "RAX", 5), "partition 2 has no vp 7"),
    (SetRegister(1, 0, "RAX", 5), "runs no machine code"),
    (SetRegister(2, 0, "CR3", 1 << 60), "CR3 0x1000000000000000 has reserved bits"),
    (SetRegister(2, 0, "LSTAR", 1 << 60), "would be exception 13"),
    (SetRegister(2, 0, "VP_INDEX", 1), "cannot be set"),
    (SetMsr(2, 0, 0x4000_0002, 1), "0x1 to MSR 0x40000002: the guest's own write of it would be exception 13"),
    (SetMsr(2, 0, 0x1234, 1), "MSR 0x1234 is not there"),
    (SetVmcsField(2, 0, "GUEST_IA32_FRED_CONFIG", 1), "a field this processor does not have"),
    (ParentCall(9, "SET_PARTITION_PROPERTY", b""), "there is no partition 9"),
    (ParentCall(1, "SET_PARTITION_PROPERTY", b""), "has 24 bytes of input, not 0"),
    (ParentCall(1, "SET_PARTITION_PROPERTY", bytes(24)), "INVALID_PARTITION_ID: no partition 0x0"),
    (LetThrough(0x30, True), "no device has physical vector 0x30"),
    (SetMemory(2, 0xFFFFF, b"ab"), "guest-physical 0x100000 of partition 2 is not mapped"),
    (SetMemory(2, 0xFFFF_FFFF_FFFF_FFFF, b"ab"), "is not mapped"),
    (SetPhysicalMemory((32 << 20) - 1, b"ab"), "is no RAM, which ends at 0x2000000"),
])
def test_what_the_machine_does_not_take_changes_nothing(vm, change, words):
    memory = vm.machine.memory
    before = memory.read(0, memory.size)
    with pytest.raises(ChangeRefused, match=words):
        change.apply(vm.machine)
    assert memory.read(0, memory.size) == before


def test_a_partition_that_is_finalized_neither_calls_nor_has_registers(vm):
    end = ParentCall(1, "FINALIZE_PARTITION", vm.partition_id.to_bytes(8, "little"))
    end.apply(vm.machine)
    for change in (SetRegister(2, 0, "RAX", 5), ParentCall(2, "NOTIFY_LONG_SPIN_WAIT", bytes(8)), SetMemory(2, 0, b"a"),
                   SetVmcsField(2, 0, "GUEST_RIP", 5), SetMsr(2, 0, 0xC000_0082, 5)):
        with pytest.raises(ChangeRefused, match="partition 2 is finalized"):
            change.apply(vm.machine)


def test_the_same_changes_give_the_same_machine(vm, tmp_path):
    """A guest that was changed runs on another machine as on the first, from the changes' JSON alone."""
    other = Machine(32)
    other.create_vm("a", IMAGE, memory_mib=1)
    changes = [SetRegister(vm.partition_id, 0, "RAX", 9), SetMemory(vm.partition_id, 0x50000, b"hello")]
    for change in changes:
        change.apply(vm.machine)
    for change in restored(stored(*changes), tmp_path):
        change.apply(other)
    vm.machine.run()
    other.run()
    assert fingerprint(vm.machine) == fingerprint(other)
    other.close()


def test_time_passes_up_to_the_next_timer_and_no_further(vm):
    """Behind it somebody would have run."""
    clock, due = vm.machine.clock, []
    begin = clock.tsc
    clock.at(begin + 100, lambda: due.append(clock.tsc))
    LetTimePass(40).apply(vm.machine)
    with pytest.raises(ChangeRefused, match=f"the next timer is due at {begin + 100}"):
        LetTimePass(61).apply(vm.machine)
    LetTimePass(60).apply(vm.machine)
    assert (clock.tsc, due) == (begin + 100, [])
    clock.run_due()
    for ticks in ((1 << 62) - 1, 1 << 62, -1):
        with pytest.raises(ChangeRefused):
            LetTimePass(ticks).apply(vm.machine)
