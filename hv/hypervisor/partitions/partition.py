"""A partition: the unit of isolation. Its identity, state, privileges, memory, virtual processors, ports.

TLFS "Partition Management". A partition is made by its parent's hypercalls and lives Created -> Active -> Finalized;
root is Active from boot. Everything here is plain state with its rules; who may ask for a change is checked by the
hypercalls.
# Simplified: two levels: root, and its children.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from hv.hypervisor.errors import HypercallError
from hv.hypervisor.intercepts.table import InterceptTable
from hv.hypervisor.interrupts.external_line import ExternalLine
from hv.hypervisor.memory.gpa_space import READ_EXECUTE, GpaSpace, Overlay
from hv.hypervisor.memory.pages import PageOwners, PagePool
from hv.hypervisor.partitions.cpuid import CpuidTable
from hv.hypervisor.partitions.cpuid_results import CpuidResults
from hv.hypervisor.partitions.time import PartitionTime
from hv.hypervisor.timers.reference_tsc import ReferenceTsc
from hv.machine.clock import VirtualClock
from hv.machine.interconnect import Interconnect
from hv.machine.ram import PhysicalMemory
from hv.spec.hv_status import HvStatus
from hv.spec.msrs import HvGuestOsId, HvHypercallMsr
from hv.spec.partition import ANY_VP, PARTITION_ID_INVALID
from hv.spec.x86 import PAGE_SIZE
from hv.trace.bus import Trace
from hv.vmx.translation.ept import EptTables

if TYPE_CHECKING:
    from hv.hypervisor.devices.virtual_iommu import VirtualIommu
    from hv.hypervisor.interrupts.apic_virtualization import PartitionApics
    from hv.hypervisor.partitions.debug_channels import DebugChannels
    from hv.hypervisor.partitions.statistics import Statistics
    from hv.hypervisor.synic.connections import Connection
    from hv.hypervisor.synic.monitors import Monitors
    from hv.hypervisor.synic.ports import Port
    from hv.hypervisor.vps.vp import VirtualProcessor

HYPERCALL_PAGE_CODE = bytes.fromhex("0f01c1c3")     # VMCALL; RET
_INT3 = b"\xcc"
COMPATIBILITY_VERSION = 1       # of a partition whose parent asked for none
DEVICE_SIZE = 64                # bytes of a pool, for each device that is assigned


class PartitionState(Enum):
    """TLFS "Partition States"."""

    CREATED = "created"
    ACTIVE = "active"
    FINALIZED = "finalized"


class VpPages(NamedTuple):
    """The pages of the partition's pool that one VP uses, as spa."""

    vmcs: int
    virtual_apic: int
    messages: int               # under SIMP
    event_flags: int            # under SIEFP
    assist: int                 # under VP_ASSIST_PAGE

    def __iter__(self) -> Any:
        return iter((self.vmcs, self.virtual_apic, self.messages, self.event_flags, self.assist))


@dataclass
class Schedule:
    """What the scheduler was told about each VP of a partition; TLFS "CPU Management"."""

    weight: int = 100           # 1..10000, relative to the VPs of other partitions
    cap: int = 0                # 0..65536 of a processor, 0 = none
    reserve: int = 0            # 0..65536 of a processor


class MmioPage(Protocol):
    """A page of registers."""

    def read(self, offset: int, size: int) -> int:
        """*size* bytes at *offset*."""
        raise NotImplementedError

    def write(self, offset: int, size: int, value: int) -> None:
        """Store them."""


