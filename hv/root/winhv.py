"""WinHv: root's only door to the hypervisor. An ordinary call comes in, a hypercall goes out.

Each method fills an input page in root's own memory with the specification's layouts, makes the call, and reads the
output page. A rep call is cut into pages and continued where it stopped. When the hypervisor says INSUFFICIENT_MEMORY
(or, of root's own pool, INSUFFICIENT_ROOT_MEMORY), pages of root are deposited, a batch at a time, and the call is made
again; TLFS "Memory Management". Every other status that is not SUCCESS is raised as `HvError`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import neg
from struct import Struct
from struct import error as struct_error
from typing import Any

from hv.spec.hv_registers import HvRegisterName
from hv.spec.hv_status import HvStatus
from hv.spec.hypercalls.codes import HypercallCode
from hv.spec.hypercalls.control import HypercallControl, HypercallResult
from hv.spec.hypercalls.debug import (
    MAX_DEBUG_DATA,
    PostDebugDataInput,
    PostDebugDataOutput,
    RetrieveDebugDataInput,
    RetrieveDebugDataOutput,
)
from hv.spec.hypercalls.devices import AttachDeviceInput, DetachDeviceInput, HvDeviceId
from hv.spec.hypercalls.interrupts import (
    INTERRUPT_SOURCE_MSI,
    AssertDeviceInterruptInput,
    AssertDeviceInterruptOutput,
    AssertVirtualInterruptInput,
    ClearVirtualInterruptInput,
    DeviceInterruptTarget,
    HvInterruptControl,
    InterruptEntry,
    MapDeviceInterruptInput,
    MapDeviceInterruptOutput,
    RetargetDeviceInterruptInput,
    UnmapDeviceInterruptInput,
)
from hv.spec.hypercalls.memory import (
    DepositMemoryInput,
    GetMemoryBalanceOutput,
    GpaMapping,
    GpaPageNumber,
    MapGpaPagesInput,
    ReadGpaInput,
    ReadGpaOutput,
    SparseGpaPagesInput,
    TranslateVirtualAddressInput,
    TranslateVirtualAddressOutput,
    UnmapGpaPagesInput,
    WithdrawMemoryInput,
    WriteGpaInput,
    WriteGpaOutput,
)
from hv.spec.hypercalls.messages import PostMessageInput, SignalEventInput
from hv.spec.hypercalls.partitions import (
    CreatePartitionInput,
    GetNextChildPartitionInput,
    GetPartitionPropertyInput,
    GetPartitionPropertyOutput,
    PartitionIdOutput,
    PartitionInput,
    SetPartitionPropertyInput,
)
from hv.spec.hypercalls.ports import ConnectPortInput, CreatePortInput, DeletePortInput, DisconnectPortInput
from hv.spec.hypercalls.registers import RegisterAssoc, RegisterName, RegisterValue, VpRegistersInput
from hv.spec.hypercalls.statistics import HvStatsIdentity, HvStatsObjectType, MapStatsPageInput, MapStatsPageOutput
from hv.spec.hypercalls.vp_state import (
    CpuidLeafInfo,
    CpuidValues,
    GetVpCpuidValuesInput,
    MapVpStatePageInput,
    MapVpStatePageOutput,
    UnmapVpStatePageInput,
    VpStateInput,
)
from hv.spec.hypercalls.vps import (
    ApicId,
    CreateVpInput,
    DeleteVpInput,
    DispatchVpInput,
    DispatchVpOutput,
    GetVpIndexFromApicIdInput,
    HvInitialVpContext,
    StartVirtualProcessorInput,
    VpIndex,
)
from hv.spec.intercepts import HvInterceptType, InstallInterceptInput
from hv.spec.layout import Layout
from hv.spec.partition import (
    ANY_VP,
    PARTITION_ID_INVALID,
    PARTITION_ID_SELF,
    HvMapGpaFlags,
    HvPartitionProperty,
    HvUnmapGpaFlags,
)
from hv.spec.synic import EVENT_FLAGS_COUNT, HvConnectionInfo, HvMonitorPortInfo, HvPortInfo, PortType
from hv.spec.vp_state import HvGetSetVpStateType, HvVpStatePageType, SyntheticTimersState
from hv.spec.x86 import LARGE_PAGES, PAGE_SIZE

DEPOSIT_BATCH = 16                      # pages
MAX_REPS = (1 << 12) - 1
_LEVEL_TRIGGERED = HvInterruptControl(level_triggered=1).raw
_LOGICAL_DESTINATION = HvInterruptControl(logical_destination_mode=1).raw
_FEW = 8                                # registers that one intercept mostly sets
MAX_DEPOSITS = 1024                     # batches for one call: more means that something else is wrong
PCI = 1
_COUNT_SHIFT, _START_SHIFT, _UNITS_SHIFT = (
    HypercallControl(**{name: 1}).raw.bit_length() - 1 for name in ("rep_count", "rep_start", "variable_header_size"))
_STATUS, _COMPLETE_SHIFT = HypercallResult(status=0xFFFF).raw, HypercallResult(reps_complete=1).raw.bit_length() - 1
_SUCCESS, _SET_REGISTERS = HvStatus.SUCCESS, int(HypercallCode.SET_VP_REGISTERS)     # naming a member costs a call
_REGISTERS_HEADER = Struct("<QIB3x")                # VpRegistersInput
_INTEGER_REGISTER = Struct("<I12xQ8x")              # RegisterAssoc of an integer

Door = Callable[[int, int, int], int]   # (control, input gpa, output gpa) -> result value
RegisterContent = int | bytes | Layout


class HvError(Exception):
    """The hypervisor refused *call* with *status*."""

    def __init__(self, status: HvStatus, call: str) -> None:
        self.status, self.call = status, call
        super().__init__(f"{call}: {status.name}")


class OutOfPages(Exception):
    """Root has no free page left."""


class RootMemory:
    """Root's memory as its kernel has it: bytes by gpa, and the pages that nobody uses. Pages are page numbers."""

    def __init__(self, read: Callable[[int, int], bytes], write: Callable[[int, bytes], None],
                 free_pages: Iterable[int], view: Callable[[int, int], memoryview] | None = None) -> None:
        self.read, self.write, self._view = read, write, view
        self._free = sorted(free_pages, reverse=True)

    @property
    def free_count(self) -> int:
        """Number of pages that nobody uses."""
        return len(self._free)

    def map(self, page: int) -> memoryview:
        """A page for who looks at it often, as a kernel maps one: to be read and written in place."""
        assert self._view is not None, "this memory cannot be mapped"
        return self._view(page * PAGE_SIZE, PAGE_SIZE)

    def allocate(self, count: int = 1) -> list[int]:
        """*count* pages, lowest first, contents as they were; OutOfPages, and none taken."""
        if count > len(self._free):
            raise OutOfPages(f"{count} pages are wanted, {len(self._free)} are free")
        taken = self._free[len(self._free) - count :]
        del self._free[len(self._free) - count :]
        return taken[::-1]

    def allocate_run(self, count: int) -> list[int]:
        """*count* consecutive pages from a multiple of 512 on, the highest such; OutOfPages, and none taken.

        From the other end than `allocate`, so that single pages do not break up the runs.
        """
        free = self._free                       # falling, so a run stands there backwards
        first = (free[0] + 1 - count if free else -1) & -LARGE_PAGES
        while first >= 0:
            run = list(range(first, first + count))
            at = bisect_left(free, 1 - first - count, key=neg)
            if free[at : at + count] == run[::-1]:
                del free[at : at + count]
                return run
            first -= LARGE_PAGES
        raise OutOfPages(f"{count} consecutive pages are wanted, {len(free)} are free")

    def free(self, pages: Iterable[int]) -> None:
        """Nobody uses *pages* any more."""
        self._free = sorted([*self._free, *pages], reverse=True)


