"""The worker of a VM: what it answers to each intercept message, and how it ends. The hypervisor is a list of calls."""

import pytest

from hv.image.errors import ImageError
from hv.image.model import Image, Segment
from hv.root import boot
from hv.root.vmwp import SPARE_PAGES_OF_DEVICE, Worker
from hv.root.winhv import HvError, RootMemory
from hv.spec.hv_registers import HvRegisterName as N
from hv.spec.hv_registers import PendingInterruptionRegister
from hv.spec.hv_status import HvStatus
from hv.spec.intercepts import HvInterceptType
from hv.spec.layout import Layout
from hv.spec.msrs import Msr
from hv.spec.synic import (
    CpuidIntercept,
    ExceptionIntercept,
    HeaderOnlyIntercept,
    HvExceptionInfo,
    HvExecutionState,
    HvInterceptHeader,
    HvMessage,
    HvMessageHeader,
    HvMessageType,
    HypercallIntercept,
    InterceptAccess,
    InvalidVpRegisterMessage,
    IoPortIntercept,
    MemoryIntercept,
    MsrIntercept,
)
from hv.spec.x86 import Vector
from hv.trace.bus import Trace
from hv.trace.events import GuestEnded, SerialOutput

PARTITION = 7
MEMORY = 3 << 20
MESSAGE_PAGE, REGISTER_PAGE = 0x10, 0x20
READ, WRITE = InterceptAccess.READ, InterceptAccess.WRITE


class FakeWinHv:
    """Notes every call; registers are what was set last."""

    def __init__(self):
        self.ram = bytearray(16 << 20)
        self.memory = RootMemory(lambda gpa, size: bytes(self.ram[gpa : gpa + size]), self.store, range(4096),
                                 lambda gpa, size: memoryview(self.ram)[gpa : gpa + size])
        self.calls, self.registers, self.fails = [], {}, set()
        self.refused = {}               # VP index -> status of every SetVpRegisters

    def store(self, gpa, data):
        self.ram[gpa : gpa + len(data)] = data

    def create_partition(self):
        return PARTITION

    def set_vp_registers(self, partition, vp, values):
        self.calls.append(("set", vp, dict(values)))
        if vp in self.refused:
            raise HvError(self.refused[vp], "SET_VP_REGISTERS")
        self.registers.update(values)

    def get_vp_register(self, partition, vp, name):
        return self.registers.get(name, 0)

    def map_message_page(self, partition, vp):
        return MESSAGE_PAGE + vp

    def map_register_page(self, partition, vp):
        return REGISTER_PAGE + vp

    def get_vp_cpuid_values(self, partition, vp, leaves):
        return [(0, 0, 0, 0)] * len(leaves)

    def __getattr__(self, name):
        def call(*arguments):
            self.calls.append((name, *arguments))
            if name in self.fails:
                raise RuntimeError(name)
        return call

    def names(self):
        return [call[0] for call in self.calls]


class FakeVid:
    """Who is registered."""

    def __init__(self):
        self.handlers, self.threads = {}, {}

    def connect_thread(self, partition, vp_index, thread):
        self.threads[partition, vp_index] = thread

    def register(self, partition, handler):
        self.handlers[partition] = handler

    def unregister(self, partition):
        self.handlers.pop(partition, None)


class Bench:
    """A worker with two VPs, and messages for it."""

    def __init__(self, prepare=lambda winhv: None, timers=None):
        self.winhv, self.vid, self.trace, self.events = FakeWinHv(), FakeVid(), Trace(), []
        self.trace.listen(lambda record: self.events.append(record.event))
        prepare(self.winhv)
        self.worker = Worker(self.winhv, self.vid, self.trace, "test", MEMORY, 2, timers)
        self.made, self.winhv.calls = self.winhv.calls, []

    def send(self, kind, payload):
        header = HvMessageHeader(message_type=kind, payload_size=payload.SIZE, sender=PARTITION)
        data = payload.pack() if isinstance(payload, Layout) else payload
        self.vid.handlers[PARTITION](HvMessage(header=header, payload=data))

    def port(self, port, size, access, rax=0, rip=0x1000, length=1, vp=0):
        self.send(HvMessageType.X64_IO_PORT_INTERCEPT, IoPortIntercept(
            header=HvInterceptHeader(vp_index=vp, length_and_cr8=length | 0x50, access_type=access, rip=rip), port=port,
            access_info=size, rax=rax))
        return self.winhv.calls[0][2] if self.winhv.calls else None

    def memory(self, vp=0, protected=1):
        state = HvExecutionState(cr0_pe=protected).raw
        self.send(HvMessageType.UNMAPPED_GPA, MemoryIntercept(
            header=HvInterceptHeader(vp_index=vp, access_type=READ, execution_state=state, rip=0x1234), gpa=1 << 32))