class Partition:
    """One partition. *parent* is None for root."""

    reference_tsc: ReferenceTsc             # since it was initialized
    monitors: Monitors          # of the hypervisor
    statistics: Statistics                  # the hypervisor's
    debug_channels: DebugChannels           # likewise

    def __init__(self, partition_id: int, parent: Partition | None, memory: PhysicalMemory, owners: PageOwners,
                 clock: VirtualClock, trace: Trace, privileges: int) -> None:
        self.id, self.parent = partition_id, parent
        self.memory, self.owners, self.clock, self.trace = memory, owners, clock, trace
        self.state = PartitionState.CREATED
        self.runs_code = parent is not None     # its VPs execute machine code; root's may be Python instead
        self.children: dict[int, Partition] = {}
        self.pool = PagePool(memory)
        self.vps: dict[int, VirtualProcessor] = {}
        self.stopped: VirtualProcessor | None = None    # the first VP that can never run again
        self.vp_pages: dict[int, VpPages] = {}
        self.ports: dict[int, Port] = {}
        self.connections: dict[int, Connection] = {}
        self.devices: dict[int, int] = {}       # what is assigned to it: logical device id -> source id
        self.awaiting: dict[int, int] = {}      # VP index -> type of the intercept message it waits on
        self.intercepts = InterceptTable(self.pool)
        self.cpuid_results = CpuidResults(self.pool)
        self.mmio_pages: dict[int, MmioPage] = {}   # GPA pages of registers that the hypervisor itself answers for
        self.virtual_iommu: VirtualIommu | None = None
        self.interconnect = Interconnect()      # of its virtual APICs
        self.external = ExternalLine(self)      # to its virtual processors, past their APICs
        self.schedule = Schedule()
        self.crash_parameters = [0] * 5         # HV_X64_MSR_CRASH_P0..4: words of the guest's own meaning
        self.debug_msrs: dict[int, int] = {}    # HV_X64_MSR_SYNDBG_*
        self.kept_msrs: dict[int, int] = {}     # synthetic MSRs that are nothing but their value
        self.unimplemented_msr_action = 0       # 0 fault, 1 ignore
        self.apic_virtualization = False
        self.disabled_features = 0
        self.compatibility_version = COMPATIBILITY_VERSION      # what its parent asked for
        self.apics: PartitionApics | None = None
        self.time = PartitionTime(clock)
        self.suspended = False                  # by its parent: none of its VPs runs
        self.stands_still = False               # it is suspended, or its time is frozen
        self.guest_os_id = HvGuestOsId()
        self.hypercall_msr = HvHypercallMsr()
        self._hypercall_overlay: Overlay | None = None
        self._space: GpaSpace | None = None
        self.on_teardown: list[Callable[[Partition], None]] = []    # called when it is finalized
        self.still: Callable[[], None] | None = None    # --parallel: its code rests until the exit in hand is over
        self.object_page = 0                    # spa of the page of the parent's pool that it costs
        self.set_privileges(privileges)

    @property
    def is_root(self) -> bool:
        """It owns the machine's memory and has no parent."""
        return self.parent is None

    @property
    def space(self) -> GpaSpace:
        """Its guest-physical addresses; INVALID_PARTITION_STATE unless it is active."""
        if self._space is None:
            raise HypercallError(HvStatus.INVALID_PARTITION_STATE, f"partition {self.id} is {self.state.value}")
        return self._space

    def use_clock(self, clock: VirtualClock) -> None:
        """Its time goes by *clock* from now on, which shows what the last one did or more."""
        self.clock = self.time.clock = clock

    @property
    def reference_time(self) -> int:
        """Units of 100 ns since it was created, if nobody set it; TLFS "Partition Reference Counter"."""
        return self.time.reference_time

    def suspend(self, wanted: bool) -> None:
        """None of its VPs runs until it is resumed; time goes on meanwhile."""
        self.suspended = wanted
        self.stands_still = wanted or self.time.frozen
        self._kick_all()

    def freeze_time(self, wanted: bool) -> None:
        """Its time stands still, and with it its VPs; or goes on from where it stood. `PartitionTime`."""
        if wanted == self.time.frozen:
            return
        if wanted:
            self.time.freeze()
            for vp in self.vps.values():
                vp.stop_time()
        else:
            stood = self.time.thaw()
            for vp in self.vps.values():
                vp.resume_time(stood)
            if self.state is PartitionState.ACTIVE:
                self.reference_tsc.follow()
        self.stands_still = wanted or self.suspended
        self._kick_all()

    def set_reference_time(self, value: int) -> None:
        """The reference counter shows *value* (units of 100 ns) now, and the reference TSC page follows."""
        self.time.set(value)
        if self.state is PartitionState.ACTIVE:
            self.reference_tsc.follow()

    def set_time_of(self, vp: VirtualProcessor) -> None:
        """A new VP has the time of the others."""
        if self.time.stood:
            vp.stop_time()
            vp.resume_time(self.time.stood)
        if self.time.frozen:
            vp.stop_time()

    def _kick_all(self) -> None:
        for vp in self.vps.values():
            vp.kick()

    def tsc_at(self, reference_time: int) -> int:
        """When the reference counter reaches *reference_time*: ticks of the machine's clock."""
        return self.time.tsc_at(reference_time)

    def set_privileges(self, privileges: int) -> None:
        """*privileges* is EAX | EBX << 32 of CPUID leaf 0x40000003; the CPUID table follows."""
        self.privileges = privileges
        self._describe()

    def virtualize_apics(self, wanted: bool) -> None:
        """The VPs made from now on have their APICs virtualized by the processor, or not; CPUID recommends what fits.

        TLFS "Virtual Interrupt Controller": the synthetic MSRs are for where there is no such help.
        """
        self.apic_virtualization = wanted
        self._describe()

    def disable_features(self, disabled: int) -> None:
        """It does without these HvProcessorFeatures; the CPUID table follows.

        # Simplified: as on the real processor, the instructions themselves go on working.
        """
        self.disabled_features = disabled
        self._describe()

    def _describe(self) -> None:
        self.cpuid = CpuidTable(self.privileges, self.apic_virtualization, self.disabled_features, self.vps)

    def has(self, privilege: int) -> bool:
        """It holds every bit of *privilege*."""
        return self.privileges & privilege == privilege

    def require_state(self, *states: PartitionState) -> None:
        """INVALID_PARTITION_STATE unless it is in one of *states*."""
        if self.state not in states:
            wanted, found = " or ".join(state.value for state in states), self.state.value
            raise HypercallError(HvStatus.INVALID_PARTITION_STATE, f"partition {self.id} is {found}, not {wanted}")

    def vp(self, index: int) -> VirtualProcessor:
        """The VP *index*; INVALID_VP_INDEX when there is none."""
        found = self.vps.get(index)
        if found is None:
            raise HypercallError(HvStatus.INVALID_VP_INDEX, f"partition {self.id} has no vp {index}")
        return found

    def target_vps(self, index: int) -> list[VirtualProcessor]:
        """The VP *index*, or all of them for ANY_VP, in order; INVALID_VP_INDEX when that is nobody."""
        if index != ANY_VP:
            return [self.vp(index)]
        if not self.vps:
            raise HypercallError(HvStatus.INVALID_VP_INDEX, f"partition {self.id} has no vp")
        return [self.vps[index] for index in sorted(self.vps)]

    def initialize(self) -> None:
        """Become active: address space, hypercall page. INSUFFICIENT_MEMORY leaves it as it was."""
        self.require_state(PartitionState.CREATED)
        page, clock_page = self.pool.allocate_all(2)
        try:
            tables = EptTables(self.memory, self.pool.allocate, self.pool.free) if self.runs_code else None
        except HypercallError:
            self.pool.free_all((page, clock_page))
            raise
        self.reference_tsc = ReferenceTsc(self, clock_page)
        self.memory.write(page, HYPERCALL_PAGE_CODE.ljust(PAGE_SIZE, _INT3))
        self._hypercall_overlay = Overlay("hypercall page", page, READ_EXECUTE)
        self._space = GpaSpace(self.memory, self.owners, self.id, tables, self.is_root and self.runs_code)
        self.state = PartitionState.ACTIVE

    def finalize(self) -> None:
        """Give up memory map, devices, ports and connections; what is left is to delete VPs and withdraw pages."""
        self.require_state(PartitionState.ACTIVE, PartitionState.CREATED)
        self.state = PartitionState.FINALIZED
        for listener in self.on_teardown:
            listener(self)
        self.intercepts.clear()
        self.cpuid_results.clear()
        if self._space is not None:
            self._close_space(self._space)
        self.pool.closed = True

    def _close_space(self, space: GpaSpace) -> None:
        assert self._hypercall_overlay is not None, "it came with the space"
        for vp in self.vps.values():
            vp.timers.reset()
            vp.synic.reset()
            vp.explicit_suspend = True      # for good: its registers cannot be set any more
            vp.kick()
        self.set_hypercall_page(HvHypercallMsr())
        self.reference_tsc.close()
        space.close()
        self.pool.free_all((self._hypercall_overlay.spa, self.reference_tsc.spa))
        self._space = None

    def set_hypercall_page(self, value: HvHypercallMsr) -> None:
        """Move or remove the overlay with the hypercall code; INSUFFICIENT_MEMORY when the tables cannot grow."""
        overlay = self._hypercall_overlay
        assert overlay is not None, "only an initialized partition runs code"
        if value.enable:
            self.space.cover(value.gpfn, overlay)
        if self.hypercall_msr.enable:
            self.space.uncover(self.hypercall_msr.gpfn, overlay)
        self.hypercall_msr = value

    def allocate_vp_pages(self, index: int) -> VpPages:
        """The pages VP *index* needs; INSUFFICIENT_MEMORY takes none."""
        self.vp_pages[index] = VpPages(*self.pool.allocate_all(len(VpPages._fields)))
        return self.vp_pages[index]

    def free_vp_pages(self, index: int) -> None:
        """Give the pages of VP *index* back to the pool."""
        self.pool.free_all(self.vp_pages.pop(index))

    def follow_apics(self) -> None:
        """A VP came, went, or changed how its APIC is reached: its virtualization follows."""
        if self.apics is not None and self.state is PartitionState.ACTIVE:
            self.apics.follow()

    def inspect(self) -> dict[str, Any]:
        """Plain data for the REPL."""
        return {
            "id": self.id, "parent": self.parent.id if self.parent else PARTITION_ID_INVALID, "state": self.state.value,
            "privileges": self.privileges, "guest_os_id": self.guest_os_id.inspect(),
            "hypercall_page": self.hypercall_msr.inspect(), "reference_time": self.reference_time,
            "suspended": self.suspended, "time_frozen": self.time.frozen,
            "pool": self.pool.inspect(), "space": self._space.inspect() if self._space else None,
            "vps": sorted(self.vps), "children": sorted(self.children), "devices": dict(sorted(self.devices.items())),
            "ports": {number: port.inspect() for number, port in sorted(self.ports.items())},
            "connections": {number: made.inspect() for number, made in sorted(self.connections.items())},
        }
