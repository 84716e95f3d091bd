"""Makes the VPs where partitions run in parallel: each partition's on a logical processor of its own."""

from __future__ import annotations

from hv.hypervisor.hypervisor import Hypervisor
from hv.hypervisor.partitions.partition import Partition
from hv.hypervisor.scheduling.parallel import ParallelScheduler
from hv.hypervisor.scheduling.processors import ProcessorFactory
from hv.machine.engine import Engine
from hv.machine.gated_engine import GatedEngine
from hv.machine.lp import LogicalProcessor
from hv.machine.mmio import MmioBus
from hv.vmx.root_operation.operation import VmxOperation


class ParallelFactory(ProcessorFactory):
    """Call it with (partition, VP index). Each processor is in VMX operation, with a page of the hypervisor's own."""

    def __init__(self, hypervisor: Hypervisor, scheduler: ParallelScheduler, mmio: MmioBus) -> None:
        super().__init__(hypervisor, scheduler.gate.boot, mmio)
        self._scheduler = scheduler
        self._operations: dict[int, VmxOperation] = {}

    def processor_of(self, partition: Partition) -> tuple[LogicalProcessor, VmxOperation]:
        """The processor of *partition* alone."""
        return self._scheduler.lane_of(partition).processor, self._operations[partition.id]

    def new_engine(self, partition: Partition) -> Engine:
        """An engine that runs at the same time as others. INSUFFICIENT_MEMORY without a page for the VMXON region."""
        self._operations[partition.id] = self.hypervisor.new_vmx_operation()
        return GatedEngine(self.memory, self._scheduler.lane_of(partition).processor)

    def _forget(self, partition: Partition) -> None:
        super()._forget(partition)
        operation = self._operations.pop(partition.id)
        self.hypervisor.root.pool.free(operation.vmxon_pointer)
        operation.vmxoff()
        self._scheduler.drop(partition)
