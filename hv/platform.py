"""The one file that wires the rooms together: a machine, its hypervisor, its root partition, and VMs on it.

    machine = Machine()
    vm = machine.create_vm("a", load("guests/hello.asm"))
    machine.run()
    print(vm.ended, vm.serial)

Bringing a VM up goes through root's worker, and so through hypercalls; nothing here touches a partition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import hv.hypervisor.exits  # noqa: F401  registers the exit handlers
from hv.hypervisor.devices.domains import IOMMU_FAULT_VECTOR, DeviceDomains
from hv.hypervisor.hypercalls.door import hypercall_to_end
from hv.hypervisor.hypervisor import Hypervisor
from hv.hypervisor.msrs import registry as msrs
from hv.hypervisor.partitions.cpuid import MAX_VPS
from hv.hypervisor.partitions.partition import Partition
from hv.hypervisor.scheduling.parallel import ParallelScheduler
from hv.hypervisor.scheduling.parallel_processors import ParallelFactory
from hv.hypervisor.scheduling.processors import ProcessorFactory
from hv.hypervisor.scheduling.scheduler import SLICE_TICKS, Scheduler
from hv.hypervisor.vps.root_vp import RootVirtualProcessor
from hv.image.model import NO_OPTIONS, BootOptions, Image
from hv.iommu.driver import IommuDriver
from hv.iommu.interrupts import InterruptMessage
from hv.iommu.unit import Iommu
from hv.machine.dma_engine import DmaEngine
from hv.machine.faults import Access
from hv.machine.gate import Gate
from hv.machine.lp import LogicalProcessor
from hv.machine.mmio import MmioBus
from hv.machine.pci import PciFunction
from hv.machine.pci_bus import PciBus
from hv.machine.ram import PhysicalMemory
from hv.machine.ring_nic import RingNic
from hv.machine.ring_wire import Wire
from hv.pci.enumeration import place_bars
from hv.root.assignable import KINDS, AssignedDevice, PhysicalPci
from hv.root.crash import CrashReport
from hv.root.processor import RootProcessor
from hv.root.text_screen import SCREEN_BYTES, text_of
from hv.root.timers import RootTimers
from hv.root.vid import Vid
from hv.root.vmwp import Worker
from hv.root.winhv import HvError, OutOfPages, RootMemory, WinHv
from hv.spec.apic import BROADCAST_X2APIC
from hv.spec.pc import VGA_TEXT_GPA
from hv.spec.pci import PciCommand, PciHeader
from hv.spec.synic import PortType
from hv.spec.x86 import PAGE_SIZE
from hv.trace.bus import Trace
from hv.trace.events import PartitionNamed

DEFAULT_MEMORY_MIB = 128
VM_MEMORY_MIB = 16
DEVICE_SPA = 0xF000_0000            # where the BARs of assignable devices are; RAM ends below
DEVICE_WINDOW = 0x10_0000
SMALLEST_MIB, LARGEST_MIB = 4, DEVICE_SPA >> 20
DEVICE_RID = 0x10                   # 00:02.0, the DMA engines; the next ones follow
NIC_RID = 0x18                      # 00:03.0, the network card
DEVICE_COUNT = 4                    # functions of each
_COMMAND = PciHeader.offset_of("command")
_LOW_PAGES = 256                    # root keeps the first MiB for itself
Turns = Scheduler | ParallelScheduler


class MachineError(Exception):
    """The machine cannot do what was asked of it; *hint* says what to change."""

    def __init__(self, message: str, hint: str = "") -> None:
        self.message, self.hint = message, hint
        super().__init__(f"{message}; {hint}" if hint else message)


class RootPartition(NamedTuple):
    """Root's software."""

    winhv: WinHv
    vid: Vid
    timers: RootTimers
    workers: list[Worker]
    memory: RootMemory
    pci: PhysicalPci