# --- making and ending --------------------------------------------------------------------------------------------

def test_a_vm_is_made_by_hypercalls_in_the_order_tlfs_wants():
    made = [call[0] for call in Bench().made]
    assert made == ["initialize_partition", "map_gpa_pages", "map_gpa_pages", "install_intercept", "install_intercept",
                    "install_intercept", "install_intercept", "create_vp", "create_vp", "deposit_memory"]


def test_memory_is_mapped_in_large_pages_and_the_rest_in_small_ones():
    bench = Bench()
    large, small = (call for call in bench.made if call[0] == "map_gpa_pages")
    assert (large[2], len(large[3]), small[2], len(small[3])) == (0, 1, 512, 256)
    assert bench.worker.pages == list(range(bench.worker.pages[0], bench.worker.pages[0] + 768))


def test_the_ports_of_the_devices_are_intercepted():
    ranges = [call[3] for call in Bench().made
              if call[0] == "install_intercept" and call[2] == HvInterceptType.IO_PORT_RANGE]
    assert ranges == [0x3F8 | 0x3FF << 16, 0x604 | 0x605 << 16]


def test_start_and_stop_are_for_all_vps():
    bench = Bench()
    bench.worker.start()
    bench.worker.stop()
    assert bench.winhv.calls == [("set", vp, {N.EXPLICIT_SUSPEND: value}) for value in (0, 1) for vp in (0, 1)]


def test_a_vm_ends_once():
    bench = Bench()
    bench.worker.end("shutdown", "because")
    bench.worker.end("error", "later")
    assert (bench.worker.ended, bench.worker.why) == ("shutdown", "because")
    assert [event for event in bench.events if isinstance(event, GuestEnded)] == [GuestEnded("shutdown")]


def test_a_vp_that_another_program_of_roots_deleted_needs_no_stop():
    """Root has more than one program; the VMs end all the same."""
    bench = Bench()
    bench.winhv.refused[0] = HvStatus.INVALID_VP_INDEX
    bench.worker.end("halt")
    assert bench.worker.ended == "halt"
    assert bench.winhv.calls[-1] == ("set", 1, {N.EXPLICIT_SUSPEND: 1}), "the others are stopped"
    bench.winhv.refused[0] = HvStatus.ACCESS_DENIED
    with pytest.raises(HvError):
        bench.worker.stop()


def test_a_vm_whose_worker_may_not_answer_it_ends():
    """A worker has to complete the instruction; when the hypervisor refuses that, the VM cannot go on."""
    bench = Bench()
    bench.winhv.refused = {0: HvStatus.INVALID_VP_INDEX, 1: HvStatus.INVALID_VP_INDEX}
    bench.send(HvMessageType.X64_CPUID_INTERCEPT, CpuidIntercept(rax=1))
    assert (bench.worker.ended, bench.worker.why) == (
        "error", "its worker was refused SET_VP_REGISTERS: INVALID_VP_INDEX")


def test_destroy_takes_everything_down_in_order_and_wipes():
    bench = Bench()
    free = bench.winhv.memory.free_count
    bench.worker.write(0x1000, b"secret")
    bench.worker.destroy()
    assert bench.winhv.names()[2:] == ["finalize_partition", "delete_vp", "delete_vp", "withdraw_memory",
                                       "delete_partition"]
    assert bench.winhv.memory.free_count == free + 768
    assert not any(bench.winhv.ram)
    assert not bench.vid.handlers


def test_what_fails_in_the_making_is_taken_down():
    kept = []

    def prepare(winhv):
        winhv.fails.add("create_vp")
        kept.append((winhv, winhv.memory.free_count))
    with pytest.raises(RuntimeError, match="create_vp"):
        Bench(prepare)
    winhv, free = kept[0]
    assert winhv.names()[-3:] == ["finalize_partition", "withdraw_memory", "delete_partition"]
    assert winhv.memory.free_count == free


