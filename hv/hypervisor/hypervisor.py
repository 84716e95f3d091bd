"""The hypervisor itself: the partitions by id, what it keeps for itself, and the boot of root.

At boot it takes a region at the top of RAM, out of root's reach; root's pool begins with those pages. Everything a
child needs is deposited later, page by page, by root.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.intercepts import intercepts
from hv.hypervisor.interrupts.apic_virtualization import ApicPages, PartitionApics
from hv.hypervisor.interrupts.eoi_messages import EoiMessages
from hv.hypervisor.interrupts.routing import InterruptRouting
from hv.hypervisor.memory.pages import PageOwners
from hv.hypervisor.partitions.cpuid import CHILD_PRIVILEGES, MAX_VPS, ROOT_PRIVILEGES
from hv.hypervisor.partitions.debug_channels import DebugChannels
from hv.hypervisor.partitions.partition import DEVICE_SIZE, Partition, PartitionState
from hv.hypervisor.partitions.statistics import Statistics, do_nothing
from hv.hypervisor.synic import connections
from hv.hypervisor.synic.monitors import Monitors
from hv.hypervisor.synic.synic import Synic
from hv.hypervisor.timers.synthetic_timers import SyntheticTimers
from hv.machine.clock import VirtualClock
from hv.machine.ram import PhysicalMemory
from hv.spec.hv_status import HvStatus
from hv.spec.msrs import FeatureControl, Msr
from hv.spec.partition import PARTITION_ID_SELF, ROOT_PARTITION_ID, VP_INDEX_SELF
from hv.spec.x86 import PAGE_SIZE
from hv.trace import events
from hv.trace.bus import Trace
from hv.vmx.root_operation.operation import VmxOperation

if TYPE_CHECKING:
    from hv.hypervisor.vps.vp import VirtualProcessor

REGION_PAGES = 256              # taken for the hypervisor at boot


class IommuDriver(Protocol):
    """What the hypervisor asks of the remapping hardware's driver."""

    def attach(self, source_id: int, partition: Any, guest_id: int | None = None) -> None:
        """From now on the device translates through *partition*'s domain; its guest knows it as *guest_id*."""

    def detach(self, source_id: int) -> None:
        """From now on every access of the device faults."""

    def map_interrupt(self, source_id: int, vector: int) -> tuple[int, int]:
        """Remap an interrupt of the device to physical *vector*: the MSI (address, data) it shall send."""

    def unmap_interrupt(self, source_id: int, vector: int) -> None:
        """Undo `map_interrupt`."""

    def lets_through(self, source_id: int, vector: int) -> bool:
        """The device's interrupt gets through."""

    def let_through(self, source_id: int, vector: int, wanted: bool) -> None:
        """Whether it does; while it does not, each one is a fault."""

    def create(self, partition: Any, number: int) -> None:
        """A domain of the partition's own making."""

    def find(self, partition: Any, number: int) -> Any:
        """That domain."""

    def delete(self, partition: Any, number: int) -> None:
        """It is gone."""

    def enter(self, source_id: int, partition: Any, number: int) -> None:
        """From now on the device translates through that domain."""

    def leave(self, source_id: int) -> None:
        """From now on it translates through the partition's default domain."""

    def release(self, partition: Any) -> None:
        """Every domain of the partition's own making is gone."""


class PortBus(Protocol):
    """The I/O ports of the machine."""

    def read(self, port: int, size: int) -> int:
        """What IN of *size* bytes gives."""
        raise NotImplementedError

    def write(self, port: int, size: int, value: int) -> None:
        """OUT of *size* bytes."""