class VirtualMachine:
    """One VM, as its user sees it: what its worker knows, and a look at its partition for the debug rooms."""

    def __init__(self, machine: Machine, worker: Worker) -> None:
        self.machine, self.worker = machine, worker
        self.name, self.partition_id = worker.name, worker.partition_id

    @property
    def kind(self) -> str:
        """Of its program: "assembly", "elf", "flat" or "linux"."""
        return self.worker.kind

    @property
    def ended(self) -> str | None:
        """None while it may run, else "halt", "shutdown", "triple-fault", "budget", "error" or "destroyed"; of a PC
        also "debug-exit" or "reset"."""
        return self.worker.ended

    @property
    def why(self) -> str:
        """A sentence about how it ended, where there is more to say. Why VM entry failed, only the processor knows."""
        refused = self.worker.refused_vp
        if refused is None or self.partition_id not in self.machine.hypervisor.partitions:
            return self.worker.why
        return f"{self.worker.why}: {self.partition.vps[refused].vcpu.entry_result.failure}"

    @property
    def crash(self) -> CrashReport | None:
        """The last crash that its guest reported, if any."""
        return self.worker.crash

    @property
    def resets(self) -> int:
        """How often it has reset itself."""
        return self.worker.resets

    @property
    def debug_exit(self) -> int | None:
        """The value that its guest left with, by port 0xF4 of a PC."""
        return self.worker.debug_exit

    @property
    def serial(self) -> str:
        """What its serial port printed."""
        return self.worker.serial

    def screen(self) -> str:
        """What stands on its text screen, 80 x 25 characters of its memory at 0xB8000."""
        if self.worker.memory_bytes < VGA_TEXT_GPA + SCREEN_BYTES:
            return ""
        return text_of(self.worker.read(VGA_TEXT_GPA, SCREEN_BYTES))

    def on_serial(self, hear: Callable[[str], None]) -> None:
        """*hear* gets what its serial port prints, as it does."""
        self.worker.on_serial = hear

    def type(self, text: str) -> None:
        """*text* comes in at its serial port, as fast as its guest takes it."""
        self.machine.type(self, text.encode())

    @property
    def partition(self) -> Partition:
        """The hypervisor's side of it. Only the rooms that see everything look here."""
        return self.machine.hypervisor.partitions[self.partition_id]


