"""A PC's interrupt controllers as a guest meets them: a bell that it rings by OUT, and the ways to its processor."""

from random import Random

import pytest

from hv.hypervisor.hypervisor import Hypervisor
from hv.platform import Machine
from hv.replay.memento import Memento
from hv.root.boot import HIGH_DIRECTORY
from hv.root.msi import Msi
from hv.spec.hv_registers import HvRegisterName as N
from hv.spec.intercepts import HvInterceptAccess, HvInterceptType
from tests.guest_runner import image_of
from tests.guests.test_external_interrupts import APIC_OFF
from tests.guests.test_interrupts import EOI, LOG, guest, mark

BELL = range(0xE0, 0xE4)                # OUT of a line's number: down, up, a pulse, an EOI of the I/O APIC
LINT0 = "mov dword ptr [rbx+0x350]"
NO_APIC = "mov ebx, 0xFEE00000"         # it is as the firmware leaves it
TICKS = 400_000
PIC = "; ".join(f"mov al, {value}; out {port}, al" for port, value in (
    (0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0xA0, 0x11), (0xA1, 0x28), (0xA1, 2), (0xA1, 1)))
PIC_AUTO_EOI = PIC.replace("mov al, 1;", "mov al, 3;")
PIC_EOI = "mov al, 0x20; out 0x20, al"


class Bell:
    """A device with every line of the board in its hand."""

    def __init__(self, board):
        self.board = board

    def read_port(self, port, size):
        return 0

    def write_port(self, port, size, value):
        match port - BELL.start:
            case 0 | 1 as up:
                self.board.lines.set(value, bool(up))
            case 2:
                self.board.lines.pulse(value)
            case _:
                self.board.lines.pulse(value >> 4)
                self.board.lines.pulse(value & 15)

    def inspect(self):
        return {}


class PcGuest:
    """A guest on a PC; *entries* are pins of its I/O APIC with their redirection entries."""

    def __init__(self, source, entries=(), vps=1):
        self.machine = Machine(memory_mib=24)
        self.vm = self.machine.create_vm("pc", image_of(source), memory_mib=4, vps=vps, pc=True)
        board = self.vm.worker.motherboard
        board.add("bell", BELL, Bell(board))
        self.machine.root.winhv.install_intercept(
            self.vm.partition_id, HvInterceptType.IO_PORT_RANGE, BELL[0] | BELL[-1] << 16,
            HvInterceptAccess.READ | HvInterceptAccess.WRITE)
        for pin, entry in entries:
            board.interrupts.io_apic.write_memory(0, 4, 0x10 + 2 * pin)
            board.interrupts.io_apic.write_memory(0x10, 4, entry)
        self.machine.scheduler.run(self.machine.clock.tsc + TICKS)

    @property
    def log(self):
        first = self.vm.worker.pages[LOG >> 12] << 12
        return self.machine.memory.read(first, 64).split(b"\0")[0].decode()


@pytest.fixture(params=[pytest.param(True, id="virtualized"), pytest.param(False, id="by-exits")])
def pc(request, monkeypatch):
    monkeypatch.setattr(Hypervisor, "apic_virtualization", request.param)
    made = []

    def start(*arguments, **more):
        made.append(PcGuest(*arguments, **more))
        return made[-1]
    yield start
    for each in made:
        each.machine.close()


def ring(line, how=2):
    return f"mov al, {line}; out {BELL.start + how}, al"


# --- what the firmware leaves ---------------------------------------------------------------------------------------

def test_the_boot_processor_is_in_virtual_wire_mode(pc):
    """Intel "MultiProcessor Specification", "Virtual Wire Mode via Local APIC"; the others wait for SIPI as after INIT.
    """
    one = pc(guest(mark("."), {}, NO_APIC), vps=2)
    read = one.machine.root.winhv.get_vp_register
    assert [[read(one.vm.partition_id, vp, name) for name in (N.APIC_SPURIOUS, N.APIC_LVT_LINT0, N.APIC_LVT_LINT1)]
            for vp in (0, 1)] == [[0x1FF, 0x700, 0x400], [0xFF, 0x10000, 0x10000]]