class Hypervisor:
    """One machine's hypervisor. `vp_factory` makes a VP for (partition, index); who wires the machine sets it."""

    apic_virtualization = True          # of the children made from now on: their VPs do without most exits of an APIC

    def __init__(self, memory: PhysicalMemory, clock: VirtualClock, trace: Trace,
                 region_pages: int = REGION_PAGES, root_runs_code: bool = False) -> None:
        assert region_pages * PAGE_SIZE < memory.size, f"{region_pages} pages do not fit RAM of {memory.size:#x}"
        self.memory, self.clock, self.trace = memory, clock, trace
        self.owners = PageOwners(memory)
        self.vp_factory: Callable[[Partition, int], VirtualProcessor] | None = None
        self.iommu: IommuDriver | None = None
        self.on_wake: Callable[[Any], None] = lambda vp: None       # a VP may have something to do: for the scheduler
        self.turn_over = False                  # that of the VP which runs: somebody else was woken, and comes first
        self.on_spin: Callable[[Any], None] = lambda vp: None       # a VP waits for another one's lock: likewise
        self.on_halt: Callable[[Any], bool] = lambda vp: False      # a VP halted: True when it was woken meanwhile
        self.on_vp_deleted: Callable[[Any], None] = lambda vp: None     # what runs VPs forgets this one
        self.on_sent: Callable[[Any], bool] = lambda vp: bool(vp.stays())   # it sent an interrupt: likewise
        self.on_yield: Callable[[Any], bool] = lambda vp: False     # its turn may end: True when the engine runs on
        self.on_ask: Callable[[Any], bool] = lambda vp: False       # it waits for its parent: likewise
        self.monitors = Monitors(self)
        self.root_answers_at_once = False       # root's program may be called inside an exit of a child
        self.before_run: Callable[[], None] = do_nothing        # a VP is about to run: for pages of counters
        self.statistics = Statistics(self)
        self.on_reach: Callable[[Partition], None] = lambda partition: None     # its parent is about to act on it
        self.debug_channels = DebugChannels()
        self.interrupts = InterruptRouting(trace)
        self.partitions: dict[int, Partition] = {}
        self._next_id = ROOT_PARTITION_ID
        self.region = (memory.size - region_pages * PAGE_SIZE, memory.size)
        self.root_runs_code = root_runs_code        # its VPs execute machine code; else root's program is Python
        self.ports: PortBus | None = None           # the I/O ports of the machine, which are root's
        self.on_shutdown: Callable[[Any], None] = lambda vp: None   # root triple-faulted: for whoever has the machine
        self._boot()

    def _boot(self) -> None:
        root = self._new_partition(None, ROOT_PRIVILEGES)
        root.runs_code = self.root_runs_code
        root.pool.keep = frozenset(range(*self.region, PAGE_SIZE))
        for spa in range(*self.region, PAGE_SIZE):
            self.owners.take(spa // PAGE_SIZE)
        for spa in reversed(range(*self.region, PAGE_SIZE)):
            root.pool.deposit(spa)
        self.root = root
        self.operation = self.new_vmx_operation()       # of the one logical processor
        self._apic_pages = ApicPages(self.memory, root.pool.allocate(), root.pool.allocate())
        root.initialize()
        if root.runs_code:
            self._give_apics(root)

    def new_vmx_operation(self) -> VmxOperation:
        """VMXON of one more processor, with a page of the hypervisor's own; the firmware has allowed it.

        INSUFFICIENT_MEMORY when there is none.
        """
        region, operation = self.root.pool.allocate(), VmxOperation(self.memory)
        operation.write_msr(Msr.FEATURE_CONTROL, FeatureControl(lock=1, vmxon_outside_smx=1).raw)
        self.memory.write_u32(region, operation.processor.basic.revision_id)
        operation.vmxon(region)
        return operation

    def _new_partition(self, parent: Partition | None, privileges: int) -> Partition:
        partition = Partition(self._next_id, parent, self.memory, self.owners, self.clock, self.trace, privileges)
        partition.monitors = self.monitors
        partition.statistics, partition.debug_channels = self.statistics, self.debug_channels
        partition.on_teardown += [self._release, self.statistics.release, self.debug_channels.leave]
        if parent is not None:
            self._give_apics(partition)
        self._next_id += 1
        self.partitions[partition.id] = partition
        return partition

    def _give_apics(self, partition: Partition) -> None:
        partition.virtualize_apics(self.apic_virtualization)
        partition.apics = PartitionApics(partition, self._apic_pages)

    def _release(self, partition: Partition) -> None:
        """Take devices, interrupts, ports and connections from a partition that is finalized."""
        self.interrupts.free_all(partition, self.iommu)
        for source_id in sorted(partition.devices.values()):
            if self.iommu is not None:
                self.iommu.detach(source_id)
        if self.iommu is not None:
            self.iommu.release(partition)
        partition.pool.records("device", DEVICE_SIZE).give_back(len(partition.devices))
        partition.devices.clear()
        connections.close_all(partition)
        for vp in partition.vps.values():
            vp.drop_state_pages()

    def find_partition(self, caller: Partition, partition_id: int) -> Partition:
        """The partition *partition_id* as *caller* may name it: itself, or a child.

        INVALID_PARTITION_ID when it does not exist, ACCESS_DENIED when the caller is not its parent.
        """
        if partition_id in (PARTITION_ID_SELF, caller.id):
            return caller
        found = self.partitions.get(partition_id)
        if found is None:
            raise HypercallError(HvStatus.INVALID_PARTITION_ID, f"no partition {partition_id:#x}")
        if found.parent is not caller:
            raise HypercallError(HvStatus.ACCESS_DENIED, f"partition {caller.id} is not the parent of {found.id}")
        self.on_reach(found)
        return found

    def find_child(self, caller: Partition, partition_id: int) -> Partition:
        """Like `find_partition`, for calls that only a parent may make: ACCESS_DENIED for the caller itself."""
        found = self.find_partition(caller, partition_id)
        if found is caller:
            raise HypercallError(HvStatus.ACCESS_DENIED, "only the parent may do this")
        return found

    def find_vp(self, caller: VirtualProcessor, partition: Partition, vp_index: int) -> VirtualProcessor:
        """VP *vp_index* of *partition*; VP_INDEX_SELF is the caller, in its own partition. INVALID_VP_INDEX."""
        if vp_index == VP_INDEX_SELF and partition is caller.partition:
            return caller
        return partition.vp(vp_index)

    def create_partition(self, parent: Partition) -> Partition:
        """A new child in state Created, with default privileges; it costs *parent* one page of its pool."""
        if not parent.is_root:
            raise HypercallError(HvStatus.PARTITION_TOO_DEEP, f"partition {parent.id} is a child itself")
        page = parent.pool.allocate()
        partition = self._new_partition(parent, CHILD_PRIVILEGES & parent.privileges)
        partition.object_page = page
        parent.children[partition.id] = partition
        if self.trace.listening:
            self.trace.emit(events.PartitionCreated(partition.id, parent.id))
        return partition

    def initialize_partition(self, partition: Partition) -> None:
        """Make it active; INSUFFICIENT_MEMORY, INVALID_PARTITION_STATE."""
        partition.initialize()
        if self.trace.listening:
            self.trace.emit(events.PartitionInitialized(partition.id))

    def finalize_partition(self, partition: Partition) -> None:
        """Stop it for good and release what it holds; INVALID_PARTITION_STATE."""
        partition.finalize()
        if self.trace.listening:
            self.trace.emit(events.PartitionFinalized(partition.id))

    def delete_partition(self, partition: Partition) -> None:
        """Forget it; INVALID_PARTITION_STATE while active, OBJECT_IN_USE while it has VPs or deposited pages."""
        partition.require_state(PartitionState.CREATED, PartitionState.FINALIZED)
        parent = partition.parent
        assert parent is not None, "root is never deleted"
        if partition.vps or partition.pool.available or partition.pool.in_use:
            raise HypercallError(HvStatus.OBJECT_IN_USE, f"partition {partition.id} still has VPs or deposited pages")
        parent.pool.free(partition.object_page)
        del parent.children[partition.id], self.partitions[partition.id]
        if self.trace.listening:
            self.trace.emit(events.PartitionDeleted(partition.id))

    def create_vp(self, partition: Partition, index: int) -> VirtualProcessor:
        """VP *index* in its reset state, from pages of the partition's pool.

        INVALID_VP_INDEX when it exists or exceeds the limit; INVALID_PARTITION_STATE; INSUFFICIENT_MEMORY.
        """
        assert self.vp_factory is not None, "nobody set Hypervisor.vp_factory"
        partition.require_state(PartitionState.ACTIVE)
        if index in partition.vps or index >= MAX_VPS:
            raise HypercallError(HvStatus.INVALID_VP_INDEX, f"vp {index} exists or is not in 0..{MAX_VPS - 1}")
        pages = partition.allocate_vp_pages(index)
        try:
            vp = self.vp_factory(partition, index)
        except HypercallError:
            partition.free_vp_pages(index)
            raise
        vp.synic = Synic(vp, partition.space, pages, self.trace)
        vp.eoi_messages = EoiMessages(vp)
        vp.eoi_messages.follow()
        vp.timers = SyntheticTimers(vp)
        vp.apic.on_eoi = _both(vp.apic.on_eoi, vp.synic.on_eoi)
        if vp.apic not in partition.interconnect.apics:
            partition.interconnect.add(vp.apic)
        partition.vps[index] = vp
        partition.external.show_to(vp)
        partition.set_time_of(vp)
        partition.reference_tsc.follow()
        vp.synic.on_auto_eoi = partition.follow_apics
        partition.follow_apics()
        if self.trace.listening:
            self.trace.emit(events.VpCreated(partition.id, index))
        return vp

    def delete_vp(self, partition: Partition, index: int) -> None:
        """Forget VP *index* and free its pages; INVALID_VP_INDEX."""
        vp = partition.vp(index)
        vp.timers.reset()
        vp.synic.reset()
        vp.drop_state_pages()
        vp.explicit_suspend = True
        vp.kick()
        intercepts.forget(vp)
        vp.eoi_messages.forget()
        partition.cpuid_results.forget_vp(index)
        self.interrupts.free_vp(vp, self.iommu)
        partition.interconnect.apics.remove(vp.apic)
        vp.apic.init()                  # its timer is off, and nothing reaches its page any more
        vp.vmcs.clear()
        self.on_vp_deleted(vp)
        self.statistics.vp_deleted(vp)
        del partition.vps[index]
        partition.awaiting.pop(index, None)
        partition.reference_tsc.follow()
        partition.follow_apics()
        partition.free_vp_pages(index)
        if self.trace.listening:
            self.trace.emit(events.VpDeleted(partition.id, index))

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return {
            "region": self.region, "pages": self.owners.inspect(), "interrupts": self.interrupts.inspect(),
            "partitions": {number: partition.inspect() for number, partition in sorted(self.partitions.items())},
        }


def _both(first: Callable[[int], None], second: Callable[[int], None]) -> Callable[[int], None]:
    def call(vector: int) -> None:
        first(vector)
        second(vector)
    return call
