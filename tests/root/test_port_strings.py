"""INS and OUTS between a port and a device in memory: the worker does both sides."""

import pytest

from hv.spec.x86 import Vector
from tests.root.emulation_box import DEVICE, PATTERN
from tests.root.test_emulator_faults import ABSENT, Guest

SCRATCH, LEAVE_BY_FAULT = 0x3FF, "mov rax, [0x4000000]"     # COM1's scratch register: what is written is read again


@pytest.mark.parametrize(("code", "size", "count"), [("rep insb", 1, 70), ("insb", 1, 1), ("rep insw", 2, 3)])
def test_what_a_port_gives_is_stored_on_a_device(code, size, count):
    """More elements than one turn has; RDI and RCX end where they end on RAM."""
    guest = Guest(f"mov edx, {SCRATCH}; mov al, 0x5A; out dx, al; mov edx, {SCRATCH - size + 1}; mov rdi, rbx; "
                  f"mov ecx, {count}; {code}; {LEAVE_BY_FAULT}")
    fault = guest.run()
    assert (fault.cr2, fault.rdi) == (ABSENT, DEVICE + size * count)
    assert fault.rcx == (0 if "rep" in code else count)
    assert [access[2] for access in guest.device.accesses] == [size] * count
    assert guest.device.data[size * count :] == PATTERN[size * count :]
    assert size > 1 or guest.device.data[:count] == b"\x5a" * count


def test_what_a_device_holds_goes_to_a_port():
    guest = Guest(f"mov edx, 0x3F8; mov rsi, rbx; mov ecx, 5; rep outsb; {LEAVE_BY_FAULT}")
    guest.device.data[:6] = b"hello!"
    fault = guest.run()
    assert (fault.rsi, fault.rcx, guest.vm.serial) == (DEVICE + 5, 0, "hello")


def test_a_string_without_memory_is_refused_before_the_port_is_read():
    """A page fault of the guest's own comes first."""
    fault = Guest(f"mov edx, 0x3F8; mov rdi, {ABSENT}; insb", Vector.PF).run()
    assert (fault.cr2, fault.code, fault.rdi) == (ABSENT, 2, ABSENT)