# --- the 8259s ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("apic", [NO_APIC, APIC_OFF], ids=["virtual-wire", "apic-disabled"])
def test_the_8259s_interrupt_the_boot_processor_at_the_next_instruction(pc, apic):
    one = pc(guest(f"{PIC}; sti; nop; xor r12d, r12d; {ring(4)}; inc r12; {mark('.')}",
                   {0x24: f"mov r13, r12; {mark('4')}; {PIC_EOI}"}, apic))
    assert one.log == "4."
    assert one.vm.partition.vps[0].regs.r13 == 0


def test_the_vector_is_that_of_the_acknowledgement(pc):
    """With interrupts off a higher request comes behind a lower one: it is taken first."""
    one = pc(guest(f"{PIC}; {ring(12)}; {ring(4)}; {ring(1)}; sti; nop; nop; nop; nop; {mark('.')}", {
        0x21: f"{mark('1')}; {PIC_EOI}", 0x24: f"{mark('4')}; {PIC_EOI}",
        0x2C: f"{mark('C')}; mov al, 0x20; out 0xA0, al; {PIC_EOI}"}, NO_APIC))
    assert one.log == "1C4."


def test_a_request_that_is_withdrawn_does_not_come(pc):
    one = pc(guest(f"{PIC}; mov al, 0x20; mov dx, 0x4D0; out dx, al; {ring(5, 1)}; {ring(5, 0)}; sti; nop; "
                   f"{ring(6)}; nop; {mark('.')}",
                   {0x25: mark("5"), 0x26: f"{mark('6')}; {PIC_EOI}", 0x27: mark("S")}, NO_APIC))
    assert one.log == "6."


def test_the_registers_of_the_8259_say_what_is_in_service(pc):
    """The guest reads ISR in its handler, and IRR of what waits."""
    reads = "mov al, 0x0B; out 0x20, al; in al, 0x20; add al, 0x40; mov [r14], al; inc r14; " \
            "mov al, 0x0A; out 0x20, al; in al, 0x20; add al, 0x20; mov [r14], al; inc r14"
    one = pc(guest(f"{PIC}; {ring(0)}; {ring(1)}; sti; nop; nop; cli; {mark('.')}",
                   {0x20: f"{reads}; {PIC_EOI}", 0x21: f"{reads}; {PIC_EOI}"}, NO_APIC))
    assert one.log == 'A"B .'


def test_with_automatic_eoi_the_next_one_comes_by_itself(pc):
    one = pc(guest(f"{PIC_AUTO_EOI}; {ring(4)}; {ring(1)}; {ring(10)}; sti; nop; nop; nop; hlt; {mark('.')}",
                   {0x21: mark("1"), 0x24: mark("4"), 0x2A: mark("A")}, NO_APIC))
    assert one.log == "1A4"


def test_it_wakes_a_processor_that_halts(pc):
    one = pc(guest(f"{PIC}; sti; hlt; {mark('.')}", {0x24: f"{mark('4')}; {PIC_EOI}"}, NO_APIC))
    assert one.log == ""
    one.vm.worker.motherboard.lines.pulse(4)
    one.machine.scheduler.run(one.machine.clock.tsc + TICKS)
    assert one.log == "4."


def test_lint0_masked_holds_it_back(pc):
    one = pc(guest(f"{PIC}; {LINT0}, 0x10700; {ring(4)}; sti; nop; nop; {mark('1')}; {LINT0}, 0x700; nop; {mark('2')}",
                   {0x24: f"{mark('4')}; {PIC_EOI}"}, NO_APIC))
    assert one.log == "142"


@pytest.mark.parametrize(("entry", "handlers"), [
    pytest.param(0x41, {0x41: f"{mark('t')}; {EOI}"}, id="fixed"), pytest.param(0x400, {2: mark("t")}, id="nmi")])
def test_through_lint0_each_edge_is_an_interrupt_of_the_apic(pc, entry, handlers):
    """The virtual wire, as operating systems try it when the I/O APIC brings no timer; and as an NMI watchdog."""
    one = pc(guest(f"{PIC}; {LINT0}, {entry}; sti; {ring(0)}; nop; {ring(0)}; nop; {mark('.')}", handlers, NO_APIC))
    assert one.log == "tt."