def test_memory_is_read_and_written_across_pages():
    worker = Bench().worker
    data = bytes(range(256)) * 40
    worker.write(0x1FF0, data)
    assert worker.read(0x1FF0, len(data)) == data
    assert worker.read(0x1FE0, 16) == bytes(16)


def test_a_program_and_the_loaders_tables_are_written_and_the_first_vp_starts_at_the_entry():
    bench = Bench()
    bench.worker.load(Image("flat", [Segment(0x10000, b"code", True, True), Segment(0x200FFE, b"data", True, False)],
                            0x10002, 64), other_partition_id=9)
    worker = bench.worker
    assert (worker.read(0x10000, 4), worker.read(0x200FFE, 4)) == (b"code", b"data")
    assert worker.read(boot.INFORMATION, 48) == boot.Information(0, 0, 0, PARTITION, 9).pack()
    assert any(worker.read(boot.GDT, 0x30))
    assert bench.winhv.registers[N.RIP] == 0x10002
    with pytest.raises(ImageError, match="reaches up to 0x300001"):
        worker.load(Image("flat", [Segment(MEMORY, b"x", True, True)], MEMORY, 64))


class FakeDevice:
    """Notes what becomes of it."""

    def __init__(self, source_id, bar_page, has_own_message=True):
        self.source_id, self.bar_page, self.has_own_message = source_id, bar_page, has_own_message
        self.acts = []

    def interrupt_by(self, message):
        self.acts.append(message)

    def reset(self):
        self.acts.append("reset")


def test_an_assigned_device_is_mapped_told_and_taken_back():
    bench = Bench()
    calls = bench.winhv.calls
    bench.winhv.map_device_interrupt = lambda *arguments: calls.append(("msi", *arguments)) or (0xFEE0, 0x11)
    device = FakeDevice(0x18, 0x4444)
    bench.worker.assign(device)
    assert calls[1][:2] == ("deposit_memory", PARTITION)
    assert len(calls.pop(1)[2]) == SPARE_PAGES_OF_DEVICE
    assert bench.winhv.calls == [("attach_device", PARTITION, 0x18, 0x18),
                                 ("map_gpa_pages", PARTITION, 0xF0000, [0x4444]),
                                 ("msi", PARTITION, 0x18, 0, 0x50)]
    bench.worker.load(Image("flat", [Segment(0x10000, b"code", True, True)], 0x10000, 64))
    assert bench.worker.read(boot.INFORMATION, 24) == b"".join(
        word.to_bytes(8, "little") for word in (0xF0000000, 0xFEE0, 0x11))
    bench.worker.destroy()
    names = bench.winhv.names()
    assert names.index("detach_device") == names.index("finalize_partition") - 1
    assert device.acts == ["reset"], "the next VM finds nothing of it"


def test_a_second_device_is_a_page_and_a_vector_further_and_its_message_is_put_into_its_msi_capability():
    bench = Bench()
    calls = bench.winhv.calls
    bench.winhv.map_device_interrupt = lambda *arguments: calls.append(("msi", *arguments)) or (0xFEE0, len(calls))
    devices = [FakeDevice(0x18, 0x4444), FakeDevice(0x10, 0x5555, has_own_message=False)]
    for device in devices:
        bench.worker.assign(device)
    assert ("map_gpa_pages", PARTITION, 0xF0001, [0x5555]) in calls
    assert calls[-1] == ("msi", PARTITION, 0x10, 0, 0x51)
    assert [device.acts for device in devices] == [[], [(0xFEE0, len(calls))]]
    assert bench.worker.device is devices[0]


# --- ports --------------------------------------------------------------------------------------------------------

def test_out_to_com1_is_serial_output_and_rip_moves_on():
    bench = Bench()
    seen = []
    bench.worker.on_serial = seen.append
    assert bench.port(0x3F8, 1, WRITE, rax=0x1141) == {N.RIP: 0x1001, N.INTERCEPT_SUSPEND: 0}
    assert (bench.worker.serial, seen, bench.events) == ("A", ["A"], [SerialOutput("A")])


@pytest.mark.parametrize(("size", "value"), [(1, 0x88), (2, 0x7788), (4, 0x55667788)])
def test_out_hands_on_as_much_of_rax_as_the_size_says(size, value):
    bench, got = Bench(), []
    bench.worker.motherboard.write = lambda *arguments: got.append(arguments)
    bench.port(0x604, size, WRITE, rax=0x1122_3344_5566_7788)
    assert got == [(0x604, size, value)]