class Box:
    """The machine with *memory_mib* of RAM and its hypervisor booted, before root has a processor.

    With *apic_virtualization* off, every access of a VM to its APIC is a VM exit. With *parallel* on, each VM runs in a
    host thread of its own, and no two runs are the same.
    """

    root_runs_code = False              # root's program is machine code: `root_machine.py`

    def __init__(self, memory_mib: int = DEFAULT_MEMORY_MIB, slice_ticks: int = SLICE_TICKS,
                 apic_virtualization: bool | None = None, parallel: bool = False) -> None:
        if not SMALLEST_MIB <= memory_mib <= LARGEST_MIB:
            raise MachineError(f"a machine with {memory_mib} MiB of RAM", f"it has {SMALLEST_MIB} to {LARGEST_MIB}")
        self.memory = PhysicalMemory(memory_mib << 20)
        self.trace, self.parallel = Trace(), parallel
        gate = Gate(self.trace) if parallel else None
        self.processor = LogicalProcessor() if gate is None else gate.boot
        self.clock = self.processor.clock if gate is None else gate.clock
        self.trace.clock = lambda: self.clock.tsc
        self.mmio = MmioBus()
        self.hypervisor = Hypervisor(self.memory, self.clock, self.trace, root_runs_code=self.root_runs_code)
        if apic_virtualization is not None:
            self.hypervisor.apic_virtualization = apic_virtualization
        self.scheduler, self.factory = self._processors(slice_ticks, gate)
        self.hypervisor.vp_factory = cast(Any, self.factory)     # root's VP is one without a processor
        self.iommu = Iommu(self.memory, self._interrupt, self.trace)
        self.pci = PciBus(range(DEVICE_SPA, DEVICE_SPA + DEVICE_WINDOW))
        self.devices = self._plug_devices()
        self._start_iommu()
        self.closed = False

    def _processors(self, slice_ticks: int, gate: Gate | None) -> tuple[Turns, ProcessorFactory]:
        if gate is not None:
            parallel = ParallelScheduler(self.hypervisor, gate, slice_ticks)
            return parallel, ParallelFactory(self.hypervisor, parallel, self.mmio)
        scheduler = Scheduler(self.hypervisor, self.processor, slice_ticks)
        return scheduler, ProcessorFactory(self.hypervisor, self.processor, self.mmio)

    def _interrupt(self, message: InterruptMessage) -> None:
        """What the IOMMU let through arrives at the processor's APIC."""
        self.processor.interconnect.deliver(*message, BROADCAST_X2APIC)

    def _plug_devices(self) -> list[PciFunction]:
        """Multi-function devices on the bus, and what firmware does with them: addresses for their BARs."""
        engines = [DmaEngine(DEVICE_RID + number, self.iommu, self.clock) for number in range(DEVICE_COUNT)]
        card = Wire()
        nics = [RingNic(NIC_RID + number, self.iommu, self.clock, card, self.trace) for number in range(DEVICE_COUNT)]
        self.pci.plug(*engines)
        self.pci.plug(*nics)
        self.mmio.add(DEVICE_SPA, DEVICE_WINDOW, self.pci)
        end = place_bars(self.pci, range(DEVICE_SPA, DEVICE_SPA + DEVICE_WINDOW))
        self.hypervisor.owners.device_pages.update(range(DEVICE_SPA // PAGE_SIZE, end // PAGE_SIZE))
        for rid in self.pci.functions:
            self.pci.config_write(rid, _COMMAND, 2, PciCommand(memory_enabled=1, bus_master=1).raw)
        return list(self.pci.functions.values())

    def _start_iommu(self) -> None:
        pool = self.hypervisor.root.pool
        driver = IommuDriver(self.iommu, self.memory, pool.allocate, pool.free)
        driver.start()
        domains = self.hypervisor.iommu = DeviceDomains(driver)
        self.hypervisor.interrupts.own[IOMMU_FAULT_VECTOR] = domains.take_faults

    def step(self, vm: Any, vp_index: int = 0) -> bool:
        """One instruction of one VP, with everything that must happen before it; False when it cannot run."""
        vp = vm.partition.vps[vp_index]
        self.clock.run_due()
        self.scheduler.take_idle_interrupts()
        while vp.intercept_suspend and self.scheduler.run_root():
            pass
        if vm.ended is not None or not vp.runnable:
            return False
        self.trace.at(vm.partition_id, vp_index)
        self.scheduler.current = vp
        vp.step()
        self.scheduler.run_root()
        return True

    def close(self) -> None:
        """Give everything back to the host; the machine must not be used afterwards."""
        if not self.closed:
            self.closed = True
            self.factory.close()
            self.memory.close()


class Machine(Box):
    """A machine with root's management stack up, on which VMs are made."""

    def __init__(self, memory_mib: int = DEFAULT_MEMORY_MIB, slice_ticks: int = SLICE_TICKS,
                 apic_virtualization: bool | None = None, parallel: bool = False) -> None:
        super().__init__(memory_mib, slice_ticks, apic_virtualization, parallel)
        self.root = self._start_root()
        self.vms: list[VirtualMachine] = []
        self._last_port_id = 0

    def _start_root(self) -> RootPartition:
        vp = self.hypervisor.create_vp(self.hypervisor.root, 0)
        assert isinstance(vp, RootVirtualProcessor)
        space, owners = self.hypervisor.root.space, self.hypervisor.owners
        free = [page for page in range(_LOW_PAGES, self.memory.size // PAGE_SIZE) if owners.is_root(page)]

        def view(gpa: int, size: int) -> memoryview:
            spa = space.translate(gpa, Access.WRITE)
            return self.memory.view[spa : spa + size]

        memory = RootMemory(space.read, space.write, free, view)

        handlers: dict[int, Callable[[], None]] = {}
        vp.on_interrupt = lambda vector: handlers[vector]() if vector in handlers else None

        def vmcall(control: int, input_gpa: int, output_gpa: int) -> int:
            return hypercall_to_end(self.hypervisor, vp, control, input_gpa, output_gpa)

        processor = RootProcessor(vmcall, lambda index, value: msrs.write_msr(vp, index, value),
                                  lambda: self.clock.tsc, memory, handlers.__setitem__, vp.connect_thread)
        winhv = WinHv(processor.vmcall, memory)
        return RootPartition(winhv, Vid(processor), RootTimers(processor), [], memory,
                             PhysicalPci(self.pci, self.mmio))

    # --- virtual machines --------------------------------------------------------------------------------

    def create_vm(self, name: str, image: Image, memory_mib: int = VM_MEMORY_MIB, vps: int = 1,
                  dma_device: bool = False, other: VirtualMachine | None = None, pc: bool = False,
                  options: BootOptions = NO_OPTIONS, devices: Sequence[str] = (),
                  viommu: bool = False) -> VirtualMachine:
        """A VM with *image* loaded, ready to run; MachineError, ImageError.

        *other* is named in its information block. With *pc*, or an image that is for a PC, it has a PC board,
        `hv/root/pc.py`; *options* are what a boot loader hands to a kernel. *devices* are kinds of assignable ones,
        "dma" or "ring", each as often as wanted; *dma_device* is a "dma" before them. With *viommu* its guest programs
        a remapping unit of its own, which is before them.
        """
        if memory_mib <= 0 or vps <= 0:
            raise MachineError(f"VM {name} has {memory_mib} MiB and {vps} VPs", "give it one of each at least")
        kinds = ("dma", *devices) if dma_device else devices
        self._check_devices(kinds)
        self._root_runs()
        worker = self._make_worker(name, memory_mib, vps, self.root.timers if pc or image.wants_pc else None)
        try:
            if viommu:
                worker.add_virtual_iommu()
            for kind in kinds:
                used = [device.source_id for device in worker.devices]
                rid = next(rid for rid in self._free_devices(kind) if rid not in used)
                worker.assign(AssignedDevice(self.root.pci, rid))
            worker.load(image, other.partition_id if other else 0, options)
            worker.start()
        except BaseException:
            worker.destroy()
            raise
        self.root.workers.append(worker)
        self.vms.append(VirtualMachine(self, worker))
        return self.vms[-1]

    def _make_worker(self, name: str, memory_mib: int, vps: int, timers: RootTimers | None) -> Worker:
        try:
            worker = Worker(self.root.winhv, self.root.vid, self.trace, name, memory_mib << 20, vps, timers)
        except OutOfPages as error:
            raise MachineError(f"no memory for VM {name}: {error}", "give the machine more, or the VM less") from None
        except HvError as error:
            raise MachineError(f"VM {name} cannot be made: {error}", f"a VM has at most {MAX_VPS} processors") from None
        if self.trace.listening:
            self.trace.emit(PartitionNamed(worker.partition_id, name))
        return worker

    def destroy_vm(self, vm: VirtualMachine) -> None:
        """*vm* is gone, and everything it had is root's again."""
        self._root_runs()
        vm.worker.destroy()
        self.root.workers.remove(vm.worker)
        self.vms.remove(vm)

    def type(self, vm: VirtualMachine, data: bytes) -> None:
        """*data* comes in at the serial port of *vm*."""
        self._root_runs()
        vm.worker.receive(data)

    def _root_runs(self) -> None:
        """What happens now is root's doing: its management stack was called from outside."""
        self.trace.at(self.hypervisor.root.id, 0)

    def _check_devices(self, kinds: Sequence[str]) -> None:
        """MachineError unless there are so many free functions of each of *kinds*."""
        for kind in dict.fromkeys(kinds):
            if kind not in KINDS:
                raise MachineError(f"there is no device `{kind}`", f"there are {', '.join(KINDS)}")
            if len(self._free_devices(kind)) < kinds.count(kind):
                raise MachineError(f"all {DEVICE_COUNT} {kind} devices are in use", "run fewer VMs with a device")

    def _free_devices(self, kind: str) -> list[int]:
        used = {device.source_id for worker in self.root.workers for device in worker.devices}
        return [rid for rid in self.root.pci.functions(kind) if rid not in used]

    def _next_port_id(self) -> int:
        self._last_port_id += 1
        return self._last_port_id

    def connect(self, sender: VirtualMachine, connection_id: int, receiver: VirtualMachine, sint: int = 2) -> None:
        """HvCallPostMessage of *sender* through *connection_id* arrives at *sint* of *receiver*'s VP 0."""
        self._root_runs()
        port_id = self._next_port_id()
        self.root.winhv.create_message_port(receiver.partition_id, port_id, sender.partition_id, sint, 0)
        self.root.winhv.connect_port(sender.partition_id, connection_id, receiver.partition_id, port_id)

    def connect_events(self, sender: VirtualMachine, connection_id: int, receiver: VirtualMachine, sint: int = 2,
                       base: int = 0, count: int = 16) -> None:
        """HvCallSignalEvent of *sender*, flags 0..*count*-1, sets flags from *base* on of *receiver*'s VP 0."""
        self._root_runs()
        port_id = self._next_port_id()
        self.root.winhv.create_event_port(receiver.partition_id, port_id, sender.partition_id, sint, 0, base, count)
        self.root.winhv.connect_port(sender.partition_id, connection_id, receiver.partition_id, port_id, PortType.EVENT)

    def connect_monitor(self, sender: VirtualMachine, connection_id: int, receiver: VirtualMachine, gpa: int) -> None:
        """A monitor page stands at *gpa* of both; its triggers are *sender*'s."""
        self._root_runs()
        port_id = self._next_port_id()
        self.root.winhv.create_monitor_port(receiver.partition_id, port_id, sender.partition_id, gpa)
        self.root.winhv.connect_port(sender.partition_id, connection_id, receiver.partition_id, port_id,
                                     PortType.MONITOR, gpa)

    def connect_as(self, described: Any, vms: Mapping[str, VirtualMachine]) -> None:
        """Connect two of *vms* as a file describes it: *sender* and *receiver* by name, *id*, *kind* ("message",
        "event", "monitor"), and what that kind needs, of *sint*, *base*, *flags* and *gpa*."""
        one, sender, receiver = described, vms[described.sender], vms[described.receiver]
        if one.kind == "event":
            self.connect_events(sender, one.id, receiver, one.sint, one.base, one.flags)
        elif one.kind == "monitor":
            self.connect_monitor(sender, one.id, receiver, one.gpa)
        else:
            self.connect(sender, one.id, receiver, one.sint)

    def run(self, until_tsc: int | None = None, paused: Callable[[], bool] | None = None) -> None:
        """Run until every VM has ended, nobody can run any more, the clock reaches *until_tsc*, or *paused* says so.

        A VM whose VPs all sleep without anything that could wake them has ended by "halt".
        """
        self.scheduler.run(until_tsc, self._settle, paused)
        if (paused is None or not paused()) and (until_tsc is None or self.clock.tsc < until_tsc):
            for vm in self.vms:
                if not self._is_deleted(vm) and not vm.partition.stands_still:      # its parent may let it go on
                    vm.worker.end("halt")

    def _settle(self) -> bool:
        """End the VMs whose processors can never run again; True when none is left."""
        going = False
        for vm in self.vms:
            if vm.worker.ended is None:
                going |= self._goes_on(vm)
        return bool(self.vms) and not going

    def _goes_on(self, vm: VirtualMachine) -> bool:
        """A processor of *vm* may yet run, and none met what it cannot survive; else *vm* ends."""
        if self._is_deleted(vm):
            return False
        stopped = vm.partition.stopped
        if stopped is not None and vm.partition.vps.get(stopped.index) is stopped:
            vm.worker.end("error", f"vp {stopped.index}: {stopped.stopped_because}")
            return False
        awake = self.scheduler.has_ready(vm.partition) \
            or any(not vp.asleep_for_good for vp in vm.partition.vps.values())
        if not awake:
            vm.worker.end("halt")
        return awake

    def _is_deleted(self, vm: VirtualMachine) -> bool:
        """Root deleted the partition itself, and so *vm* has ended."""
        if vm.partition_id in self.hypervisor.partitions:
            return False
        vm.worker.end("destroyed", "its partition was deleted")
        return True

    def end_budget(self) -> None:
        """Whoever still runs has used up what it was given."""
        for vm in self.vms:
            if vm.ended is None:
                vm.worker.end("budget", "the budget of virtual time is used up")
