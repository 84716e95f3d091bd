"""What is typed at a PC is a change of its recording; and a PC with its devices goes back and forth as any machine."""

import pytest

from hv.debug.errors import DebugError
from hv.debug.recorded import timeline_of
from hv.debug.session import Session
from hv.platform import Machine
from hv.replay.changes import TypeText
from hv.replay.fingerprint import fingerprint
from hv.replay.position import Position
from hv.replay.refusal import ChangeRefused
from hv.replay.timeline import Timeline
from tests.guest_runner import image_of

# Timers, clock and serial port at work: 100 us of the HPET and of the PIT and a flag of the RTC, which are polled, and
# what is typed is echoed.
DEVICES = """mov dword ptr [0x74FB0], 0xFEC000F3; mov esi, 0xFED00000; mov dword ptr [rsi+0x100], 0x284C
mov qword ptr [rsi+0x108], 10000; mov dword ptr [rsi+0x10], 1
mov al, 0x34; out 0x43, al; mov al, 119; out 0x40, al; xor eax, eax; out 0x40, al
mov al, 0x0B; out 0x70, al; mov al, 0x42; out 0x71, al
mov dx, 0x3FB; mov al, 0x83; out dx, al; mov dx, 0x3F8; mov ax, 1; out dx, al; inc dx; mov al, ah; out dx, al
mov dx, 0x3FB; mov al, 3; out dx, al; mov dx, 0x3F9; mov al, 1; out dx, al; mov dx, 0x3FC; mov al, 8; out dx, al
more:; mov al, 0; out 0x43, al; in al, 0x40; in al, 0x40; mov al, 0x0C; out 0x70, al; in al, 0x71
mov dx, 0x3FD; in al, dx; test al, 1; jz more; mov dx, 0x3F8; in al, dx; out dx, al; cmp al, 0x2E; jne more
mov dx, 0x604; mov ax, 0x2000; out dx, ax; cli; hlt"""


@pytest.fixture
def recorded():
    machine = Machine(memory_mib=24)
    vm = machine.create_vm("pc", image_of(DEVICES), 4, pc=True)
    timeline = Timeline(machine, spacing=100_000)
    timeline.record(machine.clock.tsc + 400_000)
    timeline.change(TypeText(vm.partition_id, b"typed."))
    timeline.record(machine.clock.tsc + 100_000_000)
    yield machine, vm, timeline
    machine.close()


def test_a_pc_goes_back_and_forth_bit_by_bit(recorded):
    machine, vm, timeline = recorded
    assert (vm.ended, vm.serial) == ("shutdown", "typed.")
    end, last = fingerprint(machine), timeline.end.exits
    places = [Position(last * part // 7) for part in (5, 2, 6, 1)]
    seen = {}
    for place in (*places, *reversed(places)):
        timeline.go(place)
        now = fingerprint(machine), repr(vm.worker.inspect()["devices"])
        assert seen.setdefault(place, now) == now
    assert len(set(seen.values())) == len(places)
    timeline.go_to_end()
    assert fingerprint(machine) == end


def test_who_has_ended_is_typed_at_no_more(recorded):
    machine, vm, _ = recorded
    for number in (vm.partition_id, 1, 99):
        with pytest.raises(ChangeRefused, match="is no VM of root's that runs"):
            TypeText(number, b"x").apply(machine)


def test_the_repl_types():
    machine = Machine(memory_mib=24)
    vm = machine.create_vm("pc", image_of(DEVICES), 4, pc=True)
    session = Session(machine, [vm], {}, [])
    assert session.do('type "by hand."') == "8 bytes typed at COM1 of partition 2"
    machine.run(machine.clock.tsc + 100_000_000)
    assert (vm.ended, vm.serial) == ("shutdown", "by hand.")
    machine.close()


# What the keyboard controller hands on comes out at COM1, without the bit of a release.
KEYBOARD = """mov ecx, 4
more:; in al, 0x64; test al, 1; jz more; in al, 0x60; and al, 0x7F; mov dx, 0x3F8; out dx, al; loop more
mov dx, 0x604; mov ax, 0x2000; out dx, ax; cli; hlt"""


def test_keys_are_struck_and_a_recording_has_them():
    machine = Machine(memory_mib=24)
    vm = machine.create_vm("pc", image_of(KEYBOARD), 4, pc=True)
    session = Session(machine, [vm])
    session.value("record 100us")
    with pytest.raises(DebugError, match="is on no key"):
        session.value('keys "\\u00e9"')
    with pytest.raises(DebugError, match="is to be in quotes"):
        session.value("keys y")
    assert "2 keys struck" in session.value('keys "y\\n"')
    session.value("record 100us")
    end = fingerprint(machine)
    assert vm.ended == "shutdown"
    assert vm.serial == "\x15\x15\x1c\x1c"
    session.value("goto begin")
    timeline_of(session).go_to_end()
    assert fingerprint(machine) == end
    machine.close()