@pytest.mark.parametrize(("size", "expected"), [
    (1, 0x1122_3344_5566_7760), (2, 0x1122_3344_5566_FF60), (4, 0xFFFF_FF60)])
def test_in_changes_as_much_of_rax_as_the_size_says(size, expected):
    """SDM "IN"; a 32-bit result clears the upper half, as every one does in 64-bit mode."""
    answer = Bench().port(0x3FD, size, READ, rax=0x1122_3344_5566_7788, length=2)
    assert answer == {N.RIP: 0x1002, N.RAX: expected, N.INTERCEPT_SUSPEND: 0}


def test_the_vp_that_asked_is_answered():
    bench = Bench()
    bench.port(0x3F8, 1, WRITE, vp=1)
    assert bench.winhv.calls[0][1] == 1


def test_rip_wraps_at_64_bits():
    assert Bench().port(0x3F8, 1, WRITE, rip=(1 << 64) - 1)[N.RIP] == 0


def test_power_off_completes_its_instruction_and_then_ends_the_vm():
    bench = Bench()
    assert bench.port(0x604, 2, WRITE, rax=0x2000)[N.RIP] == 0x1001
    assert bench.worker.ended == "shutdown"


def test_a_vm_that_has_ended_is_not_answered():
    bench = Bench()
    bench.worker.end("shutdown")
    bench.winhv.calls.clear()
    bench.port(0x3F8, 1, WRITE, rax=0x41)
    assert (bench.winhv.calls, bench.worker.serial) == ([], "")


# --- everything else ----------------------------------------------------------------------------------------------

def pending(bench):
    return PendingInterruptionRegister(bench.winhv.registers[N.PENDING_INTERRUPTION])


def on_its_way(vector, kind=3):
    return PendingInterruptionRegister(interruption_pending=1, interruption_type=kind, interruption_vector=vector).raw


def test_memory_that_is_not_there_is_gp():
    bench = Bench()
    bench.memory(vp=1)
    assert bench.winhv.calls[-1][1] == 1
    assert bench.winhv.registers[N.INTERCEPT_SUSPEND] == 0
    event = pending(bench)
    assert (event.interruption_pending, event.interruption_type, event.interruption_vector, event.deliver_error_code,
            event.error_code) == (1, 3, 13, 1, 0)


@pytest.mark.parametrize("waiting", [0, 13], ids=["gp", "df"])
def test_in_real_mode_no_exception_has_an_error_code(waiting):
    """SDM "VM-Entry Controls for Event Injection": VM entry takes no error code into a guest with CR0.PE = 0."""
    bench = Bench()
    bench.winhv.registers[N.PENDING_INTERRUPTION] = on_its_way(waiting) if waiting else 0
    bench.memory(protected=0)
    assert pending(bench).deliver_error_code == 0


@pytest.mark.parametrize(("waiting", "kind", "expected"), [
    pytest.param(6, 3, 13, id="a-benign-exception-is-followed"), pytest.param(0x40, 0, 13, id="an-interrupt-is-lost"),
    pytest.param(2, 2, 13, id="an-nmi-is-lost"), pytest.param(13, 4, 13, id="INT-13-is-no-exception"),
    pytest.param(13, 3, 8, id="gp-makes-a-double-fault"), pytest.param(14, 3, 8, id="pf-makes-a-double-fault"),
    pytest.param(0, 3, 8, id="de-makes-a-double-fault"), pytest.param(12, 3, 8, id="ss-makes-a-double-fault"),
])
def test_a_fault_while_an_event_is_delivered(waiting, kind, expected):
    """SDM "Conditions for Generating a Double Fault"."""
    bench = Bench()
    bench.winhv.registers[N.PENDING_INTERRUPTION] = on_its_way(waiting, kind)
    bench.memory()
    assert pending(bench).interruption_vector == expected
    assert bench.worker.ended is None


def test_a_double_fault_that_cannot_be_delivered_is_a_triple_fault():
    bench = Bench()
    bench.winhv.registers[N.PENDING_INTERRUPTION] = on_its_way(8)
    bench.memory(vp=1)
    assert (bench.worker.ended, bench.worker.why) == ("triple-fault", "vp 1 triple-faulted at rip 0x1234")