class WinHv:
    """Hypercalls as methods. *door* executes one; *memory* is root's."""

    def __init__(self, door: Door, memory: RootMemory) -> None:
        self.door, self.memory = door, memory
        self._input, self._output = (page * PAGE_SIZE for page in memory.allocate(2))

    # --- partitions --------------------------------------------------------------------------------

    def create_partition(self, flags: int = 0, disabled_features: int = 0) -> int:
        """A new child, in state Created, without *disabled_features* (HvProcessorFeatures); its id."""
        asked = CreatePartitionInput(flags=flags, disabled_processor_features=disabled_features)
        made = self._call(HypercallCode.CREATE_PARTITION, asked, PartitionIdOutput, pool=PARTITION_ID_SELF)
        return int(made.partition_id)

    def initialize_partition(self, partition_id: int) -> None:
        """Make it active."""
        self._call(HypercallCode.INITIALIZE_PARTITION, PartitionInput(partition_id=partition_id), pool=partition_id)

    def finalize_partition(self, partition_id: int) -> None:
        """Stop it for good; it releases memory map, devices and ports."""
        self._call(HypercallCode.FINALIZE_PARTITION, PartitionInput(partition_id=partition_id))

    def delete_partition(self, partition_id: int) -> None:
        """Forget it, once it is finalized, without VPs, and its pool is withdrawn."""
        self._call(HypercallCode.DELETE_PARTITION, PartitionInput(partition_id=partition_id))

    def scrub_partition(self, partition_id: int) -> None:
        """Reset it: its VPs are as after their creation, and wait for root's word; its memory stays."""
        self._call(HypercallCode.SCRUB_PARTITION, PartitionInput(partition_id=partition_id))

    def get_partition_id(self) -> int:
        """Root's own id."""
        return int(self._call(HypercallCode.GET_PARTITION_ID, None, PartitionIdOutput).partition_id)

    def children(self, parent_id: int = PARTITION_ID_SELF) -> list[int]:
        """Ids of all children, in order."""
        found: list[int] = []
        while True:
            asked = GetNextChildPartitionInput(parent_id=parent_id, previous_child_id=found[-1] if found else 0)
            child = self._call(HypercallCode.GET_NEXT_CHILD_PARTITION, asked, PartitionIdOutput).partition_id
            if child == PARTITION_ID_INVALID:
                return found
            found.append(child)

    def get_partition_property(self, partition_id: int, code: HvPartitionProperty) -> int:
        """The value of a property."""
        asked = GetPartitionPropertyInput(partition_id=partition_id, property_code=code)
        return int(self._call(HypercallCode.GET_PARTITION_PROPERTY, asked, GetPartitionPropertyOutput).property_value)

    def set_partition_property(self, partition_id: int, code: HvPartitionProperty, value: int) -> None:
        """Set a property."""
        self._call(HypercallCode.SET_PARTITION_PROPERTY, SetPartitionPropertyInput(
            partition_id=partition_id, property_code=code, property_value=value), pool=partition_id)

    # --- memory ------------------------------------------------------------------------------------

    def deposit_memory(self, partition_id: int, pages: Sequence[int]) -> None:
        """Give pages of root's to a pool."""
        self._reps(HypercallCode.DEPOSIT_MEMORY, lambda first: DepositMemoryInput(partition_id=partition_id),
                   _page_numbers(pages))

    def withdraw_memory(self, partition_id: int, count: int = MAX_REPS) -> list[int]:
        """Up to *count* unused pages of a pool; they are free pages of root's again."""
        pages: list[int] = []
        while len(pages) < count:
            batch = min(count - len(pages), PAGE_SIZE // GpaPageNumber.SIZE)
            self.memory.write(self._input, WithdrawMemoryInput(partition_id=partition_id).pack())
            status, done = self._enter(HypercallCode.WITHDRAW_MEMORY, batch, 0)
            pages += [GpaPageNumber.parse(self.memory.read(self._output + 8 * n, 8)).page_number for n in range(done)]
            if status == HvStatus.NO_RESOURCES:
                break
            _check(status, HypercallCode.WITHDRAW_MEMORY)
        self.memory.free(pages)
        return pages

    def get_memory_balance(self, partition_id: int) -> tuple[int, int]:
        """(pages available, pages in use) of a pool."""
        balance = self._call(HypercallCode.GET_MEMORY_BALANCE, WithdrawMemoryInput(partition_id=partition_id),
                             GetMemoryBalanceOutput)
        return balance.pages_available, balance.pages_in_use

    def map_gpa_pages(self, partition_id: int, target_page: int, source_pages: Sequence[int],
                      flags: int = HvMapGpaFlags.READABLE | HvMapGpaFlags.WRITABLE | HvMapGpaFlags.EXECUTABLE) -> None:
        """Root's *source_pages* stand at consecutive pages of the child from *target_page* on.

        With LARGE_PAGE each of *source_pages* is the first of 512, and all numbers are multiples of 512.
        """
        unit = LARGE_PAGES if flags & HvMapGpaFlags.LARGE_PAGE else 1

        def header(first: int) -> MapGpaPagesInput:
            return MapGpaPagesInput(target_partition_id=partition_id, target_gpa_base=target_page + first * unit,
                                    map_flags=int(flags))
        self._reps(HypercallCode.MAP_GPA_PAGES, header, _page_numbers(source_pages), pool=partition_id)

    def unmap_gpa_pages(self, partition_id: int, target_page: int, count: int, flags: int = 0) -> None:
        """Nothing stands at *count* pages of the child any more, of 2 MiB each with LARGE_PAGE (HvUnmapGpaFlags)."""
        unit = LARGE_PAGES if flags & HvUnmapGpaFlags.LARGE_PAGE else 1

        def header(first: int) -> UnmapGpaPagesInput:
            return UnmapGpaPagesInput(target_partition_id=partition_id, target_gpa_base=target_page + first * unit,
                                      unmap_flags=int(flags))
        self._reps(HypercallCode.UNMAP_GPA_PAGES, header, [b""] * count, pool=partition_id)

    def map_sparse_gpa_pages(self, partition_id: int, pages: Mapping[int, int], flags: int) -> None:
        """Pages of root's stand in the child: *pages* is child's page -> root's page."""
        header = SparseGpaPagesInput(target_partition_id=partition_id, map_flags=int(flags))
        elements = [GpaMapping(target_gpa_page=target, source_gpa_page=source).pack()
                    for target, source in pages.items()]
        self._reps(HypercallCode.MAP_SPARSE_GPA_PAGES, lambda first: header, elements, pool=partition_id)

    def modify_sparse_gpa_pages(self, partition_id: int, pages: Iterable[int], flags: int) -> None:
        """Pages of the child have the rights of *flags* (HvMapGpaFlags) from now on."""
        header = SparseGpaPagesInput(target_partition_id=partition_id, map_flags=int(flags))
        self._reps(HypercallCode.MODIFY_SPARSE_GPA_PAGES, lambda first: header, _page_numbers(pages),
                   pool=partition_id)

    def read_gpa(self, partition_id: int, vp_index: int, gpa: int, size: int) -> tuple[int, bytes]:
        """(AccessGpaResult, up to 16 bytes) of a child's memory."""
        answer = self._call(HypercallCode.READ_GPA, ReadGpaInput(
            partition_id=partition_id, vp_index=vp_index, byte_count=size, base_gpa=gpa), ReadGpaOutput)
        return answer.access_result, answer.data[:size]

    def write_gpa(self, partition_id: int, vp_index: int, gpa: int, data: bytes) -> int:
        """Store up to 16 bytes into a child's memory; the AccessGpaResult."""
        return int(self._call(HypercallCode.WRITE_GPA, WriteGpaInput(
            partition_id=partition_id, vp_index=vp_index, byte_count=len(data), base_gpa=gpa, data=data),
            WriteGpaOutput).access_result)

    def translate_virtual_address(self, partition_id: int, vp_index: int, gva: int,
                                  flags: int) -> TranslateVirtualAddressOutput:
        """What a VP's page tables say of *gva*; *flags* is TranslateGvaFlags."""
        answer: TranslateVirtualAddressOutput = self._call(
            HypercallCode.TRANSLATE_VIRTUAL_ADDRESS, TranslateVirtualAddressInput(
                partition_id=partition_id, vp_index=vp_index, control_flags=flags, gva_page=gva >> 12),
            TranslateVirtualAddressOutput)
        return answer

    def install_intercept(self, partition_id: int, kind: HvInterceptType, parameter: int, access: int) -> None:
        """From now on the child's *access* (HvInterceptAccess; 0 = no more) is a message to root."""
        self._call(HypercallCode.INSTALL_INTERCEPT, InstallInterceptInput(
            partition_id=partition_id, access_type=int(access), intercept_type=kind, intercept_parameter=parameter),
            pool=partition_id)

    # --- virtual processors ------------------------------------------------------------------------

    def create_vp(self, partition_id: int, vp_index: int) -> None:
        """A VP in reset state; it does not run before its ExplicitSuspend register is cleared."""
        self._call(HypercallCode.CREATE_VP, CreateVpInput(partition_id=partition_id, vp_index=vp_index),
                   pool=partition_id)

    def delete_vp(self, partition_id: int, vp_index: int) -> None:
        """The VP is gone."""
        self._call(HypercallCode.DELETE_VP, DeleteVpInput(partition_id=partition_id, vp_index=vp_index))

    def start_virtual_processor(self, partition_id: int, vp_index: int, context: HvInitialVpContext) -> None:
        """A VP that waits for SIPI begins with *context* instead."""
        self._call(HypercallCode.START_VIRTUAL_PROCESSOR, StartVirtualProcessorInput(
            partition_id=partition_id, vp_index=vp_index, context=context))

    def get_vp_index_from_apic_id(self, partition_id: int, apic_ids: Sequence[int]) -> list[int]:
        """The VPs that have *apic_ids*, in the order asked."""
        answers = self._reps(HypercallCode.GET_VP_INDEX_FROM_APIC_ID,
                             lambda first: GetVpIndexFromApicIdInput(partition_id=partition_id),
                             [ApicId(apic_id=apic_id).pack() for apic_id in apic_ids], VpIndex.SIZE)
        return [VpIndex.parse(answer).vp_index for answer in answers]

    def get_vp_state(self, partition_id: int, vp_index: int, state: HvGetSetVpStateType) -> bytes:
        """Up to a page of a VP's state that is no register."""
        page = self.memory.allocate()
        try:
            units = [] if state == HvGetSetVpStateType.SYNTHETIC_TIMERS else page
            made = self._call(HypercallCode.GET_VP_STATE, VpStateInput(
                partition_id=partition_id, vp_index=vp_index, state_type=state), SyntheticTimersState, units=units)
            return made.pack() if not units else self.memory.read(page[0] * PAGE_SIZE, PAGE_SIZE)
        finally:
            self.memory.free(page)

    def set_vp_state(self, partition_id: int, vp_index: int, state: HvGetSetVpStateType, data: bytes) -> None:
        """The reverse; *data* is what `get_vp_state` gave."""
        page = self.memory.allocate()
        try:
            units: Sequence[int] = page
            if state == HvGetSetVpStateType.SYNTHETIC_TIMERS:
                units = [int.from_bytes(data[n : n + 8], "little") for n in range(0, len(data), 8)]
            else:
                self.memory.write(page[0] * PAGE_SIZE, data)
            self._call(HypercallCode.SET_VP_STATE, VpStateInput(
                partition_id=partition_id, vp_index=vp_index, state_type=state), units=units)
        finally:
            self.memory.free(page)

    def map_register_page(self, partition_id: int, vp_index: int, page: int | None = None) -> int:
        """The page number at which root finds a VP's registers while it waits: *page*, or where there is room."""
        made = self._call(HypercallCode.MAP_VP_STATE_PAGE, MapVpStatePageInput(
            partition_id=partition_id, vp_index=vp_index, page_type=HvVpStatePageType.REGISTERS,
            flags=int(page is not None), requested_map_location=page or 0), MapVpStatePageOutput, pool=partition_id)
        return int(made.map_location)

    def map_message_page(self, partition_id: int, vp_index: int, page: int | None = None) -> int:
        """The same for the VP's last intercept message."""
        made = self._call(HypercallCode.MAP_VP_STATE_PAGE, MapVpStatePageInput(
            partition_id=partition_id, vp_index=vp_index, page_type=HvVpStatePageType.INTERCEPT_MESSAGE,
            flags=int(page is not None), requested_map_location=page or 0), MapVpStatePageOutput, pool=partition_id)
        return int(made.map_location)

    def dispatch_vp(self, partition_id: int, vp_index: int) -> None:
        """Run a VP whose registers and message page root has mapped; its thread goes on with each of its intercepts."""
        self._call(HypercallCode.DISPATCH_VP, DispatchVpInput(partition_id=partition_id, vp_index=vp_index),
                   DispatchVpOutput)

    def unmap_message_page(self, partition_id: int, vp_index: int) -> None:
        """It is not there any more."""
        self._call(HypercallCode.UNMAP_VP_STATE_PAGE, UnmapVpStatePageInput(
            partition_id=partition_id, vp_index=vp_index, page_type=HvVpStatePageType.INTERCEPT_MESSAGE))

    def unmap_register_page(self, partition_id: int, vp_index: int) -> None:
        """They are not there any more."""
        self._call(HypercallCode.UNMAP_VP_STATE_PAGE, UnmapVpStatePageInput(
            partition_id=partition_id, vp_index=vp_index, page_type=HvVpStatePageType.REGISTERS))

    def get_vp_cpuid_values(self, partition_id: int, vp_index: int,
                            leaves: Sequence[tuple[int, int]]) -> list[tuple[int, int, int, int]]:
        """What CPUID answers a VP for each (leaf, subleaf): EAX, EBX, ECX, EDX."""
        answers = self._reps(HypercallCode.GET_VP_CPUID_VALUES,
                             lambda first: GetVpCpuidValuesInput(partition_id=partition_id, vp_index=vp_index),
                             [CpuidLeafInfo(eax=leaf, ecx=subleaf).pack() for leaf, subleaf in leaves],
                             CpuidValues.SIZE)
        parsed = [CpuidValues.parse(answer) for answer in answers]
        return [(each.eax, each.ebx, each.ecx, each.edx) for each in parsed]

    def get_vp_registers(self, partition_id: int, vp_index: int, names: Sequence[HvRegisterName]) -> list[bytes]:
        """The 16-byte values of registers, in the order asked."""
        return self._reps(HypercallCode.GET_VP_REGISTERS,
                          lambda first: VpRegistersInput(partition_id=partition_id, vp_index=vp_index),
                          [RegisterName(name=name).pack() for name in names], RegisterValue.SIZE)

    def get_vp_register(self, partition_id: int, vp_index: int, name: HvRegisterName) -> int:
        """One register that is an integer."""
        value = self.get_vp_registers(partition_id, vp_index, [name])[0]
        return int.from_bytes(value[:8], "little")

    def set_vp_registers(self, partition_id: int, vp_index: int,
                         values: Mapping[HvRegisterName, RegisterContent]) -> None:
        """Set registers, in order: an integer, 16 bytes, or a layout of 16 bytes each."""
        if self._set_integers(partition_id, vp_index, values):
            return
        self._reps(HypercallCode.SET_VP_REGISTERS,
                   lambda first: VpRegistersInput(partition_id=partition_id, vp_index=vp_index),
                   [RegisterAssoc(name=name, value=register_bytes(value)).pack() for name, value in values.items()],
                   pool=partition_id)

    def _set_integers(self, partition_id: int, vp_index: int, values: Mapping[HvRegisterName, RegisterContent]) -> bool:
        """What answers most intercepts, a few integers, in one call without detours; False when it has to be made
        again: with other values, or for its status."""
        count = len(values)
        if not 0 < count <= _FEW:
            return False
        try:
            list_ = [_INTEGER_REGISTER.pack(name, value) for name, value in values.items()]
        except struct_error:
            return False
        self.memory.write(self._input, _REGISTERS_HEADER.pack(partition_id, vp_index, 0) + b"".join(list_))
        result = self.door(_SET_REGISTERS | count << _COUNT_SHIFT, self._input, self._output)
        return not result & _STATUS and result >> _COMPLETE_SHIFT & MAX_REPS == count

    # --- interrupts and devices --------------------------------------------------------------------

    def assert_virtual_interrupt(self, partition_id: int, vector: int, destination: int = 0, kind: int = 0,
                                 level: bool = False, logical: bool = False) -> None:
        """Raise an interrupt in a child; *destination* is an APIC id, *kind* an HvInterruptType."""
        control = kind | (level and _LEVEL_TRIGGERED) | (logical and _LOGICAL_DESTINATION)
        self._call(HypercallCode.ASSERT_VIRTUAL_INTERRUPT, AssertVirtualInterruptInput(
            partition_id=partition_id, interrupt_control=control, destination=destination, vector=vector))

    def assert_device_interrupt(self, partition_id: int, requester_id: int, address: int,
                                data: int) -> AssertDeviceInterruptOutput:
        """A device of a child sends a message through the child's own remapping unit; what it became."""
        answer: AssertDeviceInterruptOutput = self._call(
            HypercallCode.ASSERT_DEVICE_INTERRUPT, AssertDeviceInterruptInput(
                partition_id=partition_id, device_id=_pci(requester_id),
                interrupt_entry=InterruptEntry(source=INTERRUPT_SOURCE_MSI, address=address, data=data)),
            AssertDeviceInterruptOutput)
        return answer

    def clear_virtual_interrupt(self, partition_id: int) -> None:
        """The external interrupt that the child took is done with: the next one may come."""
        self._call(HypercallCode.CLEAR_VIRTUAL_INTERRUPT, ClearVirtualInterruptInput(partition_id=partition_id))

    def retarget_device_interrupt(self, partition_id: int, source_id: int, message: tuple[int, int], vector: int,
                                  vp_mask: int, multicast: bool = False) -> None:
        """The MSI is *vector* of one of the VPs 0..63 in *vp_mask* from now on, or of each of them."""
        address, data = message
        self._call(HypercallCode.RETARGET_DEVICE_INTERRUPT, RetargetDeviceInterruptInput(
            partition_id=partition_id, device_id=_pci(source_id),
            interrupt_entry=InterruptEntry(source=INTERRUPT_SOURCE_MSI, address=address, data=data),
            target=DeviceInterruptTarget(target_vector=vector, target_flags=int(multicast), target_vp_mask=vp_mask)))

    def map_device_interrupt(self, partition_id: int, source_id: int, vp_index: int, vector: int) -> tuple[int, int]:
        """The device raises *vector* on a VP of its partition; (address, data) of the MSI to program into it."""
        target = DeviceInterruptTarget(target_vector=vector, target_vp_mask=1 << vp_index)
        return self._map_device_interrupt(MapDeviceInterruptInput(
            partition_id=partition_id, device_id=_pci(source_id), vector_count=1, target=target))

    def map_device_message(self, partition_id: int, source_id: int, address: int, data: int) -> tuple[int, int]:
        """The device raises what the partition's own remapping unit makes of the message; as `map_device_interrupt`."""
        entry = InterruptEntry(source=INTERRUPT_SOURCE_MSI, address=address, data=data)
        return self._map_device_interrupt(MapDeviceInterruptInput(
            partition_id=partition_id, device_id=_pci(source_id), vector_count=1, logical_interrupt_entry=entry))

    def _map_device_interrupt(self, asked: MapDeviceInterruptInput) -> tuple[int, int]:
        made = self._call(HypercallCode.MAP_DEVICE_INTERRUPT, asked, MapDeviceInterruptOutput, pool=asked.partition_id)
        entry = made.interrupt_entry
        return entry.address, entry.data

    def unmap_device_interrupt(self, partition_id: int, source_id: int, message: tuple[int, int]) -> None:
        """The MSI means nothing any more."""
        entry = InterruptEntry(source=INTERRUPT_SOURCE_MSI, address=message[0], data=message[1])
        self._call(HypercallCode.UNMAP_DEVICE_INTERRUPT, UnmapDeviceInterruptInput(
            partition_id=partition_id, device_id=_pci(source_id), interrupt_entry=entry))

    def attach_device(self, partition_id: int, source_id: int, logical_device_id: int) -> None:
        """Assign a PCI function to a child."""
        self._call(HypercallCode.ATTACH_DEVICE, AttachDeviceInput(
            partition_id=partition_id, device_id=_pci(source_id), logical_device_id=logical_device_id),
            pool=partition_id)

    def detach_device(self, partition_id: int, logical_device_id: int) -> None:
        """Take a device back."""
        self._call(HypercallCode.DETACH_DEVICE, DetachDeviceInput(
            partition_id=partition_id, logical_device_id=logical_device_id))

    # --- statistics --------------------------------------------------------------------------------

    def map_stats_page(self, kind: HvStatsObjectType, partition_id: int = 0, vp_index: int = 0) -> int:
        """The gpa of a page of counters (`hv.spec.hypercalls.statistics`): kept up to date, not to be written."""
        identity = HvStatsIdentity(partition_id=partition_id, vp_index=vp_index)
        answer = self._call(HypercallCode.MAP_STATS_PAGE, MapStatsPageInput(object_type=kind, identity=identity),
                            MapStatsPageOutput, pool=PARTITION_ID_SELF)
        return int(answer.map_location) * PAGE_SIZE

    def unmap_stats_page(self, kind: HvStatsObjectType, partition_id: int = 0, vp_index: int = 0) -> None:
        """The page of counters is gone; its object may be gone before."""
        identity = HvStatsIdentity(partition_id=partition_id, vp_index=vp_index)
        self._call(HypercallCode.UNMAP_STATS_PAGE, MapStatsPageInput(object_type=kind, identity=identity))

    # --- debugging ---------------------------------------------------------------------------------

    def post_debug_data(self, data: bytes) -> int:
        """Send up to 4088 bytes to the child that has root's debug channel; how many of them found no room."""
        sent = PostDebugDataInput(count=len(data), data=data)
        return int(self._call(HypercallCode.POST_DEBUG_DATA, sent, PostDebugDataOutput).pending_count)

    def retrieve_debug_data(self) -> bytes:
        """What that child has sent, up to 4088 bytes; HvError NO_DATA when nothing waits."""
        asked = RetrieveDebugDataInput(count=MAX_DEBUG_DATA)
        answer = self._call(HypercallCode.RETRIEVE_DEBUG_DATA, asked, RetrieveDebugDataOutput)
        return bytes(answer.data[: answer.retrieved_count])

    # --- ports, messages, events -------------------------------------------------------------------

    def create_message_port(self, owner: int, port_id: int, connector: int, sint: int, vp_index: int = ANY_VP) -> None:
        """A port by which *connector* may send messages to a SINT of *owner*."""
        self._create_port(owner, port_id, connector, HvPortInfo(
            port_type=PortType.MESSAGE, target_sint=sint, target_vp=vp_index))

    def create_event_port(self, owner: int, port_id: int, connector: int, sint: int, vp_index: int = ANY_VP,
                          base_flag: int = 0, flag_count: int = EVENT_FLAGS_COUNT) -> None:
        """A port by which *connector* may set event flags of a SINT of *owner*."""
        self._create_port(owner, port_id, connector, HvPortInfo(
            port_type=PortType.EVENT, target_sint=sint, target_vp=vp_index, base_flag_number=base_flag,
            flag_count=flag_count))

    def create_monitor_port(self, owner: int, port_id: int, connector: int, gpa: int) -> None:
        """A monitor page of *owner* at *gpa*, which *connector* may share."""
        info = HvMonitorPortInfo(port_type=PortType.MONITOR, monitor_address=gpa)
        self._create_port(owner, port_id, connector, HvPortInfo.parse(info.pack()))

    def _create_port(self, owner: int, port_id: int, connector: int, info: HvPortInfo) -> None:
        self._call(HypercallCode.CREATE_PORT, CreatePortInput(
            port_partition=owner, port_id=port_id, connection_partition=connector, port_info=info), pool=owner)

    def delete_port(self, owner: int, port_id: int) -> None:
        """The port is gone, its connections are orphans."""
        self._call(HypercallCode.DELETE_PORT, DeletePortInput(port_partition=owner, port_id=port_id))

    def connect_port(self, connector: int, connection_id: int, owner: int, port_id: int,
                     kind: PortType = PortType.MESSAGE, gpa: int = 0) -> None:
        """*connector* sends through *connection_id* to the port of *owner*. A monitor page stands at *gpa*."""
        self._call(HypercallCode.CONNECT_PORT, ConnectPortInput(
            connection_partition=connector, connection_id=connection_id, port_partition=owner, port_id=port_id,
            connection_info=HvConnectionInfo(port_type=kind, gpa=gpa)), pool=connector)

    def disconnect_port(self, connector: int, connection_id: int) -> None:
        """The connection is gone."""
        self._call(HypercallCode.DISCONNECT_PORT, DisconnectPortInput(
            connection_partition=connector, connection_id=connection_id))

    def post_message(self, connection_id: int, message_type: int, payload: bytes) -> None:
        """Send up to 240 bytes through a connection of root's."""
        self._call(HypercallCode.POST_MESSAGE, PostMessageInput(
            connection_id=connection_id, message_type=message_type, payload_size=len(payload), payload=payload))

    def signal_event(self, connection_id: int, flag: int) -> None:
        """Set an event flag through a connection of root's."""
        self._call(HypercallCode.SIGNAL_EVENT, SignalEventInput(connection_id=connection_id, flag_number=flag))

    # --- the call itself ---------------------------------------------------------------------------

    def _call(self, code: HypercallCode, input: Layout | None, output: type[Layout] | None = None,
              pool: int | None = None, units: Sequence[int] = ()) -> Any:
        """A simple call. *pool* is the partition that gets pages when it runs out of them; *units* follow *input*."""
        for _ in range(MAX_DEPOSITS):
            if input is not None:
                self.memory.write(self._input, input.pack() + b"".join(unit.to_bytes(8, "little") for unit in units))
            status, _ = self._enter(code, 0, 0, len(units))
            short = _short_of_pages(status, pool)
            if short is None:
                break
            self._deposit_batch(short)
        _check(status, code)
        return output.parse(self.memory.read(self._output, output.SIZE)) if output is not None else None

    def _reps(self, code: HypercallCode, header: Callable[[int], Layout], elements: list[bytes], output_size: int = 0,
              pool: int | None = None) -> list[bytes]:
        """A rep call over all *elements*; *header(first)* is the header of the list that starts at element *first*."""
        answers: list[bytes] = []
        first = 0
        while first < len(elements):
            start = header(first).pack()
            chunk = elements[first : first + self._list_length(len(start), len(elements[first]), output_size)]
            answers += self._chunk(code, start, chunk, output_size, pool)
            first += len(chunk)
        return answers

    @staticmethod
    def _list_length(header: int, element: int, output: int) -> int:
        """How many elements fit one page of input and one of output."""
        fits = (PAGE_SIZE - header) // element if element else MAX_REPS
        return min(fits, PAGE_SIZE // output if output else MAX_REPS, MAX_REPS)

    def _chunk(self, code: HypercallCode, header: bytes, elements: list[bytes], output_size: int,
               pool: int | None) -> list[bytes]:
        """One page of a rep call, continued at its first unfinished rep as often as it takes."""
        done, deposits = 0, 0
        while done < len(elements):
            self.memory.write(self._input, header + b"".join(elements))
            status, done = self._enter(code, len(elements), done)
            short = _short_of_pages(status, pool)
            if short is not None and deposits < MAX_DEPOSITS:
                self._deposit_batch(short)
                deposits += 1
            else:
                _check(status, code)
        return [self.memory.read(self._output + n * output_size, output_size) for n in range(len(elements))] \
            if output_size else []

    def _enter(self, code: HypercallCode, rep_count: int, rep_start: int, units: int = 0) -> tuple[HvStatus, int]:
        """Execute the hypercall with the input page as it is: (status, reps completed)."""
        control = int(code) | rep_count << _COUNT_SHIFT | rep_start << _START_SHIFT | units << _UNITS_SHIFT
        result = self.door(control, self._input, self._output)
        status = result & _STATUS
        return HvStatus(status) if status else _SUCCESS, result >> _COMPLETE_SHIFT & MAX_REPS

    def _deposit_batch(self, partition_id: int) -> None:
        """What TLFS "Memory Management" asks of a parent: more pages, then the call again."""
        self.deposit_memory(partition_id, self.memory.allocate(DEPOSIT_BATCH))


def _short_of_pages(status: HvStatus, pool: int | None) -> int | None:
    """Who needs pages before the call is made again: *pool*, root itself, or nobody."""
    if status == HvStatus.INSUFFICIENT_ROOT_MEMORY:
        return PARTITION_ID_SELF
    return pool if status == HvStatus.INSUFFICIENT_MEMORY else None


def _check(status: HvStatus, code: HypercallCode) -> None:
    if status != HvStatus.SUCCESS:
        raise HvError(status, code.name)


def _page_numbers(pages: Iterable[int]) -> list[bytes]:
    return [GpaPageNumber(page_number=page).pack() for page in pages]


def register_bytes(value: RegisterContent) -> bytes:
    if isinstance(value, int):
        return value.to_bytes(16, "little")
    return value.pack() if isinstance(value, Layout) else value.ljust(16, b"\0")


def _pci(source_id: int) -> int:
    return HvDeviceId(rid=source_id, device_type=PCI).raw
