"""VMWP: the worker of one VM. It makes the partition, loads the program, owns the emulated devices, answers intercepts.

Everything it does to its VM is a hypercall. In this project workers live in root's own process; one of their own is a
matter of where `WinHv` is called from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hv.image.model import NO_OPTIONS, BootOptions, Image
from hv.instructions.decode import Undecodable
from hv.root import answers, boot, memory_types, starting
from hv.root.assignable import AssignedDevice
from hv.root.crash import CrashReport, collect
from hv.root.emulator import Emulator
from hv.root.firmware import configuration
from hv.root.firmware.place import NOTHING, Placed, place
from hv.root.interrupt_controllers import FIRMWARE_APIC
from hv.root.memory_map import MemoryMap
from hv.root.motherboard import Motherboard
from hv.root.pc import FIRST_ASSIGNED, Pc, PcHost
from hv.root.timers import RootTimers
from hv.root.vdev.i8042 import I8042
from hv.root.vdev.power import PORTS as POWER_PORTS
from hv.root.vdev.power import PowerSwitch
from hv.root.vdev.uart16550 import COM1, Uart16550
from hv.root.vid import Vid
from hv.root.vp_thread import VpThread
from hv.root.winhv import HvError, RegisterContent, WinHv
from hv.spec.hv_registers import HvRegisterName
from hv.spec.hv_status import HvStatus
from hv.spec.intercepts import HvInterceptAccess, HvInterceptType
from hv.spec.msrs import Msr
from hv.spec.partition import HvMapGpaFlags, HvPartitionProperty
from hv.spec.synic import (
    ApicEoiMessage,
    CpuidIntercept,
    ExceptionIntercept,
    HeaderOnlyIntercept,
    HvExecutionState,
    HvInterceptHeader,
    HvIoPortAccessInfo,
    HvMemoryAccessInfo,
    HvMessage,
    HvMessageType,
    HypercallIntercept,
    InterceptAccess,
    InvalidVpRegisterMessage,
    IoPortIntercept,
    MemoryIntercept,
    MsrIntercept,
)
from hv.spec.x86 import LARGE_PAGES, PAGE_SIZE, Vector
from hv.trace.bus import Trace
from hv.trace.events import GuestEnded, PostCode, SerialOutput

N, T = HvRegisterName, HvMessageType
RESET = "reset"
DEVICE_VECTOR = 0x50                    # of VP 0: the assigned device's interrupt, docs/guests.md
_ZEROES = bytes(PAGE_SIZE)
# For tables: an overlay that a guest asks for splits a large page, and nobody can deposit while its WRMSR waits.
SPARE_PAGES, SPARE_PAGES_OF_VP = 8, 4
SPARE_PAGES_OF_DEVICE = 16              # for domains that its guest makes
SPARE_PAGES_OF_IOMMU, RECORD_OF_PAGE = 32, 16
_ALL_RIGHTS = HvMapGpaFlags.READABLE | HvMapGpaFlags.WRITABLE | HvMapGpaFlags.EXECUTABLE
# What a call about a VP is answered when there is no such VP, as another program of root's has taken it away.
_GONE = (HvStatus.INVALID_VP_INDEX, HvStatus.INVALID_PARTITION_ID, HvStatus.INVALID_PARTITION_STATE)
_GVA_GPA_VALID = HvMemoryAccessInfo(gva_gpa_valid=1).raw
_INTERRUPTION_PENDING = HvExecutionState(interruption_pending=1).raw
# A port is what most intercepts are about, so they are not taken apart further than needed.
_PORT_INTERCEPT = IoPortIntercept.picker("header.vp_index", "header.length_and_cr8", "header.access_type",
                                         "header.rip", "port", "access_info", "rax")
_ACCESS_SIZE, _WRITE, _U64 = HvIoPortAccessInfo(access_size=7).raw, int(InterceptAccess.WRITE), (1 << 64) - 1
_RIP, _RAX, _INTERCEPT_SUSPEND = N.RIP, N.RAX, N.INTERCEPT_SUSPEND
_READ_WRITE = HvInterceptAccess.READ | HvInterceptAccess.WRITE


class Worker:
    """One VM. `ended` is None while it may run, else "shutdown", "triple-fault", "halt", "budget", "error",
    "destroyed", and of one with a PC "debug-exit" or "reset". With *timers* it has a PC board, else the least one.
    """

    def __init__(self, winhv: WinHv, vid: Vid, trace: Trace, name: str, memory_bytes: int, vp_count: int,
                 timers: RootTimers | None = None) -> None:
        self.winhv, self.vid, self.trace, self.name = winhv, vid, trace, name
        self.memory_bytes, self.vp_count = memory_bytes, vp_count
        self.ended: str | None = None
        self.why = ""
        self.crash: CrashReport | None = None   # the last one that the guest reported
        self.resets = 0                         # how often it has reset itself
        self.on_serial: Callable[[str], None] = lambda text: None
        self._serial = bytearray()
        self.refused_vp: int | None = None      # whose registers no processor enters
        self.debug_exit: int | None = None      # the value that the guest left with
        self.restarts, self.reboots = True, False       # after a reset, after a triple fault; else it is over
        self.ending: str | None = None
        self.unanswered: set[int] = set()      # VPs whose question was asked before a reset
        self.devices: list[AssignedDevice] = []
        self._msi = (0, 0)
        self.pages: list[int] = []
        self.kind = ""                          # of the program: Image.kind
        self._vps_made = 0
        self.partition_id = winhv.create_partition()
        try:
            self._has_pc = timers is not None
            self.motherboard = self._make_board() if timers is None else self._make_pc(timers)
            self.emulator = None if timers is None else Emulator(winhv, self.partition_id, self, self.motherboard)
            self._make_partition()
        except BaseException:
            self.destroy()
            raise

    # --- making ----------------------------------------------------------------------------------------

    def _make_board(self) -> Motherboard:
        """The least that a program needs to be heard, and to end."""
        board = Motherboard()
        board.add("com1", COM1, Uart16550(COM1.start, self._on_serial_byte))
        board.add("power", POWER_PORTS, PowerSwitch(lambda: self._end_soon("shutdown")))
        return board

    def _make_pc(self, timers: RootTimers) -> Motherboard:
        return Pc(PcHost(self.winhv, self.partition_id, self.vp_count, self.memory_bytes, timers, self._on_serial_byte,
                         self._end_soon, lambda: self._end_soon(RESET), self._on_debug_exit, self._on_post_code))

    def _make_partition(self) -> None:
        winhv, partition = self.winhv, self.partition_id
        winhv.initialize_partition(partition)
        self.pages = winhv.memory.allocate_run(self.memory_bytes // PAGE_SIZE)
        large = len(self.pages) // LARGE_PAGES * LARGE_PAGES
        winhv.map_gpa_pages(partition, 0, self.pages[:large:LARGE_PAGES], _ALL_RIGHTS | HvMapGpaFlags.LARGE_PAGE)
        winhv.map_gpa_pages(partition, large, self.pages[large:], _ALL_RIGHTS)
        for ports in self.motherboard.ranges:
            winhv.install_intercept(partition, HvInterceptType.IO_PORT_RANGE, ports[0] | ports[-1] << 16, _READ_WRITE)
        for msr in (Msr.HV_CRASH_CTL, Msr.HV_RESET):
            winhv.install_intercept(partition, HvInterceptType.MSR, msr, _READ_WRITE)
        if self._has_pc:
            winhv.install_intercept(partition, HvInterceptType.APIC_EOI, 0, HvInterceptAccess.EXECUTE)
        for index in range(self.vp_count):
            winhv.create_vp(partition, index)
            self._vps_made += 1
        winhv.deposit_memory(partition, winhv.memory.allocate(SPARE_PAGES + SPARE_PAGES_OF_VP * self.vp_count))
        self.vid.register(partition, self.on_intercept)
        if self._has_pc:
            for index in range(self.vp_count):
                self.vid.connect_thread(partition, index, VpThread(self, index).come_back)
                winhv.dispatch_vp(partition, index)

    @property
    def device(self) -> AssignedDevice | None:
        """The first of its devices."""
        return self.devices[0] if self.devices else None

    def add_virtual_iommu(self) -> None:
        """The VM has a remapping unit that its guest programs; its devices come behind it, so this is before `assign`.

        What the guest maps there is paid from the partition's pool, and there is nobody to ask for more: pages for
        tables and records of all of its memory, and a few.
        """
        pages = self.memory_bytes // PAGE_SIZE
        spare = pages // 512 + pages * RECORD_OF_PAGE // PAGE_SIZE + SPARE_PAGES_OF_IOMMU
        self.winhv.deposit_memory(self.partition_id, self.winhv.memory.allocate(spare))
        self.winhv.set_partition_property(self.partition_id, HvPartitionProperty.VIRTUAL_IOMMU, 1)
        if isinstance(self.motherboard, Pc):
            self.motherboard.add_iommu()

    def assign(self, device: AssignedDevice) -> None:
        """Give the VM a device: its registers at the fixed address, its DMA, its interrupt as DEVICE_VECTOR of VP 0.

        A second one is a page and a vector further, and so on. On a PC board it is a function of the PCI bus instead.
        """
        winhv, partition, number = self.winhv, self.partition_id, len(self.devices)
        winhv.attach_device(partition, device.source_id, self._logical_id(device, number))
        self.devices.append(device)
        winhv.deposit_memory(partition, winhv.memory.allocate(SPARE_PAGES_OF_DEVICE))
        if isinstance(self.motherboard, Pc):
            self.motherboard.assign(device, number)
            return
        winhv.map_gpa_pages(partition, boot.BAR_GPA // PAGE_SIZE + number, [device.bar_page])
        message = winhv.map_device_interrupt(partition, device.source_id, 0, DEVICE_VECTOR + number)
        if not device.has_own_message:
            device.interrupt_by(message)
        if not number:
            self._msi = message

    def _logical_id(self, device: AssignedDevice, number: int) -> int:
        """What the partition calls its device *number*: the requester id that its guest finds on a PCI bus."""
        return FIRST_ASSIGNED + 8 * number if self._has_pc else device.source_id

    def load(self, image: Image, other_partition_id: int = 0, options: BootOptions = NO_OPTIONS) -> None:
        """Write the program and its start state; ImageError when it does not fit."""
        bar = boot.BAR_GPA if self.device and not self._has_pc else 0
        source_id = self.device.source_id if bar and self.device else 0
        information = boot.Information(bar, *self._msi, self.partition_id, other_partition_id, source_id)
        memory = MemoryMap(self.memory_bytes)
        firmware = self._firmware(memory, options)
        start = starting.start(image, options, memory, information, firmware.rsdp, self.name)
        self._program, self.kind = (image, other_partition_id, options), image.kind
        for gpa, data in (*firmware.memory.items(), *start.memory.items()):
            self.write(gpa, data)
        self.winhv.set_vp_registers(self.partition_id, 0, start.registers)
        if self._has_pc:
            self.winhv.set_vp_registers(self.partition_id, 0, FIRMWARE_APIC)
            memory_types.set_as_firmware_does(self.winhv, self.partition_id, self.vp_count)

    def _firmware(self, memory: MemoryMap, options: BootOptions) -> Placed:
        """What the firmware of a PC leaves; its room is taken from *memory*."""
        if not isinstance(self.motherboard, Pc):
            return NOTHING
        placed = place(memory, self.motherboard.board)
        configuration.describe(self.motherboard.fw_cfg, memory, self.vp_count, options)
        return placed

    def ignore_msrs(self) -> None:
        """Its guest may use MSRs that are not there: they read 0, and take any value."""
        self.winhv.set_partition_property(self.partition_id, HvPartitionProperty.UNIMPLEMENTED_MSR_ACTION, 1)

    def write(self, gpa: int, data: bytes) -> None:
        """Store into the VM's memory, through root's own mapping of its pages."""
        done = 0
        while done < len(data):
            page, offset = divmod(gpa + done, PAGE_SIZE)
            count = min(PAGE_SIZE - offset, len(data) - done)
            self.winhv.memory.write(self.pages[page] * PAGE_SIZE + offset, data[done : done + count])
            done += count

    def read(self, gpa: int, size: int) -> bytes:
        """Bytes of the VM's memory, through root's own mapping of its pages."""
        parts = []
        while size:
            page, offset = divmod(gpa, PAGE_SIZE)
            count = min(PAGE_SIZE - offset, size)
            parts.append(self.winhv.memory.read(self.pages[page] * PAGE_SIZE + offset, count))
            gpa, size = gpa + count, size - count
        return b"".join(parts)

    def start(self) -> None:
        """Let the VPs run."""
        for index in range(self.vp_count):
            self.winhv.set_vp_registers(self.partition_id, index, {N.EXPLICIT_SUSPEND: 0})

    def stop(self) -> None:
        """Let no VP run any more; one that is gone does not."""
        for index in range(self._vps_made):
            try:
                self.winhv.set_vp_registers(self.partition_id, index, {N.EXPLICIT_SUSPEND: 1})
            except HvError as error:
                if error.status not in _GONE:
                    raise

    def end(self, ended: str, why: str = "") -> None:
        """The VM is over."""
        if self.ended is None:
            self.ended, self.why = ended, why
            self.stop()
            if self.trace.listening:
                self.trace.emit(GuestEnded(ended))

    def _end_soon(self, ended: str) -> None:
        """A device asks for the end; the instruction that led to it is completed first."""
        self.ending = ended

    def end_as_asked(self, vp_index: int) -> None:
        """VP *vp_index* has done what ends the machine, or begins it again: the access itself comes first."""
        self._complete(vp_index, {})
        self._end_as_asked()

    def _end_as_asked(self) -> None:
        ending, self.ending = self.ending, None
        if ending == RESET:
            self.restart()
        elif ending is not None:
            self.end(ending)

    def restart(self) -> None:
        """The machine begins again: its VPs, its devices, and then its program. Or it has ended by "reset"."""
        if not self.restarts:
            self.end(RESET)
            return
        self.winhv.scrub_partition(self.partition_id)
        self._begin_again()

    def _begin_again(self) -> None:
        """The hypervisor has done its part of a reset."""
        self.resets += 1
        if self._has_pc:
            self.unanswered = {index for index in range(self.vp_count)
                                if self.winhv.get_vp_register(self.partition_id, index, N.INTERCEPT_SUSPEND)}
            self.motherboard.reset()
        self.load(*self._program)
        self.start()

    def destroy(self) -> None:
        """Give everything back: VPs, memory, partition. The tear-down order is the hypervisor's."""
        winhv, partition = self.winhv, self.partition_id
        self.vid.unregister(partition)
        self.end("destroyed")
        for number, device in enumerate(self.devices):
            device.reset()
            winhv.detach_device(partition, self._logical_id(device, number))
        winhv.finalize_partition(partition)
        for index in range(self._vps_made):
            winhv.delete_vp(partition, index)
        winhv.withdraw_memory(partition)
        winhv.delete_partition(partition)
        for page in self.pages:
            winhv.memory.write(page * PAGE_SIZE, _ZEROES)       # for its next user
        winhv.memory.free(self.pages)

    # --- serial port -----------------------------------------------------------------------------------

    @property
    def serial(self) -> str:
        """What came out of COM1."""
        return self._serial.decode("utf-8", "replace")

    def _on_serial_byte(self, byte: int) -> None:
        self._serial.append(byte)
        text = chr(byte)
        self.on_serial(text)
        if self.trace.listening:
            self.trace.emit(SerialOutput(text))

    def receive(self, data: bytes) -> None:
        """*data* comes in at COM1, as fast as the guest takes it."""
        com1 = self.motherboard.devices["com1"]
        assert isinstance(com1, Uart16550), "every board has one"
        com1.receive(data)

    def strike(self, text: str) -> bool:
        """Somebody types *text* at the keyboard; False when the board has none. ValueError for what is on no key."""
        keyboard = self.motherboard.devices.get("keyboard")
        if not isinstance(keyboard, I8042):
            return False
        keyboard.strike(text)
        return True

    # --- what else devices tell --------------------------------------------------------------------------

    def _on_debug_exit(self, value: int) -> None:
        self.debug_exit = value
        self._end_soon("debug-exit")

    def _on_post_code(self, code: int) -> None:
        if self.trace.listening:
            self.trace.emit(PostCode(code))

    # --- intercepts --------------------------------------------------------------------------------------

    def on_intercept(self, message: HvMessage) -> None:
        """Answer *message*; a VM that the hypervisor does not let us answer is over."""
        if self.ended is not None or (self.unanswered and self._is_from_before(message)):
            return
        try:
            self._answer(message)
        except HvError as error:
            self.refuse(error)

    def refuse(self, error: HvError) -> None:
        """The hypervisor does not let us answer: the VM is over."""
        self.end("error", f"its worker was refused {error}")

    def _is_from_before(self, message: HvMessage) -> bool:
        """Its VP asked before the machine was reset: it is not answered, but may go on."""
        vp_index = int.from_bytes(message.payload[:4], "little")
        if message.header.message_type == T.X64_APIC_EOI or vp_index not in self.unanswered:
            return False
        self.unanswered.discard(vp_index)
        self._complete(vp_index, {})
        return True

    def _answer(self, message: HvMessage) -> None:
        kind, body = message.header.message_type, message.payload
        match kind:
            case T.X64_IO_PORT_INTERCEPT:
                self._on_port(body)
            case T.UNMAPPED_GPA if self.emulator is not None:
                self._on_memory(MemoryIntercept.parse(body), self.emulator)
            case T.UNMAPPED_GPA | T.GPA_INTERCEPT:
                self._refuse(MemoryIntercept.parse(body).header)
            case T.X64_MSR_INTERCEPT:
                self._on_msr(MsrIntercept.parse(body))
            case T.X64_CPUID_INTERCEPT:
                cpuid = CpuidIntercept.parse(body)
                self._complete(cpuid.header.vp_index, answers.cpuid(cpuid))
            case T.HYPERCALL_INTERCEPT:
                call = HypercallIntercept.parse(body)
                self._complete(call.header.vp_index, answers.hypercall(call))
            case T.X64_EXCEPTION_INTERCEPT:
                exception = ExceptionIntercept.parse(body)
                self._give(exception.header, answers.reflected(exception, self._waiting(exception.header.vp_index)))
            case T.X64_INTERRUPTION_DELIVERABLE:
                vp_index = HeaderOnlyIntercept.parse(body).header.vp_index
                self._complete(vp_index, self.motherboard.interruptible(vp_index))
            case T.SYNIC_SINT_DELIVERABLE:
                self._complete(HeaderOnlyIntercept.parse(body).header.vp_index, {})     # the guest asked, not we
            case T.X64_APIC_EOI:
                self.motherboard.end_of_interrupt(ApicEoiMessage.parse(body).interrupt_vector)
            case T.X64_HALT:
                self.end("halt")
            case T.UNRECOVERABLE_EXCEPTION:
                self._end_by_triple_fault(HeaderOnlyIntercept.parse(body).header)
            case T.INVALID_VP_REGISTER_VALUE:
                self.refused_vp = InvalidVpRegisterMessage.parse(body).vp_index
                self.end("error", f"vp {self.refused_vp}: VM entry failed")
            case _:
                self.end("error", f"nobody answers intercept message {kind:#x}")

    def _on_port(self, message: bytes) -> None:
        """Ask the device, then complete the instruction: RAX for IN, RIP behind it."""
        vp_index, length, access, rip, port, size, rax = _PORT_INTERCEPT.unpack_from(message)
        size, rip = size & _ACCESS_SIZE, rip + (length & 0xF) & _U64
        mask = (1 << 8 * size) - 1
        if access == _WRITE:
            self.motherboard.write(port, size, rax & mask)
            answer: dict[HvRegisterName, RegisterContent] = {_RIP: rip, _INTERCEPT_SUSPEND: 0}
        else:
            value = self.motherboard.read(port, size)
            answer = {_RIP: rip, _RAX: rax & ~mask | value if size < 4 else value, _INTERCEPT_SUSPEND: 0}
        self.winhv.set_vp_registers(self.partition_id, vp_index, answer)
        if self.ending is not None:
            self._end_as_asked()

    def _on_memory(self, intercept: MemoryIntercept, emulator: Emulator) -> None:
        """Carry the instruction out on the devices of the board. What no instruction accesses (a page table, or the
        stack of an event that is being delivered) finds no memory there."""
        header = intercept.header
        if not intercept.access_info & _GVA_GPA_VALID or header.execution_state & _INTERRUPTION_PENDING:
            self._refuse(header)
            return
        try:
            self._complete(header.vp_index, emulator.answer(intercept))
        except Undecodable as error:
            self.end("error", f"vp {header.vp_index} at rip {header.rip:#x}: the worker cannot do this at "
                              f"{intercept.gpa:#x}: {error}")
        if self.ending is not None:
            self._end_as_asked()

    def _refuse(self, header: HvInterceptHeader) -> None:
        """Nothing of this VM is at that address, or has that number: the guest gets #GP(0)."""
        self._give(header, answers.exception(header, Vector.GP, 0, self._waiting(header.vp_index)))

    def _on_msr(self, intercept: MsrIntercept) -> None:
        """Of these two the hypervisor has done what they do; the rest is for us: to note a crash, to start again."""
        if intercept.msr_number not in (Msr.HV_CRASH_CTL, Msr.HV_RESET):
            self._refuse(intercept.header)
            return
        vp_index = intercept.header.vp_index
        if intercept.msr_number == Msr.HV_CRASH_CTL:
            control = (intercept.rdx & 0xFFFF_FFFF) << 32 | intercept.rax & 0xFFFF_FFFF
            self.crash = collect(self.winhv, self.partition_id, vp_index, control, self.read, self.memory_bytes)
        self._complete(vp_index, {})
        if intercept.msr_number == Msr.HV_RESET and not self.restarts:
            self.end(RESET)
        elif intercept.msr_number == Msr.HV_RESET:
            self._begin_again()

    def _waiting(self, vp_index: int) -> int:
        """What was being delivered to the VP when it stopped."""
        return self.winhv.get_vp_register(self.partition_id, vp_index, N.PENDING_INTERRUPTION)

    def _give(self, header: HvInterceptHeader, answer: Mapping[HvRegisterName, int] | None) -> None:
        """Let the guest have an exception; None is the one after a double fault."""
        if answer is None:
            self._end_by_triple_fault(header)
        else:
            self._complete(header.vp_index, answer)

    def _end_by_triple_fault(self, header: HvInterceptHeader) -> None:
        """A PC's board resets itself then; who debugs wants to see where it was."""
        if self.reboots and self._has_pc:
            self._complete(header.vp_index, {})
            self.restart()
            return
        self.end("triple-fault", f"vp {header.vp_index} triple-faulted at rip {header.rip:#x}")

    def _complete(self, vp_index: int, registers: Mapping[HvRegisterName, RegisterContent]) -> None:
        """Set what the instruction leaves behind, and let the VP go on."""
        self.winhv.set_vp_registers(self.partition_id, vp_index, {**registers, N.INTERCEPT_SUSPEND: 0})

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return {"name": self.name, "partition": self.partition_id, "memory": self.memory_bytes, "ended": self.ended,
                "why": self.why, "debug_exit": self.debug_exit,
                "assigned": [device.inspect() for device in self.devices],
                "devices": self.motherboard.inspect(), "serial": self.serial, "resets": self.resets,
                "crash": str(self.crash) if self.crash else None}