# --- the I/O APIC ---------------------------------------------------------------------------------------------------

MASK_PIC = "mov al, 0xFF; out 0x21, al; out 0xA1, al"


@pytest.mark.parametrize(("line", "pin"), [(0, 2), (4, 4), (16, 16)], ids=["timer-on-pin-2", "isa", "above-isa"])
def test_an_edge_is_taken_at_the_next_instruction(pc, line, pin):
    one = pc(guest(f"{MASK_PIC}; sti; nop; xor r12d, r12d; {ring(line)}; inc r12; {mark('.')}",
                   {0x41: f"mov r13, r12; {mark('A')}; {EOI}"}, NO_APIC), [(pin, 0x41)])
    assert one.log == "A."
    assert one.vm.partition.vps[0].regs.r13 == 0


def test_the_guest_programs_the_io_apic(pc):
    """By memory: an entry masked, read back with its destination, unmasked."""
    body = "; ".join([
        MASK_PIC, f"mov dword ptr [0x{HIGH_DIRECTORY + 8 * 0x1F6:x}], 0xFEC000F3", "mov esi, 0xFEC00000",
        "mov dword ptr [rsi], 0x18; mov dword ptr [rsi+0x10], 0x10041",
        "mov dword ptr [rsi], 0x19; mov eax, dword ptr [rsi+0x10]; mov r12d, eax",
        "mov dword ptr [rsi], 0x18; mov r13d, dword ptr [rsi+0x10]", "sti", ring(4), mark("1"),
        "and dword ptr [rsi+0x10], 0xFFFEFFFF", ring(4), mark("2")])
    one = pc(guest(body, {0x41: f"{mark('A')}; {EOI}"}, NO_APIC))
    registers = one.vm.partition.vps[0].regs
    assert (one.log, registers.r12, registers.r13) == ("1A2", 0, 0x10041)


def test_a_timer_of_the_hpet_has_its_own_pin_or_that_of_the_interval_timer(pc):
    """IA-PC HPET "LegacyReplacement Route": the interval timer, which would ring on pin 2 before, does not."""
    body = "; ".join([
        MASK_PIC, f"mov dword ptr [0x{HIGH_DIRECTORY + 8 * 0x1F6:x}], 0xFEC000F3", "mov esi, 0xFED00000",
        "mov dword ptr [rsi+0x100], 0x2804", "mov qword ptr [rsi+0x108], 1000", "mov dword ptr [rsi+0x10], 1",
        f"sti; hlt; cli; {mark('1')}", "mov dword ptr [rsi+0x10], 3",
        "mov al, 0x30; out 0x43, al; mov al, 10; out 0x40, al; xor eax, eax; out 0x40, al",
        "mov eax, [rsi+0xF0]; add eax, 6000; mov [rsi+0x108], rax; mov r12d, eax",
        f"sti; hlt; {mark('2')}; cli; mov r13d, [rsi+0xF0]"])
    one = pc(guest(body, {0x41: f"{mark('H')}; {EOI}", 0x42: f"{mark('T')}; {EOI}"}, NO_APIC), [(20, 0x41), (2, 0x42)])
    registers = one.vm.partition.vps[0].regs
    assert (one.log, registers.r13 >= registers.r12 > 0) == ("H1T2", True)


def test_a_level_comes_again_until_the_device_is_served(pc):
    """ICH "EOI": the end of the interrupt in the local APIC is broadcast; the handler quiets the bell at the third."""
    handler = f"{mark('L')}; inc r12; cmp r12, 3; jne more; {ring(9, 0)}; more:; {EOI}"
    one = pc(guest(f"{MASK_PIC}; xor r12d, r12d; sti; {ring(9, 1)}; nop; nop; {mark('.')}", {0x49: handler}, NO_APIC),
             [(9, 0x8049)])
    assert one.log == "LLL."
    assert one.vm.worker.motherboard.interrupts.io_apic.inspect()["entries"][9]["remote_irr"] == 0