def test_a_triple_fault_ends_the_vm():
    bench = Bench()
    header = HvInterceptHeader(vp_index=1, rip=0x77)
    bench.send(HvMessageType.UNRECOVERABLE_EXCEPTION, HeaderOnlyIntercept(header=header))
    assert (bench.worker.ended, bench.worker.why) == ("triple-fault", "vp 1 triple-faulted at rip 0x77")


def test_a_message_nobody_answers_ends_the_vm_with_its_type():
    bench = Bench()
    bench.send(HvMessageType.X64_RDTSC_INTERCEPT, HeaderOnlyIntercept())
    assert bench.worker.ended == "error"
    assert bench.worker.why == f"nobody answers intercept message {HvMessageType.X64_RDTSC_INTERCEPT:#x}"


# --- what it answers when it has asked for it -----------------------------------------------------------------------

LONG_MODE = HvExecutionState(cr0_pe=1, efer_lma=1).raw
AT = HvInterceptHeader(vp_index=0, length_and_cr8=2, execution_state=LONG_MODE, rip=0x1000)


def test_cpuid_gets_what_the_hypervisor_would_have_said():
    bench = Bench()
    bench.send(HvMessageType.X64_CPUID_INTERCEPT, CpuidIntercept(
        header=AT, rax=9, default_rax=1, default_rbx=2, default_rcx=3, default_rdx=4))
    found = bench.winhv.registers
    assert [found[name] for name in (N.RAX, N.RBX, N.RCX, N.RDX, N.RIP, N.INTERCEPT_SUSPEND)] == [1, 2, 3, 4, 0x1002, 0]


def test_an_msr_that_nobody_has_is_gp():
    bench = Bench()
    bench.send(HvMessageType.X64_MSR_INTERCEPT, MsrIntercept(header=AT, msr_number=0x1234))
    assert (pending(bench).interruption_vector, pending(bench).deliver_error_code) == (Vector.GP, 1)
    assert N.RIP not in bench.winhv.registers


@pytest.mark.parametrize(("lma", "registers"), [(1, {N.RAX: 2}), (0, {N.RAX: 2, N.RDX: 0})])
def test_a_hypercall_that_nobody_has_is_an_invalid_code(lma, registers):
    """HV_STATUS_INVALID_HYPERCALL_CODE, in RAX or in EDX:EAX."""
    bench = Bench()
    header = HvInterceptHeader(length_and_cr8=3, execution_state=HvExecutionState(cr0_pe=1, efer_lma=lma).raw, rip=5)
    bench.send(HvMessageType.HYPERCALL_INTERCEPT, HypercallIntercept(header=header))
    found = {name: value for name, value in bench.winhv.registers.items() if name in (N.RAX, N.RDX, N.RIP)}
    assert found == registers | {N.RIP: 8}


@pytest.mark.parametrize(("vector", "error_code", "waiting", "delivered"), [
    (Vector.UD, None, None, (Vector.UD, 0)),
    (Vector.GP, 8, None, (Vector.GP, 8)),
    (Vector.PF, 2, None, (Vector.PF, 2)),
    (Vector.PF, 2, Vector.GP, (Vector.PF, 2)),
    (Vector.GP, 8, Vector.GP, (Vector.DF, 0)),
    (Vector.PF, 2, Vector.PF, (Vector.DF, 0)),
    (Vector.UD, None, Vector.DF, (Vector.UD, 0)),
    (Vector.NP, 8, Vector.DF, None),
    (Vector.PF, 2, Vector.DF, None),
])
def test_an_exception_goes_to_the_guest_combined_with_the_one_before(vector, error_code, waiting, delivered):
    """SDM "Conditions for Generating a Double Fault"."""
    bench = Bench()
    bench.winhv.registers[N.PENDING_INTERRUPTION] = on_its_way(waiting) if waiting else 0
    info = HvExceptionInfo(error_code_valid=int(error_code is not None)).raw
    bench.send(HvMessageType.X64_EXCEPTION_INTERCEPT, ExceptionIntercept(
        header=AT, exception_vector=vector, exception_info=info, error_code=error_code or 0, exception_parameter=0xBAD))
    if delivered is None:
        assert bench.worker.ended == "triple-fault"
        return
    assert (pending(bench).interruption_vector, pending(bench).error_code) == delivered
    assert bench.winhv.registers.get(N.CR2) == (0xBAD if vector == Vector.PF else None)


