"""A PC begins again, or ends: by reset ports, a triple fault, the debug exit and ACPI's power off. Real guests."""

import pytest

from hv.platform import Machine
from hv.spec.hv_registers import HvRegisterName as N
from hv.trace.events import PartitionReset, PostCode
from tests.guest_runner import assemble, image_of
from tests.root.bench_clock import Clock
from tests.root.test_vmwp import WRITE, Bench

OFF = "mov dx, 0x604; mov ax, 0x2000; out dx, ax; cli; hlt"
LIFE = "mov dx, 0x3F8; mov al, [0x9000]; inc byte ptr [0x9000]; add al, 0x41; out dx, al; cmp al, 0x42; je off"
RESETS = {
    "0xcf9": "mov dx, 0xCF9; mov al, 2; out dx, al; mov al, 6; out dx, al",
    "0x92": "mov al, 3; out 0x92, al",
    "triple-fault": "lidt [empty]; int3",
    "msr": "mov ecx, 0x40000003; mov eax, 1; xor edx, edx; wrmsr",
}


class Box:
    """A machine with one VM that has a PC."""

    def __init__(self, code, vps=1, data=None, **policy):
        self.machine, self.events = Machine(memory_mib=24), []
        self.vm = self.machine.create_vm("pc", image_of(code, data=data), 4, vps, pc=True)
        for name, value in policy.items():
            setattr(self.vm.worker, name, value)
        self.machine.trace.listen(lambda record: self.events.append(record.event))

    def run(self, ticks=20_000_000):
        self.machine.run(self.machine.clock.tsc + ticks)
        self.machine.close()
        return self.vm.ended, self.vm.serial


def program(reset, before="nop"):
    return f"{LIFE}; {before}; {reset}; mov byte ptr [0x9001], 1; spin:; pause; jmp spin; off:; {OFF}; empty:; .quad 0"


@pytest.mark.parametrize("way", RESETS)
def test_a_reset_is_a_second_life_with_the_devices_as_after_power_on(way):
    """The UART's scratch register and interrupt enable, the timer's count, ACPI's enable: all noted in the second."""
    before = ("mov dx, 0x3FF; mov al, 0x5A; out dx, al; mov dx, 0x3F9; mov al, 5; out dx, al; "
              "mov dx, 0x602; mov ax, 0x100; out dx, ax; mov al, 0x34; out 0x43, al; mov al, 99; out 0x40, al; "
              "out 0x40, al")
    box = Box(program(RESETS[way], before), reboots=True)
    assert box.run() == ("shutdown", "AB")
    assert box.vm.resets == 1
    devices = box.vm.worker.inspect()["devices"]
    assert (devices["com1"]["scratch"], devices["com1"]["interrupt_enable"]) == (0, 0)
    assert (devices["acpi"]["enable"], devices["pit"]["counter0"]["reload"]) == (0, None)
    assert len([event for event in box.events if isinstance(event, PartitionReset)]) == 1
    assert box.vm.worker.read(0x9001, 1) == b"\0"


@pytest.mark.parametrize(("way", "ended"), [("0xcf9", "reset"), ("0x92", "reset"), ("msr", "reset"),
                                            ("triple-fault", "triple-fault")])
def test_who_does_not_want_that_sees_the_end(way, ended):
    """Without `reboots` a triple fault ends the run: people debug here."""
    box = Box(program(RESETS[way]), restarts=False)
    assert box.run() == (ended, "A")
    assert box.vm.resets == 0


def test_a_processor_that_waits_for_an_answer_is_not_answered_in_its_second_life():
    """Both VPs wait as VP 0 resets the machine: what the message of VP 1 would have been answered is not set."""
    board = Bench(timers=Clock())
    board.winhv.get_vp_cpuid_values = lambda *_: [(0x663, 0, 0, 0)]     # what the firmware describes
    board.worker.load(image_of("hlt"))
    board.winhv.registers[N.INTERCEPT_SUSPEND] = 1
    board.winhv.set_vp_registers = lambda partition, vp, values: board.winhv.calls.append(("set", vp, dict(values)))
    board.port(0xCF9, 1, WRITE, 4)
    board.winhv.calls.clear()
    for _ in range(2):
        board.port(0x80, 1, WRITE, 7, vp=1)
    assert board.winhv.calls == [("set", 1, {N.INTERCEPT_SUSPEND: 0}),
                                 ("set", 1, {N.RIP: 0x1001, N.INTERCEPT_SUSPEND: 0})]


def test_a_machine_is_reset_while_its_second_processor_is_at_work():
    code = assemble("mov dx, 0x80; again:; inc al; out dx, al; jmp again", 16, 0x8000)[0][1]
    ap = ("mov ecx, 0x1B; rdmsr; or eax, 0xC00; wrmsr; mov ecx, 0x830; mov edx, 1; mov eax, 0x4500; wrmsr; "
          "mov eax, 0x4608; wrmsr; mov ecx, 30; wait:; pause; loop wait")
    life = LIFE.replace("0x42", "0x44")
    box = Box(f"{life}; {ap}; {RESETS['0xcf9']}; spin:; jmp spin; off:; {OFF}", 2, {0x8000: code})
    assert box.run(60_000_000) == ("shutdown", "ABCD")
    assert box.vm.resets == 3


@pytest.mark.parametrize(("out", "value"), [
    ("mov al, 0x10; out 0xF4, al", 0x10), ("mov eax, 0x12345678; out 0xF4, eax", 0x1234_5678)])
def test_the_debug_exit_ends_the_machine_with_a_value(out, value):
    box = Box(f"{out}; mov byte ptr [0x9000], 1; cli; hlt")
    assert box.run()[0] == "debug-exit"
    assert (box.vm.debug_exit, box.vm.worker.read(0x9000, 1)) == (value, b"\0")


def test_post_codes_are_events_and_remembered():
    box = Box(f"mov al, 1; out 0x80, al; out 0x80, al; mov al, 0x55; out 0x80, al; in al, 0x80; {OFF}")
    assert box.run()[0] == "shutdown"
    assert [event.code for event in box.events if isinstance(event, PostCode)] == [1, 0x55]
    assert box.vm.worker.inspect()["devices"]["post"] == {"history": [1, 0x55]}


def test_what_is_typed_reaches_a_guest_that_polls():
    read = "mov dx, 0x3FD; again:; in al, dx; test al, 1; jz again; mov dx, 0x3F8; in al, dx; out dx, al; cmp al, 0x2E"
    box = Box(f"more:; {read}; jne more; {OFF}")
    box.vm.worker.receive(b"The quick brown fox jumps.")
    assert box.run(200_000_000) == ("shutdown", "The quick brown fox jumps.")