def test_without_broadcast_the_io_apic_waits_for_its_eoi_register(pc):
    """SDM "Directed EOI": SVR bit 12."""
    one = pc(guest(f"{MASK_PIC}; sti; {ring(9, 1)}; nop; {mark('.')}; hlt", {0x49: f"{mark('L')}; {EOI}"},
                   "mov ebx, 0xFEE00000; mov dword ptr [rbx+0xF0], 0x11FF"), [(9, 0x8049)])
    assert one.log == "L."
    one.vm.worker.motherboard.interrupts.io_apic.write_memory(0x40, 4, 0x49)
    one.machine.scheduler.run(one.machine.clock.tsc + TICKS)
    assert one.log == "L.L"


@pytest.mark.parametrize(("entry", "letter"), [(0x400, "N"), (0x131, "F"), (0x31, "F")])
def test_the_delivery_mode_is_the_entrys(pc, entry, letter):
    one = pc(guest(f"{MASK_PIC}; sti; {ring(4)}; nop; {mark('.')}", {2: mark("N"), 0x31: f"{mark('F')}; {EOI}"},
                   NO_APIC), [(4, entry)])
    assert one.log == f"{letter}."


# --- the 8259s behind the I/O APIC ----------------------------------------------------------------------------------

@pytest.mark.parametrize(("vps", "entry"), [(1, 0x700), (1, 0xF00), (2, 0x700)], ids=["vp-0", "logical", "of-two"])
def test_pin_0_brings_the_8259s_interrupts(pc, vps, entry):
    """82093AA "Delivery Mode", ExtINT: the processor acknowledges at the 8259s, when it can take the interrupt; what
    is the highest then is what it gets."""
    one = pc(guest(f"{PIC}; {LINT0}, 0x10700; {ring(4)}; {ring(1)}; {mark('1')}; sti; nop; nop; nop; {mark('2')}; "
                   f"{ring(5)}; {mark('3')}",
                   {vector: f"{mark(letter)}; {PIC_EOI}" for vector, letter in ((0x21, "a"), (0x24, "b"), (0x25, "c"))},
                   NO_APIC), [(0, entry)], vps=vps)
    assert one.log == "1ab2c3"


def test_a_request_that_is_gone_when_the_processor_asks_is_spurious(pc):
    """8259A "Interrupt Sequence": a default IR7, which needs no EOI."""
    one = pc(guest(f"{PIC}; {LINT0}, 0x10700; {ring(4)}; mov al, 0x10; out 0x21, al; sti; nop; {mark('.')}",
                   {0x27: mark("S"), 0x24: mark("4")}, NO_APIC), [(0, 0x700)])
    assert one.log == "S."


def test_a_message_to_nobody_is_lost(pc):
    one = pc(guest(f"{PIC}; {LINT0}, 0x10700; sti; nop; {mark('.')}", {0x24: mark("4")}, NO_APIC))
    controllers = one.vm.worker.motherboard.interrupts
    controllers.io_apic.entries[0] = 0x0900_0000_0000_0700
    one.vm.worker.motherboard.lines.pulse(4)
    one.machine.scheduler.run(one.machine.clock.tsc + TICKS)
    assert (one.log, controllers.intr.offered, controllers.intr.named) == (".", 0x24, set())

# --- whatever a guest does -------------------------------------------------------------------------------------------

ANY_VECTOR = "; ".join([        # every gate leads to one handler, which ends what there is to end
    "mov edi, 0x60000; mov ecx, 256; lea rax, [any]", "gate:; mov [rdi], ax; mov word ptr [rdi+2], 8",
    "mov word ptr [rdi+4], 0x8E00; mov edx, eax; shr edx, 16; mov [rdi+6], dx; mov dword ptr [rdi+8], 0; add edi, 16",
    "dec ecx; jnz gate; lidt [pointer]; mov ebx, 0xFEE00000; sti; on:; inc r12; pause; jmp on",
    f"any:; push rax; {EOI}; mov al, 0x20; out 0xA0, al; out 0x20, al; pop rax; iretq",
    "pointer:; .word 4095; .quad 0x60000"])