def test_int3_goes_on_as_a_software_exception():
    bench = Bench()
    bench.send(HvMessageType.X64_EXCEPTION_INTERCEPT, ExceptionIntercept(
        header=HvInterceptHeader(length_and_cr8=1, execution_state=LONG_MODE), exception_vector=3,
        exception_info=HvExceptionInfo(software_exception=1).raw))
    assert (pending(bench).interruption_type, pending(bench).instruction_length) == (6, 1)


def test_a_halt_message_ends_the_vm():
    bench = Bench()
    bench.send(HvMessageType.X64_HALT, HeaderOnlyIntercept(header=AT))
    assert bench.worker.ended == "halt"


def test_registers_that_no_processor_enters_end_the_vm():
    bench = Bench()
    bench.send(HvMessageType.INVALID_VP_REGISTER_VALUE, InvalidVpRegisterMessage(vp_index=0))
    assert (bench.worker.ended, bench.worker.why, bench.worker.refused_vp) == ("error", "vp 0: VM entry failed", 0)


def test_inspect_is_plain_data():
    shown = Bench().worker.inspect()
    assert (shown["name"], shown["partition"], shown["ended"]) == ("test", 7, None)
    assert sorted(shown["devices"]) == ["com1", "power"]


# --- what the guest says of itself ---------------------------------------------------------------------------------

TEXT_AT = 0x4000


def wrote_msr(bench, msr, value, vp=1):
    bench.send(HvMessageType.X64_MSR_INTERCEPT, MsrIntercept(
        header=HvInterceptHeader(vp_index=vp, access_type=WRITE, rip=0x1000), msr_number=msr, rdx=value >> 32,
        rax=value & 0xFFFF_FFFF))


def crashed(parameters, control=3, text=b"it was me"):
    bench = Bench()
    bench.worker.write(TEXT_AT, text)
    bench.winhv.registers = {N(N.GUEST_CRASH_P0 + n): value for n, value in enumerate(parameters)}
    wrote_msr(bench, Msr.HV_CRASH_CTL, control << 62)
    assert bench.winhv.calls == [("set", 1, {N.INTERCEPT_SUSPEND: 0})]      # the guest goes on: it may have more to do
    assert bench.worker.ended is None
    return bench.worker.crash


def test_a_crash_is_noted_with_its_parameters_and_text():
    report = crashed((1, 2, 3, TEXT_AT, 9))
    assert (report.parameters, report.message) == ((1, 2, 3, TEXT_AT, 9), "it was me")
    assert str(report) == "0x1 0x2 0x3 0x4000 0x9: it was me"


@pytest.mark.parametrize(("gpa", "size", "control", "message"), [
    (TEXT_AT, 9, 2, ""), (TEXT_AT, 2, 3, "it"), (TEXT_AT, 12, 3, "it was me"), (TEXT_AT, 0, 3, ""),
    (MEMORY - 4, 8, 3, ""), (1 << 63, 8, 3, ""), ((1 << 64) - 1, (1 << 64) - 1, 3, ""),
], ids=["no-text", "short", "zeroes-at-the-end", "empty", "over-the-end", "nowhere", "huge"])
def test_a_crash_text_is_what_there_is_of_it(gpa, size, control, message):
    assert crashed((1, 2, 3, gpa, size), control).message == message


def test_a_crash_text_is_at_most_a_page_of_any_bytes():
    assert crashed((0, 0, 0, TEXT_AT, 1 << 20), text=b"\xff" * 8192).message == "\ufffd" * 4096


def test_a_vm_that_resets_itself_is_loaded_and_started_again():
    bench = Bench()
    image = Image("test", [Segment(0x10000, b"\x90\xf4", True, True)], 0x10000, 64)
    bench.worker.load(image)
    bench.worker.write(0x10000, b"\xcc\xcc")
    bench.winhv.calls.clear()
    wrote_msr(bench, Msr.HV_RESET, 1, vp=0)
    assert bench.worker.read(0x10000, 2) == b"\x90\xf4"
    first, load, *start = bench.winhv.calls
    assert first == ("set", 0, {N.INTERCEPT_SUSPEND: 0})
    assert (load[1], load[2][N.RIP]) == (0, 0x10000)
    assert start == [("set", vp, {N.EXPLICIT_SUSPEND: 0}) for vp in (0, 1)]
    assert (bench.worker.resets, bench.worker.ended) == (1, None)
