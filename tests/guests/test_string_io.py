"""INS and OUTS: strings between ports and memory, in every mode, with everything that can come in between."""

import pytest

from hv.spec.exits import ExitReason
from hv.trace.events import PortIo
from tests.guest_runner import run_guest
from tests.guests.test_modes import LOAD, OFF, handlers, user_mode

TEXT, BUFFER = 0x30000, 0x40000
EXITS = str(int(ExitReason.IO_INSTRUCTION))
SCRATCH = 0x3FF             # COM1's scratch register: what is written is read again
EMPTY = 0x80                # a port without a device


def run(source, bits=64, text=b"hello, world", **options):
    return run_guest(f"{source}; {OFF}", bits, data={TEXT: text}, **options)


@pytest.mark.parametrize("bits", [32, 64])
def test_a_string_goes_to_the_serial_port(bits):
    """SDM "OUTS/OUTSB/OUTSW/OUTSD": SI moves on, CX counts down, AX is left alone."""
    result = run(f"mov edx, 0x3F8; mov esi, {TEXT}; mov ecx, 12; mov eax, 0x11223344; rep outsb; mov ebx, eax", bits)
    assert (result.ended, result.serial) == ("shutdown", "hello, world")
    assert (result.rsi, result.rcx, result.rbx) == (TEXT + 12, 0, 0x11223344)
    assert result.exits[EXITS] == 12 + 1


def test_a_string_goes_to_the_serial_port_in_real_mode():
    """The segment is DS, or the one of a prefix, and SI has 16 bits."""
    result = run("mov ax, 0x3000; mov ds, ax; mov dx, 0x3F8; mov si, 0; mov cx, 5; rep outsb; mov ax, 0; mov ds, ax; "
                 "mov ax, 0x3000; mov es, ax; .byte 0x26, 0x6E; mov bx, si", 16)
    assert (result.serial, result.rbx) == ("hello,", 6)


def test_a_string_goes_backwards_with_df():
    result = run(f"mov edx, 0x3F8; mov esi, {TEXT + 4}; mov ecx, 5; std; rep outsb; cld")
    assert (result.serial, result.rsi) == ("olleh", TEXT - 1)


def test_without_rep_it_is_one_element():
    result = run(f"mov edx, 0x3F8; mov esi, {TEXT}; mov ecx, 7; outsb; outsb")
    assert (result.serial, result.rsi, result.rcx) == ("he", TEXT + 2, 7)


def test_a_count_of_zero_does_nothing():
    result = run(f"mov edx, 0x3F8; mov esi, {TEXT}; xor ecx, ecx; rep outsb; rep insb")
    assert (result.serial, result.rsi, result.rcx) == ("", TEXT, 0)


@pytest.mark.parametrize(("suffix", "size"), [("b", 1), ("w", 2), ("d", 4)])
def test_a_string_comes_from_an_empty_bus_as_ones(suffix, size):
    """SDM "INS/INSB/INSW/INSD"; the destination is ES:DI."""
    result = run(f"mov edx, {EMPTY}; mov edi, {BUFFER}; mov ecx, 3; mov eax, 0x55667788; rep ins{suffix}; mov ebx, eax")
    assert result.memory[BUFFER : BUFFER + 3 * size + 1] == b"\xff" * 3 * size + b"\0"
    assert (result.rdi, result.rcx, result.rbx) == (BUFFER + 3 * size, 0, 0x55667788)


def test_a_string_comes_from_a_device():
    result = run(f"mov edx, {SCRATCH}; mov al, 0x5A; out dx, al; mov edi, {BUFFER}; mov ecx, 4; mov eax, 0x99; "
                 "rep insb; mov ebx, eax")
    assert result.memory[BUFFER : BUFFER + 5] == b"ZZZZ\0"
    assert (result.rdi, result.rcx, result.rbx) == (BUFFER + 4, 0, 0x99)


def test_a_page_fault_in_the_middle_is_taken_and_the_string_goes_on():
    """Registers say how far it got; the handler maps the page and returns."""
    repair = "push rax; mov rax, cr2; mov rbp, rax; or qword ptr [0x73008], 1; invlpg [rax]; pop rax; add rsp, 8; iretq"
    data = handlers(64, v14=repair) | {0x1FFFFE: b"abcdef"}
    result = run_guest(f"{LOAD}; and qword ptr [0x73008], -2; mov rax, cr3; mov cr3, rax; mov edx, 0x3F8; "
                       f"mov esi, 0x1FFFFE; mov ecx, 6; rep outsb; {OFF}", data=data, memory_mib=4)
    assert (result.ended, result.serial, result.rbp) == ("shutdown", "abcdef", 0x200000)


def test_a_read_only_page_refuses_an_input_before_the_port_is_read():
    read_only = "and qword ptr [0x73008], -3; mov rax, cr3; mov cr3, rax"
    result = run_guest(f"{LOAD}; {read_only}; mov edx, {SCRATCH}; mov edi, 0x200000; mov ecx, 2; rep insb",
                       data=handlers(64), memory_mib=4)
    assert (result.rbx, result.cr2, result.rcx, result.rdi) == (14, 0x200000, 2, 0x200000)
    assert result.exits[EXITS] == 2             # that comes before the fault, which the hypervisor finds; switching off
    assert SCRATCH not in {event.port for event in result.of(PortIo)}


def test_a_user_without_the_right_to_the_port_is_refused():
    assert user_mode("mov edx, 0x3F8; mov esi, 0x30000; mov ecx, 4; rep outsb").rbx == 13


def test_code_that_comes_from_a_port_is_run():
    """What INS writes over code that ran before is what runs next."""
    result = run(f"mov ebp, 2; again:; target: mov ebx, 1; add esi, ebx; mov edx, {SCRATCH}; mov al, 0x40; out dx, al; "
                 "mov edi, target + 1; insb; dec ebp; jnz again", bits=32)
    assert (result.ended, result.rbx) == ("shutdown", 0x40)


@pytest.mark.parametrize("instruction", ["insb", "outsb"])
def test_a_string_where_the_vm_has_no_memory_is_refused(instruction):
    """Its worker has nothing there either, without a PC board: #GP(0), as for any other access."""
    result = run_guest(f"{LOAD}; mov edx, {SCRATCH}; mov edi, 0x3000000; mov esi, edi; {instruction}", 64,
                       data=handlers(64))
    assert (result.ended, result.rbx, result.rdi) == ("shutdown", 13, 0x3000000)