ENTRIES = [0x10041, 0x41, 0x8041, 0x18041, 0x8842, 0x400, 0x700, 0x8700, 0x131, 0x0F, 0x200, 0xFF, 0x1_0000_0000_0841]


def _act(random, one):
    board = one.vm.worker.motherboard
    match random.randrange(6):
        case 0:
            board.lines.set(random.randrange(24), random.random() < 0.5)
        case 1:
            value = random.choice([0x11, 0x20, 0x0B, 0x0C, 0x68, 0, random.randrange(256)])
            board.write(random.choice([0x20, 0x21, 0xA0, 0xA1, 0x4D0, 0x4D1]), 1, value)
        case 2:
            board.write_memory(0xFEC00000, 4, 0x10 + random.randrange(48))
            entry = random.choice([*ENTRIES, random.randrange(1 << 32) & ~0x100])
            board.write_memory(0xFEC00010, 4, entry & 0xFFFFFFFF)
        case 3:
            board.write_memory(0xFEC00040, 4, random.randrange(256))
        case 4:
            address = 0xFEE00000 | random.randrange(1 << 20) & ~0x10
            board.interrupts.messages.send(0x10, Msi(address, random.choice(ENTRIES)))
        case _:
            one.machine.scheduler.run(one.machine.clock.tsc + 20_000)


@pytest.mark.parametrize("seed", range(4))
def test_no_wire_and_no_register_breaks_the_machine(pc, seed):
    """INIT apart, which ends the program: lines, ports and entries at random, while the guest takes what comes."""
    random, one = Random(seed), pc(guest("nop", {}, f"{PIC}; {ANY_VECTOR}"), vps=1 + seed % 2)
    for _ in range(250):
        _act(random, one)
        assert one.vm.ended is None, one.vm.why
    first = one.vm.partition.vps[0].regs.r12
    one.vm.worker.motherboard.interrupts.io_apic.reset()
    one.vm.worker.motherboard.interrupts.pic.reset()
    for line in range(24):
        one.vm.worker.motherboard.lines.set(line, False)
    one.machine.scheduler.run(one.machine.clock.tsc + TICKS)
    assert one.vm.partition.vps[0].regs.r12 > first             # it is at its loop again
    one.vm.worker.destroy()
    one.vm.worker.motherboard.lines.pulse(4)                    # a device that has not heard of it


def test_a_checkpoint_has_the_controllers_in_it():
    """In the middle of things: one in service, one offered, a level that waits for its EOI."""
    one = PcGuest(guest(f"{PIC}; sti; {ring(4)}; nop", {0x24: "in_service:; pause; jmp in_service"}, NO_APIC),
                  [(9, 0x8049)])
    board = one.vm.worker.motherboard
    board.lines.set(9, True)
    board.lines.pulse(1)
    controllers = board.interrupts
    kept, before = Memento([board.lines, controllers], outside=[one.machine.root.winhv, board]), board.inspect()
    assert (controllers.pic.master.isr, controllers.intr.offered) == (1 << 4, 0x21)
    controllers.io_apic.reset()
    controllers.intr.offered = None
    controllers.pic.master.reset(0x40, 0)
    board.lines.asserted[9] = False
    kept.restore()
    assert (board.inspect(), controllers.intr.offered, board.lines.asserted[9]) == (before, 0x21, True)
    one.machine.close()


def test_a_vm_that_is_reset_has_its_interrupts_as_after_power_on(pc):
    """It resets itself in the middle of a handler, with one interrupt in service and another on the external line."""
    again = f"0x{LOG + 0x900:x}"
    reset = "mov ecx, 0x40000003; mov eax, 1; xor edx, edx; wrmsr"
    handler = f"cmp dword ptr [{again}], 2; je over; mov dword ptr [{again}], 2; {ring(1)}; {reset}; " \
              f"over:; {mark('4')}; {PIC_EOI}"
    one = pc(guest(f"{PIC}; sti; {ring(4)}; nop; {mark('.')}", {0x24: handler, 0x21: mark("1")}, NO_APIC))
    assert (one.log, one.vm.resets) == ("4.", 1)
